//! QEMU's machine protocol, and the guest agent's, which looks alike: JSON lines over a Unix socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{ApiError, Result, host};
use crate::random;

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a guest's monitor or agent.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    what: String,
}

/// What was read of a file in a guest.
pub(crate) struct ReadFile {
    pub(crate) content: Vec<u8>,
    /// Whether its end was reached.
    pub(crate) whole: bool,
}

impl Qmp {
    /// Connects to a guest's monitor.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let mut qmp = Self::open(socket, PATIENCE)?;
        qmp.read()?;
        qmp.run("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Connects to a guest's agent and waits for a sign of life; a guest without one never answers.
    pub(crate) fn agent(socket: &Path, patience: Duration) -> Result<Self> {
        let mut qmp = Self::open(socket, patience)?;
        let number = u32::from_be_bytes(random::bytes().map_err(host("can't make a number"))?) >> 1;
        qmp.send("guest-sync", &json!({"id": number}))?;
        let begin = Instant::now();
        // Answers to an earlier client may still be in the pipe.
        while begin.elapsed() < patience {
            if qmp.read()?["return"] == number {
                qmp.stream.get_ref().set_read_timeout(Some(PATIENCE)).map_err(host("can't set a deadline"))?;
                return Ok(qmp);
            }
        }
        Err(ApiError::failed("QEMU guest agent is not running"))
    }

    fn open(socket: &Path, patience: Duration) -> Result<Self> {
        let failed = || host(format!("can't reach {}", socket.display()));
        let stream = UnixStream::connect(socket).map_err(failed())?;
        stream.set_read_timeout(Some(patience)).map_err(failed())?;
        stream.set_write_timeout(Some(patience)).map_err(failed())?;
        Ok(Self { stream: BufReader::new(stream), what: socket.display().to_string() })
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let mut request = json!({"execute": command});
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\n");
        self.stream.get_mut().write_all(line.as_bytes()).map_err(host(format!("can't send {command} to {}", self.what)))
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).map_err(host(format!("no answer from {}", self.what)))?;
        if length == 0 {
            return Err(ApiError::failed(format!("{} was closed", self.what)));
        }
        serde_json::from_str(line.trim_start_matches('\u{ff}')).map_err(host(format!("{} sent no JSON", self.what)))
    }

    /// Runs a command and returns what it returned; events in between are passed over.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                let text = error["desc"].as_str().unwrap_or("no reason given");
                return Err(ApiError::failed(format!("{command} failed: {text}")));
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
        Err(ApiError::failed(format!("{command} got no answer from {}", self.what)))
    }

    /// Reads a file through the guest's agent, up to a size.
    pub(crate) fn read_file(&mut self, path: &str, most: usize) -> Result<ReadFile> {
        let agent = |error: ApiError| {
            let line = error.line();
            let text = line.split_once(" failed: ").map_or(line.as_str(), |(_, text)| text);
            ApiError::failed(format!("Agent error: {text}"))
        };
        let handle = self.run("guest-file-open", &json!({"path": path})).map_err(agent)?;
        let mut file = ReadFile { content: Vec::new(), whole: false };
        while !file.whole && file.content.len() < most {
            let count = (most - file.content.len()).min(1 << 20);
            let part = self.run("guest-file-read", &json!({"handle": handle, "count": count})).map_err(agent)?;
            let bytes = STANDARD.decode(part["buf-b64"].as_str().unwrap_or_default());
            file.content.extend(bytes.map_err(host("the agent sent no base64"))?);
            file.whole = part["eof"] == true;
        }
        self.run("guest-file-close", &json!({"handle": handle})).map_err(agent)?;
        Ok(file)
    }

    /// Sends a command that may end the other side before it answers. Its answer, if any, is waited for a while:
    /// whoever hangs up at once takes the unread command along.
    pub(crate) fn last(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.send(command, arguments)?;
        let patience = Some(Duration::from_secs(2));
        self.stream.get_ref().set_read_timeout(patience).map_err(host("can't set a deadline"))?;
        let _ = self.read();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn events_are_passed_over_and_errors_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\":{}}\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in
                ["{\"return\":{}}", "{\"event\":\"STOP\"}\n{\"return\":7}", "{\"error\":{\"desc\":\"no disk\"}}"]
            {
                lines.next().unwrap().unwrap();
                stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.run("stop", &Value::Null).unwrap(), 7);
        assert_eq!(qmp.run("block_resize", &Value::Null).unwrap_err().line(), "block_resize failed: no disk");
        server.join().unwrap();
    }
}
