//! Bytes in and out of a socket, non-blocking, for the driver's hand-written future.
//!
//! A transfer that is shorter than asked for says that the socket is empty (or full): readiness is cleared at once, so that the
//! next poll does not pay a system call to hear it again. tokio's own `try_read` and `try_write` do not do that.

use std::io::{self, Read as _, Write as _};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A byte stream: plain TCP, TLS, WebSocket over one of them.
pub trait Transport: Send + Unpin + 'static {
    /// Reads what is there; `Ready(Ok(0))` is the end.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Passes on what it has taken and not written yet. Asked after every write.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written.
    fn close_write(&mut self);

    /// Whether this protocol may be spoken over it.
    fn admits(&self, _protocol: &str) -> bool {
        true
    }
}

impl Transport for Box<dyn Transport> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        (**self).poll_read(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        (**self).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_flush(cx)
    }

    fn close_write(&mut self) {
        (**self).close_write();
    }

    fn admits(&self, protocol: &str) -> bool {
        (**self).admits(protocol)
    }
}

#[derive(Debug)]
pub struct Tcp(pub TcpStream);

impl Transport for Tcp {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let socket = SockRef::from(&self.0);
            let transfer = transfer(&self.0, Interest::READABLE, buffer.len(), || (&*socket).read(buffer));
            match transfer {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            let socket = SockRef::from(&self.0);
            let transfer = transfer(&self.0, Interest::WRITABLE, bytes.len(), || (&*socket).write(bytes));
            match transfer {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn close_write(&mut self) {
        // It may be gone already, and that is the same to us.
        let _ = SockRef::from(&self.0).shutdown(std::net::Shutdown::Write);
    }
}

/// One transfer; clears readiness when it came out short.
fn transfer(
    stream: &TcpStream,
    interest: Interest,
    wanted: usize,
    mut io: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let result = stream.try_io(interest, || {
        let count = loop {
            match io() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        moved = Some(count);
        if count < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (moved, result) {
        (Some(count), _) => Ok(count),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
    }
}
