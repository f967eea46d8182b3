//! TLS below the HTTP agent: our own pinning, and the reason phrase, which the agent drops.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

thread_local! {
    /// The last reason phrase read in this thread. The agent reads an answer in the thread that asks.
    static REASON: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes the reason phrase of the answer that this thread has just read.
pub(crate) fn take_reason() -> String {
    REASON.with_borrow_mut(std::mem::take)
}

/// Wraps connections in TLS with one configuration.
pub(crate) struct PinnedTls(pub(crate) Arc<ClientConfig>);

impl fmt::Debug for PinnedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinnedTls")
    }
}

impl<In: Transport> Connector<In> for PinnedTls {
    type Out = TlsTransport<In>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Err(ureq::Error::ConnectionFailed) };
        if !details.needs_tls() {
            return Err(ureq::Error::Tls("the Proxmox API is spoken over https only"));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("no host in the address"))?;
        let mut connection = ClientConnection::new(self.0.clone(), name)?;
        let mut socket = TransportAdapter::new(transport, details.current_time.clone());
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket).map_err(handshake)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned::new(connection, socket);
        Ok(Some(TlsTransport { buffers, stream, expects_status: false }))
    }
}

/// Brings the TLS error back out of the I/O error that it travels in.
fn handshake(error: io::Error) -> ureq::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => ureq::Error::Rustls(tls.clone()),
        None => error.into(),
    }
}

/// One TLS connection.
pub(crate) struct TlsTransport<In: Transport> {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter<In>>,
    expects_status: bool,
}

impl<In: Transport> fmt::Debug for TlsTransport<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl<In: Transport> Transport for TlsTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        self.expects_status = true;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        if self.expects_status
            && let Some(reason) = reason_phrase(self.buffers.input())
        {
            REASON.set(reason);
            self.expects_status = false;
        }
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Returns the reason phrase (RFC 9112, section 4) of an answer whose first line is complete.
fn reason_phrase(input: &[u8]) -> Option<String> {
    let end = input.windows(2).position(|two| two == b"\r\n")?;
    let line = String::from_utf8_lossy(&input[..end]);
    Some(line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_phrase_waits_for_its_line() {
        assert_eq!(reason_phrase(b"HTTP/1.1 500 can't lock file"), None);
        let whole = b"HTTP/1.1 500 can't lock file 'x' - got timeout\r\nDate: x\r\n";
        assert_eq!(reason_phrase(whole).as_deref(), Some("can't lock file 'x' - got timeout"));
        assert_eq!(reason_phrase(b"HTTP/1.1 595\r\n").as_deref(), Some(""));
    }
}
