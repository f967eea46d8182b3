//! Downloads with a digest fixed beforehand, straight into the store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use store::{Artifact, Digest, Store};

use crate::apt::Mirror;
use crate::lock::Package;
use crate::{Error, Result};

/// Where Debian and most other systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Connections at a time: enough to hide the round trips of many small files, few enough for a mirror.
const CONNECTIONS: usize = 6;

/// Fetches into a store.
pub struct Fetcher<'a> {
    store: &'a Store,
    agent: ureq::Agent,
}

impl<'a> Fetcher<'a> {
    /// Makes a client that trusts what the system trusts.
    pub fn new(store: &'a Store) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_global(Some(Duration::from_secs(1800)))
            .max_idle_connections_per_host(CONNECTIONS)
            .http_status_as_error(false)
            .tls_config(tls())
            .build();
        Self { store, agent: config.new_agent() }
    }

    /// Fetches one file by `http`, `https`, `file` or path, unless the store has it whole.
    ///
    /// # Errors
    /// [`Error::Fetch`], [`Error::Digest`] and [`Error::Store`].
    pub fn url(&self, url: &str, wanted: &Digest) -> Result<Artifact> {
        if self.store.mend(wanted)? {
            return Ok(Artifact { sha256: *wanted, size: self.store.read(wanted)?.size()? });
        }
        match self.get(url, wanted)? {
            Some(artifact) => Ok(artifact),
            None => Err(Error::Fetch { url: url.to_owned(), reason: "it is not there (404)".to_owned() }),
        }
    }

