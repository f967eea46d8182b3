//! One SSH connection: opened, its host key compared with the pins, and one script at a time run over it.

use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, MethodType, Session};

use crate::error::Error;
use crate::known_hosts::{self, HostKey, Place, Verdict};

/// How long the key exchange and the log-in may take; an emulated guest needs some seconds for them.
const HANDSHAKE_SECONDS: u64 = 30;
/// How much of an input is read at a time.
const CHUNK: usize = 1 << 20;

/// Where a host is and how it is entered.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) key_file: PathBuf,
    pub(crate) known_hosts: PathBuf,
    /// Host keys pinned beside those of the file, each as `KIND BASE64`.
    pub(crate) pinned: Vec<String>,
    /// Whether it is a guest that this site makes: its key is told by its agent, and pinned in the file.
    pub(crate) guest: bool,
}

impl Target {
    pub(crate) fn place(&self) -> Place {
        Place { address: self.address.to_string(), port: self.port }
    }

    /// Returns all that is pinned, in the file's format.
    pub(crate) fn pins(&self) -> Result<String, Error> {
        let told = |error| told(&error, &format!("can't read {}", self.known_hosts.display()));
        let mut text = known_hosts::read(&self.known_hosts).map_err(|error| self.unreachable(told(error)))?;
        for key in &self.pinned {
            text += &format!("\n{} {key}", self.place().pattern());
        }
        Ok(text)
    }

    /// Returns where pins are, for messages.
    fn pin_places(&self) -> String {
        let file = self.known_hosts.display().to_string();
        if self.guest { file } else { format!("{} or {file}", site::trust::FILE) }
    }

    fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { host: self.name.clone(), address: format!("{}:{}", self.address, self.port), source }
    }
}

/// An open connection.
pub(crate) struct Link {
    /// The channel of the program that holds the host's lock. Before the session, so that it is dropped first.
    kept: Option<Channel>,
    session: Session,
    socket: Arc<TcpStream>,
}

/// How a script ended.
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) sent: u64,
}

/// Why a script's end is not known.
pub(crate) enum Trouble {
    /// The connection was dead before anything was started; a new one may be tried.
    NotStarted(io::Error),
    /// The connection broke, or the input could not be read.
    Broken(io::Error),
    /// The time is over.
    Deadline,
}

impl Link {
    /// Connects once, within the time given for the TCP connection, and logs in.
    pub(crate) fn open(target: &Target, patience: Duration) -> Result<Self, Error> {
        let broken = |error: io::Error| target.unreachable(error);
        // Asked for here, since libssh2 does not tell a key that is missing from one that is not wanted.
        std::fs::File::open(&target.key_file)
            .map_err(|error| broken(told(&error, &format!("can't read the key {}", target.key_file.display()))))?;
        let pins = target.pins()?;
        let (session, socket) = greet(target, &pins, patience)?;
        admit(target, &session, &pins)?;
        session.userauth_pubkey_file(&target.user, None, &target.key_file, None).map_err(|error| {
            let what = format!("can't log in as {} with the key {}", target.user, target.key_file.display());
            broken(told(&error.into(), &what))
        })?;
        session.set_blocking(false);
        Ok(Self { kept: None, session, socket })
    }

    /// Runs a command with this input and returns how it ended, all that it printed included.
    pub(crate) fn exec(&mut self, command: &str, input: &mut dyn Read, limit: Duration) -> Result<Ended, Trouble> {
        let end = Instant::now() + limit;
        let not_started = |trouble| match trouble {
            Trouble::Broken(error) => Trouble::NotStarted(error),
            other => other,
        };
        let mut channel = self.until(end, || self.session.channel_session()).map_err(not_started)?;
        self.until(end, || channel.exec(command)).map_err(not_started)?;
        let (stdout, stderr, sent) = Pump::new(self, end).run(&mut channel, input)?;
        self.until(end, || channel.close())?;
        self.until(end, || channel.wait_close())?;
        let signal = channel.exit_signal().map_err(|error| Trouble::Broken(error.into()))?.exit_signal;
        let code = channel.exit_status().map_err(|error| Trouble::Broken(error.into()))?;
        // After a signal, the exit status is 0.
        let status = signal.map_or(code, |name| 128 + number(&name));
        Ok(Ended { status, stdout, stderr, sent })
    }

