//! WebSocket as a transport under the driver: what is in the frames is the stream.
//!
//! One write becomes one frame; for STOMP a text frame if it is text, as browsers' libraries expect [RabbitMQ Web STOMP].
//! Never: a task or a buffer of its own while nothing is to be written.

mod frames;
pub(crate) mod handshake;

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};

use self::frames::{BINARY, CloseCode, Decoder, TEXT, put_close, put_head};
use self::handshake::Agreed;
use crate::limits::{WEBSOCKET_FRAME_SENT_MAX, WEBSOCKET_OWED_MAX};
use crate::transport::Transport;

/// What a WebSocket listener says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// Pages that may connect, `https://shop.example`; empty: all. Clients that send no origin are no pages.
    pub origins: Vec<String>,
}

/// A WebSocket over another transport.
pub(crate) struct WebSocket<T> {
    inner: T,
    decoder: Decoder,
    /// Frames not written yet.
    out: BytesMut,
    /// Received behind the handshake.
    early: BytesMut,
    agreed: Agreed,
    /// A close frame is in `out`, or was written.
    closing: bool,
}

impl<T: Transport> WebSocket<T> {
    pub(crate) fn new(inner: T, agreed: Agreed, early: BytesMut, frame_max: u64) -> Self {
        let text = agreed.protocol != Some("mqtt");
        Self {
            inner,
            decoder: Decoder::new(frame_max, text),
            out: BytesMut::new(),
            early,
            agreed,
            closing: false,
        }
    }

    fn decode(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.decode(bytes, &mut self.out).unwrap_or_else(|code| {
            put_close(&mut self.out, code);
            self.decoder.closed = true;
            0
        });
        self.closing |= self.decoder.closed;
        if !self.out.is_empty() {
            if self.out.len() > WEBSOCKET_OWED_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "pings without end, and no answer read",
                ));
            }
            // What cannot be written now is written later.
            let _ = self.poll_flush(cx)?;
        }
        Ok(count)
    }
}

impl<T: Transport> Transport for WebSocket<T> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.closing {
                // Whatever comes now is of no interest, but it must be read or the close frame may be lost to a reset.
                return Poll::Ready(Ok(0));
            }
            let count = if self.early.is_empty() {
                ready!(self.inner.poll_read(cx, buffer))?
            } else {
                let count = self.early.len().min(buffer.len());
                if let Some(front) = buffer.get_mut(..count) {
                    self.early.copy_to_slice(front);
                }
                if self.early.is_empty() {
                    self.early = BytesMut::new();
                }
                count
            };
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let Some(bytes) = buffer.get_mut(..count) else { return Poll::Ready(Ok(0)) };
            let data = self.decode(cx, bytes)?;
            if data > 0 {
                return Poll::Ready(Ok(data));
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let some = bytes.get(..bytes.len().min(WEBSOCKET_FRAME_SENT_MAX)).unwrap_or_default();
        let stomp = self.agreed.protocol == Some("stomp");
        let opcode = if stomp && std::str::from_utf8(some).is_ok() { TEXT } else { BINARY };
        put_head(&mut self.out, opcode, some.len());
        self.out.extend_from_slice(some);
        // It is taken; the rest of it goes with the flush.
        let _ = self.poll_flush(cx)?;
        Poll::Ready(Ok(some.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(self.inner.poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.out.advance(count),
            }
        }
        if self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        self.inner.poll_flush(cx)
    }

    fn close_write(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            put_close(&mut self.out, CloseCode::NORMAL);
        }
        // Once, into what is most likely an empty socket buffer.
        let _ = self.poll_flush(&mut Context::from_waker(std::task::Waker::noop()));
        self.inner.close_write();
    }

    fn admits(&self, protocol: &str) -> bool {
        self.agreed.protocol.is_none_or(|agreed| agreed == protocol)
    }
}