    /// Fetches every package that the store lacks, several at a time; `progress` hears of the bytes and the packages.
    ///
    /// # Errors
    /// [`Error::Gone`] for a package that the mirror has no more, [`Error::Fetch`], [`Error::Digest`].
    pub fn packages(&self, mirror: &Mirror, packages: &[(&String, &Package)], progress: &dyn Fn(&str)) -> Result<()> {
        let missing: Vec<_> = packages.iter().filter(|(_, package)| !self.store.contains(&package.sha256)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|(_, package)| package.size).sum();
        progress(&format!("fetching {} packages, {} MB", missing.len(), bytes / 1_000_000));
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let fail = |error| {
            // The first error is the one to tell; the other connections stop at their next package.
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            next.store(missing.len(), Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(missing.len()) {
                scope.spawn(|| {
                    while let Some((id, package)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.package(mirror, id, package).unwrap_or_else(fail);
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn package(&self, mirror: &Mirror, id: &str, package: &Package) -> Result<()> {
        let url = mirror.url(&package.path);
        match self.get(&url, &package.sha256)? {
            Some(_) => Ok(()),
            None => Err(Error::Gone { package: id.to_owned(), url }),
        }
    }

    /// Finds the packages that are neither here nor on the mirror, without fetching any. Several are asked for at a time.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the mirror can't be asked.
    pub fn gone<'p>(
        &self,
        mirror: &Mirror,
        packages: impl IntoIterator<Item = (&'p String, &'p Package)>,
    ) -> Result<BTreeSet<&'p String>> {
        let asked: Vec<_> = packages.into_iter().filter(|(_, package)| !self.store.contains(&package.sha256)).collect();
        let next = AtomicUsize::new(0);
        let ask = || -> Result<Vec<&'p String>> {
            let mut gone = Vec::new();
            while let Some((id, package)) = asked.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !self.is_offered(mirror, package)? {
                    gone.push(*id);
                }
            }
            Ok(gone)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS.min(asked.len())).map(|_| scope.spawn(ask)).collect();
            let mut all = BTreeSet::new();
            for thread in threads {
                all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    fn is_offered(&self, mirror: &Mirror, package: &Package) -> Result<bool> {
        let url = mirror.url(&package.path);
        match self.agent.head(&url).call() {
            Ok(answer) if answer.status() == 404 => Ok(false),
            Ok(answer) if answer.status().is_success() => Ok(true),
            Ok(answer) => Err(Error::Fetch { reason: format!("the answer is {}", answer.status()), url }),
            Err(error) => Err(Error::Fetch { url, reason: error.to_string() }),
        }
    }

    fn get(&self, url: &str, wanted: &Digest) -> Result<Option<Artifact>> {
        let path = url.strip_prefix("file://").or_else(|| url.starts_with('/').then_some(url));
        if let Some(path) = path {
            let file = File::open(path).map_err(Error::io("open", Path::new(path)))?;
            return self.keep(url, file, wanted).map(Some);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.get_once(url, wanted) {
                // A connection that broke is tried again; a wrong digest is not.
                Err(Error::Fetch { .. }) if tries < 3 => std::thread::sleep(Duration::from_secs(tries)),
                other => return other,
            }
        }
    }

    fn get_once(&self, url: &str, wanted: &Digest) -> Result<Option<Artifact>> {
        let failed = |reason: String| Error::Fetch { url: url.to_owned(), reason };
        let mut answer = self.agent.get(url).call().map_err(|error| failed(error.to_string()))?;
        if answer.status() == 404 {
            return Ok(None);
        }
        if !answer.status().is_success() {
            return Err(failed(format!("the answer is {}", answer.status())));
        }
        self.keep(url, answer.body_mut().with_config().limit(u64::MAX).reader(), wanted).map(Some)
    }

    fn keep(&self, url: &str, mut from: impl Read, wanted: &Digest) -> Result<Artifact> {
        let failed = |error: io::Error| Error::Fetch { url: url.to_owned(), reason: error.to_string() };
        let mut writer = self.store.writer()?;
        let mut buffer = vec![0; 1 << 17];
        loop {
            match from.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => writer.write_all(&buffer[..n]).map_err(failed)?,
            }
        }
        let found = writer.so_far().sha256;
        if found != *wanted {
            return Err(Error::Digest { url: url.to_owned(), wanted: *wanted, found });
        }
        Ok(writer.finish()?)
    }
}

fn tls() -> ureq::tls::TlsConfig {
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
    let pem = std::fs::read(SYSTEM_CERTIFICATES).unwrap_or_default();
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    // A system without a list of its own gets the one that the client carries.
    let roots = if certificates.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(certificates.into()) };
    TlsConfig::builder().root_certs(roots).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_file_is_fetched_if_its_digest_is_right() {
        let (folder, store) = store();
        let path = folder.path().join("disk");
        store::files::write_atomic(&path, "disk", 0o644).unwrap();
        let fetcher = Fetcher::new(&store);
        for url in [format!("file://{}", path.display()), path.display().to_string()] {
            assert_eq!(fetcher.url(&url, &Digest::of("disk")).unwrap().size, 4);
        }
        let url = format!("file://{}", path.display());
        let (wanted, found) = (Digest::of("other"), Digest::of("disk"));
        let error = fetcher.url(&url, &wanted).unwrap_err();
        assert_eq!(error.to_string(), format!("{url} has the digest {found}, pinned is {wanted}"));
        assert!(!store.contains(&wanted));
    }

    #[test]
    fn a_file_that_the_store_holds_cut_short_is_fetched_again_or_named() {
        let (folder, store) = store();
        let path = folder.path().join("disk");
        store::files::write_atomic(&path, "disk", 0o644).unwrap();
        let (url, wanted) = (path.display().to_string(), Digest::of("disk"));
        let cut = || store::files::write_atomic(&store.path(&wanted), "dis", 0o444).unwrap();
        cut();
        assert_eq!(Fetcher::new(&store).url(&url, &wanted).unwrap().size, 4);
        assert_eq!(store.verify(&wanted).unwrap(), 4);
        cut();
        std::fs::remove_file(&path).unwrap();
        let error = Fetcher::new(&store).url(&url, &wanted).unwrap_err();
        assert_eq!(error.to_string(), format!("can't open {url}"));
    }

    #[test]
    fn a_package_that_the_mirror_dropped_is_named_with_the_way_out() {
        let (_folder, store) = store();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        });
        let [debian, security] = ["debian", "debian-security"].map(|archive| format!("http://{address}/{archive}"));
        let mirror = Mirror { debian, security };
        let package = Package { size: 1, sha256: Digest::of("deb"), path: "debian/pool/sudo.deb".to_owned() };
        let id = "sudo_1.9_amd64".to_owned();
        let error = Fetcher::new(&store).packages(&mirror, &[(&id, &package)], &|_| ()).unwrap_err();
        server.join().unwrap();
        let text = error.to_string();
        assert!(text.starts_with("package sudo_1.9_amd64 is pinned, but http://127.0.0.1:"), "{text}");
        assert!(
            text.contains("/debian/pool/sudo.deb is gone") && text.ends_with("run `hearth lock --update`"),
            "{text}"
        );
    }
}
