use super::*;

fn check(probe: Probe) -> Check {
    Check { from: None, probe, timeout: 2, retry: 0 }
}

fn output(status: i32, stdout: &str) -> Output {
    Output { command: String::new(), status, stdout: stdout.into(), stderr: Vec::new() }
}

fn http(contains: Option<&str>) -> Check {
    let (url, host) = ("http://192.168.1.101/a?b(c)".to_owned(), Some("media.lab".to_owned()));
    check(Probe::Http { url, host, status: 200, contains: contains.map(str::to_owned) })
}

#[test]
fn an_http_answer_from_a_host_needs_status_and_text() {
    let judge = |text: &str| judge_answer(&http(Some("Ready")), &output(0, text));
    assert_eq!(judge("all Ready\n\n200").unwrap(), "status 200, 10 bytes");
    assert_eq!(judge("Ready\n503").unwrap_err(), "the status is 503, not 200: Ready");
    assert_eq!(judge("other\n200").unwrap_err(), "the body does not hold 'Ready': other");
    let refused = Output { stderr: b"curl: (7) refused".to_vec(), ..output(7, "\n000") };
    assert_eq!(judge_answer(&http(None), &refused).unwrap_err(), "the question ended with 7: curl: (7) refused");
    assert_eq!(
        script(&http(None)),
        "curl --silent --show-error --globoff --max-time 2 --write-out '\\n%{http_code}' --header 'Host: media.lab' \
         'http://192.168.1.101/a?b(c)'\n"
    );
}

#[test]
fn a_command_must_end_well_and_say_what_is_wanted() {
    let command = |command: &str, contains: Option<&str>| {
        try_here(&check(Probe::Command { command: command.to_owned(), contains: contains.map(str::to_owned) }))
    };
    assert_eq!(command("echo hello", Some("ell")).unwrap(), "hello");
    assert_eq!(command("echo hello >&2", Some("ell")).unwrap(), "hello");
    assert_eq!(command("echo hello", Some("x")).unwrap_err(), "it does not say 'x': hello");
    assert_eq!(command("echo no; exit 3", None).unwrap_err(), "it ended with 3: no");
    assert_eq!(command("sleep 100", None).unwrap_err(), "it did not end within 2 s");
}

#[test]
fn what_is_denied_must_fail_for_the_right_reason() {
    let denied = |command: &str| {
        try_here(&check(Probe::Denied { command: command.to_owned(), contains: "access denied".to_owned() }))
    };
    assert_eq!(denied("echo mount: access denied >&2; exit 32").unwrap(), "mount: access denied");
    assert_eq!(denied("echo access denied").unwrap_err(), "it was not denied: access denied");
    assert_eq!(
        denied("echo no such command; exit 127").unwrap_err(),
        "it failed for another reason: it does not say 'access denied': no such command"
    );
    assert_eq!(denied("sleep 100").unwrap_err(), "it was not denied, but did not end within 2 s");
}

#[test]
fn a_port_is_open_or_not_from_here_and_from_a_host() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tcp = check(Probe::Tcp { address: address.clone() });
    let there = |check: &Check| {
        let output = remote::Command::new("sh").args(["-c", &script(check)]).output().unwrap();
        judge_answer(check, &output)
    };
    assert_eq!(try_here(&tcp).unwrap(), format!("{address} accepts connections"));
    assert_eq!(there(&tcp).unwrap(), format!("{address} accepts connections"));
    drop(listener);
    assert!(try_here(&tcp).unwrap_err().contains("Connection refused"));
    let error = there(&tcp).unwrap_err();
    assert!(error.starts_with(&address) && error.ends_with("Connection refused"), "{error}");
}

#[test]
fn a_long_answer_is_clipped_at_a_letter() {
    let text = "ä".repeat(400);
    assert_eq!(clip(&text), format!("{}…", "ä".repeat(300)));
}
