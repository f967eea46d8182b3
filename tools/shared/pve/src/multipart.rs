use std::io::{self, Cursor, Read};

use store::Digest;

/// A file to upload to a storage.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The kind of content: `iso`, `import` or `vztmpl`.
    pub content: String,
    /// The name that it gets on the storage.
    pub file_name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, which the server checks.
    pub sha256: Digest,
}

impl Upload {
    /// Returns a boundary that the file can't hold, other than by holding its own digest.
    pub(crate) fn boundary(&self) -> String {
        format!("hearth-{}", self.sha256)
    }

    fn head(&self) -> String {
        let boundary = self.boundary();
        let field = |name: &str, value: &str| {
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        // The server reads the fields in this order and answers any other with a bare 400; the file comes last.
        field("content", &self.content)
            + &field("checksum-algorithm", "sha256")
            + &field("checksum", &self.sha256.to_string())
            + &format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n",
                self.file_name
            )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary())
    }

    /// Returns the body's length, which the server wants before the body.
    pub(crate) fn body_length(&self) -> u64 {
        (self.head().len() + self.end().len()) as u64 + self.size
    }

    /// Returns the body, which reads the file as it goes.
    pub(crate) fn body<'a>(&self, file: &'a mut dyn Read) -> impl Read + 'a {
        let exact = Exact { file, left: self.size };
        Cursor::new(self.head()).chain(exact).chain(Cursor::new(self.end()))
    }
}

/// A reader that fails where the file has not the promised size: the length has been sent already.
struct Exact<'a> {
    file: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        let other_size = || io::Error::new(io::ErrorKind::InvalidData, "the file has not the size that was promised");
        self.left = self.left.checked_sub(n as u64).ok_or_else(other_size)?;
        if n == 0 && !buffer.is_empty() && self.left > 0 {
            return Err(other_size());
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(size: u64) -> Upload {
        Upload { content: "iso".into(), file_name: "a.iso".into(), size, sha256: Digest::of("x") }
    }

    #[test]
    fn fields_come_in_the_servers_order_and_the_length_is_right() {
        let upload = upload(3);
        let mut text = String::new();
        upload.body(&mut &b"abc"[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, upload.body_length());
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not in {text}"));
        let order =
            ["\"content\"", "\"checksum-algorithm\"", "\"checksum\"", "\"filename\"; filename=\"a.iso\"", "abc"];
        assert!(order.map(at).is_sorted(), "{text}");
        assert!(text.ends_with(&format!("abc\r\n--{}--\r\n", upload.boundary())));
    }

    #[test]
    fn a_file_of_another_size_is_noticed() {
        for size in [2, 4] {
            let error = io::copy(&mut upload(size).body(&mut &b"abc"[..]), &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
