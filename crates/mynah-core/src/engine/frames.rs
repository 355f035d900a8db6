//! Many records under one checksum: it covers their lengths and checksums, and so with those every byte, without a second look at
//! what they hold.
//!
//! Never: reads what a record says.

use super::fields::Reader;

/// Length and checksum of a record.
pub(super) const FRAME: usize = 8;

/// The checksum over the frames of records, going on from `sum`. `None` if they are not whole.
#[must_use]
pub fn sum_frames(sum: u32, records: &[u8]) -> Option<u32> {
    over_frames(sum, records, |_, _| true)
}

/// The same, if each record's own checksum is right.
#[must_use]
pub fn sum_checked_frames(sum: u32, records: &[u8]) -> Option<u32> {
    over_frames(sum, records, |body, sum| crc32c::crc32c(body) == sum)
}

fn over_frames(mut sum: u32, mut records: &[u8], is_right: impl Fn(&[u8], u32) -> bool) -> Option<u32> {
    while !records.is_empty() {
        let (frame, rest) = records.split_at_checked(FRAME)?;
        let mut reader = Reader::new(frame);
        let (length, of_body) = (reader.u32().ok()?, reader.u32().ok()?);
        let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if !is_right(body, of_body) {
            return None;
        }
        sum = crc32c::crc32c_append(sum, frame);
        records = rest;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{QueueNumber, Records};

    #[test]
    fn every_byte_is_covered() {
        let mut records = Records::default();
        records.note(QueueNumber(1), 2, Some(&[7; 300]));
        records.note(QueueNumber(1), 3, None);
        records.queue_dropped(QueueNumber(9));
        let bytes = records.joined().into_owned();
        let sum = sum_frames(5, &bytes).unwrap();
        assert_eq!(sum_checked_frames(5, &bytes), Some(sum));
        assert_ne!(sum_frames(6, &bytes), Some(sum));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(sum_checked_frames(5, &changed), Some(sum), "bit {bit} of byte {at}");
            }
            assert_ne!(sum_checked_frames(5, &bytes[..at]), Some(sum), "cut at {at}");
        }
        // In another order.
        let first = 8 + u32::from_le_bytes(*bytes.first_chunk::<4>().unwrap()) as usize;
        let swapped = [&bytes[first..], &bytes[..first]].concat();
        assert!(sum_checked_frames(5, &swapped).is_some_and(|other| other != sum));
    }
}
