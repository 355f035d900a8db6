//! Frames: type, channel, length, payload, end octet (0-9-1 section 4.2.3).
//!
//! Never: buffers; a frame is taken whole from what the driver keeps, or not yet.

use bytes::{BufMut, BytesMut};

use super::len32;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
pub(crate) const END: u8 = 0xCE;

/// Bytes around a payload.
pub(crate) const OVERHEAD: usize = 8;

/// The smallest frame size that can be agreed on (`frame-min-size`).
pub(crate) const FRAME_BYTES_MIN: u32 = 4096;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// Why bytes are no frame; each ends the connection with 501.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    Type(u8),
    TooLarge { len: usize, max: usize },
    End(u8),
}

/// The first frame of `bytes`, or `None` if it is not all there. `max` bounds the whole frame, in bytes.
pub(crate) fn parse(bytes: &[u8], max: usize) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
        return Err(FrameError::Type(kind));
    }
    let Some((&[_, c1, c0, l3, l2, l1, l0], rest)) = bytes.split_first_chunk::<7>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes([l3, l2, l1, l0])).unwrap_or(usize::MAX);
    if len > max.saturating_sub(OVERHEAD) {
        return Err(FrameError::TooLarge { len: len.saturating_add(OVERHEAD), max });
    }
    let Some((payload, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    match rest.first() {
        None => Ok(None),
        Some(&END) => Ok(Some(Frame { kind, channel: u16::from_be_bytes([c1, c0]), payload })),
        Some(&other) => Err(FrameError::End(other)),
    }
}

/// Writes a frame around what `write` writes.
pub(crate) fn put(buf: &mut BytesMut, kind: u8, channel: u16, write: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(kind);
    buf.put_u16(channel);
    super::put_sized(buf, write);
    buf.put_u8(END);
}

/// Writes a body in as many frames as it takes. An empty body has none (0-9-1 section 4.2.6).
pub(crate) fn put_body(buf: &mut BytesMut, channel: u16, body: &[u8], frame_max: usize) {
    let room = frame_max.saturating_sub(OVERHEAD).max(1);
    for part in body.chunks(room) {
        buf.put_u8(BODY);
        buf.put_u16(channel);
        buf.put_u32(len32(part.len()));
        buf.put_slice(part);
        buf.put_u8(END);
    }
}

pub(crate) fn put_heartbeat(buf: &mut BytesMut) {
    buf.put_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, END]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_all_there_or_not_yet() {
        let mut buf = BytesMut::new();
        put(&mut buf, METHOD, 7, |buf| buf.put_slice(b"abc"));
        for end in 0..buf.len() {
            assert!(parse(&buf[..end], 4096).unwrap().is_none(), "{end}");
        }
        let frame = parse(&buf, 4096).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, frame.payload, frame.len()), (METHOD, 7, &b"abc"[..], 11));
    }

    #[test]
    fn what_is_no_frame() {
        let check = |bytes: &[u8], expected| assert_eq!(parse(bytes, 16).err(), Some(expected), "{bytes:?}");
        check(b"HTTP/1.1", FrameError::Type(b'H'));
        check(b"\x01\0\0\0\0\0\x09", FrameError::TooLarge { len: 17, max: 16 });
        check(b"\x01\0\0\xff\xff\xff\xff", FrameError::TooLarge { len: 4_294_967_303, max: 16 });
        check(b"\x08\0\0\0\0\0\0\xcd", FrameError::End(0xcd));
    }

    #[test]
    fn bodies_are_split_at_the_agreed_size() {
        let check = |len: usize, frames: usize| {
            let mut buf = BytesMut::new();
            put_body(&mut buf, 1, &vec![b'x'; len], 4096);
            let (mut at, mut seen, mut total) = (0, 0, 0);
            while let Some(frame) = parse(&buf[at..], 4096).unwrap() {
                seen += 1;
                total += frame.payload.len();
                at += frame.len();
            }
            assert_eq!((seen, total, at), (frames, len, buf.len()));
        };
        check(0, 0);
        check(4088, 1);
        check(4089, 2);
        check(100_000, 25);
    }
}
