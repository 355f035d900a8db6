//! Field tables in RabbitMQ's dialect: `t b B s u I i l L f d D S A T F V x` (0-9-1 section 4.2.5.5 and its errata).
//!
//! `s` is a short integer, not a short string; `l` and `L` are both signed, as all clients write them.
//! A table is validated once and then walked in place; values are built only for those who ask.
//! Never: rejects text that is not UTF-8 (it becomes bytes), nests deeper than [`DEPTH_MAX`].

use bytes::{BufMut, Bytes, BytesMut};
use mynah_core::Value;
use mynah_core::exchange::Arguments;

use super::{CodecError, Reader, len32, put_short, put_sized};

/// Tables and arrays within each other; deeper ones would cost stack for nothing.
pub(crate) const DEPTH_MAX: u8 = 32;

/// The entries of a validated table, without their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        Self::new(reader.long()?)
    }

    /// Validates entries that came without a length.
    pub(crate) fn new(entries: &'a [u8]) -> Result<Self, CodecError> {
        check_entries(entries, 0)?;
        Ok(Self(entries))
    }

    /// Entries that this crate wrote or has validated before.
    pub(crate) const fn trusted(entries: &'a [u8]) -> Self {
        Self(entries)
    }

    pub(crate) fn write(self, buf: &mut BytesMut) {
        buf.put_u32(len32(self.0.len()));
        buf.put_slice(self.0);
    }

    pub(crate) fn entries(self) -> Entries<'a> {
        Entries(Reader::new(self.0))
    }

    pub(crate) fn get(self, name: &str) -> Option<Value> {
        self.entries().find(|entry| entry.key == name.as_bytes()).map(|entry| entry.value())
    }

    /// All entries as values. Names that are not UTF-8 are left out.
    pub(crate) fn to_arguments(self) -> Arguments {
        self.entries()
            .filter_map(|entry| Some((std::str::from_utf8(entry.key).ok()?.into(), entry.value())))
            .collect()
    }
}

/// One entry of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    /// The key with its length, the type and the value, as they stand.
    pub(crate) raw: &'a [u8],
    value: &'a [u8],
}

impl Entry<'_> {
    pub(crate) fn value(&self) -> Value {
        read_value(&mut Reader::new(self.value), 0).unwrap_or(Value::Null)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries<'a>(Reader<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let whole = self.0.rest();
        let key = self.0.short_bytes().ok()?;
        let value = self.0.rest();
        check_value(&mut self.0, 0).ok()?;
        let left = self.0.rest().len();
        Some(Entry {
            key,
            raw: whole.get(..whole.len().checked_sub(left)?)?,
            value: value.get(..value.len().checked_sub(left)?)?,
        })
    }
}

fn check_entries(entries: &[u8], depth: u8) -> Result<(), CodecError> {
    let mut reader = Reader::new(entries);
    while !reader.is_empty() {
        reader.short_bytes()?;
        check_value(&mut reader, depth)?;
    }
    Ok(())
}

fn check_value(reader: &mut Reader<'_>, depth: u8) -> Result<(), CodecError> {
    let len = match reader.u8()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' => return reader.long().map(|_| ()),
        kind @ (b'A' | b'F') => {
            let inner = reader.long()?;
            if depth >= DEPTH_MAX {
                return Err(CodecError::TooDeep);
            }
            if kind == b'F' {
                return check_entries(inner, depth + 1);
            }
            let mut items = Reader::new(inner);
            while !items.is_empty() {
                check_value(&mut items, depth + 1)?;
            }
            return Ok(());
        }
        kind => return Err(CodecError::FieldType(kind)),
    };
    reader.take(len).map(|_| ())
}

