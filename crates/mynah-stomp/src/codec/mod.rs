//! Bytes to frames and back. Knows the grammar, not the meaning.

mod escape;
mod frame;
mod header;
mod scan;
mod telnet;
mod write;

pub(crate) use escape::{Escape, transcode, unescape};
pub(crate) use frame::{Command, Frame};
pub(crate) use header::{heart_beat, number};
pub(crate) use scan::{Limits, Scanned, Scanner};
pub(crate) use write::{header as write_header, number as write_number, plain_header};

use mynah_core::protocol::Detect;

/// Whether a connection that begins with these bytes is STOMP: line ends, NUL and telnet options may stand before the
/// first command, which must be CONNECT or STOMP.
pub(crate) fn detect(first: &[u8]) -> Detect {
    let idle = telnet::idle(first);
    if idle.cut {
        return Detect::NeedMore;
    }
    let rest = first.get(idle.len..).unwrap_or_default();
    let mut answer = Detect::No;
    for command in [b"CONNECT".as_slice(), b"STOMP"] {
        match rest.strip_prefix(command) {
            Some([b'\n', ..] | [b'\r', b'\n', ..]) => return Detect::Yes,
            Some([] | [b'\r']) => answer = Detect::NeedMore,
            None if command.starts_with(rest) => answer = Detect::NeedMore,
            _ => {}
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_for_stomp() {
        let check = |first: &[u8], expected| assert_eq!(detect(first), expected, "{first:?}");
        check(b"", Detect::NeedMore);
        check(b"\r\n\0", Detect::NeedMore);
        check(b"CONN", Detect::NeedMore);
        check(b"CONNECT", Detect::NeedMore);
        check(b"CONNECT\n", Detect::Yes);
        check(b"\n\0STOMP\r\n", Detect::Yes);
        check(b"\xff\xfd\x03\xff\xfb\x18CONNECT\r\n", Detect::Yes);
        check(b"\xff\xfd", Detect::NeedMore);
        check(b"CONNECTED\n", Detect::No);
        check(b"GET / HTTP/1.1\r\n", Detect::No);
        check(b"AMQP\x00\x01\x00\x00", Detect::No);
        check(b"\x10\x0c\x00\x04MQTT", Detect::No);
    }
}
