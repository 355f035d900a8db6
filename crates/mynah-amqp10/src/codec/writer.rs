//! Primitive and composite types written to a buffer, in their shortest form (AMQP 1.0 parts 1.2 to 1.6).

use bytes::{BufMut, BytesMut};

/// A length or count for a four-byte field; the writers' inputs are bounded by the largest message, far below.
pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

pub(crate) fn put_uint(buf: &mut BytesMut, n: u32) {
    match u8::try_from(n) {
        Ok(0) => buf.put_u8(0x43),
        Ok(small) => buf.put_slice(&[0x52, small]),
        Err(_) => {
            buf.put_u8(0x70);
            buf.put_u32(n);
        }
    }
}

pub(crate) fn put_ulong(buf: &mut BytesMut, n: u64) {
    match u8::try_from(n) {
        Ok(0) => buf.put_u8(0x44),
        Ok(small) => buf.put_slice(&[0x53, small]),
        Err(_) => {
            buf.put_u8(0x80);
            buf.put_u64(n);
        }
    }
}

pub(crate) fn put_bool(buf: &mut BytesMut, flag: bool) {
    buf.put_u8(if flag { 0x41 } else { 0x42 });
}

/// A variable-width value: `small` and `small + 0x10` are the constructors with lengths of one and four bytes.
fn put_variable(buf: &mut BytesMut, small: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => buf.put_slice(&[small, len]),
        Err(_) => {
            buf.put_u8(small + 0x10);
            buf.put_u32(len32(bytes.len()));
        }
    }
    buf.put_slice(bytes);
}

pub(crate) fn put_binary(buf: &mut BytesMut, bytes: &[u8]) {
    put_variable(buf, 0xa0, bytes);
}

pub(crate) fn put_string(buf: &mut BytesMut, text: &str) {
    put_variable(buf, 0xa1, text.as_bytes());
}

/// A symbol is ASCII; anything else is written as a string, so that what is sent can always be read.
pub(crate) fn put_symbol(buf: &mut BytesMut, text: &str) {
    put_variable(buf, if text.is_ascii() { 0xa3 } else { 0xa1 }, text.as_bytes());
}

pub(crate) fn put_timestamp(buf: &mut BytesMut, ms: i64) {
    buf.put_u8(0x83);
    buf.put_i64(ms);
}

/// An array of symbols, or null if there is none.
pub(crate) fn put_symbols(buf: &mut BytesMut, symbols: &[&str]) {
    if symbols.is_empty() {
        buf.put_u8(0x40);
        return;
    }
    compound(buf, 0xf0, |buf| {
        buf.put_u8(0xb3);
        for symbol in symbols {
            buf.put_u32(len32(symbol.len()));
            buf.put_slice(symbol.as_bytes());
        }
        len32(symbols.len())
    });
}

/// Writes a compound value with four-byte size and count around what `body` writes; `body` answers the count.
pub(crate) fn compound(buf: &mut BytesMut, code: u8, body: impl FnOnce(&mut BytesMut) -> u32) {
    buf.put_u8(code);
    sized(buf, body);
}

/// Writes the fields of a list one by one and counts them.
pub(crate) struct ListWriter<'a> {
    pub(crate) buf: &'a mut BytesMut,
    count: u32,
}

impl ListWriter<'_> {
    pub(crate) fn null(&mut self) {
        self.count += 1;
        self.buf.put_u8(0x40);
    }

    /// A field by any of the `put_` functions; null if absent.
    pub(crate) fn field<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
        match value {
            Some(value) => {
                self.count += 1;
                put(self.buf, value);
            }
            None => self.null(),
        }
    }

    pub(crate) fn uint(&mut self, value: Option<u32>) {
        self.field(value, put_uint);
    }

    pub(crate) fn ushort(&mut self, value: Option<u16>) {
        self.field(value, |buf, n| {
            buf.put_u8(0x60);
            buf.put_u16(n);
        });
    }

    pub(crate) fn ubyte(&mut self, value: Option<u8>) {
        self.field(value, |buf, n| buf.put_slice(&[0x50, n]));
    }

    pub(crate) fn boolean(&mut self, value: Option<bool>) {
        self.field(value, put_bool);
    }

    pub(crate) fn string(&mut self, value: Option<&str>) {
        self.field(value, put_string);
    }

    pub(crate) fn symbol(&mut self, value: Option<&str>) {
        self.field(value, put_symbol);
    }

    /// Bytes that are an encoded value already; null if absent.
    pub(crate) fn raw(&mut self, value: Option<&[u8]>) {
        self.field(value, |buf, raw| buf.put_slice(raw));
    }
}

/// Writes a composite type: descriptor `code` and a list of fields.
pub(crate) fn composite(buf: &mut BytesMut, code: u8, fields: impl FnOnce(&mut ListWriter<'_>)) {
    buf.put_slice(&[0x00, 0x53, code]);
    compound(buf, 0xd0, |buf| {
        let mut list = ListWriter { buf, count: 0 };
        fields(&mut list);
        list.count
    });
}

/// Size and count around what `body` writes, without a constructor.
pub(super) fn sized(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> u32) {
    let at = buf.len();
    buf.put_u64(0);
    let count = body(buf);
    let size = len32(buf.len() - at - 4);
    let patch = (u64::from(size) << 32) | u64::from(count);
    if let Some(slot) = buf.get_mut(at..at + 8) {
        slot.copy_from_slice(&patch.to_be_bytes());
    }
}
