//! What a disk or a layer holds, a line a file, so that two builds that differ can be told apart by name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use store::Digest;

use crate::layer::HashingWriter;
use crate::{Error, Result};

/// Lists a folder: path, kind and mode, owner, time, and content's digest or link's target; sorted by path.
pub(crate) fn of_folder(root: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).map_err(Error::io("read", &path))?.display().to_string()
            } else if metadata.is_file() {
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                digest(file).map_err(Error::io("read", &path))?.to_string()
            } else {
                String::new()
            };
            let inside = path.strip_prefix(root).unwrap_or(&path);
            lines.push(line(
                inside,
                metadata.mode(),
                metadata.uid().into(),
                metadata.gid().into(),
                metadata.mtime(),
                &content,
            ));
        }
    }
    lines.sort_unstable();
    Ok(lines.concat())
}

/// Lists a layer's tar.
pub(crate) fn of_tar(from: impl Read, name: &Path) -> Result<String> {
    let mut archive = tar::Archive::new(from);
    let mut lines = Vec::new();
    for entry in archive.entries().map_err(Error::io("list", name))? {
        let read = entry.and_then(|mut entry| {
            let (path, header) = (entry.path()?.into_owned(), entry.header().clone());
            let content = match entry.link_name()? {
                Some(target) => target.display().to_string(),
                None => digest(&mut entry)?.to_string(),
            };
            let time = i64::try_from(header.mtime()?).unwrap_or(i64::MAX);
            Ok(line(&path, header.mode()?, header.uid()?, header.gid()?, time, &content))
        });
        lines.push(read.map_err(Error::io("list", name))?);
    }
    lines.sort_unstable();
    Ok(lines.concat())
}

fn line(path: &Path, mode: u32, uid: u64, gid: u64, time: i64, content: &str) -> String {
    format!("/{}\t{mode:o}\t{uid}:{gid}\t{time}\t{content}\n", path.display())
}

fn digest(mut from: impl Read) -> io::Result<Digest> {
    let mut writer = HashingWriter::new(io::sink());
    io::copy(&mut from, &mut writer)?;
    Ok(writer.finish().0)
}

/// Names the first file that two listings do not agree on, and how.
pub(crate) fn first_difference(one: &str, other: &str) -> Option<String> {
    let mut pairs = (one.lines(), other.lines());
    loop {
        let (one, other) = (pairs.0.next(), pairs.1.next());
        if one == other {
            one?;
            continue;
        }
        let path = |line: Option<&str>| line.and_then(|line| line.split('\t').next()).unwrap_or("").to_owned();
        return Some(match (path(one), path(other)) {
            (one, other) if one == other => one,
            (one, other) if other.is_empty() || (!one.is_empty() && one < other) => {
                format!("{one} (only in the first)")
            }
            (_, other) => format!("{other} (only in the second)"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_tells_content_mode_and_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [("etc/a", "a"), ("etc/b", "b")] {
            store::files::write_atomic(&folder.path().join(path), text, 0o644).unwrap();
        }
        let first = of_folder(folder.path()).unwrap();
        assert!(first.contains(&Digest::of("a").to_string()), "{first}");
        assert_eq!(first_difference(&first, &first), None);
        let without = first.lines().filter(|line| !line.starts_with("/etc/b")).collect::<Vec<_>>().join("\n");
        assert_eq!(first_difference(&first, &without).unwrap(), "/etc/b (only in the first)");
        assert_eq!(first_difference(&without, &first).unwrap(), "/etc/b (only in the second)");
        let mode = first.replace("/etc/a\t100644", "/etc/a\t100600");
        assert_eq!(first_difference(&first, &mode).unwrap(), "/etc/a");
    }

    #[test]
    fn a_layer_is_listed_as_its_folder_is_but_for_the_file_kinds() {
        let folder = tempfile::tempdir().unwrap();
        store::files::write_atomic(&folder.path().join("a"), "a", 0o644).unwrap();
        let mut tar = Vec::new();
        crate::write_layer(folder.path(), 0, &[], &mut tar).unwrap();
        let listing = of_tar(&tar[..], Path::new("x")).unwrap();
        assert!(
            listing.starts_with("/a\t644\t") && listing.ends_with(&format!("\t0\t{}\n", Digest::of("a"))),
            "{listing}"
        );
    }
}
