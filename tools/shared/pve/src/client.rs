use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;
use site::Api;
use ureq::http::{Method, Request, Response, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::error::{Answered, Error};
use crate::form::Form;
use crate::multipart::Upload;
use crate::node::Node;
use crate::tls::{Pin, Token};
use crate::transport::{PinnedTls, take_reason};
use crate::types::{Resource, Version};

const CONNECT: Duration = Duration::from_secs(10);
/// What an ordinary call may take. A lock file is waited for by the server for 10 s, and a bad token answered after 3 s.
pub(crate) const CALL: Duration = Duration::from_secs(60);
/// The largest answer taken: the longest lists of big clusters are a few MiB.
const MOST: u64 = 64 << 20;

/// A connection to one Proxmox VE API. Threads can share it; idle connections are used again.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    token: Token,
    calls: AtomicU64,
}

impl Client {
    /// Prepares a client for a host of the site; connects at the first call.
    ///
    /// A fingerprint wins over an authority, for it says more; what the inventory says wins over the lock file.
    ///
    /// # Errors
    /// [`Error::Setup`] where the token or what the certificate is pinned to can't be used.
    pub fn open(api: &Api) -> Result<Self, Error> {
        let setup = |what: String| Error::Setup { what, source: None };
        let pinned = api.fingerprint.as_ref().or(api.pinned.as_ref().filter(|_| api.ca_file.is_none()));
        let pin = match (pinned, &api.ca_file) {
            (Some(text), _) => Pin::fingerprint(text)
                .ok_or_else(|| setup(format!("'{text}' is no SHA-256 fingerprint of a certificate, as AB:CD:…")))?,
            (None, Some(file)) => Pin::Authority(file.clone()),
            (None, None) => {
                return Err(Error::Unpinned { url: api.url.clone() });
            }
        };
        Self::new(&api.url, Token::read(&api.token_file)?, &pin)
    }

    /// Prepares a client for a base address, as `https://192.168.1.100:8006`.
    ///
    /// # Errors
    /// [`Error::Setup`] where the address is not https or the pin can't be used.
    pub fn new(base: &str, token: Token, pin: &Pin) -> Result<Self, Error> {
        if !base.starts_with("https://") {
            return Err(Error::Setup { what: format!("the API's address {base} is not https"), source: None });
        }
        // No proxy: a home's hypervisor is never behind the one that the environment names for the web.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("hearth")
            .timeout_connect(Some(CONNECT))
            .max_idle_connections_per_host(8)
            .output_buffer_size(1 << 18)
            .build();
        let connector = ().chain(TcpConnector::default()).chain(PinnedTls(pin.config()?));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        Ok(Self { agent, base: base.trim_end_matches('/').to_owned(), token, calls: AtomicU64::new(0) })
    }

    /// Returns the token's name, as `user@realm!name`.
    pub fn token_name(&self) -> &str {
        self.token.name()
    }

