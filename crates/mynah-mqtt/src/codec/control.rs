//! DISCONNECT and AUTH [MQTT 5.0 3.14, 3.15]. PINGREQ and PINGRESP have no content.

use bytes::{BufMut, BytesMut};

use super::primitive::Reader;
use super::property::{Allowed, Properties};
use super::{empty, kind, put_header};
use crate::reason::{Fault, Reason};
use crate::version::Version;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Success in 3.x.
    pub reason: Reason,
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// # Errors
    /// Malformed.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        if !version.has_properties() {
            empty(body)?;
        }
        let (reason, properties) = read_reason(body, Allowed::DISCONNECT)?;
        if !matches!(reason.0, 0 | 4 | 0x80..=0x83 | 0x87 | 0x89 | 0x8b | 0x8d..=0x90 | 0x93..=0xa2) {
            return Err(Fault::malformed("the reason code does not exist for DISCONNECT"));
        }
        Ok(Self { reason, properties })
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        if version.has_properties() {
            put_reason(out, kind::DISCONNECT << 4, self.reason, self.properties);
        } else {
            out.put_slice(&[kind::DISCONNECT << 4, 0]);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    pub reason: Reason,
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    /// # Errors
    /// Malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, Fault> {
        let (reason, properties) = read_reason(body, Allowed::AUTH)?;
        if !matches!(reason.0, 0 | 0x18 | 0x19) {
            return Err(Fault::malformed("the reason code does not exist for AUTH"));
        }
        Ok(Self { reason, properties })
    }

    pub fn encode(&self, out: &mut BytesMut) {
        put_reason(out, kind::AUTH << 4, self.reason, self.properties);
    }
}

/// Reason and properties, both of which may be left out from the end.
fn read_reason(body: &[u8], allowed: Allowed) -> Result<(Reason, Properties<'_>), Fault> {
    let mut reader = Reader::new(body);
    let reason = if reader.is_empty() { Reason::SUCCESS } else { Reason(reader.u8()?) };
    let properties =
        if reader.is_empty() { Properties::default() } else { Properties::read(&mut reader, allowed)? };
    if reader.is_empty() {
        Ok((reason, properties))
    } else {
        Err(Fault::malformed("bytes after the last field"))
    }
}

fn put_reason(out: &mut BytesMut, first: u8, reason: Reason, properties: Properties<'_>) {
    match (reason, properties.is_empty()) {
        (Reason::SUCCESS, true) => out.put_slice(&[first, 0]),
        (_, true) => out.put_slice(&[first, 1, reason.0]),
        (_, false) => {
            put_header(out, first, 1 + properties.encoded_len());
            out.put_u8(reason.0);
            properties.write(out);
        }
    }
}