fn read_value(reader: &mut Reader<'_>, depth: u8) -> Result<Value, CodecError> {
    if depth > DEPTH_MAX {
        return Err(CodecError::TooDeep);
    }
    Ok(match reader.u8()? {
        b'V' => Value::Null,
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::I8(i8::from_be_bytes(reader.array()?)),
        b'B' => Value::U8(reader.u8()?),
        b's' => Value::I16(i16::from_be_bytes(reader.array()?)),
        b'u' => Value::U16(reader.u16()?),
        b'I' => Value::I32(i32::from_be_bytes(reader.array()?)),
        b'i' => Value::U32(reader.u32()?),
        b'l' | b'L' => Value::I64(i64::from_be_bytes(reader.array()?)),
        b'f' => Value::F32(f32::from_be_bytes(reader.array()?)),
        b'd' => Value::F64(f64::from_be_bytes(reader.array()?)),
        b'D' => {
            // Its form is not that of the core's decimals; what it means is kept.
            let scale = reader.u8()?;
            Value::F64(f64::from(reader.u32()?) / 10_f64.powi(i32::from(scale)))
        }
        b'T' => {
            let seconds = i64::try_from(reader.u64()?).unwrap_or(i64::MAX);
            Value::Timestamp(seconds.saturating_mul(1000))
        }
        b'S' => text_or_bytes(reader.long()?),
        b'x' => Value::Binary(Bytes::copy_from_slice(reader.long()?)),
        b'A' => {
            let mut inner = Reader::new(reader.long()?);
            let mut items = Vec::new();
            while !inner.is_empty() {
                items.push(read_value(&mut inner, depth + 1)?);
            }
            Value::List(items)
        }
        b'F' => {
            let mut inner = Reader::new(reader.long()?);
            let mut entries = Vec::new();
            while !inner.is_empty() {
                let key = text_or_bytes(inner.short_bytes()?);
                entries.push((key, read_value(&mut inner, depth + 1)?));
            }
            Value::Map(entries)
        }
        kind => return Err(CodecError::FieldType(kind)),
    })
}

fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.into()),
        Err(_) => Value::Binary(Bytes::copy_from_slice(bytes)),
    }
}

/// One entry. Names longer than a short string are left out: cut, they would be other names.
pub(crate) fn put_entry(buf: &mut BytesMut, key: &str, value: &Value) {
    put_entry_at(buf, key, value, 0);
}

fn put_entry_at(buf: &mut BytesMut, key: &str, value: &Value, depth: u8) {
    if key.len() <= 255 {
        put_short(buf, key);
        put_value(buf, value, depth);
    }
}

/// A value in the type that is closest to its own.
fn put_value(buf: &mut BytesMut, value: &Value, depth: u8) {
    match value {
        Value::Null => buf.put_u8(b'V'),
        Value::Bool(flag) => buf.put_slice(&[b't', u8::from(*flag)]),
        Value::I8(n) => put_number(buf, b'b', &n.to_be_bytes()),
        Value::U8(n) => put_number(buf, b'B', &n.to_be_bytes()),
        Value::I16(n) => put_number(buf, b's', &n.to_be_bytes()),
        Value::U16(n) => put_number(buf, b'u', &n.to_be_bytes()),
        Value::I32(n) => put_number(buf, b'I', &n.to_be_bytes()),
        Value::U32(n) => put_number(buf, b'i', &n.to_be_bytes()),
        Value::I64(n) => put_number(buf, b'l', &n.to_be_bytes()),
        Value::U64(n) => match i64::try_from(*n) {
            Ok(n) => put_number(buf, b'l', &n.to_be_bytes()),
            // There is no unsigned type of this width.
            Err(_) => put_long(buf, b'S', n.to_string().as_bytes()),
        },
        Value::F32(n) => put_number(buf, b'f', &n.to_be_bytes()),
        Value::F64(n) => put_number(buf, b'd', &n.to_be_bytes()),
        Value::Timestamp(ms) => match u64::try_from(*ms) {
            Ok(ms) => put_number(buf, b'T', &(ms / 1000).to_be_bytes()),
            Err(_) => put_number(buf, b'l', &ms.to_be_bytes()),
        },
        Value::Decimal(bytes) | Value::Binary(bytes) => put_long(buf, b'x', bytes),
        Value::String(text) | Value::Symbol(text) => put_long(buf, b'S', text.as_bytes()),
        Value::Char(_) | Value::Uuid(_) => put_long(buf, b'S', value.to_text().as_bytes()),
        Value::Described(inner) if depth < DEPTH_MAX => put_value(buf, &inner.1, depth + 1),
        Value::List(items) | Value::Array(items) if depth < DEPTH_MAX => {
            buf.put_u8(b'A');
            put_sized(buf, |buf| items.iter().for_each(|item| put_value(buf, item, depth + 1)));
        }
        Value::Map(entries) if depth < DEPTH_MAX => {
            buf.put_u8(b'F');
            put_sized(buf, |buf| {
                for (key, value) in entries {
                    match key.as_str() {
                        Some(key) => put_entry_at(buf, key, value, depth + 1),
                        None => put_entry_at(buf, &key.to_text(), value, depth + 1),
                    }
                }
            });
        }
        // Nested deeper than any receiver would read.
        Value::Described(_) | Value::List(_) | Value::Array(_) | Value::Map(_) => buf.put_u8(b'V'),
    }
}

