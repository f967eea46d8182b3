use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use secret::Secret;
use store::Digest;

use crate::error::Error;

/// An API token, `user@realm!name=secret`. It prints as its name.
pub struct Token(Secret);

impl Token {
    /// Reads a token from a file of one line.
    ///
    /// # Errors
    /// [`Error::Setup`] where the file can't be read or holds no token; the text is never in the message.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let read = std::fs::File::open(path).and_then(Secret::read);
        let text = read.map_err(|source| Error::Setup {
            what: format!("can't read the API token in {}", path.display()),
            source: Some(source),
        })?;
        let what = || format!("{} holds no API token: one line, user@realm!name=secret, is wanted", path.display());
        std::str::from_utf8(text.expose())
            .ok()
            .and_then(|text| Self::parse(text.trim()))
            .ok_or_else(|| Error::Setup { what: what(), source: None })
    }

    /// Returns a token, where the text is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('=')?;
        let (user, name) = id.split_once('!')?;
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        let whole = user.contains('@') && !name.is_empty() && !secret.is_empty() && printable;
        whole.then(|| Self(Secret::new(text.into())))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.0.expose()).unwrap_or_default()
    }

    /// Returns its name, as `user@realm!name`.
    pub fn name(&self) -> &str {
        self.text().split('=').next().unwrap_or_default()
    }

    /// Returns the header's value.
    pub(crate) fn header(&self) -> String {
        format!("PVEAPIToken={}", self.text())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name())
    }
}

/// What a server's certificate is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// A PEM file: the certificate must come from one of its authorities and be for the address asked.
    Authority(PathBuf),
    /// The certificate's own SHA-256; nothing else of it counts.
    Fingerprint(Digest),
}

/// Returns the SHA-256 of the certificate that a server shows, whoever it is: to be compared by people before it is
/// pinned. Nothing is sent to it.
///
/// # Errors
/// [`Error::Setup`] where the address is no https address; [`Error::Unreachable`] where nobody answers with TLS.
pub fn shown(url: &str, patience: Duration) -> Result<Digest, Error> {
    let uri: ureq::http::Uri = url.parse().map_err(|_| setup(format!("{url} is no address")))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
    let host = host.ok_or_else(|| setup(format!("the API's address {url} is not https")))?;
    let unreachable =
        |source: io::Error| Error::Unreachable { url: url.to_owned(), call: "its certificate".to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let shown = Arc::new(Shown { seen: Mutex::default(), provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| setup(format!("can't set up TLS: {error}")))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(shown.clone());
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|_| setup(format!("no host in {url}")))?;
    let mut connection = ClientConnection::new(Arc::new(builder.with_no_client_auth()), name)
        .map_err(|error| unreachable(io::Error::other(error)))?;
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(443));
    let mut tried = Err(io::ErrorKind::NotFound.into());
    for address in address.to_socket_addrs().map_err(unreachable)? {
        tried = TcpStream::connect_timeout(&address, patience);
        if tried.is_ok() {
            break;
        }
    }
    let mut socket = tried.map_err(unreachable)?;
    socket.set_read_timeout(Some(patience)).map_err(unreachable)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(unreachable)?;
    }
    let seen = *shown.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.ok_or_else(|| unreachable(io::Error::other("it shows no certificate")))
}

/// Writes a certificate's SHA-256 as Proxmox does: `AB:CD:…`.
pub fn fingerprint(sha256: &Digest) -> String {
    let digits = sha256.to_string().to_uppercase();
    digits.as_bytes().chunks(2).map(String::from_utf8_lossy).collect::<Vec<_>>().join(":")
}

/// Takes any certificate and keeps its digest. The handshake's signature is checked: it proves the private key.
#[derive(Debug)]
struct Shown {
    seen: Mutex<Option<Digest>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Digest::of(certificate));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Pin {
    /// Parses a fingerprint as Proxmox shows it: 32 bytes in hexadecimal, with or without colons.
    pub fn fingerprint(text: &str) -> Option<Self> {
        let digits = text.trim().replace(':', "").to_lowercase();
        digits.parse().ok().map(Self::Fingerprint)
    }

    /// Returns the TLS configuration that accepts only this.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        // Named, because a workspace in which two providers are built has no default one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Fingerprint(sha256) => Arc::new(Pinned { sha256: *sha256, provider: provider.clone() }),
            Self::Authority(path) => authority(path, provider.clone())?,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(format!("can't set up TLS: {error}")))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        Ok(Arc::new(builder.with_no_client_auth()))
    }
}

fn setup(what: String) -> Error {
    Error::Setup { what, source: None }
}

fn authority(path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Setup {
        what: format!("can't read the API's authority in {}", path.display()),
        source: Some(source),
    })?;
    let bad = |why: &dyn fmt::Display| setup(format!("{} holds no usable certificate: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| bad(&error))
}

/// Accepts one certificate, by its SHA-256. The handshake's signature is still checked: it proves the private key.
#[derive(Debug)]
struct Pinned {
    sha256: Digest,
    provider: Arc<CryptoProvider>,
}

/// The certificate is another one.
#[derive(Debug, thiserror::Error)]
#[error("its SHA-256 is {}, and {} is pinned", fingerprint(seen), fingerprint(pinned))]
struct OtherCertificate {
    seen: Digest,
    pinned: Digest,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Digest::of(certificate);
        if seen == self.sha256 {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherCertificate { seen, pinned: self.sha256 };
        Err(CertificateError::Other(OtherError(Arc::new(other))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints_its_secret() {
        let token = Token::parse("root@pam!hearth=0f8fad5b-d9cb").unwrap();
        assert_eq!(format!("{token:?}"), "root@pam!hearth=…");
        for bad in ["", "root@pam", "root@pam!=x", "root!hearth=x", "root@pam!hearth=", "root@pam!hearth=a b"] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_proxmox_shows_it() {
        let shown = "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
        assert_eq!(Pin::fingerprint(shown), Some(Pin::Fingerprint(Digest::of(""))));
        assert_eq!(Pin::fingerprint("AB:CD"), None);
    }
}
