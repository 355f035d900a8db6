//! The property list of a content header (0-9-1 section 4.2.6.1): flags, then what they announce.
//!
//! Strings stay bytes: what is in them is the application's business until another protocol asks.
//! Never: copies; a list is parsed in place and written from borrowed parts.

use bytes::{BufMut, BytesMut};

use super::field::Table;
use super::{CodecError, Reader, put_short_bytes};

pub(crate) const CONTENT_TYPE: u16 = 1 << 15;
pub(crate) const CONTENT_ENCODING: u16 = 1 << 14;
pub(crate) const HEADERS: u16 = 1 << 13;
pub(crate) const DELIVERY_MODE: u16 = 1 << 12;
pub(crate) const PRIORITY: u16 = 1 << 11;
pub(crate) const CORRELATION_ID: u16 = 1 << 10;
pub(crate) const REPLY_TO: u16 = 1 << 9;
pub(crate) const EXPIRATION: u16 = 1 << 8;
pub(crate) const MESSAGE_ID: u16 = 1 << 7;
pub(crate) const TIMESTAMP: u16 = 1 << 6;
pub(crate) const TYPE: u16 = 1 << 5;
pub(crate) const USER_ID: u16 = 1 << 4;
pub(crate) const APP_ID: u16 = 1 << 3;
pub(crate) const CLUSTER_ID: u16 = 1 << 2;

/// The properties of class `basic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PropertyList<'a> {
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) content_encoding: Option<&'a [u8]>,
    pub(crate) headers: Option<Table<'a>>,
    pub(crate) delivery_mode: Option<u8>,
    pub(crate) priority: Option<u8>,
    pub(crate) correlation_id: Option<&'a [u8]>,
    pub(crate) reply_to: Option<&'a [u8]>,
    pub(crate) expiration: Option<&'a [u8]>,
    pub(crate) message_id: Option<&'a [u8]>,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<&'a [u8]>,
    pub(crate) user_id: Option<&'a [u8]>,
    pub(crate) app_id: Option<&'a [u8]>,
    pub(crate) cluster_id: Option<&'a [u8]>,
}

impl<'a> PropertyList<'a> {
    /// Parses and validates flags and properties; nothing may follow them.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut list = Self::default();
        list.read(bytes)?;
        Ok(list)
    }

    /// The same, into a list that is empty so far: on the way of every publish it need not be moved about.
    pub(crate) fn read(&mut self, bytes: &'a [u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u16()?;
        // Bit 0 announces more flags and bit 1 no property; class basic has neither.
        if flags & 0b11 != 0 {
            return Err(CodecError::PropertyFlags);
        }
        // The usual message has a delivery mode and perhaps a content type.
        if flags & !(DELIVERY_MODE | CONTENT_TYPE) == 0 {
            self.content_type = short(&mut reader, flags, CONTENT_TYPE)?;
            self.delivery_mode = octet(&mut reader, flags, DELIVERY_MODE)?;
        } else {
            self.read_all(&mut reader, flags)?;
        }
        if reader.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
    }

    fn read_all(&mut self, reader: &mut Reader<'a>, flags: u16) -> Result<(), CodecError> {
        self.content_type = short(reader, flags, CONTENT_TYPE)?;
        self.content_encoding = short(reader, flags, CONTENT_ENCODING)?;
        self.headers = if flags & HEADERS != 0 { Some(Table::read(reader)?) } else { None };
        self.delivery_mode = octet(reader, flags, DELIVERY_MODE)?;
        self.priority = octet(reader, flags, PRIORITY)?;
        self.correlation_id = short(reader, flags, CORRELATION_ID)?;
        self.reply_to = short(reader, flags, REPLY_TO)?;
        self.expiration = short(reader, flags, EXPIRATION)?;
        self.message_id = short(reader, flags, MESSAGE_ID)?;
        self.timestamp = if flags & TIMESTAMP != 0 { Some(reader.u64()?) } else { None };
        self.kind = short(reader, flags, TYPE)?;
        self.user_id = short(reader, flags, USER_ID)?;
        self.app_id = short(reader, flags, APP_ID)?;
        self.cluster_id = short(reader, flags, CLUSTER_ID)?;
        Ok(())
    }

    fn flags(&self) -> u16 {
        let shorts = self.shorts();
        let mut flags =
            shorts.iter().fold(0, |flags, (bit, text)| flags | if text.is_some() { *bit } else { 0 });
        for (bit, there) in [
            (HEADERS, self.headers.is_some()),
            (DELIVERY_MODE, self.delivery_mode.is_some()),
            (PRIORITY, self.priority.is_some()),
            (TIMESTAMP, self.timestamp.is_some()),
        ] {
            flags |= if there { bit } else { 0 };
        }
        flags
    }

    fn shorts(&self) -> [(u16, Option<&'a [u8]>); 10] {
        [
            (CONTENT_TYPE, self.content_type),
            (CONTENT_ENCODING, self.content_encoding),
            (CORRELATION_ID, self.correlation_id),
            (REPLY_TO, self.reply_to),
            (EXPIRATION, self.expiration),
            (MESSAGE_ID, self.message_id),
            (TYPE, self.kind),
            (USER_ID, self.user_id),
            (APP_ID, self.app_id),
            (CLUSTER_ID, self.cluster_id),
        ]
    }

    /// Writes flags and properties. Strings that are too long for a short string are cut.
    pub(crate) fn write(&self, buf: &mut BytesMut) {
        buf.put_u16(self.flags());
        put(buf, self.content_type);
        put(buf, self.content_encoding);
        if let Some(headers) = self.headers {
            headers.write(buf);
        }
        if let Some(mode) = self.delivery_mode {
            buf.put_u8(mode);
        }
        if let Some(priority) = self.priority {
            buf.put_u8(priority);
        }
        put(buf, self.correlation_id);
        put(buf, self.reply_to);
        put(buf, self.expiration);
        put(buf, self.message_id);
        if let Some(seconds) = self.timestamp {
            buf.put_u64(seconds);
        }
        put(buf, self.kind);
        put(buf, self.user_id);
        put(buf, self.app_id);
        put(buf, self.cluster_id);
    }
}

