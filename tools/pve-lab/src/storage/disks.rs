//! Disk images: made with `qemu-img`, or in API-only mode noted down in a small file in their place.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use remote::local::Command;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Result, host};

/// Converting a whole image takes its time on a busy machine.
const LONG: Duration = Duration::from_secs(1800);

/// What makes and changes disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disks {
    /// Files of `qemu-img`.
    Qemu,
    /// Notes of a disk's format and size.
    Recorded,
}

/// A disk's facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    pub(crate) format: String,
    /// What the guest sees, in bytes.
    pub(crate) size: u64,
    /// What the file takes, in bytes.
    #[serde(default)]
    pub(crate) used: u64,
    /// The base of an overlay, as its header names it.
    pub(crate) parent: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    recorded: Info,
}

impl Disks {
    /// Makes an empty disk; returns what `qemu-img` said.
    pub(crate) fn create(self, path: &Path, format: &str, size: u64) -> Result<String> {
        self.make(path, format, size, None)
    }

    /// Makes a disk on a base that stays unchanged. The base is named relative to the disk, so that a lab can be moved.
    pub(crate) fn overlay(self, path: &Path, base: &str, base_format: &str, size: u64) -> Result<String> {
        self.make(path, "qcow2", size, Some((base, base_format)))
    }

    fn make(self, path: &Path, format: &str, size: u64, base: Option<(&str, &str)>) -> Result<String> {
        if path.exists() {
            return Err(ApiError::failed(format!("disk image '{}' already exists", path.display())));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(host(format!("can't make {}", folder.display())))?;
        }
        if self == Self::Recorded {
            let parent = base.map(|(base, _)| base.to_owned());
            note(path, &Info { format: format.into(), size, used: 0, parent })?;
            return Ok(format!("Formatting '{}', fmt={format} size={size}", path.display()));
        }
        let mut command = Command::new("qemu-img").args(["create", "-f", format]);
        if let Some((base, base_format)) = base {
            command = command.args(["-b", base, "-F", base_format]);
        }
        let output = command.arg(path).arg(size.to_string()).run().map_err(process)?;
        Ok(output.text().trim().to_owned())
    }

    /// Copies a disk into another format. A base is copied along, so that the copy needs none.
    pub(crate) fn convert(self, from: &Path, to: &Path, format: &str) -> Result<()> {
        let info = self.info(from)?;
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(host(format!("can't make {}", folder.display())))?;
        }
        if self == Self::Recorded {
            return note(to, &Info { format: format.into(), used: 0, parent: None, ..info });
        }
        // Caches are bypassed for neither side: the host's page cache is what makes the next start quick.
        let args = ["convert", "-t", "writeback", "-f", &info.format, "-O", format];
        Command::new("qemu-img").args(args).arg(from).arg(to).deadline(LONG).run().map_err(process)?;
        Ok(())
    }

    /// Sets a disk's size, which may only grow.
    pub(crate) fn resize(self, path: &Path, size: u64) -> Result<String> {
        let info = self.info(path)?;
        if self == Self::Recorded {
            note(path, &Info { size, ..info })?;
            return Ok("Image resized.".into());
        }
        let command = Command::new("qemu-img").args(["resize", "-f", &info.format]).arg(path).arg(size.to_string());
        Ok(command.run().map_err(process)?.text().trim().to_owned())
    }

    /// Reads a disk's facts from its header. A file without one is raw, and as long as it is.
    pub(crate) fn info(self, path: &Path) -> Result<Info> {
        let failed = || host(format!("can't read {}", path.display()));
        let mut head = Vec::new();
        let file = File::open(path).map_err(failed())?;
        let data = file.metadata().map_err(failed())?;
        file.take(4096).read_to_end(&mut head).map_err(failed())?;
        let used = data.blocks() * 512;
        if let Some(info) = qcow2(&head) {
            return Ok(Info { used, ..info });
        }
        if let Ok(Note { recorded }) = serde_json::from_slice(&head) {
            return Ok(Info { used, ..recorded });
        }
        Ok(Info { format: "raw".into(), size: data.len(), used, parent: None })
    }
}

fn note(path: &Path, info: &Info) -> Result<()> {
    let bytes = serde_json::to_vec(&Note { recorded: info.clone() }).map_err(host("can't note a disk"))?;
    store::files::write_atomic(path, bytes, 0o644).map_err(host(format!("can't write {}", path.display())))
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn process(error: remote::local::Error) -> ApiError {
    ApiError::failed(error.to_string())
}

/// Reads a qcow2 header: the magic, then big-endian fields (QEMU's docs/interop/qcow2.txt).
fn qcow2(head: &[u8]) -> Option<Info> {
    let long = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    if !head.starts_with(b"QFI\xfb") {
        return None;
    }
    let at = usize::try_from(long(8)?).ok()?;
    let length = u32::from_be_bytes(head.get(16..20)?.try_into().ok()?) as usize;
    let parent = (at != 0).then(|| head.get(at..at + length).map(|name| String::from_utf8_lossy(name).into_owned()));
    Some(Info { format: "qcow2".into(), size: long(24)?, used: 0, parent: parent.flatten() })
}

/// Reads a size such as `32G`, in bytes; a number alone is in the given unit.
pub(crate) fn bytes(text: &str, unit: u64) -> Option<u64> {
    let scale = match text.chars().last()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1 << 40,
        _ => unit,
    };
    let number: f64 = text.trim_end_matches(['K', 'M', 'G', 'T']).parse().ok()?;
    let whole = number * scale as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (whole.is_finite() && (0.0..1e18).contains(&whole)).then_some(whole as u64)
}

/// Writes a size as a drive's `size=` does: in the largest unit that divides it.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [(1_u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let fit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fit.map_or_else(|| bytes.to_string(), |(unit, letter)| format!("{}{letter}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(bytes("32G", 1), Some(32 << 30));
        assert_eq!(bytes("0.125", 1 << 30), Some(128 << 20));
        assert_eq!(bytes("x", 1), None);
        assert_eq!(
            (size_text(1 << 30), size_text(1536 << 20), size_text(1 << 20)),
            ("1G".into(), "1536M".into(), "1M".into())
        );
    }

    #[test]
    fn a_recorded_disk_keeps_its_facts_over_copy_and_growth() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.qcow2", "b.raw"].map(|name| folder.path().join(name));
        Disks::Recorded.overlay(&a, "../9/base.qcow2", "qcow2", 1 << 30).unwrap();
        Disks::Recorded.resize(&a, 2 << 30).unwrap();
        let info = Disks::Recorded.info(&a).unwrap();
        assert_eq!((info.size, info.parent.as_deref()), (2 << 30, Some("../9/base.qcow2")));
        Disks::Recorded.convert(&a, &b, "raw").unwrap();
        let info = Disks::Recorded.info(&b).unwrap();
        assert_eq!((info.format.as_str(), info.size, info.parent), ("raw", 2 << 30, None));
        assert!(Disks::Recorded.create(&b, "raw", 1).unwrap_err().message.contains("already exists"));
    }
}
