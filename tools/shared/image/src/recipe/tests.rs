use super::*;

fn parse(text: &str) -> Result<ImageRecipe> {
    ImageRecipe::parse(Path::new("images/x.toml"), text)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_disk_recipe_is_read_with_its_defaults() {
    let text = "kind = \"debian-disk\"\nsuite = \"trixie\"\npackages = [\"sudo\"]\nsize = \"2G\"\n\
                [files.\"/etc/motd\"]\ntext = \"hi\"\nmode = \"0600\"\n";
    let recipe = parse(text).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.kind_name()), ("x", "debian-disk"));
    let Kind::DebianDisk(disk) = recipe.kind else { panic!("{recipe:?}") };
    assert_eq!(disk.size, Size(2 << 30));
    assert_eq!(disk.components, ["main"]);
    assert_eq!(disk.files["/etc/motd"].mode, Mode(0o600));
    assert!(disk.compress);
}

#[test]
fn an_unknown_key_is_refused_with_line_text_and_the_known_ones() {
    let text = message("kind = \"url\"\nurl = \"/x\"\nsha265 = \"\"\n");
    assert!(text.starts_with("images/x.toml:3: unknown field `sha265`, expected one of"), "{text}");
    assert!(text.contains("`sha256`") && text.contains("    sha265 = \"\"\n"), "{text}");
}

#[test]
fn an_unknown_kind_is_refused_with_the_known_ones() {
    assert_eq!(
        message("# comment\nkind = \"vm\"\n"),
        "images/x.toml:2: 'vm' is no kind of image\n    kind = \"vm\"\n  hint: known are url, debian-disk and container"
    );
}

#[test]
fn values_that_can_t_be_are_refused_at_their_line() {
    let disk = "kind = \"debian-disk\"\nsuite = \"trixie\"\n";
    for (rest, line, part) in [
        ("packages = [\"a b\"]\nsize = \"2G\"\n", 3, "'a b' is no name"),
        ("packages = [\"-oX\"]\nsize = \"2G\"\n", 3, "'-oX' is no name"),
        ("packages = []\nsize = \"2T\"\n", 4, "'2T' is no disk size"),
        ("packages = []\nsize = \"2G\"\n[files.\"/etc/../x\"]\ntext = \"\"\n", 5, "is no path of a file"),
        ("packages = []\nsize = \"2G\"\n[files.\"/x\"]\ntext = \"\"\nmode = \"0999\"\n", 7, "no file mode"),
    ] {
        let text = message(&format!("{disk}{rest}"));
        assert!(text.starts_with(&format!("images/x.toml:{line}: ")) && text.contains(part), "{text}");
    }
}

#[test]
fn a_container_has_a_base_or_a_suite() {
    assert!(message("kind = \"container\"\n").contains("neither base nor suite"));
    let both = message("kind = \"container\"\nbase = \"base\"\nsuite = \"trixie\"\n");
    assert!(both.starts_with("images/x.toml:3: a layer on a base takes its suite from it"), "{both}");
    assert!(parse("kind = \"container\"\nbase = \"base\"\ncmd = [\"sh\"]\n").is_ok());
}

#[test]
fn a_packed_url_is_refused_for_now() {
    let digest = Digest::of("");
    let text = message(&format!("kind = \"url\"\nurl = \"/x\"\nsha256 = \"{digest}\"\nunpack = \"xz\"\n"));
    assert!(text.starts_with("images/x.toml:4: packed images are not understood yet"), "{text}");
    let text = message(&format!("kind = \"url\"\nurl = \"ftp://x\"\nsha256 = \"{digest}\"\n"));
    assert!(text.contains("'ftp://x' is no address"), "{text}");
}
