//! The generic [`Value`]: for properties and annotations, where a tree is needed (AMQP 1.0 part 1).
//!
//! Never: makes more values than there are bytes, whatever an array claims.

use bytes::{BufMut, Bytes, BytesMut};
use mynah_core::Value;

use super::CodecError;
use super::reader::{DEPTH_MAX, Reader, ascii, text};
use super::writer::{
    compound, len32, put_binary, put_bool, put_string, put_symbol, put_uint, put_ulong, sized,
};

type Result<T> = std::result::Result<T, CodecError>;

/// Reads exactly one value from the front of a slice.
pub(crate) fn read_value(bytes: &[u8]) -> Result<Value> {
    let mut tree = Tree { reader: Reader::new(bytes), budget: bytes.len() };
    tree.value(0)
}

/// Builds a value. The budget is one value per byte: only arrays of empty elements could claim more.
struct Tree<'a> {
    reader: Reader<'a>,
    budget: usize,
}

impl<'a> Tree<'a> {
    fn value(&mut self, depth: u32) -> Result<Value> {
        let code = self.reader.u8()?;
        self.value_of(code, depth)
    }

    fn value_of(&mut self, code: u8, depth: u32) -> Result<Value> {
        if depth > DEPTH_MAX {
            return Err(CodecError::Depth);
        }
        self.budget = self.budget.checked_sub(1).ok_or(CodecError::Count)?;
        match code {
            0x00 => {
                let descriptor = self.value(depth + 1)?;
                let value = self.value(depth + 1)?;
                Ok(Value::Described(Box::new((descriptor, value))))
            }
            0x40..=0x45 | 0x50..=0x56 | 0x60..=0x61 | 0x70..=0x74 | 0x80..=0x84 | 0x94 | 0x98 => {
                self.scalar(code)
            }
            0xa0 => Ok(Value::Binary(Bytes::copy_from_slice(self.reader.variable8()?))),
            0xb0 => Ok(Value::Binary(Bytes::copy_from_slice(self.reader.variable32()?))),
            0xa1 => Ok(Value::String(text(self.reader.variable8()?)?.into())),
            0xb1 => Ok(Value::String(text(self.reader.variable32()?)?.into())),
            0xa3 => Ok(Value::Symbol(ascii(self.reader.variable8()?)?.into())),
            0xb3 => Ok(Value::Symbol(ascii(self.reader.variable32()?)?.into())),
            0xc0 | 0xc1 | 0xe0 => {
                let mut body = Reader::new(self.reader.variable8()?);
                let count = u32::from(body.u8()?);
                self.compound(code, body, count, depth)
            }
            0xd0 | 0xd1 | 0xf0 => {
                let mut body = Reader::new(self.reader.variable32()?);
                let count = body.u32()?;
                self.compound(code, body, count, depth)
            }
            other => Err(CodecError::Constructor(other)),
        }
    }

    fn scalar(&mut self, code: u8) -> Result<Value> {
        let r = &mut self.reader;
        Ok(match code {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x56 => Value::Bool(r.u8()? != 0),
            0x50 => Value::U8(r.u8()?),
            0x60 => Value::U16(u16::from_be_bytes(r.fixed()?)),
            0x70 => Value::U32(r.u32()?),
            0x52 => Value::U32(u32::from(r.u8()?)),
            0x43 => Value::U32(0),
            0x80 => Value::U64(u64::from_be_bytes(r.fixed()?)),
            0x53 => Value::U64(u64::from(r.u8()?)),
            0x44 => Value::U64(0),
            0x51 => Value::I8(i8::from_be_bytes(r.fixed()?)),
            0x61 => Value::I16(i16::from_be_bytes(r.fixed()?)),
            0x71 => Value::I32(i32::from_be_bytes(r.fixed()?)),
            0x54 => Value::I32(i32::from(i8::from_be_bytes(r.fixed()?))),
            0x81 => Value::I64(i64::from_be_bytes(r.fixed()?)),
            0x55 => Value::I64(i64::from(i8::from_be_bytes(r.fixed()?))),
            0x72 => Value::F32(f32::from_be_bytes(r.fixed()?)),
            0x82 => Value::F64(f64::from_be_bytes(r.fixed()?)),
            0x74 => Value::Decimal(Bytes::copy_from_slice(r.take(4)?)),
            0x84 => Value::Decimal(Bytes::copy_from_slice(r.take(8)?)),
            0x94 => Value::Decimal(Bytes::copy_from_slice(r.take(16)?)),
            0x73 => Value::Char(char::from_u32(r.u32()?).ok_or(CodecError::Text)?),
            0x83 => Value::Timestamp(i64::from_be_bytes(r.fixed()?)),
            0x98 => Value::Uuid(r.fixed()?),
            0x45 => Value::List(Vec::new()),
            other => return Err(CodecError::Constructor(other)),
        })
    }

