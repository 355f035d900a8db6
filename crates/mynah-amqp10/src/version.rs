//! Protocol headers: eight bytes that say which protocol, which layer and which version (AMQP 1.0 part 2.2).

use mynah_core::protocol::Detect;

pub(crate) const HEADER_LEN: usize = 8;
pub(crate) const SASL: &[u8; HEADER_LEN] = b"AMQP\x03\x01\x00\x00";
pub(crate) const AMQP: &[u8; HEADER_LEN] = b"AMQP\x00\x01\x00\x00";

/// Whether a connection that begins so is for this crate; 0-9-1 begins `AMQP 0 0 9 1`.
pub(crate) fn detect(first: &[u8]) -> Detect {
    let is = |header: &[u8; HEADER_LEN]| first.starts_with(header);
    let may_be = |header: &[u8; HEADER_LEN]| first.len() < HEADER_LEN && header.starts_with(first);
    if is(SASL) || is(AMQP) {
        Detect::Yes
    } else if may_be(SASL) || may_be(AMQP) {
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
        check(b"AMQP\x00\x01\x00\x00", Detect::Yes);
        check(b"AMQP\x03\x01\x00\x00rest", Detect::Yes);
        check(b"AMQP\x00\x00\x09\x01", Detect::No);
        check(b"AMQP\x02\x01\x00\x00", Detect::No);
        check(b"AMQP\x00", Detect::NeedMore);
        check(b"", Detect::NeedMore);
        check(b"CONNECT\n", Detect::No);
        check(b"AMQP\x00\x01\x00\x01", Detect::No);
    }
}
