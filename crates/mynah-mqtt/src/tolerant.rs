//! What is overlooked on a listener that is tolerant, and by nobody else; all of it is harmless, and sent by clients in the field:
//!
//! | strict, the default | tolerant |
//! |---|---|
//! | reserved bits of the first byte are malformed [MQTT-2.1.3-1], and of CONNECT's flags [MQTT-3.1.2-3] | ignored |
//! | will QoS or will retain without a will are malformed [MQTT-3.1.2-11, MQTT-3.1.2-13] | ignored |
//! | DUP with QoS 0 is malformed [MQTT-3.3.1-2] | ignored |
//! | 3.x: no client identifier with clean session 0 (3.1: at all) is refused [MQTT-3.1.3-8] | gets one, and a session that ends with the connection |
//! | 5.0: more than the receive maximum closes with 0x93 [MQTT-3.3.4-9] | reading waits, as in 3.x |
//! | 5.0: a session expiry in DISCONNECT after 0 in CONNECT is a protocol error [MQTT 5.0 3.14.2.2.2] | ignored |
//!
//! Never: guesses what a packet means; text that is not UTF-8, wrong lengths, topics with wildcards stay errors.

use crate::codec::kind;

/// The first byte of a packet as it should have been.
pub(crate) fn header(first: u8) -> u8 {
    let kind = first >> 4;
    match kind {
        // DUP with QoS 0.
        kind::PUBLISH if first & 0x06 == 0 => first & !0x08,
        kind::PUBLISH => first,
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => kind << 4 | 2,
        _ => kind << 4,
    }
}

/// A CONNECT with flags as they should have been.
pub(crate) fn connect(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    if let [high, low, ..] = *body {
        // Behind the protocol's name and level.
        let at = 3 + usize::from(u16::from_be_bytes([high, low]));
        if let Some(flags) = body.get_mut(at) {
            *flags &= !0x01;
            if *flags & 0x04 == 0 {
                *flags &= !0x38;
            }
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        for (sent, meant) in
            [(0x38, 0x30), (0x3a, 0x3a), (0x80, 0x82), (0xa0, 0xa2), (0x60, 0x62), (0xc1, 0xc0), (0x42, 0x40)]
        {
            assert_eq!(header(sent), meant);
        }
    }

    #[test]
    fn flags_of_connect() {
        for (sent, meant) in [(0x03, 0x02), (0x1a, 0x02), (0x3e, 0x3e), (0xc3, 0xc2)] {
            assert_eq!(connect(&[0, 4, b'M', b'Q', b'T', b'T', 4, sent])[7], meant);
        }
        for short in [b"".as_slice(), b"\0", b"\xff\xff\0"] {
            assert_eq!(connect(short), short);
        }
    }
}