    /// Starts a command whose channel stays open while others run.
    pub(crate) fn begin(&self, command: &str, end: Instant) -> Result<Channel, Trouble> {
        let mut channel = self.until(end, || self.session.channel_session())?;
        self.until(end, || channel.exec(command))?;
        Ok(channel)
    }

    /// Reads the first line that a command prints; less where it prints no more.
    pub(crate) fn line(&self, channel: &mut Channel, end: Instant) -> Result<String, Trouble> {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\n") && text.len() < 4096 {
            match channel.read(&mut byte) {
                Ok(0) if channel.eof() => break,
                Ok(0) => self.wait(end)?,
                Ok(_) => text.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(end)?,
                Err(error) => return Err(Trouble::Broken(error)),
            }
        }
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// Keeps a channel open for as long as the connection is.
    pub(crate) fn keep(&mut self, channel: Channel) {
        self.kept = Some(channel);
    }

    /// Repeats a call that would block until it is done or the time is over.
    fn until<T>(&self, end: Instant, mut call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Trouble> {
        loop {
            match call().map_err(io::Error::from) {
                Ok(value) => return Ok(value),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(end)?,
                Err(error) => return Err(Trouble::Broken(error)),
            }
        }
    }

    /// Waits until the socket can do what the session waits for.
    fn wait(&self, end: Instant) -> Result<(), Trouble> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Deadline);
        }
        let flags = match self.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        // At most a second, so that no missed event can hold us to the deadline.
        let time = Timespec::try_from(left.min(Duration::from_secs(1))).ok();
        let mut sockets = [PollFd::new(&self.socket, flags)];
        match poll(&mut sockets, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Trouble::Broken(error.into())),
        }
    }
}

/// Adds what was done to an error, keeping its kind.
fn told(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Connects and exchanges keys, so that the host's own key is proven and known; logs nobody in.
fn greet(target: &Target, pins: &str, patience: Duration) -> Result<(Session, Arc<TcpStream>), Error> {
    let broken = |error: io::Error| target.unreachable(error);
    let address = SocketAddr::from((target.address, target.port));
    let socket = TcpStream::connect_timeout(&address, patience).map_err(broken)?;
    // Before the first byte: the exchange is made of small packets that each wait for an answer.
    socket.set_nodelay(true).map_err(broken)?;
    let socket = Arc::new(socket);
    let mut session = Session::new().map_err(|error| broken(error.into()))?;
    session.set_tcp_stream(Arc::clone(&socket));
    session.set_timeout(u32::try_from(HANDSHAKE_SECONDS * 1000).unwrap_or(u32::MAX));
    let methods = known_hosts::methods(pins, &target.place());
    session.method_pref(MethodType::HostKey, &methods).map_err(|error| broken(error.into()))?;
    session.handshake().map_err(|error| broken(told(&error.into(), "the SSH handshake failed")))?;
    Ok((session, socket))
}

/// Returns the key that a host shows, and what the pins say of it.
pub(crate) fn seen(target: &Target, patience: Duration) -> Result<(HostKey, Verdict), Error> {
    let pins = target.pins()?;
    let (session, _) = greet(target, &pins, patience)?;
    let key = shown(target, &session)?;
    let verdict = known_hosts::verdict(&pins, &target.place(), key.bytes());
    Ok((key, verdict))
}

fn shown(target: &Target, session: &Session) -> Result<HostKey, Error> {
    let none = || target.unreachable(io::Error::other("the server shows no host key"));
    let (key, _) = session.host_key().ok_or_else(none)?;
    HostKey::of(key.to_vec()).ok_or_else(none)
}

/// Lets a host in whose key is pinned.
fn admit(target: &Target, session: &Session, pins: &str) -> Result<(), Error> {
    let key = shown(target, session)?;
    let (host, seen, file) = (target.name.clone(), key.fingerprint(), target.pin_places());
    match known_hosts::verdict(pins, &target.place(), key.bytes()) {
        Verdict::Known => Ok(()),
        Verdict::Differs => {
            let pinned = known_hosts::pinned(pins, &target.place());
            Err(Error::HostKey { host, seen, pinned, file })
        }
        Verdict::Unknown => Err(Error::UnknownKey { host, seen, file }),
    }
}

/// Returns a signal's number by its SSH name (RFC 4254, section 6.10), without `SIG`.
fn number(name: &str) -> i32 {
    let known = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
    ];
    known.iter().find(|(known, _)| *known == name).map_or(127, |(_, number)| *number)
}

