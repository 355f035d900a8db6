//! Values, arguments and decoded properties as they are stored.

use bytes::Bytes;

use super::fields::{Fault, Reader, put_bytes, put_text, put_varint};
use crate::address::Address;
use crate::exchange::Arguments;
use crate::message::Properties;
use crate::value::Value;

/// Lists in lists: the protocols bound this already, a damaged file does not.
const DEPTH_MAX: usize = 64;

pub fn encode_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(flag) => out.extend_from_slice(&[1, u8::from(*flag)]),
        Value::U8(n) => out.extend_from_slice(&[2, *n]),
        Value::U16(n) => fixed(out, 3, &n.to_le_bytes()),
        Value::U32(n) => fixed(out, 4, &n.to_le_bytes()),
        Value::U64(n) => fixed(out, 5, &n.to_le_bytes()),
        Value::I8(n) => fixed(out, 6, &n.to_le_bytes()),
        Value::I16(n) => fixed(out, 7, &n.to_le_bytes()),
        Value::I32(n) => fixed(out, 8, &n.to_le_bytes()),
        Value::I64(n) => fixed(out, 9, &n.to_le_bytes()),
        Value::F32(n) => fixed(out, 10, &n.to_le_bytes()),
        Value::F64(n) => fixed(out, 11, &n.to_le_bytes()),
        Value::Decimal(bytes) => tagged(out, 12, bytes),
        Value::Char(c) => fixed(out, 13, &u32::from(*c).to_le_bytes()),
        Value::Timestamp(n) => fixed(out, 14, &n.to_le_bytes()),
        Value::Uuid(id) => fixed(out, 15, id),
        Value::Binary(bytes) => tagged(out, 16, bytes),
        Value::String(text) => tagged(out, 17, text.as_bytes()),
        Value::Symbol(text) => tagged(out, 18, text.as_bytes()),
        Value::List(items) => listed(out, 19, items),
        Value::Map(entries) => {
            out.push(20);
            put_varint(out, entries.len() as u64);
            for (key, value) in entries {
                encode_value(out, key);
                encode_value(out, value);
            }
        }
        Value::Array(items) => listed(out, 21, items),
        Value::Described(both) => {
            out.push(22);
            encode_value(out, &both.0);
            encode_value(out, &both.1);
        }
    }
}

fn fixed(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(bytes);
}

fn tagged(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    put_bytes(out, bytes);
}

fn listed(out: &mut Vec<u8>, kind: u8, items: &[Value]) {
    out.push(kind);
    put_varint(out, items.len() as u64);
    items.iter().for_each(|item| encode_value(out, item));
}

/// # Errors
/// It ends too early or holds what this version does not know.
pub fn decode_value(reader: &mut Reader<'_>) -> Result<Value, Fault> {
    value_at(reader, 0)
}

fn value_at(reader: &mut Reader<'_>, depth: usize) -> Result<Value, Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::Unknown);
    }
    let bytes = |reader: &mut Reader<'_>| reader.bytes().map(Bytes::copy_from_slice);
    Ok(match reader.u8()? {
        0 => Value::Null,
        1 => Value::Bool(reader.u8()? != 0),
        2 => Value::U8(reader.u8()?),
        3 => Value::U16(reader.u16()?),
        4 => Value::U32(reader.u32()?),
        5 => Value::U64(reader.u64()?),
        6 => Value::I8(reader.u8()?.cast_signed()),
        7 => Value::I16(reader.u16()?.cast_signed()),
        8 => Value::I32(reader.u32()?.cast_signed()),
        9 => Value::I64(reader.i64()?),
        10 => Value::F32(f32::from_bits(reader.u32()?)),
        11 => Value::F64(f64::from_bits(reader.u64()?)),
        12 => Value::Decimal(bytes(reader)?),
        13 => Value::Char(char::from_u32(reader.u32()?).ok_or(Fault::Unknown)?),
        14 => Value::Timestamp(reader.i64()?),
        15 => {
            let mut id = [0; 16];
            id.copy_from_slice(reader.take(16)?);
            Value::Uuid(id)
        }
        16 => Value::Binary(bytes(reader)?),
        17 => Value::String(reader.boxed()?),
        18 => Value::Symbol(reader.boxed()?),
        19 => Value::List(items(reader, depth)?),
        20 => {
            let mut entries = Vec::new();
            for _ in 0..reader.varint()? {
                entries.push((value_at(reader, depth + 1)?, value_at(reader, depth + 1)?));
            }
            Value::Map(entries)
        }
        21 => Value::Array(items(reader, depth)?),
        22 => Value::Described(Box::new((value_at(reader, depth + 1)?, value_at(reader, depth + 1)?))),
        _ => return Err(Fault::Unknown),
    })
}

fn items(reader: &mut Reader<'_>, depth: usize) -> Result<Vec<Value>, Fault> {
    let mut items = Vec::new();
    for _ in 0..reader.varint()? {
        items.push(value_at(reader, depth + 1)?);
    }
    Ok(items)
}

