//! The client against answers that a real server gives, and against servers that are not the pinned one.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

mod canned;

use std::time::{Duration, Instant};

use canned::{Canned, answer};
use hearth_pve::{Client, Error, Form, Pin, Token, Upload};
use site::Vmid;
use store::Digest;

fn client(server: &Canned) -> Client {
    open(server, &Pin::Authority(server.authority.clone()))
}

fn open(server: &Canned, pin: &Pin) -> Client {
    Client::new(&server.url, Token::parse("root@pam!hearth=secret").unwrap(), pin).unwrap()
}

fn ok(data: &str) -> String {
    answer("200 OK", &format!("{{\"data\":{data}}}"))
}

fn vmid(number: u32) -> Vmid {
    Vmid::try_from(number).unwrap()
}

const VERSION: &str = r#"{"version":"9.1.2","release":"9.1"}"#;
const LOCK: &str = "500 can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";

#[test]
fn calls_share_a_connection_and_are_counted() {
    let server = Canned::start("localhost", [ok(VERSION), ok(r#""105""#), ok("null")]);
    let client = client(&server);
    assert_eq!(client.version().unwrap().release, "9.1");
    assert_eq!(client.next_id().unwrap(), 105);
    client.node("pve1").vm(vmid(101)).set(Form::new().set("cores", 2), "ab").unwrap();
    assert_eq!((client.calls(), *server.connections.lock().unwrap()), (3, 1));
    assert_eq!(
        *server.requests.lock().unwrap(),
        [
            "GET /api2/json/version ",
            "GET /api2/json/cluster/nextid ",
            "PUT /api2/json/nodes/pve1/qemu/101/config cores=2&digest=ab",
        ]
    );
}

#[test]
fn threads_share_a_client() {
    let server = Canned::start("localhost", (0..8).map(|_| ok(VERSION)));
    let client = client(&server);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(client.version().unwrap().version, "9.1.2"));
        }
    });
    assert_eq!(client.calls(), 8);
}

#[test]
fn an_error_keeps_status_reason_phrase_and_parameters() {
    let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"cores":"no integer"}}"#;
    let server = Canned::start(
        "localhost",
        [
            answer("400 Parameter verification failed.", body),
            answer("401 Authentication failed!", ""),
            answer("595 No route to host", ""),
            answer("500 VM 9 is locked (backup)", r#"{"data":null}"#),
        ],
    );
    let client = client(&server);
    let Error::Answered(bad) = client.version().unwrap_err() else { panic!() };
    assert_eq!((bad.status, bad.errors["cores"].as_str()), (400, "no integer"));
    let denied = client.version().unwrap_err();
    assert!(denied.is_denied());
    assert_eq!(denied.to_string(), "GET /version was answered with 401: Authentication failed!");
    assert!(client.version().unwrap_err().is_unreachable());
    let locked = client.version().unwrap_err();
    assert_eq!(locked.to_string(), "GET /version was answered with 500: VM 9 is locked (backup)");
    assert_eq!(client.calls(), 4, "none of these is tried again");
}