fn put_number(buf: &mut BytesMut, kind: u8, bytes: &[u8]) {
    buf.put_u8(kind);
    buf.put_slice(bytes);
}

fn put_long(buf: &mut BytesMut, kind: u8, bytes: &[u8]) {
    buf.put_u8(kind);
    buf.put_u32(len32(bytes.len()));
    buf.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u8>().prop_map(Value::U8),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            (-1e30f32..1e30).prop_map(Value::F32),
            (-1e300f64..1e300).prop_map(Value::F64),
            (0..i64::MAX / 1000).prop_map(|s| Value::Timestamp(s * 1000)),
            ".{0,8}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..8).prop_map(|b| Value::Binary(b.into())),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                proptest::collection::vec((".{0,5}".prop_map(Value::from), inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn tables_come_back_with_their_types(entries in proptest::collection::vec((".{0,10}", any_value()), 0..6)) {
            let mut buf = BytesMut::new();
            for (key, value) in &entries {
                put_entry(&mut buf, key, value);
            }
            let table = Table::new(&buf).unwrap();
            let expected: Arguments = entries.into_iter().map(|(key, value)| (key.into(), value)).collect();
            prop_assert_eq!(table.to_arguments(), expected);
            let raw: Vec<u8> = table.entries().flat_map(|entry| entry.raw.to_vec()).collect();
            prop_assert_eq!(&raw[..], &buf[..]);
        }

        #[test]
        fn what_validates_can_be_walked(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(table) = Table::new(&bytes) {
                let walked: usize = table.entries().map(|entry| entry.raw.len()).sum();
                prop_assert_eq!(walked, bytes.len());
                let _ = table.to_arguments();
            }
        }
    }

    #[test]
    fn every_type_letter_is_read() {
        // RabbitMQ's dialect: `s` is a short integer, `l` is signed, `B` is not.
        let check = |bytes: &[u8], expected: Value| {
            let mut table = vec![1, b'k'];
            table.extend_from_slice(bytes);
            let table = Table::new(&table).unwrap();
            assert_eq!(table.get("k"), Some(expected));
        };
        check(b"t\x01", Value::Bool(true));
        check(b"b\xff", Value::I8(-1));
        check(b"B\xff", Value::U8(255));
        check(b"s\xff\xfe", Value::I16(-2));
        check(b"u\xff\xfe", Value::U16(65534));
        check(b"I\xff\xff\xff\xfe", Value::I32(-2));
        check(b"i\xff\xff\xff\xfe", Value::U32(u32::MAX - 1));
        check(b"l\xff\xff\xff\xff\xff\xff\xff\xfe", Value::I64(-2));
        check(b"L\x00\x00\x00\x00\x00\x00\x00\x07", Value::I64(7));
        check(b"f\x3f\xc0\x00\x00", Value::F32(1.5));
        check(b"d\x3f\xf8\x00\x00\x00\x00\x00\x00", Value::F64(1.5));
        check(b"D\x02\x00\x00\x00\x96", Value::F64(1.5));
        check(b"S\x00\x00\x00\x02ab", Value::from("ab"));
        check(b"S\x00\x00\x00\x01\xff", Value::Binary(Bytes::from_static(b"\xff")));
        check(b"x\x00\x00\x00\x01\xff", Value::Binary(Bytes::from_static(b"\xff")));
        check(b"T\x00\x00\x00\x00\x00\x00\x00\x02", Value::Timestamp(2000));
        check(b"A\x00\x00\x00\x03t\x00V", Value::List(vec![Value::Bool(false), Value::Null]));
        check(b"F\x00\x00\x00\x03\x01aV", Value::Map(vec![(Value::from("a"), Value::Null)]));
    }

    #[test]
    fn bad_tables_are_refused() {
        assert_eq!(Table::new(b"\x01kZ"), Err(CodecError::FieldType(b'Z')));
        assert_eq!(Table::new(b"\x05k"), Err(CodecError::Truncated));
        assert_eq!(Table::new(b"\x01kS\xff\xff\xff\xff"), Err(CodecError::Truncated));
        let mut deep = Vec::new();
        for _ in 0..100 {
            let mut outer = vec![b'A'];
            outer.extend_from_slice(&len32(deep.len()).to_be_bytes());
            outer.extend_from_slice(&deep);
            deep = outer;
        }
        let mut table = vec![1, b'k'];
        table.extend_from_slice(&deep);
        assert_eq!(Table::new(&table), Err(CodecError::TooDeep));
    }
}
