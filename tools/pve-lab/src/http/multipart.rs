//! An upload's body: a few fields, then the file, streamed to a temporary file and hashed on its way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::mpsc;

use crate::error::{ApiError, Result, host};
use crate::layout::Layout;

/// The most that the fields before the file may take.
const HEAD_LIMIT: usize = 64 << 10;

/// A received file.
pub(crate) struct Upload {
    pub(crate) file: TempPath,
    pub(crate) size: u64,
    /// The file's digest in hexadecimal, by the algorithm that the request named.
    pub(crate) digest: Option<String>,
}

enum Hasher {
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn new(name: &str) -> Option<Self> {
        match name {
            "sha224" => Some(Self::Sha224(Sha224::new())),
            "sha256" => Some(Self::Sha256(Sha256::new())),
            "sha384" => Some(Self::Sha384(Sha384::new())),
            "sha512" => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha224(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn hex(self) -> String {
        let bytes = match self {
            Self::Sha224(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn bad_request() -> ApiError {
    ApiError::empty(400, "Bad Request")
}

/// Receives a multipart body whose file comes last. Fields in another order than the real server's get a bare 400.
pub(super) async fn receive<B>(layout: &Layout, kind: &str, mut body: B) -> Result<(BTreeMap<String, String>, Upload)>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let boundary = kind.split(';').find_map(|part| part.trim().strip_prefix("boundary="));
    let boundary = format!("--{}", boundary.ok_or_else(bad_request)?.trim_matches('"'));
    let mut buffer = Vec::new();
    let (fields, start) = loop {
        if let Some(head) = head(&buffer, boundary.as_bytes())? {
            break head;
        }
        if buffer.len() > HEAD_LIMIT {
            return Err(bad_request());
        }
        buffer.extend_from_slice(&next(&mut body).await?.ok_or_else(bad_request)?);
    };
    let end = [b"\r\n", boundary.as_bytes()].concat();
    let hasher = fields.get("checksum-algorithm").and_then(|name| Hasher::new(name));
    let folder = layout.storage("");
    fs::create_dir_all(&folder).map_err(host(format!("can't make {}", folder.display())))?;
    let temporary = tempfile::Builder::new().prefix(".upload-").tempfile_in(&folder);
    let temporary = temporary.map_err(host(format!("can't make a temporary file in {}", folder.display())))?;
    let (sender, receiver) = mpsc::channel(32);
    let writer = tokio::task::spawn_blocking(move || write(temporary, hasher, receiver));
    let streamed = stream(body, buffer.split_off(start), &end, sender).await;
    let written = writer.await.map_err(host("the upload's writer panicked"))??;
    streamed?;
    Ok((fields, written))
}

async fn next<B>(body: &mut B) -> Result<Option<Bytes>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_) => continue,
            },
            Some(Err(error)) => return Err(host("the upload broke off")(error)),
        }
    }
}

/// Sends the file's bytes on until its end mark, of which part may be in one frame and part in the next.
async fn stream<B>(mut body: B, first: Vec<u8>, end: &[u8], sender: mpsc::Sender<Vec<u8>>) -> Result<()>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut held = first;
    loop {
        if let Some(at) = find(&held, end) {
            held.truncate(at);
            // The writer says itself why it ended early.
            let _ = sender.send(held).await;
            while next(&mut body).await?.is_some() {}
            return Ok(());
        }
        let keep = held.len().min(end.len());
        let tail = held.split_off(held.len() - keep);
        if !held.is_empty() && sender.send(held).await.is_err() {
            return Ok(());
        }
        held = tail;
        held.extend_from_slice(&next(&mut body).await?.ok_or_else(bad_request)?);
    }
}

