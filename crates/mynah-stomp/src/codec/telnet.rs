//! What may stand between frames: line ends, NUL, and the option bytes a telnet client sends by itself [RFC 854].

/// IAC, "interpret as command".
const IAC: u8 = 0xff;
const SUBNEGOTIATION: u8 = 250;
const SUBNEGOTIATION_END: u8 = 240;

/// Bytes of a sub-negotiation (terminal type, window size) that are looked through for its end.
const SUBNEGOTIATION_MAX: usize = 1024;

/// How many bytes belong to no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) len: usize,
    /// What follows `len` is all there is or the start of an option sequence: nothing can be said without more bytes.
    pub(crate) cut: bool,
}

/// Counts what may be skipped before a frame.
pub(crate) fn idle(bytes: &[u8]) -> Idle {
    let mut len = 0;
    loop {
        let rest = bytes.get(len..).unwrap_or_default();
        match rest {
            [] => return Idle { len, cut: true },
            [b'\n' | b'\r' | 0, ..] => len += 1,
            [IAC, ..] => match option(rest) {
                Some(used) => len += used,
                None => return Idle { len, cut: true },
            },
            _ => return Idle { len, cut: false },
        }
    }
}

/// Length of the option sequence at the start; `None` if it is not all there yet.
fn option(bytes: &[u8]) -> Option<usize> {
    match *bytes.get(1)? {
        // WILL, WONT, DO, DONT and the option.
        251..=254 => (bytes.len() >= 3).then_some(3),
        SUBNEGOTIATION => {
            let window = bytes.get(..SUBNEGOTIATION_MAX).unwrap_or(bytes);
            match window.windows(2).position(|pair| pair == [IAC, SUBNEGOTIATION_END]) {
                Some(at) => Some(at + 2),
                // Endless: what follows is read as a frame and will be none.
                None if bytes.len() >= SUBNEGOTIATION_MAX => Some(2),
                None => None,
            }
        }
        _ => Some(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stand_between_frames() {
        let check = |bytes: &[u8], len, cut| assert_eq!(idle(bytes), Idle { len, cut }, "{bytes:?}");
        check(b"", 0, true);
        check(b"\r\n\0\nSEND", 4, false);
        check(b"\xff\xfb\x1fSEND", 3, false);
        check(b"\n\xff\xfb", 1, true);
        check(b"\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0\nSEND", 10, false);
        check(b"\xff\xfa\x1f\x00", 0, true);
        check(b"\xff\xf4SEND", 2, false);
        let mut endless = vec![0xff, 0xfa];
        endless.resize(5000, b'x');
        check(&endless, 2, false);
    }
}
