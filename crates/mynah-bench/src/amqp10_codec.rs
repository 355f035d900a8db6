//! The few AMQP 1.0 encodings that the load generator needs.
//!
//! Values are walked in place; lists are built with their 32-bit form, which every broker must read.
//! Never: allocates when reading.

use crate::wire::{u8_at, u32_at, u64_at, with_u32_len};

/// One value, borrowed from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// Any unsigned integer.
    Number(u64),
    /// String, symbol or binary.
    Bytes(&'a [u8]),
    /// A described value: its numeric descriptor and the encoded value.
    Described(u64, &'a [u8]),
    /// Something the generator has no use for.
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Option<u64> {
        if let Value::Number(number) = self { Some(number) } else { None }
    }

    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// The first value in `input` and its length.
#[inline]
fn parse(input: &[u8]) -> Option<(Value<'_>, usize)> {
    let code = u8_at(input, 0)?;
    if code == 0 {
        let (descriptor, at) = parse_plain(input.get(1..)?)?;
        let inner = input.get(1 + at..)?;
        let (_, len) = parse_plain(inner)?;
        return Some((
            Value::Described(descriptor.number().unwrap_or(u64::MAX), inner.get(..len)?),
            1 + at + len,
        ));
    }
    parse_plain(input)
}

/// A value that is not described itself; compound ones are stepped over as a whole, so nothing nests here.
#[inline]
fn parse_plain(input: &[u8]) -> Option<(Value<'_>, usize)> {
    let code = u8_at(input, 0)?;
    let fixed = |len: usize, value| Some((value, 1 + len));
    match code {
        0x40 => fixed(0, Value::Null),
        0x41 => fixed(0, Value::Bool(true)),
        0x42 => fixed(0, Value::Bool(false)),
        0x56 => fixed(1, Value::Bool(u8_at(input, 1)? != 0)),
        0x43 | 0x44 => fixed(0, Value::Number(0)),
        0x50 | 0x52 | 0x53 => fixed(1, Value::Number(u64::from(u8_at(input, 1)?))),
        0x60 => fixed(2, Value::Number(u64::from(crate::wire::u16_at(input, 1)?))),
        0x70 => fixed(4, Value::Number(u64::from(u32_at(input, 1)?))),
        0x80 => fixed(8, Value::Number(u64_at(input, 1)?)),
        0x45 => fixed(0, Value::Other),
        0xA0 | 0xA1 | 0xA3 => {
            let len = usize::from(u8_at(input, 1)?);
            Some((Value::Bytes(input.get(2..2 + len)?), 2 + len))
        }
        0xB0 | 0xB1 | 0xB3 => {
            let len = u32_at(input, 1)? as usize;
            Some((Value::Bytes(input.get(5..5usize.checked_add(len)?)?), 5 + len))
        }
        0xC0..=0xCF | 0xE0..=0xEF => {
            let len = 2 + usize::from(u8_at(input, 1)?);
            input.get(..len).map(|_| (Value::Other, len))
        }
        0xD0..=0xDF | 0xF0..=0xFF => {
            let len = 5usize.checked_add(u32_at(input, 1)? as usize)?;
            input.get(..len).map(|_| (Value::Other, len))
        }
        0x51 | 0x54 | 0x55 => fixed(1, Value::Other),
        0x61 => fixed(2, Value::Other),
        0x71..=0x74 => fixed(4, Value::Other),
        0x81..=0x84 => fixed(8, Value::Other),
        0x94 | 0x98 => fixed(16, Value::Other),
        _ => None,
    }
}

/// The first described value: numeric descriptor, encoded value, length of both.
#[inline]
pub(crate) fn described(input: &[u8]) -> Option<(u64, &[u8], usize)> {
    match parse(input)? {
        (Value::Described(code, inner), len) => Some((code, inner, len)),
        _ => None,
    }
}

/// The fields of an encoded list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    pub(crate) fn new(list: &'a [u8]) -> Option<Self> {
        match u8_at(list, 0)? {
            0x45 => Some(Self { rest: &[], left: 0 }),
            0xC0 => Some(Self { left: usize::from(u8_at(list, 2)?), rest: list.get(3..)? }),
            0xD0 => Some(Self { left: u32_at(list, 5)? as usize, rest: list.get(9..)? }),
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (value, len) = parse(self.rest)?;
        self.rest = self.rest.get(len..)?;
        Some(value)
    }
}

/// The bytes of the body: the first data section or amqp-value, perhaps cut by the end of the frame.
#[inline]
pub(crate) fn payload(mut message: &[u8]) -> Option<&[u8]> {
    loop {
        match message.first_chunk::<3>()? {
            [0, 0x53, 0x75 | 0x77] => {
                return match u8_at(message, 3)? {
                    0xA0 | 0xA1 => {
                        let len = usize::from(u8_at(message, 4)?);
                        let rest = message.get(5..)?;
                        rest.get(..len.min(rest.len()))
                    }
                    0xB0 | 0xB1 => {
                        let len = u32_at(message, 4)? as usize;
                        let rest = message.get(8..)?;
                        rest.get(..len.min(rest.len()))
                    }
                    _ => None,
                };
            }
            _ => {
                let (_, _, len) = described(message)?;
                message = message.get(len..)?;
            }
        }
    }
}

/// Encoders of single values.
pub(crate) mod value {
    use crate::wire::with_u32_len;

    pub(crate) fn binary(bytes: &[u8], out: &mut Vec<u8>) {
        sized(0xA0, bytes, out);
    }

    /// The 8-bit form of `code`, or its 32-bit form, which is 0x10 higher.
    pub(crate) fn sized(code: u8, bytes: &[u8], out: &mut Vec<u8>) {
        if let Ok(len) = u8::try_from(bytes.len()) {
            out.extend_from_slice(&[code, len]);
            out.extend_from_slice(bytes);
        } else {
            out.push(code + 0x10);
            with_u32_len(out, |out| out.extend_from_slice(bytes));
        }
    }
}

/// Builds the fields of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    fields: Vec<u8>,
    count: u32,
}

