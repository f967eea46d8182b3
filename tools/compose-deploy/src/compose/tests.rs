use super::*;

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
}

#[test]
fn what_hearth_needs_is_read_from_both_ways_of_writing_it() {
    let compose = parse(
        r#"
x-common: &common
  cap_drop: [ALL]
services:
  first:
    <<: *common
    devices: ["/dev/dri/renderD128:/dev/dri/renderD128"]
    volumes:
      - ./a.conf:/a.conf:ro
      - data:/data
      - /mnt/media:/media
    ports: ["127.0.0.1:8081:8080", "53:53/udp", "80:80/tcp", 9000, "443"]
    depends_on:
      second: {condition: service_completed_successfully}
  second:
    volumes:
      - type: bind
        source: ./b
        target: /b
      - {type: volume, source: data, target: /data}
    ports:
      - {target: 80, published: "8090", host_ip: 10.0.0.1}
      - {target: 81, published: 8091}
    env_file: c.env
    depends_on: [first]
configs:
  one: {file: ./d.conf}
"#,
    )
    .unwrap();
    let first = &compose.services["first"];
    assert!(first.render && !first.one_shot);
    let paths = |service: &Service| service.files.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(first), ["./a.conf", "/mnt/media", "./d.conf"]);
    assert_eq!(first.files[0].0, 9);
    let port = |address: Option<&str>, port| Published { address: address.map(str::to_owned), port };
    assert_eq!(first.ports, [port(Some("127.0.0.1"), 8081), port(None, 80)]);
    let second = &compose.services["second"];
    assert!(!second.render && second.one_shot);
    assert_eq!(paths(second), ["./b", "./c.env", "./d.conf"]);
    assert_eq!(second.ports, [port(Some("10.0.0.1"), 8090), port(None, 8091)]);
}

#[test]
fn what_cannot_be_deployed_is_refused_all_at_once_with_its_line() {
    let problems = parse(
        "include: [other.yaml]\nservices:\n  a:\n    build: .\n  b:\n    extends: {service: a}\n  c:\n    \
         profiles: [debug]\n  d:\n    deploy:\n      restart_policy: {condition: any}\n  e:\n    ports: [\"x:80\"]\n",
    )
    .unwrap_err();
    assert_eq!(
        lines(&problems),
        [
            "1: `include` takes files from elsewhere: write the services into this file",
            "4: service 'a' is built where it runs, from what the network gives that day: write an image recipe and \
             name it in the stack's `images`",
            "6: service 'b' extends another: write it out, or use a YAML anchor",
            "8: service 'c' has profiles, which a stack does not choose from",
            "11: service 'd' has a restart policy of its own, by which Docker would start it before its mounts are \
             there: leave it out, the stack's unit restarts what fails",
            "13: 'x:80' is no published port that can be checked: write ADDRESS:PORT:PORT",
        ]
    );
}

#[test]
fn what_is_no_compose_file_is_refused_with_its_line() {
    let message = |text| lines(&parse(text).unwrap_err()).join("\n");
    assert_eq!(message("services: {}\n"), "0: there are no services: write them below `services:`");
    assert_eq!(message("services:\n  a:\n"), "0: service 'a' is empty");
    assert!(message("services:\n  a: {image: x}\n  a: {image: y}\n").starts_with("3: "), "a doubled key");
    assert!(message("services:\n  a: [\n").starts_with(['2', '3']), "an open list");
    assert!(message("services:\n  a:\n    volumes: 5\n").starts_with("3: "), "a wrong type");
    let wanted = "a text or a list of texts is wanted: put quotes around what has ': ' in it";
    let health =
        "services:\n  a:\n    healthcheck:\n      test:\n        - CMD-SHELL\n        - true && : <> /dev/null\n";
    assert_eq!(message(health), format!("5: {wanted}"));
    assert_eq!(message("services:\n  a:\n    command: [\"a\", b: c]\n"), format!("3: {wanted}"));
}

#[test]
fn files_must_lie_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    store::files::write_atomic(&folder.path().join("there"), "", 0o644).unwrap();
    let compose = parse(
        "services:\n  a:\n    volumes:\n      - ./there:/1\n      - ./gone:/2\n      - ../up:/3\n      - ~/home:/4\n      \
         - ./$X:/5\n      - /mnt/media:/6\n",
    )
    .unwrap();
    assert_eq!(
        lines(&check_files(&compose, folder.path())),
        [
            "5: './gone' is not in the stack's folder: put it there, or mend the path",
            "6: '../up' lies outside of the stack's folder, so that it would not be deployed: move it inside",
            "7: '~/home' is in somebody's home, which the guest has not: write a path from / or from the stack",
            "8: './$X' has a variable in it, so that it can't be bundled: write the path out",
        ]
    );
}

#[test]
fn services_are_found_by_the_files_that_they_use() {
    let compose = parse(
        "services:\n  a:\n    volumes:\n      - ./conf:/conf\n      - /etc:/etc\n  b:\n    volumes:\n      - ./b.txt:/b\n  \
         c:\n    volumes:\n      - ./:/all\n  d: {image: x}\n",
    )
    .unwrap();
    let users = |file: &str| compose.users(&[file.to_owned()]).join(" ");
    assert_eq!(users("conf/x/y"), "a c");
    assert_eq!(users("conf2"), "c");
    assert_eq!(users("b.txt"), "b c");
    assert_eq!(users("etc/passwd"), "c");
    assert_eq!(compose.users(&[]), [""; 0]);
}
