//! Frames of RFC 6455, server side: a decoder that works in place, and heads to write.
//!
//! Messages are taken as a stream, however they are cut into frames and fragments [MQTT-6.0.0-2]. What is received must be masked
//! [RFC 6455 5.1]; what is sent never is.
//! Never: allocates for data.

use bytes::{BufMut, BytesMut};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTROL_MAX: u64 = 125;

/// Why a connection is closed [RFC 6455 7.4.1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CloseCode(pub(crate) u16);

impl CloseCode {
    pub(crate) const NORMAL: Self = Self(1000);
    pub(crate) const PROTOCOL: Self = Self(1002);
    /// A text frame where only binary ones are allowed.
    pub(crate) const UNACCEPTABLE: Self = Self(1003);
    pub(crate) const TOO_BIG: Self = Self(1009);
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    head: [u8; 14],
    head_len: usize,
    /// Payload bytes of the current frame still to come.
    left: u64,
    mask: [u8; 4],
    mask_at: usize,
    opcode: u8,
    in_payload: bool,
    /// A message was begun whose last fragment is yet to come.
    fragmented: bool,
    control: Vec<u8>,
    frame_max: u64,
    text: bool,
    /// The peer has said goodbye.
    pub(crate) closed: bool,
}

impl Decoder {
    /// Frames above `frame_max` bytes are refused, and those of text unless `text`.
    pub(crate) fn new(frame_max: u64, text: bool) -> Self {
        Self {
            head: [0; 14],
            head_len: 0,
            left: 0,
            mask: [0; 4],
            mask_at: 0,
            opcode: 0,
            in_payload: false,
            fragmented: false,
            control: Vec::new(),
            frame_max,
            text,
            closed: false,
        }
    }

    /// Moves the data in `bytes` to its front, and answers how much it is. Answers to pings and closes go to `out`.
    pub(crate) fn decode(&mut self, bytes: &mut [u8], out: &mut BytesMut) -> Result<usize, CloseCode> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && !self.closed {
            if !self.in_payload {
                let Some(&byte) = bytes.get(from) else { break };
                from += 1;
                self.take_head(byte)?;
                if self.in_payload && self.left == 0 {
                    self.end_frame(out)?;
                }
                continue;
            }
            let rest = bytes.len() - from;
            let count = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
            let Some(part) = bytes.get_mut(from..from + count) else { break };
            unmask(part, self.mask, self.mask_at);
            self.mask_at = (self.mask_at + count) & 3;
            self.left -= count as u64;
            if self.opcode >= CLOSE {
                self.control.extend_from_slice(part);
            } else {
                if from != to {
                    bytes.copy_within(from..from + count, to);
                }
                to += count;
            }
            from += count;
            if self.left == 0 {
                self.end_frame(out)?;
            }
        }
        Ok(to)
    }

    /// One more byte of a frame's head.
    fn take_head(&mut self, byte: u8) -> Result<(), CloseCode> {
        if let Some(place) = self.head.get_mut(self.head_len) {
            *place = byte;
        }
        self.head_len += 1;
        let [first, second, ..] = self.head;
        if self.head_len < 2 {
            return self.check_first(first);
        }
        if self.head_len == 2 && second & MASKED == 0 {
            return Err(CloseCode::PROTOCOL);
        }
        let extended = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.head_len < 2 + extended + 4 {
            return Ok(());
        }
        let number = self.head.get(2..2 + extended).unwrap_or_default();
        let len = match extended {
            0 => u64::from(second & !MASKED),
            _ => number.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        };
        let control = first & 0x0F >= CLOSE;
        if control && (len > CONTROL_MAX || first & FIN == 0) {
            return Err(CloseCode::PROTOCOL);
        }
        if len > self.frame_max {
            return Err(CloseCode::TOO_BIG);
        }
        if let Some(mask) = self.head.get(2 + extended..2 + extended + 4).and_then(|mask| mask.first_chunk())
        {
            self.mask = *mask;
        }
        (self.mask_at, self.left, self.head_len) = (0, len, 0);
        (self.opcode, self.in_payload) = (first & 0x0F, true);
        Ok(())
    }

    fn check_first(&mut self, first: u8) -> Result<(), CloseCode> {
        if first & 0x70 != 0 {
            // No extension was agreed on.
            return Err(CloseCode::PROTOCOL);
        }
        let fin = first & FIN != 0;
        match first & 0x0F {
            CONTINUATION if self.fragmented => self.fragmented = !fin,
            TEXT if !self.text => return Err(CloseCode::UNACCEPTABLE),
            TEXT | BINARY if !self.fragmented => self.fragmented = !fin,
            CLOSE | PING | PONG => {}
            _ => return Err(CloseCode::PROTOCOL),
        }
        Ok(())
    }

    fn end_frame(&mut self, out: &mut BytesMut) -> Result<(), CloseCode> {
        self.in_payload = false;
        match self.opcode {
            PING => {
                put_head(out, PONG, self.control.len());
                out.extend_from_slice(&self.control);
            }
            CLOSE => {
                let code = match self.control.first_chunk() {
                    Some(code) => u16::from_be_bytes(*code),
                    None if self.control.is_empty() => CloseCode::NORMAL.0,
                    None => return Err(CloseCode::PROTOCOL),
                };
                let reason = self.control.get(2..).unwrap_or_default();
                if !is_valid(code) || std::str::from_utf8(reason).is_err() {
                    return Err(CloseCode::PROTOCOL);
                }
                put_close(out, CloseCode(code));
                self.closed = true;
            }
            _ => {}
        }
        self.control.clear();
        Ok(())
    }
}

