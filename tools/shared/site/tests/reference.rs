//! The reference page says what is so: its examples are a site, and no key is missing in it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic as the test itself may")]

use std::collections::BTreeSet;
use std::path::Path;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/inventory-reference.md");
    std::fs::read_to_string(path).unwrap()
}

fn examples() -> String {
    page().split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap_or_default()).collect()
}

fn project(inventory: &str) -> tempfile::TempDir {
    let project = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        store::files::write_atomic(&project.path().join(path), text, 0o644).unwrap();
    };
    for image in ["debian-13-docker", "http", "proxy"] {
        write(&format!("images/{image}.toml"), "");
    }
    for stack in ["media", "reverse-proxy"] {
        write(&format!("inventory/home/stacks/{stack}/compose.yaml"), "");
    }
    write("inventory/home/secrets/media-token.age", "");
    write("pipeline.toml", "");
    write("inventory/home/site.toml", inventory);
    project
}

#[test]
fn its_examples_are_a_site() {
    let project = project(&examples());
    let site = hearth_site::load(&project.path().join("inventory/home"));
    let site = site.unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    assert_eq!((site.guests.len(), site.stacks.len(), site.checks.len()), (2, 2, 4));
    assert_eq!(site.guests["vm-extranet"].pending_keys, [site.project.join(".hearth/keys/extranet.pub")]);
}

/// An unknown key in every table makes the loader list the known ones.
#[test]
fn it_names_every_key() {
    let wrong: String = examples()
        .lines()
        .map(|line| {
            let table = line.starts_with('[') && !line.ends_with("datasets]");
            let inline = line.replace("{ ", "{ zzzzzz = 1, ").replace("= {}", "= { zzzzzz = 1 }");
            if table { format!("{line}\nzzzzzz = 1\n") } else { inline + "\n" }
        })
        .collect();
    let project = project(&wrong);
    let errors = hearth_site::load(&project.path().join("inventory/home")).unwrap_err();
    let lists = errors.problems().into_iter().filter(|problem| problem.message.contains("no key `zzzzzz`"));
    let keys: BTreeSet<String> = lists
        .filter_map(|problem| Some(problem.help?.strip_prefix("known here: ")?.to_owned()))
        .flat_map(|list| list.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(keys.len() > 45, "only {keys:?}");
    let page = page();
    let missing: Vec<&String> = keys.iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "the page does not name {missing:?}");
}