#[test]
fn a_held_lock_file_is_waited_for() {
    let server = Canned::start("localhost", [answer(LOCK, r#"{"data":null}"#), ok("null")]);
    let client = client(&server);
    client.node("pve1").vm(vmid(101)).set(Form::new().set("cores", 2), "").unwrap();
    assert_eq!(client.calls(), 2);
}

#[test]
fn a_task_is_polled_and_its_failure_shows_the_log() {
    let upid = r#""UPID:pve1:00001000:00002000:65A0B0C0:qmclone:9001:root@pam!hearth:""#;
    let log = r#"[{"n":1,"t":"create linked clone"},{"n":2,"t":"no space"},{"n":3,"t":"TASK ERROR: no space"}]"#;
    let server = Canned::start(
        "localhost",
        [
            ok(upid),
            ok(r#"{"status":"running"}"#),
            ok(r#"{"status":"stopped","exitstatus":"clone failed: no space"}"#),
            ok(log),
        ],
    );
    let client = client(&server);
    let template = client.node("pve1").vm(vmid(9001));
    let error = template.clone_to(vmid(101), Form::new(), Duration::from_secs(5)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the Proxmox task qmclone of 9001 failed: clone failed: no space\n    create linked clone\n    no space"
    );
}

#[test]
fn a_task_has_a_deadline() {
    let upid = ok(r#""UPID:pve1:00001000:00002000:65A0B0C0:qmstart:101:root@pam!hearth:""#);
    let running = (0..20).map(|_| ok(r#"{"status":"running"}"#));
    let server = Canned::start("localhost", std::iter::once(upid).chain(running));
    let begin = Instant::now();
    let error = client(&server).node("pve1").vm(vmid(101)).start(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_upload_streams_with_its_checksum() {
    let upid = r#""UPID:pve1:00001000:00002000:65A0B0C0:imgcopy::root@pam!hearth:""#;
    let server = Canned::start("localhost", [ok(upid), ok(r#"{"status":"stopped","exitstatus":"OK"}"#)]);
    let bytes = vec![b'x'; 3 << 20];
    let upload = Upload {
        content: "iso".into(),
        file_name: "a.iso".into(),
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
    };
    let client = client(&server);
    client.node("pve1").upload("local", &upload, &mut bytes.as_slice(), Duration::from_secs(20)).unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(requests[0].starts_with("POST /api2/json/nodes/pve1/storage/local/upload --hearth-"));
    assert!(requests[0].contains(&upload.sha256.to_string()));
    assert!(requests[0].len() > bytes.len());
}

#[test]
fn a_volume_is_deleted_by_a_path_without_a_body() {
    let server = Canned::start("localhost", [ok("null")]);
    client(&server).node("pve1").delete_volume("local:iso/a b.iso", Duration::from_secs(5)).unwrap();
    let wanted = "DELETE /api2/json/nodes/pve1/storage/local/content/local%3Aiso%2Fa%20b.iso ";
    assert_eq!(*server.requests.lock().unwrap(), [wanted]);
}

#[test]
fn the_pinned_fingerprint_is_enough_and_another_is_refused() {
    let server = Canned::start("other.example", [ok(VERSION)]);
    let pin = Pin::Fingerprint(Digest::of(&server.certificate));
    assert_eq!(open(&server, &pin).version().unwrap().release, "9.1");
    let error = open(&server, &Pin::Fingerprint(Digest::of("x"))).version().unwrap_err();
    assert!(error.is_certificate(), "{error}");
    assert!(error.to_string().contains(&hearth_pve::fingerprint(&Digest::of(&server.certificate))), "{error}");
    assert_eq!(server.requests.lock().unwrap().len(), 1, "nothing, the token least of all, went to an unproven server");
}

#[test]
fn a_certificate_is_shown_before_it_is_pinned() {
    let server = Canned::start("other.example", []);
    let seen = hearth_pve::shown(&server.url, Duration::from_secs(5)).unwrap();
    assert_eq!(seen, Digest::of(&server.certificate));
    assert!(hearth_pve::shown("http://127.0.0.1:1", Duration::from_secs(1)).is_err());
    assert!(hearth_pve::shown("https://127.0.0.1:1", Duration::from_secs(1)).unwrap_err().is_unreachable());
}

#[test]
fn an_authority_vouches_only_for_its_own_and_for_the_name() {
    let server = Canned::start("localhost", [ok(VERSION)]);
    let stranger = Canned::start("localhost", []);
    let misnamed = Canned::start("other.example", []);
    assert!(client(&server).version().is_ok());
    for (server, authority) in [(&server, &stranger.authority), (&misnamed, &misnamed.authority)] {
        let error = open(server, &Pin::Authority(authority.clone())).version().unwrap_err();
        assert!(error.is_certificate(), "{error}");
    }
}

#[test]
fn nobody_there_is_unreachable_and_says_where() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{port}");
    let pin = Pin::Fingerprint(Digest::of("x"));
    let client = Client::new(&url, Token::parse("root@pam!hearth=secret").unwrap(), &pin).unwrap();
    let error = client.version().unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert_eq!(error.to_string(), format!("can't reach the Proxmox API at {url} (GET /version)"));
    assert!(!format!("{client:?} {error:?}").contains("secret"));
}

#[test]
fn what_can_not_be_set_up_says_what() {
    let token = || Token::parse("root@pam!hearth=secret").unwrap();
    let missing = Pin::Authority("/nowhere/ca.pem".into());
    let error = Client::new("https://localhost:1", token(), &missing).unwrap_err();
    assert!(error.is_setup() && error.to_string() == "can't read the API's authority in /nowhere/ca.pem", "{error}");
    let plain = Client::new("http://localhost:1", token(), &Pin::Fingerprint(Digest::of(""))).unwrap_err();
    assert_eq!(plain.to_string(), "the API's address http://localhost:1 is not https");
}
