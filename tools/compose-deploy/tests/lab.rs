//! The lab's own stacks can be deployed.

use std::path::Path;

#[test]
fn the_lab_s_stacks_fit_their_inventory() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../inventory/lab");
    let site = match site::load(&folder) {
        Ok(site) => site,
        Err(errors) => panic!("{errors}"),
    };
    assert!(!site.stacks.is_empty());
    for (name, stack) in &site.stacks {
        let (compose, files) = compose_deploy::bundle::read(&site, name, stack).unwrap();
        assert!(files.contains_key("compose.yaml"), "{name}");
        // What is healthy is known for each service that stays.
        let text = String::from_utf8(files["compose.yaml"].bytes.clone()).unwrap();
        let stay = compose.services.values().filter(|service| !service.one_shot).count();
        assert_eq!(text.matches("healthcheck:").count(), stay, "{name}");
    }
    let media = &site.stacks["media"];
    let (compose, _) = compose_deploy::bundle::read(&site, &"media".parse().unwrap(), media).unwrap();
    assert!(compose.services["http"].render && compose.services["welcome"].one_shot);
}
