//! Bytes to frames, methods, tables and property lists, and back (0-9-1 section 4.2).
//!
//! Everything read borrows from the frame it was read from; lengths are checked before they are believed.
//! Never: knows what a method means, allocates by a length the peer declared.

pub(crate) mod field;
pub(crate) mod frame;
pub(crate) mod method;
pub(crate) mod property;

use bytes::{BufMut, BytesMut};

use field::Table;

/// Why bytes are no method, table or property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodecError {
    Truncated,
    NotUtf8,
    FieldType(u8),
    TooDeep,
    Trailing,
    PropertyFlags,
    Method { class: u16, method: u16 },
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("it ends too early"),
            Self::NotUtf8 => f.write_str("a name is not UTF-8"),
            Self::FieldType(kind) => write!(f, "unknown field type 0x{kind:02x} in a table"),
            Self::TooDeep => f.write_str("tables are nested too deeply"),
            Self::Trailing => f.write_str("there are bytes behind the last argument"),
            Self::PropertyFlags => f.write_str("property flags that mean nothing are set"),
            Self::Method { class, method } => write!(f, "there is no method {method} in class {class}"),
        }
    }
}

/// Reads forward through borrowed bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A short string as bytes: at most 255 of them.
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    pub(crate) fn short(&mut self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.short_bytes()?).map_err(|_| CodecError::NotUtf8)
    }

    pub(crate) fn long(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| CodecError::Truncated)?)
    }
}

/// An argument of a method.
pub(crate) trait Argument<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError>;
    fn write(&self, buf: &mut BytesMut);
}

impl Argument<'_> for u8 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u8()
    }
    fn write(&self, buf: &mut BytesMut) {
        buf.put_u8(*self);
    }
}

impl Argument<'_> for u16 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u16()
    }
    fn write(&self, buf: &mut BytesMut) {
        buf.put_u16(*self);
    }
}

impl Argument<'_> for u32 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u32()
    }
    fn write(&self, buf: &mut BytesMut) {
        buf.put_u32(*self);
    }
}

impl Argument<'_> for u64 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u64()
    }
    fn write(&self, buf: &mut BytesMut) {
        buf.put_u64(*self);
    }
}

/// A short string.
impl<'a> Argument<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        reader.short()
    }
    fn write(&self, buf: &mut BytesMut) {
        put_short(buf, self);
    }
}

/// A long string.
impl<'a> Argument<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        reader.long()
    }
    fn write(&self, buf: &mut BytesMut) {
        buf.put_u32(len32(self.len()));
        buf.put_slice(self);
    }
}

impl<'a> Argument<'a> for Table<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        Table::read(reader)
    }
    fn write(&self, buf: &mut BytesMut) {
        Table::write(*self, buf);
    }
}

/// The longest head of a text that fits a short string and does not end within a character.
pub(crate) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A short string; what is longer than one can be is cut.
pub(crate) fn put_short(buf: &mut BytesMut, text: &str) {
    put_short_bytes(buf, clipped(text).as_bytes());
}

pub(crate) fn put_short_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    buf.put_u8(len);
    buf.put_slice(bytes.get(..usize::from(len)).unwrap_or_default());
}

pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Writes what `write` writes behind its length in four bytes.
pub(crate) fn put_sized(buf: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let at = buf.len();
    buf.put_u32(0);
    write(buf);
    let len = len32(buf.len().saturating_sub(at + 4));
    if let Some(place) = buf.get_mut(at..at + 4) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}