fn write(mut file: NamedTempFile, mut hasher: Option<Hasher>, mut from: mpsc::Receiver<Vec<u8>>) -> Result<Upload> {
    let mut size = 0;
    while let Some(bytes) = from.blocking_recv() {
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        size += bytes.len() as u64;
        file.write_all(&bytes).map_err(host(format!("can't write the upload to {}", file.path().display())))?;
    }
    Ok(Upload { file: file.into_temp_path(), size, digest: hasher.map(Hasher::hex) })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // The first byte is rare enough in images for this to be quick: most windows fail at once.
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        let at = from + at;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

type Head = (BTreeMap<String, String>, usize);

/// Reads the fields before the file and where the file's bytes begin; nothing if more bytes are needed.
fn head(buffer: &[u8], boundary: &[u8]) -> Result<Option<Head>> {
    let order = ["content", "checksum-algorithm", "checksum", "filename"];
    let mut fields = BTreeMap::new();
    let mut least = 0;
    let mut at = 0;
    loop {
        let Some(begin) = find(&buffer[at..], boundary).map(|begin| at + begin + boundary.len()) else {
            return Ok(None);
        };
        let Some(end) = find(&buffer[begin..], b"\r\n\r\n").map(|end| begin + end) else { return Ok(None) };
        let headers = String::from_utf8_lossy(&buffer[begin..end]).into_owned();
        let name = parameter(&headers, "name").ok_or_else(bad_request)?;
        let place = order.iter().position(|known| *known == name).ok_or_else(bad_request)?;
        if place < least {
            return Err(bad_request());
        }
        least = place + 1;
        if let Some(filename) = parameter(&headers, "filename") {
            fields.insert("filename".to_owned(), filename);
            return Ok(Some((fields, end + 4)));
        }
        let value_end = [b"\r\n", boundary].concat();
        let Some(length) = find(&buffer[end + 4..], &value_end) else { return Ok(None) };
        let value = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
        fields.insert(name, value);
        at = end + 4 + length;
    }
}

fn parameter(headers: &str, name: &str) -> Option<String> {
    let line = headers.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    line.split(';').find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(fields: &[(&str, &str)], file: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            out.extend(format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
        }
        let head = "--B\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"x.iso\"\r\n\r\n";
        [out, head.into(), file.to_vec(), b"\r\n--B--\r\n".to_vec()].concat()
    }

    async fn upload(bytes: Vec<u8>, frame: usize) -> Result<(BTreeMap<String, String>, Upload)> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let frames = bytes.chunks(frame).map(Bytes::copy_from_slice).collect::<Vec<_>>();
        let mut result = receive(&layout, "multipart/form-data; boundary=B", Frames(frames.into_iter())).await?;
        let content = fs::read(&result.1.file).unwrap();
        result.0.insert("(file)".into(), String::from_utf8_lossy(&content).into_owned());
        Ok(result)
    }

    struct Frames(std::vec::IntoIter<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<std::result::Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Ready(self.0.next().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn a_file_arrives_whole_whatever_the_frames() {
        let file = b"one\r\n--A two\r\n-- three\r\n";
        let fields = [("content", "iso"), ("checksum-algorithm", "sha256")];
        for frame in [1, 2, 7, 100, 10_000] {
            let (fields, upload) = upload(body(&fields, file), frame).await.unwrap();
            assert_eq!(fields["(file)"].as_bytes(), file);
            assert_eq!((fields["content"].as_str(), fields["filename"].as_str()), ("iso", "x.iso"));
            assert_eq!(upload.size, file.len() as u64);
            let expected: String = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(upload.digest, Some(expected));
        }
    }

    #[tokio::test]
    async fn another_order_of_fields_is_a_bare_400() {
        let wrong = [("checksum", "00"), ("content", "iso")];
        let error = upload(body(&wrong, b""), 50).await.err().unwrap();
        assert_eq!((error.status, error.bare), (400, Some(String::new())));
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_refused() {
        let mut bytes = body(&[("content", "iso")], b"half");
        bytes.truncate(bytes.len() - 6);
        assert_eq!(upload(bytes, 20).await.err().unwrap().status, 400);
    }
}
