//! The wire class of a session's subscription, as it is stored: by the name of its format, which is looked up again.
//!
//! Never: stores what a format's code does.

use super::fields::{Fault, Reader, put_text, put_varint};
use super::formats::Formats;
use crate::message::Guarantee;
use crate::wire::Wire;

// Bits of the last of the four bytes.
const KEEP_RETAIN: u8 = 1;
const APART: u8 = 2;

pub(super) fn put_wire(out: &mut Vec<u8>, wire: &Wire) {
    put_text(out, wire.format.0);
    out.extend_from_slice(&[
        wire.version,
        wire.guarantee as u8,
        wire.direct_max as u8,
        if wire.keep_retain { KEEP_RETAIN } else { 0 } | if wire.apart { APART } else { 0 },
    ]);
    put_varint(out, wire.identifiers.len() as u64);
    wire.identifiers.iter().for_each(|id| put_varint(out, u64::from(*id)));
}

/// A wire class as it stands among the keyed state.
pub fn encode_wire(out: &mut Vec<u8>, wire: &Wire) {
    put_wire(out, wire);
}

/// `None` if no protocol knows the format any more.
///
/// # Errors
/// It is damaged.
pub fn decode_wire(reader: &mut Reader<'_>, formats: &Formats) -> Result<Option<Wire>, Fault> {
    Ok(StoredWire::read(reader)?.wire(formats))
}

fn guarantee(number: u8) -> Result<Guarantee, Fault> {
    match number {
        0 => Ok(Guarantee::AtMostOnce),
        1 => Ok(Guarantee::AtLeastOnce),
        2 => Ok(Guarantee::ExactlyOnce),
        _ => Err(Fault::Unknown),
    }
}

/// The wire class of a subscription as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWire<'a> {
    format: &'a str,
    version: u8,
    guarantee: Guarantee,
    direct_max: Guarantee,
    keep_retain: bool,
    apart: bool,
    identifiers: Vec<u32>,
}

impl<'a> StoredWire<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let (format, version) = (reader.text()?, reader.u8()?);
        let (wanted, direct_max) = (guarantee(reader.u8()?)?, guarantee(reader.u8()?)?);
        let flags = reader.u8()?;
        if flags & !(KEEP_RETAIN | APART) != 0 {
            return Err(Fault::Unknown);
        }
        let (keep_retain, apart) = (flags & KEEP_RETAIN != 0, flags & APART != 0);
        let mut identifiers = Vec::new();
        for _ in 0..reader.varint()? {
            identifiers.push(reader.varint32()?);
        }
        Ok(Self { format, version, guarantee: wanted, direct_max, keep_retain, apart, identifiers })
    }

    /// `None` if no protocol knows the format any more.
    #[must_use]
    pub fn wire(&self, formats: &Formats) -> Option<Wire> {
        let (format, encode) = formats.encoder(self.format)?;
        Some(Wire {
            format,
            version: self.version,
            guarantee: self.guarantee,
            direct_max: self.direct_max,
            keep_retain: self.keep_retain,
            identifiers: self.identifiers.clone(),
            apart: self.apart,
            as_message: false,
            encode,
        })
    }
}
