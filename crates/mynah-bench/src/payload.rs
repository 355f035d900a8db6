//! What every payload carries: run, publisher, sequence number and the time it was sent.
//!
//! 24 bytes, little endian, the rest is filler. The run number keeps messages that an earlier run left behind in
//! a queue of the broker out of the figures.
//! Never: allocates, reads a clock.

/// Bytes of a payload that are used; the smallest payload.
pub(crate) const HEADER: usize = 24;
/// Where in the payload the sixteen bytes lie that change with every message.
pub(crate) const MOVING: usize = 8;

/// The head of one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub run: u32,
    pub publisher: u32,
    /// Counts the messages of this publisher to this destination, from 0.
    pub sequence: u64,
    /// Nanoseconds since the clock of the run started.
    pub sent_ns: u64,
}

impl Stamp {
    /// Reads the head of a payload; none if it is too short to be one of ours.
    #[inline]
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<HEADER>()?;
        let (run, rest) = head.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let sent = rest.first_chunk::<8>()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            sent_ns: u64::from_le_bytes(*sent),
        })
    }

    /// A payload of `len` bytes (at least [`HEADER`]) that starts with this head.
    pub(crate) fn payload(self, len: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(len.max(HEADER));
        payload.extend_from_slice(&self.run.to_le_bytes());
        payload.extend_from_slice(&self.publisher.to_le_bytes());
        payload.extend_from_slice(&self.sequence.to_le_bytes());
        payload.extend_from_slice(&self.sent_ns.to_le_bytes());
        payload.resize(len.max(HEADER), b'm');
        payload
    }
}

/// Overwrites sequence and time of a payload that starts at `at` in `frame`.
#[inline]
pub(crate) fn restamp(frame: &mut [u8], at: usize, sequence: u64, sent_ns: u64) {
    let moving = frame.get_mut(at + MOVING..).and_then(|rest| rest.split_first_chunk_mut::<8>());
    if let Some((place, rest)) = moving {
        *place = sequence.to_le_bytes();
        if let Some(place) = rest.first_chunk_mut::<8>() {
            *place = sent_ns.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_way_through_a_frame() {
        let stamp = Stamp { run: 7, publisher: 9, sequence: 0, sent_ns: 0 };
        let mut frame = vec![1, 2, 3];
        frame.extend_from_slice(&stamp.payload(64));
        assert_eq!(frame.len(), 67);
        restamp(&mut frame, 3, 1 << 40, 123_456_789);
        let read = Stamp::read(&frame[3..]).unwrap();
        assert_eq!(read, Stamp { sequence: 1 << 40, sent_ns: 123_456_789, ..stamp });
        assert_eq!(&frame[..3], &[1, 2, 3]);
    }

    #[test]
    fn short_payloads_are_nobodys() {
        assert_eq!(Stamp::read(&[0; 23]), None);
        assert_eq!(Stamp { run: 1, publisher: 1, sequence: 1, sent_ns: 1 }.payload(1).len(), HEADER);
    }
}
