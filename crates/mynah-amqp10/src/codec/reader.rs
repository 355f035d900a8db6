//! Primitive and composite types read from borrowed slices (AMQP 1.0 parts 1.2 to 1.6).
//!
//! Never: allocates, except for the few symbols of a "multiple" field.

use super::CodecError;

/// How deeply lists, maps, arrays and descriptors may be nested: far beyond real messages, far below the stack's end.
pub(crate) const DEPTH_MAX: u32 = 24;

type Result<T> = std::result::Result<T, CodecError>;

/// A position in a slice.
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

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// Bytes behind a length of one byte.
    #[inline]
    pub(super) fn variable8(&mut self) -> Result<&'a [u8]> {
        let len = usize::from(self.u8()?);
        self.take(len)
    }

    /// Bytes behind a length of four bytes.
    #[inline]
    pub(super) fn variable32(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.u32()?).map_err(|_| CodecError::Truncated)?;
        self.take(len)
    }

    /// The descriptor of a described type: a small number or a symbol that stands for one [AMQP 1.2].
    #[inline]
    pub(crate) fn descriptor(&mut self) -> Result<u64> {
        match self.u8()? {
            0x00 => {}
            other => return Err(CodecError::WrongType(other)),
        }
        match self.u8()? {
            0x53 => self.u8().map(u64::from),
            0x80 => self.fixed().map(u64::from_be_bytes),
            0x44 => Ok(0),
            0xa3 => self.variable8().map(descriptor_of_symbol),
            0xb3 => self.variable32().map(descriptor_of_symbol),
            other => Err(CodecError::WrongType(other)),
        }
    }

    /// Skips one value, whatever it is.
    #[inline]
    pub(crate) fn skip(&mut self) -> Result<()> {
        self.skip_at(0)
    }

    fn skip_at(&mut self, depth: u32) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(CodecError::Depth);
        }
        match self.u8()? {
            0x00 => {
                self.skip_at(depth + 1)?;
                self.skip_at(depth + 1)
            }
            0x40..=0x45 => Ok(()),
            0x50..=0x56 => self.take(1).map(drop),
            0x60 | 0x61 => self.take(2).map(drop),
            0x70..=0x74 => self.take(4).map(drop),
            0x80..=0x84 => self.take(8).map(drop),
            0x94 | 0x98 => self.take(16).map(drop),
            0xa0 | 0xa1 | 0xa3 | 0xc0 | 0xc1 | 0xe0 => self.variable8().map(drop),
            0xb0 | 0xb1 | 0xb3 | 0xd0 | 0xd1 | 0xf0 => self.variable32().map(drop),
            other => Err(CodecError::Constructor(other)),
        }
    }

    /// The bytes of one value with its constructor.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8]> {
        let from = self.rest;
        self.skip()?;
        let len = from.len() - self.rest.len();
        from.get(..len).ok_or(CodecError::Truncated)
    }

    /// Opens a list and steps over it.
    #[inline]
    pub(crate) fn list(&mut self) -> Result<Fields<'a>> {
        match self.u8()? {
            0x45 => Ok(Fields { reader: Reader::new(&[]), left: 0 }),
            0xc0 => Fields::small(self.variable8()?),
            0xd0 => Fields::large(self.variable32()?),
            other => Err(CodecError::WrongType(other)),
        }
    }

    /// Opens a map and steps over it; the fields are keys and values in turn.
    pub(crate) fn map(&mut self) -> Result<Fields<'a>> {
        match self.u8()? {
            0xc1 => Fields::small(self.variable8()?),
            0xd1 => Fields::large(self.variable32()?),
            other => Err(CodecError::WrongType(other)),
        }
    }

    /// A string, symbol or binary as bytes, with its constructor.
    pub(crate) fn text_or_binary(&mut self) -> Result<(u8, &'a [u8])> {
        let code = self.u8()?;
        let bytes = match code {
            0xa0 | 0xa1 | 0xa3 => self.variable8()?,
            0xb0 | 0xb1 | 0xb3 => self.variable32()?,
            other => return Err(CodecError::WrongType(other)),
        };
        Ok((code, bytes))
    }
}

/// The descriptors this crate knows, by their symbolic names; `u64::MAX` for any other.
fn descriptor_of_symbol(symbol: &[u8]) -> u64 {
    match symbol {
        b"amqp:open:list" => 0x10,
        b"amqp:begin:list" => 0x11,
        b"amqp:attach:list" => 0x12,
        b"amqp:flow:list" => 0x13,
        b"amqp:transfer:list" => 0x14,
        b"amqp:disposition:list" => 0x15,
        b"amqp:detach:list" => 0x16,
        b"amqp:end:list" => 0x17,
        b"amqp:close:list" => 0x18,
        b"amqp:error:list" => 0x1d,
        b"amqp:received:list" => 0x23,
        b"amqp:accepted:list" => 0x24,
        b"amqp:rejected:list" => 0x25,
        b"amqp:released:list" => 0x26,
        b"amqp:modified:list" => 0x27,
        b"amqp:source:list" => 0x28,
        b"amqp:target:list" => 0x29,
        b"amqp:delete-on-close:list" => 0x2b,
        b"amqp:delete-on-no-links:list" => 0x2c,
        b"amqp:delete-on-no-messages:list" => 0x2d,
        b"amqp:delete-on-no-links-or-messages:list" => 0x2e,
        b"amqp:coordinator:list" => 0x30,
        b"amqp:declare:list" => 0x31,
        b"amqp:discharge:list" => 0x32,
        b"amqp:declared:list" => 0x33,
        b"amqp:transactional-state:list" => 0x34,
        b"amqp:sasl-mechanisms:list" => 0x40,
        b"amqp:sasl-init:list" => 0x41,
        b"amqp:sasl-challenge:list" => 0x42,
        b"amqp:sasl-response:list" => 0x43,
        b"amqp:sasl-outcome:list" => 0x44,
        b"amqp:header:list" => 0x70,
        b"amqp:delivery-annotations:map" => 0x71,
        b"amqp:message-annotations:map" => 0x72,
        b"amqp:properties:list" => 0x73,
        b"amqp:application-properties:map" => 0x74,
        b"amqp:data:binary" => 0x75,
        b"amqp:amqp-sequence:list" => 0x76,
        b"amqp:amqp-value:*" => 0x77,
        b"amqp:footer:map" => 0x78,
        b"apache.org:no-local-filter:list" => 0x468c_0000_0003,
        b"apache.org:selector-filter:string" => 0x468c_0000_0004,
        _ => u64::MAX,
    }
}

