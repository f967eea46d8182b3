//! Where everything of a lab is, below its folder.

use std::io;
use std::path::{Path, PathBuf};

/// The paths of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Takes the lab's folder, made absolute, because guests outlive the caller's working folder.
    ///
    /// # Errors
    /// When the working folder can't be found.
    pub fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { dir: std::path::absolute(dir)? })
    }

    /// Returns the lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the certificate authority that signed the API's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Returns the file with the API token that the tools use, one line, mode 0600. It has the least privileges.
    pub fn token(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// Returns the file with a token of root that may do everything, one line, mode 0600: for people and tests.
    pub fn root_token(&self) -> PathBuf {
        self.dir.join("root-token")
    }

    /// Returns the file with the password of `root@pam`, mode 0600.
    pub fn password(&self) -> PathBuf {
        self.dir.join("password")
    }

    /// Returns the private SSH key that the node guest lets in as root; the public one has `.pub` behind it.
    pub fn ssh_key(&self) -> PathBuf {
        self.dir.join("id_ed25519")
    }

    /// Returns the file with the node guest's pinned host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// Returns a file of the server's own: keys, configurations, tasks.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.join("state").join(name)
    }

    /// Returns a file of this boot: pids, sockets, serial logs.
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(name)
    }

    /// Returns a storage's folder.
    pub(crate) fn storage(&self, name: &str) -> PathBuf {
        self.dir.join("storage").join(name)
    }

    /// Returns a disk of the node guest.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.dir.join("disks").join(name)
    }
}
