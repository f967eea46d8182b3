//! What a lab needs once: certificates, token, password, keys.

use std::collections::BTreeMap;
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

use crate::access::{self, Kind, Line, State};
use crate::auth::ROOT;
use crate::lab::net::GATEWAY_ADDRESS;
use crate::layout::Layout;
use crate::random;
use crate::schema::Release;
use crate::server::NODE;

/// Makes what is missing of the lab's folder; what is there stays.
///
/// # Errors
/// Whatever the file system or the making of a certificate fails with.
pub(crate) fn prepare(layout: &Layout, release: Release) -> io::Result<()> {
    for folder in [layout.dir().to_owned(), layout.state(""), layout.run(""), layout.storage("local")] {
        fs::create_dir_all(folder)?;
    }
    secret(&layout.password(), random::hex::<12>)?;
    secret(&layout.state("ticket.key"), random::hex::<32>)?;
    if !layout.state("access.json").exists() {
        users(layout, release)?;
    }
    if !layout.state("server.pem").exists() {
        certificates(layout).map_err(io::Error::other)?;
    }
    Ok(())
}

fn secret(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
    if path.exists() { Ok(()) } else { write_atomic(path, format!("{}\n", make()?), 0o600) }
}

/// The role that is enough for Hearth, and who has it. `docs/trust.md` says how the same is made with `pveum`.
const ROLE: &str = "Hearth";
const USER: &str = "hearth@pve";
const TOKEN: &str = "hearth";
/// Where the role is needed.
const PATHS: [&str; 3] = ["/sdn/zones/localnetwork/vmbr0", "/storage/local", "/vms"];
const PRIVILEGES: [&str; 15] = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "SDN.Use",
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];

/// Makes root with a token that may do everything, and a user for Hearth with a token that may do what it needs.
fn users(layout: &Layout, release: Release) -> io::Result<()> {
    let agent = if release == Release::V8 { "VM.Monitor" } else { "VM.GuestAgent.FileRead" };
    let role = PRIVILEGES.into_iter().chain([agent]).map(str::to_owned).collect();
    let (mut users, mut acl) = (BTreeMap::new(), BTreeMap::new());
    for (user, name, file, privsep) in
        [(ROOT, "admin", layout.root_token(), false), (USER, TOKEN, layout.token(), true)]
    {
        let secret = random::uuid()?;
        write_atomic(&file, format!("{user}!{name}={secret}\n"), 0o600)?;
        let token = access::Token { digest: access::digest(&secret), privsep, ..access::Token::default() };
        let tokens = [(name.to_owned(), token)].into();
        users.insert(user.to_owned(), access::User { enable: true, tokens, ..access::User::default() });
    }
    for path in PATHS {
        for (kind, ugid) in [(Kind::User, USER.to_owned()), (Kind::Token, format!("{USER}!{TOKEN}"))] {
            acl.insert(Line { path: path.into(), kind, ugid, roleid: ROLE.into() }, true);
        }
    }
    let state = State { users, groups: BTreeMap::new(), roles: [(ROLE.to_owned(), role)].into(), acl };
    // Last, because it is what says that the tokens are there.
    state.write(&layout.state("access.json"))
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
