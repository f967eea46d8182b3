use super::*;
use crate::fixture;

#[test]
fn the_override_names_images_labels_and_groups() {
    let folder = tempfile::tempdir().unwrap();
    let desired = fixture::evaluate(&fixture::site(folder.path(), fixture::PHOTOS, fixture::WEB));
    let bundle = &desired.guests["vm-a"].bundles["web"];
    let text = String::from_utf8(bundle.files[OVERRIDE].bytes.clone()).unwrap();
    let golden = include_str!("../../tests/golden/web.override.yaml");
    let text = text.replace(&bundle.digest.to_string(), "DIGEST");
    assert_eq!(text, golden.replace("IMAGE", &fixture::image("http").tag));
    let unit = String::from_utf8(bundle.unit().to_vec()).unwrap();
    assert_eq!(unit, include_str!("../../tests/golden/web.service"));
}

#[test]
fn the_digest_covers_every_file_its_mode_and_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let site = fixture::site(folder.path(), fixture::PHOTOS, fixture::WEB);
    let digest = |site: &Site| fixture::evaluate(site).guests["vm-a"].bundles["photos"].digest;
    let first = digest(&site);
    assert_eq!(digest(&site), first);
    let script = folder.path().join("inventory/stacks/photos/start.sh");
    store::files::write_atomic(&script, "#!/bin/sh\n", 0o644).unwrap();
    let mode = digest(&site);
    assert_ne!(mode, first);
    store::files::write_atomic(&script, "#!/bin/sh\n# more\n", 0o644).unwrap();
    assert_ne!(digest(&site), mode);
    store::files::write_atomic(&script, "#!/bin/sh\n", 0o755).unwrap();
    assert_eq!(digest(&site), first);
    let desired = crate::desired::evaluate_with(&site, &|name| {
        let mut image = fixture::image(name.as_str());
        image.config.sha256 = Digest::of("another");
        Ok(image)
    });
    assert_ne!(desired.unwrap().guests["vm-a"].bundles["photos"].digest, first);
}

#[test]
fn a_bundle_s_tar_is_the_same_each_time_and_checks_itself() {
    let folder = tempfile::tempdir().unwrap();
    let desired = fixture::evaluate(&fixture::site(folder.path(), fixture::PHOTOS, fixture::WEB));
    let bundle = &desired.guests["vm-a"].bundles["photos"];
    let tar = bundle.tar().unwrap();
    assert_eq!(bundle.tar().unwrap(), tar);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let shell = remote::Command::new("tar").args(["-xf", "-"]).folder(&out).stdin(tar);
    shell.run().unwrap();
    remote::Command::new("sha256sum").args(["--check", "--strict", SUMS]).folder(&out).run().unwrap();
    let mode = fs::metadata(out.join("start.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn what_site_and_compose_file_say_of_each_other_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    let photos = "services:\n  postgres:\n    volumes:\n      - /mnt/postgres/x:/data\n      - /mnt/media:/media\n  \
                  - ./gone:/gone\n"
        .replace("  - ./gone", "      - ./gone");
    let site = fixture::site(folder.path(), &photos, "services:\n  http: {image: x}\n  more: {image: y}\n");
    let error = |stack: &str| {
        let (name, stack) = site.stacks.get_key_value(stack).unwrap();
        let error = read(&site, name, stack).unwrap_err();
        assert_eq!(converge::reason(&error), converge::Reason::Config);
        error.to_string()
    };
    assert_eq!(
        error("photos"),
        "stack 'photos' can't be deployed:\n  \
         inventory/stacks/photos/compose.yaml:5: service 'postgres' uses /mnt/media, which is the share 'media' at \
         /mnt/media, but the stack would not wait for it: add it to the stack's `shares`\n  \
         inventory/stacks/photos/compose.yaml:6: './gone' is not in the stack's folder: put it there, or mend the path"
    );
    assert_eq!(
        error("web"),
        "stack 'web' can't be deployed:\n  \
         inventory/stacks/web/compose.yaml: the stack's `images` names the service 'first', which is not here\n  \
         inventory/stacks/web/compose.yaml:3: service 'more' has no image: name its recipe in the stack's `images`"
    );
}

#[test]
fn a_file_that_cannot_be_bundled_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let site = fixture::site(folder.path(), fixture::PHOTOS, fixture::WEB);
    let (name, stack) = site.stacks.get_key_value("photos").unwrap();
    let path = stack.folder.join(SUMS);
    store::files::write_atomic(&path, "", 0o644).unwrap();
    let error = read(&site, name, stack).unwrap_err().to_string();
    assert!(error.ends_with("SHA256SUMS can't be deployed: Hearth makes a file of that name"), "{error}");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("start.sh", stack.folder.join("link")).unwrap();
    let error = read(&site, name, stack).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "link can't be deployed: it is a link or no file: put a copy of what it stands for in its place"
        ),
        "{error}"
    );
}
