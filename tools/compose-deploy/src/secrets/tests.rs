use std::path::Path;

use super::*;
use crate::desired::Desired;
use crate::{bundle, diff, fixture, observe};

const PHOTOS: &str = "services:
  postgres:
    secrets: [db-password, {source: token, target: other}]
    volumes: [\"/mnt/postgres:/data\"]
  cache: {}
";

/// Writes the small site with a stack that reads secrets, whose encrypted files have these texts.
fn site(folder: &Path, photos: &str, files: &[(&str, &str)]) -> Site {
    drop(fixture::site(folder, photos, fixture::WEB));
    for (name, text) in files {
        store::files::write_atomic(&folder.join(format!("inventory/secrets/{name}.age")), text, 0o644).unwrap();
    }
    let stacks = folder.join("inventory/stacks.toml");
    let text = std::fs::read_to_string(&stacks).unwrap();
    let text = text.replace(
        "images = { postgres = \"postgres\" }\n",
        "images = { postgres = \"postgres\", cache = \"http\" }\n\
         secrets = { db-password = \"site-db\", token = { secret = \"token\", uid = 70 } }\n",
    );
    store::files::write_atomic(&stacks, text, 0o644).unwrap();
    site::load(&folder.join("inventory")).unwrap()
}

const FILES: [(&str, &str); 2] = [("site-db", "first"), ("token", "token")];

fn digests(text: &str) -> String {
    let mut plain = text.to_owned();
    for file in ["first", "second", "token"] {
        plain = plain.replace(&Digest::of(file).to_string(), &file.to_uppercase());
        plain = plain.replace(&Digest::of(file).short(), &format!("<{file}>"));
    }
    plain
}

fn plan(desired: &Desired, text: &str) -> (String, Vec<(Vec<Name>, bool)>) {
    let (name, guest) = desired.guests.get_key_value("vm-a").unwrap();
    let steps = diff::compare("lab", name, guest, &observe::parse(text).unwrap()).unwrap();
    let sent = steps.iter().filter_map(|step| match serde_json::from_value(step.action.clone()).unwrap() {
        Action::Deploy { secrets, forget, .. } => Some((secrets, forget)),
        _ => None,
    });
    let plan: String = steps.iter().map(|step| format!("{}\n", step.change)).collect();
    (digests(&plan), sent.collect())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn the_override_names_files_in_memory_and_leaves_the_marks_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let desired = fixture::evaluate(&site(folder.path(), PHOTOS, &FILES));
    let bundle = &desired.guests["vm-a"].bundles["photos"];
    let text = String::from_utf8(bundle.files[bundle::OVERRIDE].bytes.clone()).unwrap();
    let text = text.replace(&bundle.digest.to_string(), "DIGEST").replace(&fixture::image("http").tag, "HTTP");
    let text = text.replace(&fixture::image("postgres").tag, "POSTGRES");
    assert_eq!(text, include_str!("../../tests/golden/secrets.override.yaml"));
    assert_eq!(
        digests(&desired.json()["vm-a"]["photos"]["secrets"].to_string()),
        "{\"db-password\":\"FIRST@0\",\"token\":\"TOKEN@70\"}"
    );
}

#[test]
fn a_rotated_secret_restarts_the_service_that_reads_it_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let before = fixture::evaluate(&site(folder.path(), PHOTOS, &FILES));
    let good = fixture::as_wanted(&before);
    assert_eq!(plan(&before, &good), (String::new(), vec![]));
    let after = fixture::evaluate(&site(folder.path(), PHOTOS, &[("site-db", "second"), ("token", "token")]));
    let bundles = |desired: &Desired| desired.guests["vm-a"].bundles["photos"].digest;
    assert_eq!(bundles(&before), bundles(&after), "the bundle stays");
    let (text, sent) = plan(&after, &good);
    assert_eq!(
        text,
        "~ stack/vm-a/photos\n    secrets: {\"db-password\":\"<first>\",\"token\":\"<token> for user 70\"} → \
         {\"db-password\":\"<second>\",\"token\":\"<token> for user 70\"}\n    \
         secrets read: {\"postgres\":\"db-password <first>, token <token> for user 70\"} → \
         {\"postgres\":\"db-password <second>, token <token> for user 70\"}\n    \
         restarts vm-a/photos/postgres\n"
    );
    assert_eq!(sent, [(vec![name("db-password")], false)]);
}