pub fn encode_arguments(out: &mut Vec<u8>, arguments: &Arguments) {
    put_varint(out, arguments.len() as u64);
    for (name, value) in arguments {
        put_text(out, name);
        encode_value(out, value);
    }
}

/// # Errors
/// As [`decode_value`].
pub fn decode_arguments(reader: &mut Reader<'_>) -> Result<Arguments, Fault> {
    let mut arguments = Vec::new();
    for _ in 0..reader.varint()? {
        arguments.push((reader.boxed()?, decode_value(reader)?));
    }
    Ok(arguments)
}

pub(super) fn encode_address(out: &mut Vec<u8>, address: &Address) {
    match address {
        Address::Topic(topic) => tagged(out, 0, topic.as_bytes()),
        Address::Queue(name) => tagged(out, 1, name.as_bytes()),
        Address::Exchange { name, key } => {
            tagged(out, 2, name.as_bytes());
            put_text(out, key);
        }
        Address::Client(id) => tagged(out, 3, id.as_bytes()),
    }
}

pub(super) fn decode_address(reader: &mut Reader<'_>) -> Result<Address, Fault> {
    Ok(match reader.u8()? {
        0 => Address::Topic(reader.shared()?),
        1 => Address::Queue(reader.shared()?),
        2 => Address::Exchange { name: reader.shared()?, key: reader.shared()? },
        3 => Address::Client(reader.shared()?),
        _ => return Err(Fault::Unknown),
    })
}

/// Only those that are there, each behind its number.
pub(super) fn encode_properties(out: &mut Vec<u8>, properties: &Properties) {
    let p = properties;
    let mut text = |number: u8, value: &Option<Box<str>>| {
        if let Some(value) = value {
            tagged(out, number, value.as_bytes());
        }
    };
    text(1, &p.to);
    text(2, &p.subject);
    text(3, &p.content_type);
    text(4, &p.content_encoding);
    text(5, &p.group_id);
    text(6, &p.reply_to_group_id);
    text(7, &p.kind);
    text(8, &p.app_id);
    if let Some(id) = &p.user_id {
        tagged(out, 9, id);
    }
    for (number, value) in [(10, &p.message_id), (11, &p.correlation_id)] {
        if let Some(value) = value {
            out.push(number);
            encode_value(out, value);
        }
    }
    if let Some(address) = &p.reply_to {
        out.push(12);
        encode_address(out, address);
    }
    for (number, value) in [(13, p.absolute_expiry_ms), (14, p.creation_ms)] {
        if let Some(value) = value {
            fixed(out, number, &value.to_le_bytes());
        }
    }
    if let Some(sequence) = p.group_sequence {
        fixed(out, 15, &sequence.to_le_bytes());
    }
    for (number, entries) in [(16, &p.application), (17, &p.annotations)] {
        if !entries.is_empty() {
            out.push(number);
            encode_arguments(out, entries);
        }
    }
    out.push(0);
}

pub(super) fn decode_properties(reader: &mut Reader<'_>) -> Result<Properties, Fault> {
    let mut p = Properties::default();
    loop {
        match reader.u8()? {
            0 => return Ok(p),
            1 => p.to = Some(reader.boxed()?),
            2 => p.subject = Some(reader.boxed()?),
            3 => p.content_type = Some(reader.boxed()?),
            4 => p.content_encoding = Some(reader.boxed()?),
            5 => p.group_id = Some(reader.boxed()?),
            6 => p.reply_to_group_id = Some(reader.boxed()?),
            7 => p.kind = Some(reader.boxed()?),
            8 => p.app_id = Some(reader.boxed()?),
            9 => p.user_id = Some(Bytes::copy_from_slice(reader.bytes()?)),
            10 => p.message_id = Some(decode_value(reader)?),
            11 => p.correlation_id = Some(decode_value(reader)?),
            12 => p.reply_to = Some(decode_address(reader)?),
            13 => p.absolute_expiry_ms = Some(reader.i64()?),
            14 => p.creation_ms = Some(reader.i64()?),
            15 => p.group_sequence = Some(reader.u32()?),
            16 => p.application = decode_arguments(reader)?,
            17 => p.annotations = decode_arguments(reader)?,
            _ => return Err(Fault::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<u64>().prop_map(Value::U64),
            any::<i8>().prop_map(Value::I8),
            any::<i32>().prop_map(Value::I32),
            any::<char>().prop_map(Value::Char),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            (-1e9..1e9_f64).prop_map(Value::F64),
            ".{0,9}".prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(|b| Value::Binary(b.into())),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(Value::Map),
                (inner.clone(), inner).prop_map(|both| Value::Described(Box::new(both))),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_come_back(value in values()) {
            let mut out = Vec::new();
            encode_value(&mut out, &value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(decode_value(&mut reader), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn fuzz_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_value(&mut Reader::new(&bytes));
            let _ = decode_properties(&mut Reader::new(&bytes));
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = vec![22; 100_000];
        assert_eq!(decode_value(&mut Reader::new(&deep)), Err(Fault::Unknown));
    }
}
