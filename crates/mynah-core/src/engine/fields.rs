//! Fields of what is stored: fixed numbers in little-endian, lengths as LEB128, texts and bytes behind their length.

use std::sync::Arc;

/// What is stored cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it ends too early")]
    Short,
    #[error("the checksum is wrong")]
    Checksum,
    #[error("it holds a value that this version does not know")]
    Unknown,
}

/// Seven bits at a time, the lowest first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    out.push(value as u8);
}

/// Bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Reads fields from the front of a slice.
#[derive(Debug, Clone)]
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

    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// # Errors
    /// Fewer bytes are there.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (front, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(*front)
    }

    /// # Errors
    /// Nothing is left.
    pub fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// # Errors
    /// Too little is left.
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    /// # Errors
    /// Too little is left.
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    /// # Errors
    /// Too little is left.
    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// # Errors
    /// Too little is left.
    pub fn i64(&mut self) -> Result<i64, Fault> {
        self.array().map(i64::from_le_bytes)
    }

    /// # Errors
    /// Too little is left, or it is longer than 64 bits.
    pub fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Unknown)
    }

    /// # Errors
    /// As [`Reader::varint`], or it is longer than 32 bits.
    pub fn varint32(&mut self) -> Result<u32, Fault> {
        u32::try_from(self.varint()?).map_err(|_| Fault::Unknown)
    }

    /// # Errors
    /// Fewer bytes are there than it says.
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let count = usize::try_from(self.varint()?).map_err(|_| Fault::Short)?;
        self.take(count)
    }

    /// # Errors
    /// As [`Reader::bytes`], or it is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Fault::Unknown)
    }

    pub(super) fn boxed(&mut self) -> Result<Box<str>, Fault> {
        self.text().map(Into::into)
    }

    pub(super) fn shared(&mut self) -> Result<Arc<str>, Fault> {
        self.text().map(Into::into)
    }
}
