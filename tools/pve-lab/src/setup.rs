//! What a lab needs once: certificates, token, password, keys.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use store::files::write_atomic;

use crate::lab::net::GATEWAY_ADDRESS;
use crate::layout::Layout;
use crate::random;
use crate::server::NODE;

/// Makes what is missing of the lab's folder; what is there stays.
///
/// # Errors
/// Whatever the file system or the making of a certificate fails with.
pub(crate) fn prepare(layout: &Layout) -> io::Result<()> {
    for folder in [layout.dir().to_owned(), layout.state(""), layout.run(""), layout.storage("local")] {
        fs::create_dir_all(folder)?;
    }
    secret(&layout.token(), || Ok(format!("root@pam!{}={}", crate::auth::TOKEN_NAME, random::uuid()?)))?;
    secret(&layout.password(), random::hex::<12>)?;
    secret(&layout.state("ticket.key"), random::hex::<32>)?;
    if !layout.state("server.pem").exists() {
        certificates(layout).map_err(io::Error::other)?;
    }
    Ok(())
}

fn secret(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
    if path.exists() { Ok(()) } else { write_atomic(path, format!("{}\n", make()?), 0o600) }
}

/// Makes a certificate authority, lets it sign the server's certificate, and forgets the authority's key.
fn certificates(layout: &Layout) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "pve-lab authority");
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = CertificateParams::new([NODE.to_owned(), "localhost".to_owned()])?;
    for address in [Ipv4Addr::LOCALHOST, GATEWAY_ADDRESS] {
        leaf.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(address)));
    }
    leaf.distinguished_name.push(DnType::CommonName, NODE);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?.pem();

    write_atomic(&layout.ca(), authority_pem, 0o644)?;
    write_atomic(&layout.state("server.key"), key.serialize_pem(), 0o600)?;
    // Last, because it is what says that all are there.
    write_atomic(&layout.state("server.pem"), certificate, 0o644)?;
    Ok(())
}

fn leaf(layout: &Layout) -> io::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(layout.state("server.pem")).map_err(io::Error::other)
}

/// Returns the TLS settings of the server.
pub(crate) fn tls(layout: &Layout) -> io::Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::from_pem_file(layout.state("server.key")).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_no_client_auth();
    let mut config = builder.with_single_cert(vec![leaf(layout)?], key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the SHA-256 fingerprint of the server's certificate, as Proxmox writes it.
pub(crate) fn fingerprint(layout: &Layout) -> io::Result<String> {
    let digest = Sha256::digest(leaf(layout)?);
    Ok(digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}