fn put(buf: &mut BytesMut, text: Option<&[u8]>) {
    if let Some(text) = text {
        put_short_bytes(buf, text);
    }
}

fn short<'a>(reader: &mut Reader<'a>, flags: u16, bit: u16) -> Result<Option<&'a [u8]>, CodecError> {
    if flags & bit == 0 { Ok(None) } else { reader.short_bytes().map(Some) }
}

fn octet(reader: &mut Reader<'_>, flags: u16, bit: u16) -> Result<Option<u8>, CodecError> {
    if flags & bit == 0 { Ok(None) } else { reader.u8().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_come_back(
            flags in any::<u16>(),
            text in proptest::collection::vec(any::<u8>(), 0..20),
            octet in any::<u8>(),
            seconds in any::<u64>(),
        ) {
            let some = |bit: u16| (flags & bit != 0).then_some(&text[..]);
            let list = PropertyList {
                content_type: some(CONTENT_TYPE),
                content_encoding: some(CONTENT_ENCODING),
                headers: (flags & HEADERS != 0).then_some(Table::new(b"\x01kt\x01").unwrap()),
                delivery_mode: (flags & DELIVERY_MODE != 0).then_some(octet),
                priority: (flags & PRIORITY != 0).then_some(octet),
                correlation_id: some(CORRELATION_ID),
                reply_to: some(REPLY_TO),
                expiration: some(EXPIRATION),
                message_id: some(MESSAGE_ID),
                timestamp: (flags & TIMESTAMP != 0).then_some(seconds),
                kind: some(TYPE),
                user_id: some(USER_ID),
                app_id: some(APP_ID),
                cluster_id: some(CLUSTER_ID),
            };
            let mut buf = BytesMut::new();
            list.write(&mut buf);
            prop_assert_eq!(PropertyList::parse(&buf), Ok(list));
        }

        #[test]
        fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(list) = PropertyList::parse(&bytes) {
                let mut buf = BytesMut::new();
                list.write(&mut buf);
                prop_assert_eq!(&buf[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn flags_without_meaning_are_refused() {
        assert_eq!(PropertyList::parse(&[0, 1]), Err(CodecError::PropertyFlags));
        assert_eq!(PropertyList::parse(&[0, 0, 9]), Err(CodecError::Trailing));
        assert_eq!(PropertyList::parse(&[0x80, 0, 9]), Err(CodecError::Truncated));
    }
}
