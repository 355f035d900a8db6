//! The protocol header: eight bytes that say which protocol and which version (0-9-1 section 4.2.2).

use mynah_core::protocol::Detect;

/// Sent by the client first, and by this side to whoever began with anything else.
pub(crate) const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The version as `connection.start` names it.
pub(crate) const MAJOR: u8 = 0;
pub(crate) const MINOR: u8 = 9;

/// Whether a connection that begins so is for this crate; AMQP 1.0 begins `AMQP 0 1 0 0` or `AMQP 3 1 0 0`.
pub(crate) fn detect(first: &[u8]) -> Detect {
    if first.starts_with(HEADER) {
        Detect::Yes
    } else if HEADER.starts_with(first) {
        Detect::NeedMore
    } else {
        Detect::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_apart() {
        let check = |first: &[u8], expected| assert_eq!(detect(first), expected, "{first:?}");
        check(b"AMQP\x00\x00\x09\x01", Detect::Yes);
        check(b"AMQP\x00\x00\x09\x01rest", Detect::Yes);
        check(b"AMQP\x00\x00", Detect::NeedMore);
        check(b"", Detect::NeedMore);
        check(b"AMQP\x00\x01\x00\x00", Detect::No);
        check(b"AMQP\x01\x01\x08\x00", Detect::No);
        check(b"HTTP/1.1", Detect::No);
    }
}