#[test]
fn what_is_missing_or_altered_on_the_guest_is_sent_again_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let desired = fixture::evaluate(&site(folder.path(), PHOTOS, &FILES));
    let good = fixture::as_wanted(&desired);
    let mark = format!("{}@0", Digest::of("first"));
    for state in ["missing", "altered"] {
        let text = good.replace(&format!("{mark}|ok"), &format!("{mark}|{state}"));
        let (text, sent) = plan(&desired, &text);
        assert_eq!(
            text,
            format!(
                "~ stack/vm-a/photos\n    secrets: {{\"db-password\":\"{state}\",\"token\":\"<token> for user 70\"}} → \
                 {{\"db-password\":\"<first>\",\"token\":\"<token> for user 70\"}}\n"
            )
        );
        assert_eq!(sent, [(vec![name("db-password")], false)]);
    }
    let more = format!("{good}\nsecret|photos|old|{mark}|ok\n");
    assert_eq!(plan(&desired, &more).1, [(vec![], true)]);
}

#[test]
fn a_guest_without_anything_gets_all_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let desired = fixture::evaluate(&site(folder.path(), PHOTOS, &FILES));
    let (_, sent) = plan(&desired, "docker|up\n");
    assert_eq!(sent, [(vec![name("db-password"), name("token")], false), (vec![], false)]);
}

#[test]
fn what_compose_file_and_inventory_say_of_secrets_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    let photos = "services:\n  postgres:\n    secrets:\n      - db-pasword\n      - mine\n  cache: {}\nsecrets:\n  \
                  mine:\n    file: /etc/mine\n  token:\n    file: /etc/token\n";
    let error = |photos: &str| {
        let site = site(folder.path(), photos, &FILES);
        let (name, stack) = site.stacks.get_key_value("photos").unwrap();
        bundle::read(&site, name, stack).unwrap_err().to_string()
    };
    assert_eq!(
        error(photos),
        "stack 'photos' can't be deployed:\n  \
         inventory/stacks/photos/compose.yaml: the stack's `secrets` has 'db-password', which no service here reads\n  \
         inventory/stacks/photos/compose.yaml:4: service 'postgres' reads the secret 'db-pasword': name it in the \
         stack's `secrets`\n  \
         inventory/stacks/photos/compose.yaml:11: secret 'token' is defined here and in the stack's `secrets`: remove \
         one of them"
    );
    assert_eq!(
        error("services:\n  postgres:\n    secrets: [plain]\nsecrets:\n  plain:\n    file: ./start.sh\n"),
        "stack 'photos' can't be deployed:\n  \
         inventory/stacks/photos/compose.yaml:6: secret 'plain' is the file './start.sh', which would be stored and \
         deployed as it is: encrypt it (hearth secrets set plain) and name it in the stack's `secrets`"
    );
}

#[test]
fn a_run_is_ready_when_all_that_it_sends_can_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path(), PHOTOS, &FILES);
    let desired = fixture::evaluate(&site);
    let (name, guest) = desired.guests.get_key_value("vm-a").unwrap();
    let steps = |text: &str| diff::compare("lab", name, guest, &observe::parse(text).unwrap()).unwrap();
    // Nothing is sent, so nobody need be able to open anything.
    ready(&site, &steps(&fixture::as_wanted(&desired))).unwrap();
    let error = ready(&site, &steps("docker|up\n")).unwrap_err();
    assert_eq!(converge::reason(&error), converge::Reason::Config);
    assert!(error.to_string().starts_with("there is no identity to open secrets with; looked for"), "{error}");
}