impl List {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.fields.extend_from_slice(bytes);
        self.count += 1;
        self
    }

    pub(crate) fn null(self) -> Self {
        self.raw(&[0x40])
    }

    pub(crate) fn nulls(self, count: usize) -> Self {
        (0..count).fold(self, |list, _| list.null())
    }

    pub(crate) fn bool(self, value: bool) -> Self {
        self.raw(&[if value { 0x41 } else { 0x42 }])
    }

    pub(crate) fn ubyte(self, value: u8) -> Self {
        self.raw(&[0x50, value])
    }

    #[cfg(test)]
    pub(crate) fn ushort(self, value: u16) -> Self {
        let [high, low] = value.to_be_bytes();
        self.raw(&[0x60, high, low])
    }

    pub(crate) fn uint(self, value: u32) -> Self {
        let [a, b, c, d] = value.to_be_bytes();
        self.raw(&[0x70, a, b, c, d])
    }

    pub(crate) fn string(mut self, text: &str) -> Self {
        value::sized(0xA1, text.as_bytes(), &mut self.fields);
        self.count += 1;
        self
    }

    pub(crate) fn symbol(mut self, text: &str) -> Self {
        value::sized(0xA3, text.as_bytes(), &mut self.fields);
        self.count += 1;
        self
    }

    pub(crate) fn binary(mut self, bytes: &[u8]) -> Self {
        value::binary(bytes, &mut self.fields);
        self.count += 1;
        self
    }

    pub(crate) fn described(mut self, code: u8, list: Self) -> Self {
        performative(code, &mut self.fields, list);
        self.count += 1;
        self
    }
}

/// Appends a described list.
pub(crate) fn performative(code: u8, out: &mut Vec<u8>, list: List) {
    out.extend_from_slice(&[0x00, 0x53, code]);
    out.push(0xD0);
    with_u32_len(out, |out| {
        out.extend_from_slice(&list.count.to_be_bytes());
        out.extend_from_slice(&list.fields);
    });
}

/// Appends a frame on channel 0: `kind` 0 is AMQP, 1 is SASL.
pub(crate) fn frame(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 2, kind, 0, 0]);
    body(out);
    let len = u32::try_from(out.len() - from).unwrap_or(u32::MAX);
    crate::wire::put_at(out, from, len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_as_they_were_built() {
        let mut out = Vec::new();
        let inner = List::new().string("a");
        let list =
            List::new().null().uint(70_000).bool(true).symbol("s").binary(&[1; 300]).described(0x28, inner);
        performative(0x12, &mut out, list);
        let (code, list, len) = described(&out).unwrap();
        assert_eq!((code, len), (0x12, out.len()));
        let fields: Vec<_> = Fields::new(list).unwrap().collect();
        assert_eq!(fields[..4], [Value::Null, Value::Number(70_000), Value::Bool(true), Value::Bytes(b"s")]);
        assert_eq!(fields[4], Value::Bytes(&[1; 300]));
        let Value::Described(0x28, inner) = fields[5] else { panic!("{:?}", fields[5]) };
        assert_eq!(Fields::new(inner).unwrap().collect::<Vec<_>>(), [Value::Bytes(b"a")]);
        for end in 0..out.len() {
            assert_eq!(described(&out[..end]), None);
        }
    }

    #[test]
    fn the_payload_is_found_behind_other_sections() {
        let mut message = Vec::new();
        performative(0x70, &mut message, List::new().bool(true));
        performative(0x73, &mut message, List::new().string("id"));
        let short = [&message[..], &[0, 0x53, 0x75, 0xA0, 3, 1, 2, 3]].concat();
        assert_eq!(payload(&short), Some(&[1, 2, 3][..]));
        let cut = [&message[..], &[0, 0x53, 0x77, 0xB0, 0, 0, 1, 0, 1, 2]].concat();
        assert_eq!(payload(&cut), Some(&[1, 2][..]));
        assert_eq!(payload(&message), None);
    }
}
