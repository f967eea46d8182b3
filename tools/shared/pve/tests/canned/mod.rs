//! A TLS server on the loopback that plays back answers, one list for all its connections, and keeps what it was asked.

use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The server; its thread ends with the test's process.
pub struct Canned {
    /// Its base address by name `localhost`.
    pub url: String,
    /// Its authority's certificate.
    pub authority: PathBuf,
    /// Its own certificate.
    pub certificate: Vec<u8>,
    /// Each request: its first line, a blank, its body.
    pub requests: Arc<Mutex<Vec<String>>>,
    /// How many connections were made.
    pub connections: Arc<Mutex<usize>>,
    _folder: tempfile::TempDir,
}

/// An answer of a status line's rest and a body.
pub fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Canned {
    /// Starts a server whose certificate is for one name and that gives these answers in turn.
    pub fn start(name: &str, answers: impl IntoIterator<Item = String>) -> Self {
        let (authority_pem, chain, key) = certificates(name);
        let certificate = chain[0].to_vec();
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca.pem");
        store::files::write_atomic(&authority, authority_pem, 0o644).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let mut answers: Vec<String> = answers.into_iter().collect();
        answers.reverse();
        let answers = Arc::new(Mutex::new(answers));
        let (kept, count) = (requests.clone(), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                *count.lock().unwrap() += 1;
                let (config, kept, answers) = (config.clone(), kept.clone(), answers.clone());
                thread::spawn(move || serve(stream, config, &kept, &answers));
            }
        });
        Self { url, authority, certificate, requests, connections, _folder: folder }
    }
}

fn certificates(name: &str) -> (String, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (authority_certificate.pem(), vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, kept: &Mutex<Vec<String>>, answers: &Mutex<Vec<String>>) {
    let connection = ServerConnection::new(config).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = read(&mut stream) {
        kept.lock().unwrap().push(request);
        let Some(answer) = answers.lock().unwrap().pop() else { return };
        // A client that has gone away is what some tests are about.
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl std::io::BufRead) -> Option<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let length = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(format!("{} {}", lines[0].trim_end_matches(" HTTP/1.1"), String::from_utf8_lossy(&body)))
}
