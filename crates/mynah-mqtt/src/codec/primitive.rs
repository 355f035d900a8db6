//! The data types of MQTT [MQTT 5.0 1.5]: integers, variable byte integers, strings, binary data.
//!
//! Everything borrows from the read buffer. Never: allocates, least of all by a declared length.

use bytes::BufMut;

use crate::reason::Fault;

/// The greatest variable byte integer [MQTT 5.0 1.5.5].
pub const VARINT_MAX: u32 = 268_435_455;

/// Bytes of a string or of binary data.
pub const FIELD_BYTES_MAX: usize = 65_535;

const SHORT: Fault = Fault::malformed("the packet ends in the middle of a field");

/// Reads fields one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// # Errors
    /// Malformed: nothing is left.
    pub fn u8(&mut self) -> Result<u8, Fault> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    /// # Errors
    /// Malformed: fewer than two bytes are left.
    pub fn u16(&mut self) -> Result<u16, Fault> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// # Errors
    /// Malformed: fewer than four bytes are left.
    pub fn u32(&mut self) -> Result<u32, Fault> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// # Errors
    /// Malformed: fewer than `len` bytes are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// # Errors
    /// Malformed: it ends too early, is longer than four bytes or than it need be [MQTT-1.5.5-1].
    pub fn varint(&mut self) -> Result<u32, Fault> {
        match varint(self.rest)? {
            Some((value, len)) => {
                self.rest = self.rest.get(len..).unwrap_or_default();
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    /// # Errors
    /// Malformed: it ends too early.
    pub fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// # Errors
    /// Malformed: it ends too early, is no UTF-8 [MQTT-1.5.4-1] or contains U+0000 [MQTT-1.5.4-2]. U+FEFF is kept as it is
    /// [MQTT-1.5.4-3].
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(Fault::malformed("a string is not valid UTF-8"));
        };
        if text.contains('\0') {
            return Err(Fault::malformed("a string contains U+0000"));
        }
        Ok(text)
    }
}

/// The variable byte integer at the beginning of `bytes` and its length; `None` if more bytes are needed.
///
/// # Errors
/// Malformed: longer than four bytes or than it need be [MQTT-1.5.5-1].
pub fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            if byte == 0 && at > 0 {
                return Err(Fault::malformed("a variable byte integer is longer than it need be"));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 4 {
        return Ok(None);
    }
    Err(Fault::malformed("a variable byte integer is longer than four bytes"))
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// Not 0 if one of the eight bytes is 0.
#[inline]
fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

#[inline]
fn special_byte(word: u64) -> u64 {
    // '+' and '#' differ in one bit.
    zero_byte(word) | zero_byte((word & !(ONES * 0x08)) ^ (ONES * 0x23))
}

#[inline]
fn percent_byte(word: u64) -> u64 {
    zero_byte(word ^ (ONES * 0x25))
}

/// Looks at eight bytes at a time, without a branch for each; `found` answers not 0 for what is looked for.
#[inline]
fn any_byte(bytes: &[u8], found: impl Fn(u64) -> u64) -> bool {
    let found = |chunk: &[u8; 8]| found(u64::from_ne_bytes(*chunk));
    let (chunks, rest) = bytes.as_chunks::<8>();
    let tail = match bytes.last_chunk::<8>() {
        // It may overlap what is looked at anyway.
        Some(last) => found(last),
        None => {
            let mut padded = [b'a'; 8];
            padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            found(&padded)
        }
    };
    chunks.iter().fold(tail, |seen, chunk| seen | found(chunk)) != 0
}

/// Whether a name contains U+0000, `+` or `#`.
#[must_use]
#[inline]
pub fn has_special(bytes: &[u8]) -> bool {
    any_byte(bytes, special_byte)
}

/// Whether a name contains U+0000, `+`, `#` or `%`.
#[must_use]
#[inline]
pub fn has_escapable(bytes: &[u8]) -> bool {
    any_byte(bytes, |word| special_byte(word) | percent_byte(word))
}

/// Whether a name contains `%`.
#[must_use]
#[inline]
pub fn has_percent(bytes: &[u8]) -> bool {
    any_byte(bytes, percent_byte)
}

/// Bytes that `value` takes.
#[must_use]
pub fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Writes `value`, which must not be above [`VARINT_MAX`].
pub fn put_varint(out: &mut impl BufMut, mut value: usize) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// Writes length and bytes; what exceeds 65,535 bytes is cut, callers check before.
pub fn put_binary(out: &mut impl BufMut, bytes: &[u8]) {
    let bytes = bytes.get(..FIELD_BYTES_MAX).unwrap_or(bytes);
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers() {
        // [MQTT 5.0 table 1-1]
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value as usize);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value as usize), bytes.len());
            assert_eq!(varint(bytes).unwrap(), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]).unwrap(), None);
        }
        // [MQTT-1.5.5-1]
        assert!(varint(&[0x8c, 0x00]).is_err());
        assert!(varint(&[0x80, 0x80, 0x80, 0x80]).is_err());
    }

    #[test]
    fn special_bytes() {
        for len in 0..40 {
            let mut bytes = vec![b'a'; len];
            assert!(!has_special(&bytes));
            for at in 0..len {
                for byte in 0..=255 {
                    bytes[at] = byte;
                    assert_eq!(
                        has_special(&bytes),
                        matches!(byte, 0 | b'+' | b'#'),
                        "{byte} at {at} of {len}"
                    );
                }
                bytes[at] = b'a';
            }
        }
    }

    #[test]
    fn strings() {
        let text = |bytes: &[u8]| {
            let mut out = Vec::new();
            put_binary(&mut out, bytes);
            Reader::new(&out).text().map(str::to_owned)
        };
        assert!(text(&[0xed, 0xa0, 0x80]).is_err(), "a surrogate [MQTT-1.5.4-1]");
        assert!(text(&[0xc0, 0x80]).is_err(), "an overlong NUL [MQTT-1.5.4-1]");
        assert!(text(&[b'a', 0]).is_err(), "[MQTT-1.5.4-2]");
        assert_eq!(text(&[0xef, 0xbb, 0xbf, b'a']).unwrap(), "\u{feff}a", "[MQTT-1.5.4-3]");
        assert!(Reader::new(&[0, 3, b'a']).text().is_err());
    }
}
