//! The smallest HTTP client that a check needs: one GET, HTTP/1.1, without TLS (RFC 9112).

use std::io::{ErrorKind, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// The most that is read of an answer.
const LIMIT: usize = 4 << 20;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// An address of the web, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// The host, with the port where one is given: what the header `Host` says.
    pub authority: &'a str,
    /// `HOST:PORT`.
    pub address: String,
    /// The path with the query.
    pub path: &'a str,
}

/// Takes an address apart.
///
/// # Errors
/// In words, where it is not one that can be asked.
pub fn parse(url: &str) -> Result<Url<'_>, String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("'{url}' does not begin with http://"))?;
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() || url.contains(|c: char| c.is_whitespace() || c.is_control()) || path.starts_with('?') {
        return Err(format!("'{url}' is no address: write http://HOST:PORT/PATH"));
    }
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    Ok(Url { authority, address, path })
}

/// Opens a TCP connection.
///
/// # Errors
/// In words, with the address.
pub fn connect(address: &str, deadline: Duration) -> Result<TcpStream, String> {
    let mut addresses = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    let first = addresses.next().ok_or_else(|| format!("{address} has no address"))?;
    TcpStream::connect_timeout(&first, deadline).map_err(|error| format!("can't connect to {address}: {error}"))
}

/// Asks for an address; `host` is the `Host` header where it is not the address's own.
///
/// # Errors
/// In words, where no whole answer came within the deadline.
pub fn get(url: &str, host: Option<&str>, deadline: Duration) -> Result<Answer, String> {
    let end = Instant::now() + deadline;
    let Url { authority, address, path } = parse(url)?;
    let mut stream = connect(&address, deadline)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hearth-verify\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        host.unwrap_or(authority)
    );
    stream.set_write_timeout(Some(deadline)).map_err(|error| format!("{address}: {error}"))?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("can't ask {address}: {error}"))?;
    let bytes = read_all(&mut stream, end).map_err(|error| format!("{address} did not answer: {error}"))?;
    answer(&bytes).map_err(|error| format!("{address} gave no whole answer: {error}"))
}

/// Reads until the server closes, which it was asked to.
fn read_all(stream: &mut TcpStream, end: Instant) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the time is over".to_owned());
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.to_string()),
        }
        if bytes.len() > LIMIT {
            return Err(format!("it is longer than {LIMIT} bytes"));
        }
    }
}

/// Takes an answer apart; one that ends too early is none.
fn answer(bytes: &[u8]) -> Result<Answer, String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("its header does not end")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("it begins with '{first}'"))?;
    let header = |wanted: &str| {
        let found = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        found.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(Answer { status, body: unchunk(body)? });
    }
    let body = match header("content-length").and_then(|value| value.parse::<usize>().ok()) {
        None => body,
        Some(length) => body.get(..length).ok_or_else(|| format!("{} of {length} bytes came", body.len()))?,
    };
    Ok(Answer { status, body: body.to_vec() })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let early = || "its last chunk is missing".to_owned();
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").ok_or_else(early)?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| format!("'{line}' is no chunk's size"))?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(end + 2..).and_then(|rest| rest.get(..size)).ok_or_else(early)?);
        rest = rest.get(end + 2 + size + 2..).ok_or_else(early)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::thread;

    /// Answers one request with these bytes, and returns the address and what was asked.
    fn serve(bytes: &'static [u8]) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut asked).unwrap() > 2 {}
            stream.write_all(bytes).unwrap();
            asked
        });
        (address, asked)
    }

    fn ask(bytes: &'static [u8]) -> Result<Answer, String> {
        let (address, asked) = serve(bytes);
        let answer = get(&format!("http://{address}/a?b=c(d)"), Some("media.lab"), Duration::from_secs(10));
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("GET /a?b=c(d) HTTP/1.1\r\nHost: media.lab\r\n"), "{asked}");
        answer.map_err(|error| error.replace(&address, "ADDRESS"))
    }

    #[test]
    fn an_answer_is_read_whole_in_each_of_its_shapes() {
        let body = |text: &str| Ok(Answer { status: 200, body: text.into() });
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), body("hello"));
        assert_eq!(ask(b"HTTP/1.0 200 OK\r\n\r\nto the end"), body("to the end"));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(ask(chunked), body("abc0123456789"));
        assert_eq!(ask(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap().status, 404);
    }

    #[test]
    fn half_an_answer_is_none() {
        let early = "ADDRESS gave no whole answer: ";
        assert_eq!(
            ask(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").unwrap_err(),
            format!("{early}5 of 50 bytes came")
        );
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\n").unwrap_err(), format!("{early}its header does not end"));
        assert_eq!(ask(b"SSH-2.0\r\n\r\n").unwrap_err(), format!("{early}it begins with 'SSH-2.0'"));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc";
        assert_eq!(ask(chunked).unwrap_err(), format!("{early}its last chunk is missing"));
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_longer_than_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let begin = Instant::now();
        let error = get(&url, None, Duration::from_millis(200)).unwrap_err();
        assert!(error.ends_with("did not answer: the time is over"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn nobody_there_is_an_error_with_the_address() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = get(&format!("http://{address}"), None, Duration::from_secs(5)).unwrap_err();
        assert!(error.starts_with(&format!("can't connect to {address}: Connection refused")), "{error}");
    }

    #[test]
    fn addresses_are_taken_apart() {
        let url = parse("http://192.168.1.101/a/b?c").unwrap();
        assert_eq!((url.authority, url.address.as_str(), url.path), ("192.168.1.101", "192.168.1.101:80", "/a/b?c"));
        assert_eq!(parse("http://a:81").unwrap().path, "/");
        for bad in ["https://a/", "a", "http:///x", "http://a/b c", "http://a?b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