/// Codes that a peer may send [RFC 6455 7.4].
fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Eight bytes at a time, where there are as many.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let mut turned = mask;
    turned.rotate_left(at & 3);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Some(eight) = chunk.first_chunk_mut::<8>() {
            *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(turned.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The head of a whole, unmasked frame.
pub(crate) fn put_head(out: &mut BytesMut, opcode: u8, len: usize) {
    out.put_u8(FIN | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

pub(crate) fn put_close(out: &mut BytesMut, code: CloseCode) {
    put_head(out, CLOSE, 2);
    out.put_u16(code.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_head(&mut out, 0, payload.len());
        out[0] = first;
        out[1] |= MASKED;
        let mask = [1, 0xA0, 7, 200];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out.to_vec()
    }

    /// Fed in pieces of `size`.
    fn feed(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>, bool), CloseCode> {
        let (mut decoder, mut out, mut data) = (Decoder::new(1 << 20, false), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let mut piece = piece.to_vec();
            let count = decoder.decode(&mut piece, &mut out)?;
            data.extend_from_slice(&piece[..count]);
        }
        Ok((data, out.to_vec(), decoder.closed))
    }

    #[test]
    fn data_cut_anywhere_is_a_stream() {
        let long: Vec<u8> = (0..70_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let bytes = [
            frame(0x82, b"hello"),
            frame(0x02, b"frag"),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x80, &long),
            frame(0x82, &long[..300]),
        ]
        .concat();
        let expected = [b"hellofrag".as_slice(), &long, &long[..300]].concat();
        for size in [1, 2, 3, 7, 64, 1000, bytes.len()] {
            let (data, out, closed) = feed(&bytes, size).unwrap();
            assert_eq!(data, expected, "pieces of {size}");
            assert_eq!(out, [&[0x8A, 4], b"ping".as_slice()].concat());
            assert!(!closed);
        }
    }

    #[test]
    fn a_close_is_answered_and_ends_it() {
        let bytes = [frame(0x82, b"a"), frame(0x88, &[3, 0xE9, b'x']), frame(0x82, b"b")].concat();
        assert_eq!(feed(&bytes, 5).unwrap(), (b"a".to_vec(), vec![0x88, 2, 3, 0xE9], true));
        assert_eq!(feed(&frame(0x88, &[]), 9).unwrap().1, [0x88, 2, 3, 0xE8]);
    }

    #[test]
    fn what_is_not_allowed() {
        let unmasked = vec![0x82, 1, b'a'];
        let too_long_ping = frame(0x89, &[0; 126]);
        for (bytes, code) in [
            (unmasked, CloseCode::PROTOCOL),
            (too_long_ping, CloseCode::PROTOCOL),
            (frame(0x09, b""), CloseCode::PROTOCOL),
            (frame(0xC2, b"a"), CloseCode::PROTOCOL),
            (frame(0x83, b"a"), CloseCode::PROTOCOL),
            (frame(0x80, b"a"), CloseCode::PROTOCOL),
            ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), CloseCode::PROTOCOL),
            (frame(0x81, b"text"), CloseCode::UNACCEPTABLE),
            (frame(0x88, &[3]), CloseCode::PROTOCOL),
            (frame(0x88, &[3, 0xED]), CloseCode::PROTOCOL),
            (frame(0x88, &[3, 0xE8, 0xFF]), CloseCode::PROTOCOL),
            (vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 2, 3, 4], CloseCode::TOO_BIG),
        ] {
            assert_eq!(feed(&bytes, 4).unwrap_err(), code, "{bytes:?}");
        }
    }
}
