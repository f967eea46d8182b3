//! One HTTPS request to the lab's own server: does it answer, with the right certificate and the right token?

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::layout::Layout;

const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for the version.
pub(super) fn version(layout: &Layout, address: (Ipv4Addr, u16)) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(layout.ca()).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::from(std::net::IpAddr::V4(address.0));
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&SocketAddr::from(address), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let token = fs::read_to_string(layout.token())?;
    let mut stream = StreamOwned::new(connection, stream);
    let request = format!(
        "GET /api2/json/version HTTP/1.1\r\nhost: {}\r\nauthorization: PVEAPIToken={}\r\nconnection: close\r\n\r\n",
        address.0,
        token.trim()
    );
    stream.write_all(request.as_bytes())?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    match &head {
        b"HTTP/1.1 200" => Ok(()),
        other => Err(io::Error::other(format!("it answered {}", String::from_utf8_lossy(other)))),
    }
}