    /// Returns what the token may do, by path; below each as well where the number is 1.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn permissions(&self) -> Result<BTreeMap<String, BTreeMap<String, u8>>, Error> {
        self.get("/access/permissions", &Form::new())
    }

    /// Returns how many requests were sent so far, retries and polls included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the calls of one node.
    pub fn node<'a>(&'a self, name: &'a str) -> Node<'a> {
        Node { client: self, name }
    }

    /// Returns the server's version.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn version(&self) -> Result<Version, Error> {
        self.get("/version", &Form::new())
    }

    /// Returns the cluster's guests on all nodes, or with another kind (`storage`, `node`) those things.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn resources(&self, kind: &str) -> Result<Vec<Resource>, Error> {
        self.get("/cluster/resources", &Form::new().set("type", kind))
    }

    /// Returns a VMID that is free.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn next_id(&self) -> Result<u32, Error> {
        let text: String = self.get("/cluster/nextid", &Form::new())?;
        let call = || "GET /cluster/nextid".to_owned();
        text.parse().map_err(|_| Error::Shape { call: call(), source: serde::de::Error::custom("it is no number") })
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, form: &Form) -> Result<T, Error> {
        self.call(&Method::GET, path, form)
    }

    /// Makes a call and waits while another one holds the lock file.
    pub(crate) fn call<T: DeserializeOwned>(&self, method: &Method, path: &str, form: &Form) -> Result<T, Error> {
        let begin = Instant::now();
        let value = patiently(begin, CALL, || self.once(method, path, form))?;
        let call = format!("{method} {path}");
        serde_json::from_value(value).map_err(|source| Error::Shape { call, source })
    }

    fn once(&self, method: &Method, path: &str, form: &Form) -> Result<Value, Error> {
        // A DELETE with a body is answered with 501, so only POST and PUT have one.
        if matches!(*method, Method::POST | Method::PUT) {
            let kind = "application/x-www-form-urlencoded";
            return self.send(method, path, (path, kind), form.encode(), CALL);
        }
        let query = form.encode();
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let outcome = self.send(method, path, (&target, ""), (), CALL);
        match outcome {
            // The server may close an idle connection in the moment in which it is used again; asking twice is harmless.
            Err(Error::Unreachable { ref source, .. }) if *method == Method::GET && broke(source) => {
                self.send(method, path, (&target, ""), (), CALL)
            }
            outcome => outcome,
        }
    }

    /// Uploads a file and returns the task's id. The file is streamed; it is hashed by the server, in that task.
    pub(crate) fn upload(
        &self,
        path: &str,
        upload: &Upload,
        file: &mut dyn Read,
        deadline: Duration,
    ) -> Result<String, Error> {
        let kind = format!("multipart/form-data; boundary={}", upload.boundary());
        let mut body = upload.body(file);
        let request = self.request(&Method::POST, path, &kind)?.header(header::CONTENT_LENGTH, upload.body_length());
        let request =
            request.body(SendBody::from_reader(&mut body)).map_err(|error| self.broken(path, other(error)))?;
        let value = self.run(&Method::POST, path, request, deadline)?;
        let call = format!("POST {path}");
        serde_json::from_value(value).map_err(|source| Error::Shape { call, source })
    }

    fn request(&self, method: &Method, target: &str, kind: &str) -> Result<ureq::http::request::Builder, Error> {
        let url = format!("{}/api2/json{target}", self.base);
        let request = Request::builder().method(method).uri(url).header(header::AUTHORIZATION, self.token.header());
        Ok(if kind.is_empty() { request } else { request.header(header::CONTENT_TYPE, kind) })
    }

    fn send(
        &self,
        method: &Method,
        path: &str,
        (target, kind): (&str, &str),
        body: impl AsSendBody,
        deadline: Duration,
    ) -> Result<Value, Error> {
        let request = self.request(method, target, kind)?.body(body);
        self.run(method, path, request.map_err(|error| self.broken(path, other(error)))?, deadline)
    }

    fn run(
        &self,
        method: &Method,
        path: &str,
        request: Request<impl AsSendBody>,
        time: Duration,
    ) -> Result<Value, Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let call = format!("{method} {path}");
        let request = self.agent.configure_request(request).timeout_global(Some(time)).build();
        take_reason();
        let outcome = self.agent.run(request).and_then(|mut response: Response<Body>| {
            let reason = take_reason();
            let body = response.body_mut().with_config().limit(MOST).read_to_vec()?;
            Ok((response.status().as_u16(), reason, body))
        });
        let (status, reason, body) = outcome.map_err(|error| self.failure(&call, time, error))?;
        if status == 200 {
            let envelope: Value =
                serde_json::from_slice(&body).map_err(|source| Error::Shape { call: call.clone(), source })?;
            return Ok(envelope.get("data").cloned().unwrap_or(Value::Null));
        }
        Err(Error::Answered(Box::new(answered(method, path, (status, reason), &body))))
    }

    fn failure(&self, call: &str, time: Duration, error: ureq::Error) -> Error {
        let url = self.base.clone();
        let certificate = |error: &rustls::Error| match error {
            rustls::Error::InvalidCertificate(reason) => Some(why(reason)),
            _ => None,
        };
        match error {
            ureq::Error::Rustls(tls) => match certificate(&tls) {
                Some(reason) => Error::Certificate { url, reason },
                None => self.broken(call, other(tls)),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                self.broken(call, io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))
            }
            ureq::Error::Timeout(_) => Error::Deadline { what: call.to_owned(), seconds: time.as_secs() },
            ureq::Error::Io(error) => self.broken(call, error),
            error => self.broken(call, other(error)),
        }
    }

    fn broken(&self, call: &str, source: io::Error) -> Error {
        Error::Unreachable { url: self.base.clone(), call: call.to_owned(), source }
    }
}

/// Writes what is wrong with a certificate; our own reason stands alone.
fn why(reason: &rustls::CertificateError) -> String {
    match reason {
        rustls::CertificateError::Other(own) => own.0.to_string(),
        reason => reason.to_string(),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn broke(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Reads an error's body, which may be empty, plain text or JSON.
fn answered(method: &Method, path: &str, (status, reason): (u16, String), body: &[u8]) -> Answered {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let plain = || if value.is_null() { String::from_utf8_lossy(body).into_owned() } else { String::new() };
    let message = value["message"].as_str().map_or_else(plain, str::to_owned);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let errors = value["errors"].as_object().into_iter().flatten();
    Answered {
        method: method.to_string(),
        path: path.to_owned(),
        status,
        reason,
        message,
        errors: errors.map(|(parameter, what)| (parameter.clone(), text(what))).collect(),
    }
}

/// Tries again for as long as a lock file is held, within a deadline.
pub(crate) fn patiently<T>(
    begin: Instant,
    deadline: Duration,
    mut step: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        match step() {
            Err(error) if error.is_contention() && begin.elapsed() + PAUSE < deadline => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}