/// The fields of a list (or the entries of a map), one after the other. A field that is absent at the end is null [AMQP 1.4].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Fields<'a> {
    fn small(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let left = u32::from(reader.u8()?);
        Ok(Self { reader, left })
    }

    fn large(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let left = reader.u32()?;
        Ok(Self { reader, left })
    }

    /// How many fields are claimed to follow; not to be trusted for an allocation.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// The next field's constructor; `None` if it is null or absent.
    #[inline]
    fn code(&mut self) -> Result<Option<u8>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(self.reader.u8()?).filter(|code| *code != 0x40))
    }

    #[inline]
    pub(crate) fn uint(&mut self) -> Result<Option<u32>> {
        let Some(code) = self.code()? else { return Ok(None) };
        Ok(Some(match code {
            0x52 => u32::from(self.reader.u8()?),
            0x43 => 0,
            0x70 => self.reader.u32()?,
            other => return Err(CodecError::WrongType(other)),
        }))
    }

    pub(crate) fn ulong(&mut self) -> Result<Option<u64>> {
        let Some(code) = self.code()? else { return Ok(None) };
        Ok(Some(match code {
            0x53 => u64::from(self.reader.u8()?),
            0x44 => 0,
            0x80 => u64::from_be_bytes(self.reader.fixed()?),
            other => return Err(CodecError::WrongType(other)),
        }))
    }

    pub(crate) fn ushort(&mut self) -> Result<Option<u16>> {
        let Some(code) = self.code()? else { return Ok(None) };
        match code {
            0x60 => Ok(Some(u16::from_be_bytes(self.reader.fixed()?))),
            other => Err(CodecError::WrongType(other)),
        }
    }

    #[inline]
    pub(crate) fn ubyte(&mut self) -> Result<Option<u8>> {
        let Some(code) = self.code()? else { return Ok(None) };
        match code {
            0x50 => self.reader.u8().map(Some),
            other => Err(CodecError::WrongType(other)),
        }
    }

    #[inline]
    pub(crate) fn boolean(&mut self) -> Result<Option<bool>> {
        let Some(code) = self.code()? else { return Ok(None) };
        match code {
            0x41 => Ok(Some(true)),
            0x42 => Ok(Some(false)),
            0x56 => Ok(Some(self.reader.u8()? != 0)),
            other => Err(CodecError::WrongType(other)),
        }
    }

    #[inline]
    fn variable(&mut self, small: u8, large: u8) -> Result<Option<&'a [u8]>> {
        let Some(code) = self.code()? else { return Ok(None) };
        if code == small {
            self.reader.variable8().map(Some)
        } else if code == large {
            self.reader.variable32().map(Some)
        } else {
            Err(CodecError::WrongType(code))
        }
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<Option<&'a [u8]>> {
        self.variable(0xa0, 0xb0)
    }

    pub(crate) fn string(&mut self) -> Result<Option<&'a str>> {
        self.variable(0xa1, 0xb1)?.map(text).transpose()
    }

    pub(crate) fn symbol(&mut self) -> Result<Option<&'a str>> {
        self.variable(0xa3, 0xb3)?.map(ascii).transpose()
    }

    /// The next value with its constructor; `None` if it is null or absent.
    pub(crate) fn raw(&mut self) -> Result<Option<&'a [u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let raw = self.reader.raw()?;
        Ok(Some(raw).filter(|raw| raw.first() != Some(&0x40)))
    }

    /// "Multiple" symbols: one, or an array of them [AMQP 1.4].
    pub(crate) fn symbols(&mut self) -> Result<Vec<&'a str>> {
        let Some(raw) = self.raw()? else { return Ok(Vec::new()) };
        let mut reader = Reader::new(raw);
        let body = match reader.u8()? {
            0xa3 => return Ok(vec![ascii(reader.variable8()?)?]),
            0xb3 => return Ok(vec![ascii(reader.variable32()?)?]),
            0xe0 => {
                let mut body = Reader::new(reader.variable8()?);
                let count = u32::from(body.u8()?);
                (body, count)
            }
            0xf0 => {
                let mut body = Reader::new(reader.variable32()?);
                let count = body.u32()?;
                (body, count)
            }
            other => return Err(CodecError::WrongType(other)),
        };
        let (mut body, count) = body;
        let mut symbols = Vec::new();
        let code = body.u8()?;
        for _ in 0..count {
            symbols.push(ascii(match code {
                0xa3 => body.variable8()?,
                0xb3 => body.variable32()?,
                other => return Err(CodecError::WrongType(other)),
            })?);
        }
        Ok(symbols)
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| CodecError::Text)
}

pub(super) fn ascii(bytes: &[u8]) -> Result<&str> {
    if bytes.is_ascii() { text(bytes) } else { Err(CodecError::Text) }
}