    /// A list, map or array whose bytes are cut out already.
    fn compound(&mut self, code: u8, body: Reader<'a>, count: u32, depth: u32) -> Result<Value> {
        let outside = std::mem::replace(&mut self.reader, body);
        let value = match code {
            0xc0 | 0xd0 => self.items(count, depth).map(Value::List),
            0xc1 | 0xd1 => self.entries(count, depth).map(Value::Map),
            _ => self.elements(count, depth).map(Value::Array),
        };
        self.reader = outside;
        value
    }

    fn items(&mut self, count: u32, depth: u32) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn entries(&mut self, count: u32, depth: u32) -> Result<Vec<(Value, Value)>> {
        let mut entries = Vec::new();
        for _ in 0..count / 2 {
            entries.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Ok(entries)
    }

    fn elements(&mut self, count: u32, depth: u32) -> Result<Vec<Value>> {
        if count == 0 && self.reader.is_empty() {
            return Ok(Vec::new());
        }
        let mut code = self.reader.u8()?;
        let mut descriptor = None;
        if code == 0x00 {
            descriptor = Some(self.value(depth + 1)?);
            code = self.reader.u8()?;
        }
        let mut elements = Vec::new();
        for _ in 0..count {
            let element = self.value_of(code, depth + 1)?;
            elements.push(match &descriptor {
                Some(descriptor) => Value::Described(Box::new((descriptor.clone(), element))),
                None => element,
            });
        }
        Ok(elements)
    }
}

/// Writes any value in its shortest form. Arrays whose elements differ in type become lists: an array has one constructor.
pub(crate) fn put_value(buf: &mut BytesMut, value: &Value) {
    match value {
        Value::U32(n) => put_uint(buf, *n),
        Value::U64(n) => put_ulong(buf, *n),
        Value::I32(n) => match i8::try_from(*n) {
            Ok(small) => buf.put_slice(&[0x54, small.to_be_bytes()[0]]),
            Err(_) => put_full(buf, value),
        },
        Value::I64(n) => match i8::try_from(*n) {
            Ok(small) => buf.put_slice(&[0x55, small.to_be_bytes()[0]]),
            Err(_) => put_full(buf, value),
        },
        Value::Bool(flag) => put_bool(buf, *flag),
        Value::Binary(bytes) => put_binary(buf, bytes),
        Value::String(text) => put_string(buf, text),
        Value::Symbol(text) => put_symbol(buf, text),
        Value::List(items) if items.is_empty() => buf.put_u8(0x45),
        Value::Array(items) if !one_type(items) => compound(buf, 0xd0, |buf| put_items(buf, items)),
        Value::Described(inner) => {
            buf.put_u8(0x00);
            put_value(buf, &inner.0);
            put_value(buf, &inner.1);
        }
        Value::Null
        | Value::U8(_)
        | Value::U16(_)
        | Value::I8(_)
        | Value::I16(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::Decimal(_)
        | Value::Char(_)
        | Value::Timestamp(_)
        | Value::Uuid(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Array(_) => put_full(buf, value),
    }
}

fn put_items(buf: &mut BytesMut, items: &[Value]) -> u32 {
    for item in items {
        put_value(buf, item);
    }
    len32(items.len())
}

fn put_full(buf: &mut BytesMut, value: &Value) {
    buf.put_u8(full_code(value));
    put_body(buf, value);
}

/// The constructor of a value's widest form: what the elements of an array share.
fn full_code(value: &Value) -> u8 {
    match value {
        Value::Null => 0x40,
        Value::Bool(_) => 0x56,
        Value::U8(_) => 0x50,
        Value::U16(_) => 0x60,
        Value::U32(_) => 0x70,
        Value::U64(_) => 0x80,
        Value::I8(_) => 0x51,
        Value::I16(_) => 0x61,
        Value::I32(_) => 0x71,
        Value::I64(_) => 0x81,
        Value::F32(_) => 0x72,
        Value::F64(_) => 0x82,
        Value::Decimal(bytes) => match bytes.len() {
            4 => 0x74,
            8 => 0x84,
            16 => 0x94,
            // No decimal of AMQP: its bytes are kept as bytes.
            _ => 0xb0,
        },
        Value::Char(_) => 0x73,
        Value::Timestamp(_) => 0x83,
        Value::Uuid(_) => 0x98,
        Value::Binary(_) => 0xb0,
        Value::String(_) => 0xb1,
        Value::Symbol(text) if !text.is_ascii() => 0xb1,
        Value::Symbol(_) => 0xb3,
        Value::List(_) => 0xd0,
        Value::Map(_) => 0xd1,
        Value::Array(items) if !one_type(items) => 0xd0,
        Value::Array(_) => 0xf0,
        Value::Described(_) => 0x00,
    }
}

/// Whether an array can hold these elements.
fn one_type(items: &[Value]) -> bool {
    let Some(first) = items.first() else { return true };
    let code = full_code(first);
    code != 0x00 && items.iter().all(|item| full_code(item) == code)
}

/// What follows the widest form's constructor.
fn put_body(buf: &mut BytesMut, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => buf.put_u8(u8::from(*flag)),
        Value::U8(n) => buf.put_u8(*n),
        Value::U16(n) => buf.put_u16(*n),
        Value::U32(n) => buf.put_u32(*n),
        Value::U64(n) => buf.put_u64(*n),
        Value::I8(n) => buf.put_i8(*n),
        Value::I16(n) => buf.put_i16(*n),
        Value::I32(n) => buf.put_i32(*n),
        Value::I64(n) | Value::Timestamp(n) => buf.put_i64(*n),
        Value::F32(n) => buf.put_f32(*n),
        Value::F64(n) => buf.put_f64(*n),
        Value::Decimal(bytes) if matches!(bytes.len(), 4 | 8 | 16) => buf.put_slice(bytes),
        Value::Char(c) => buf.put_u32(u32::from(*c)),
        Value::Uuid(id) => buf.put_slice(id),
        Value::Decimal(bytes) | Value::Binary(bytes) => put_long(buf, bytes),
        Value::String(text) | Value::Symbol(text) => put_long(buf, text.as_bytes()),
        Value::List(items) => sized(buf, |buf| put_items(buf, items)),
        Value::Map(entries) => sized(buf, |buf| {
            for (key, value) in entries {
                put_value(buf, key);
                put_value(buf, value);
            }
            len32(entries.len() * 2)
        }),
        Value::Array(items) if !one_type(items) => sized(buf, |buf| put_items(buf, items)),
        Value::Array(items) => sized(buf, |buf| {
            buf.put_u8(items.first().map_or(0x40, full_code));
            for item in items {
                put_body(buf, item);
            }
            len32(items.len())
        }),
        // Not an element of an array (see `one_type`), and `put_value` writes it itself.
        Value::Described(inner) => {
            put_value(buf, &inner.0);
            put_value(buf, &inner.1);
        }
    }
}

fn put_long(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_u32(len32(bytes.len()));
    buf.put_slice(bytes);
}
