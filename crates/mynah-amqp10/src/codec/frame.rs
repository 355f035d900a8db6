//! Frames (AMQP 1.0 part 2.3): size, data offset, type, channel.
//!
//! Never: waits for, or believes, a size beyond the bound in force.

use bytes::{BufMut, BytesMut};

use super::writer::len32;

/// The smallest frame: its header alone.
pub(crate) const HEADER_LEN: usize = 8;
/// The least that a peer may set as the largest frame it takes [AMQP 2.4.1].
pub(crate) const FRAME_BYTES_MIN: u32 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Amqp,
    Sasl,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Amqp => 0,
            Self::Sasl => 1,
        }
    }
}

/// A whole frame. An empty body is a sign of life [AMQP 2.4.5].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) channel: u16,
    pub(crate) body: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) len: usize,
}

/// What the bytes begin with.
#[derive(Debug)]
pub(crate) enum Scan<'a> {
    Whole(Frame<'a>),
    Partial,
    Bad(&'static str),
}

/// Looks for one frame of `kind` of at most `max` bytes at the start of `input`.
#[inline]
pub(crate) fn scan(input: &[u8], kind: FrameKind, max: u32) -> Scan<'_> {
    let Some((&[a, b, c, d, doff, code, high, low], _)) = input.split_first_chunk::<HEADER_LEN>() else {
        // What cannot become a frame is refused before the rest of it came.
        return match input.split_first_chunk::<4>() {
            Some((size, _)) if u32::from_be_bytes(*size) > max => {
                Scan::Bad("the frame is larger than max-frame-size")
            }
            _ => Scan::Partial,
        };
    };
    let size = u32::from_be_bytes([a, b, c, d]);
    if size > max {
        return Scan::Bad("the frame is larger than max-frame-size");
    }
    let start = usize::from(doff) * 4;
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    if start < HEADER_LEN || start > len {
        return Scan::Bad("the frame's data offset is below 2 or beyond its size [AMQP 2.3.1]");
    }
    if code != kind.code() {
        return Scan::Bad("the frame's type is not the one expected here [AMQP 2.3.1]");
    }
    match input.get(start..len) {
        Some(body) => Scan::Whole(Frame { channel: u16::from_be_bytes([high, low]), body, len }),
        None => Scan::Partial,
    }
}

/// Writes a frame around what `body` writes.
pub(crate) fn write(wire: &mut BytesMut, kind: FrameKind, channel: u16, body: impl FnOnce(&mut BytesMut)) {
    let at = wire.len();
    wire.put_u32(0);
    wire.put_slice(&[2, kind.code()]);
    wire.put_u16(channel);
    body(wire);
    let size = len32(wire.len() - at);
    if let Some(slot) = wire.get_mut(at..at + 4) {
        slot.copy_from_slice(&size.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &str) {
        let found = match scan(input, FrameKind::Amqp, 512) {
            Scan::Whole(frame) => format!("{} {}", frame.channel, frame.body.len()),
            Scan::Partial => "partial".to_owned(),
            Scan::Bad(_) => "bad".to_owned(),
        };
        assert_eq!(found, expected, "{input:?}");
    }

    #[test]
    fn frames_are_cut_out_by_size_and_offset() {
        check(&[0, 0, 0, 8, 2, 0, 1, 2], "258 0");
        check(&[0, 0, 0, 13, 3, 0, 0, 1, 9, 9, 9, 9, 7], "1 1");
        check(&[0, 0, 0, 9, 2, 0, 0, 1], "partial");
        check(&[0, 0, 2], "partial");
    }

    #[test]
    fn what_is_no_frame() {
        // [AMQP 2.3.1]: DOFF below 2, DOFF beyond the size, wrong type, size below 8, size above the bound.
        check(&[0, 0, 0, 8, 1, 0, 0, 0], "bad");
        check(&[0, 0, 0, 8, 3, 0, 0, 0], "bad");
        check(&[0, 0, 0, 8, 2, 1, 0, 0], "bad");
        check(&[0, 0, 0, 7, 2, 0, 0, 0], "bad");
        check(&[0, 0, 2, 1], "bad");
        check(&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0], "bad");
    }
}