/// Moves the bytes of one running command, both ways at the same time: a command that prints much before it has read all
/// would otherwise wait for us while we wait for it.
struct Pump<'a> {
    link: &'a Link,
    end: Instant,
    chunk: Vec<u8>,
    at: usize,
    sent: u64,
    input_ended: bool,
    closed: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl<'a> Pump<'a> {
    fn new(link: &'a Link, end: Instant) -> Self {
        Self {
            link,
            end,
            chunk: Vec::new(),
            at: 0,
            sent: 0,
            input_ended: false,
            closed: false,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    fn run(mut self, channel: &mut Channel, input: &mut dyn Read) -> Result<(Vec<u8>, Vec<u8>, u64), Trouble> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut moved = self.write(channel, input)?;
            // A packet that is half sent must be finished first: reading may want to send a packet of its own.
            let half_sent =
                matches!(self.link.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
            if moved || !half_sent {
                moved |= drain(channel, &mut buffer, &mut self.stdout)?;
                moved |= drain(&mut channel.stderr(), &mut buffer, &mut self.stderr)?;
                // The command has closed its output: it has ended, and reads no more.
                if channel.eof() {
                    return Ok((self.stdout, self.stderr, self.sent));
                }
            }
            if Instant::now() >= self.end {
                return Err(Trouble::Deadline);
            }
            if !moved {
                self.link.wait(self.end)?;
            }
        }
    }

    /// Sends some of the input, or its end; tells whether anything could be sent.
    fn write(&mut self, channel: &mut Channel, input: &mut dyn Read) -> Result<bool, Trouble> {
        if self.closed {
            return Ok(false);
        }
        if self.at == self.chunk.len() && !self.input_ended {
            self.chunk.clear();
            self.at = 0;
            let limit = u64::try_from(CHUNK).unwrap_or(u64::MAX);
            let read = input.take(limit).read_to_end(&mut self.chunk);
            let told = |error| Trouble::Broken(told(&error, "can't read what is to be sent"));
            self.input_ended = read.map_err(told)? == 0;
        }
        let mut moved = false;
        while self.at < self.chunk.len() {
            match channel.write(&self.chunk[self.at..]) {
                Ok(0) => break,
                Ok(n) => {
                    self.at += n;
                    self.sent += n as u64;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(error) => return Err(Trouble::Broken(error)),
            }
        }
        if self.input_ended {
            match channel.send_eof().map_err(io::Error::from) {
                Ok(()) => self.closed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Trouble::Broken(error)),
            }
        }
        Ok(moved || self.closed)
    }
}

/// Reads what has come on a stream; tells whether anything had.
fn drain(stream: &mut dyn Read, buffer: &mut [u8], all: &mut Vec<u8>) -> Result<bool, Trouble> {
    let mut moved = false;
    loop {
        match stream.read(buffer) {
            Ok(0) => return Ok(moved),
            Ok(n) => {
                all.extend_from_slice(&buffer[..n]);
                moved = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
            Err(error) => return Err(Trouble::Broken(error)),
        }
    }
}
