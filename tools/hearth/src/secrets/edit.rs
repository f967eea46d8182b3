//! A secret in an editor, its plain text in memory only.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use compose_deploy::secrets::{find_keys, open};
use converge::{Events, Failure, exit};
use secret::Secret;
use site::{Name, Site};

/// The magic numbers of tmpfs and ramfs (statfs(2)).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Opens a secret in an editor and writes it where it was changed.
pub fn edit(site: &Site, name: &Name, events: &dyn Events) -> Result<u8> {
    let old = if site.secret_file(name).exists() { Some(open(site, name, &find_keys(site)?)?) } else { None };
    let Some(base) = memory_folder() else {
        let failure =
            Failure::refused("no folder of this machine lies in memory (tmpfs), so the plain text was not written");
        return Err(failure.hint(format!("without an editor: hearth secrets set {name}")).into());
    };
    let mode = std::fs::Permissions::from_mode(0o700);
    // Removed with all that the editor leaves beside the file.
    let folder = tempfile::Builder::new().prefix("hearth-secret.").permissions(mode).tempdir_in(&base);
    let folder = folder.with_context(|| format!("can't make a folder in {}", base.display()))?;
    let path = folder.path().join(name.as_str());
    store::files::write_atomic(&path, old.as_ref().map_or(&[][..], Secret::expose), 0o600)
        .with_context(|| format!("can't write {}", path.display()))?;
    run(&path)?;
    let file = std::fs::File::open(&path).with_context(|| format!("the editor left no {}", path.display()))?;
    let new = Secret::read(file).with_context(|| format!("can't read {}", path.display()))?;
    // Editors put a line break at the end; where there was none before, none is meant.
    let had = old.as_ref().is_some_and(|old| old.expose().ends_with(b"\n"));
    let new = if had { new } else { new.without_newline() };
    if old.as_ref() == Some(&new) {
        super::note(events, format!("{name}: unchanged, so it was not written"));
        return Ok(exit::OK);
    }
    super::write(site, name, &new, events)
}

/// Returns a folder that is never written to a disk, swap aside.
fn memory_folder() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folders = own.into_iter().chain([PathBuf::from("/dev/shm"), PathBuf::from("/run")]);
    folders.into_iter().find(|folder| {
        let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
        writable && rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&found.f_type))
    })
}

/// Runs the user's editor on a file, on this terminal.
#[allow(clippy::disallowed_methods, reason = "an editor needs the terminal and has no deadline")]
fn run(path: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let Some(editor) = editor else {
        return Err(Failure::config("neither VISUAL nor EDITOR names an editor").hint("export EDITOR=nano").into());
    };
    // As git does: the variable may hold arguments.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{editor} \"$@\""), &editor]).arg(path).env_remove(secret::ENV_KEY);
    let status = command.status().with_context(|| format!("can't start the editor `{editor}`"))?;
    if !status.success() {
        anyhow::bail!("the editor `{editor}` ended with {status}; nothing was written");
    }
    Ok(())
}
