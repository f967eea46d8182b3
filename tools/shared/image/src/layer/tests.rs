use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use super::*;

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn tar_of(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_layer(root, 1_000_000, &["proc"], &mut bytes).unwrap();
    bytes
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
}

#[test]
fn the_same_files_give_the_same_bytes_in_whatever_order_they_were_written() {
    let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let long = format!("d/{}", "x".repeat(150));
    let paths = ["b", "a", "d/e", "d/c", &long, "proc/left-out"];
    paths.iter().for_each(|path| put(one.path(), path, path));
    std::thread::sleep(std::time::Duration::from_millis(10));
    paths.iter().rev().for_each(|path| put(two.path(), path, path));
    for folder in [&one, &two] {
        symlink("a", folder.path().join("link")).unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("z")).unwrap();
        drop(UnixListener::bind(folder.path().join("socket")).unwrap());
    }
    assert_eq!(tar_of(one.path()), tar_of(two.path()));
    assert_eq!(names(&tar_of(one.path())), ["a", "b", "d", "d/c", "d/e", &long, "link", "proc", "z"]);
}

#[test]
fn times_are_clamped_and_owners_are_numbers() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", "");
    let bytes = tar_of(folder.path());
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.header().mtime().unwrap(), 1_000_000);
    assert_eq!(entry.header().username().unwrap(), Some(""));
    assert_eq!(entry.header().uid().unwrap(), u64::from(fs::metadata(folder.path()).unwrap().uid()));
}

#[test]
fn a_layer_comes_back_with_links_and_modes_and_removes_what_it_removes() {
    let [below, upper, root] = [0; 3].map(|_| tempfile::tempdir().unwrap());
    for path in ["keep", "gone", "folder/old", "swap/inner"] {
        put(below.path(), path, "below");
    }
    unpack_layer(tar_of(below.path()).as_slice(), root.path()).unwrap();
    put(upper.path(), ".wh.gone", "");
    put(upper.path(), "folder/.wh..wh..opq", "");
    put(upper.path(), "folder/new", "upper");
    put(upper.path(), "swap", "a file where a folder was");
    fs::hard_link(upper.path().join("folder/new"), upper.path().join("second")).unwrap();
    fs::set_permissions(upper.path().join("swap"), fs::Permissions::from_mode(0o4750)).unwrap();
    unpack_layer(tar_of(upper.path()).as_slice(), root.path()).unwrap();
    let there = |path: &str| root.path().join(path).exists();
    assert!(there("keep") && !there("gone") && !there("folder/old") && there("folder/new"));
    assert_eq!(fs::metadata(root.path().join("swap")).unwrap().permissions().mode() & 0o7777, 0o4750);
    assert_eq!(fs::metadata(root.path().join("second")).unwrap().nlink(), 2);
    assert!(!there(".wh.gone"));
}

#[test]
fn a_removed_path_is_written_as_the_specification_wants_it() {
    assert_eq!(whiteout_of(Path::new("etc/motd")), Path::new("etc/.wh.motd"));
    // Making the overlay's own mark takes root; where this runs without, the names above are all there is to see.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("gone");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &mark,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        rustix::fs::makedev(0, 0),
    );
    // Linux lets everyone make exactly this device since 5.8.
    if made.is_ok() {
        assert_eq!(names(&tar_of(folder.path())), [".wh.gone"]);
    }
}
