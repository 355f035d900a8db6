//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK [MQTT 5.0 3.8 - 3.11].
//!
//! The lists of filters stay bytes, validated once, and are walked by iterators.

use bytes::{BufMut, BytesMut};

use mynah_core::Guarantee;

use super::primitive::{Reader, put_binary};
use super::property::{Allowed, Properties};
use super::publish::{guarantee, qos};
use super::{kind, packet_id, put_header};
use crate::reason::Fault;
use crate::version::Version;

/// What is wanted of one subscription [MQTT 5.0 3.8.3.1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub guarantee: Guarantee,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    Always,
    IfNew,
    Never,
}

impl Options {
    /// # Errors
    /// QoS 3 and reserved bits are malformed [MQTT-3.8.3-5], retain handling 3 a protocol error [MQTT 5.0 3.8.3.1].
    pub fn decode(byte: u8, version: Version) -> Result<Self, Fault> {
        let reserved = if version.has_properties() { 0xc0 } else { 0xfc };
        if byte & reserved != 0 && version.checks_reserved_bits() {
            return Err(Fault::malformed("reserved bits of the subscription options are set [MQTT-3.8.3-5]"));
        }
        let guarantee = guarantee(byte & 3)?;
        if !version.has_properties() {
            return Ok(Self {
                guarantee,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Always,
            });
        }
        let retain_handling = match byte >> 4 & 3 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(Fault::protocol("retain handling is 3")),
        };
        Ok(Self { guarantee, no_local: byte & 4 != 0, retain_as_published: byte & 8 != 0, retain_handling })
    }

    #[must_use]
    pub fn encode(&self) -> u8 {
        let handling = match self.retain_handling {
            RetainHandling::Always => 0,
            RetainHandling::IfNew => 1,
            RetainHandling::Never => 2,
        };
        qos(self.guarantee)
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | handling << 4
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub id: u16,
    pub properties: Properties<'a>,
    /// Filters with their options, validated.
    filters: &'a [u8],
}

impl<'a> Subscribe<'a> {
    /// Takes filters as [`put_filter`] writes them.
    #[must_use]
    pub fn new(id: u16, properties: Properties<'a>, filters: &'a [u8]) -> Self {
        Self { id, properties, filters }
    }

    /// # Errors
    /// Malformed; no filter at all [MQTT-3.8.3-2].
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let id = packet_id(&mut reader)?;
        let properties = if version.has_properties() {
            Properties::read(&mut reader, Allowed::SUBSCRIBE)?
        } else {
            Properties::default()
        };
        let filters = reader.rest();
        if filters.is_empty() {
            return Err(Fault::protocol("SUBSCRIBE without a filter [MQTT-3.8.3-2]"));
        }
        while !reader.is_empty() {
            reader.text()?;
            Options::decode(reader.u8()?, version)?;
        }
        Ok(Self { id, properties, filters })
    }

    pub fn filters(&self, version: Version) -> impl Iterator<Item = (&'a str, Options)> + use<'a> {
        let mut reader = Reader::new(self.filters);
        std::iter::from_fn(move || {
            let filter = reader.text().ok()?;
            Some((filter, Options::decode(reader.u8().ok()?, version).ok()?))
        })
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        put_list(out, kind::SUBSCRIBE << 4 | 2, self.id, self.properties, self.filters, version);
    }
}

/// Appends one filter of a SUBSCRIBE.
pub fn put_filter(out: &mut impl BufMut, filter: &str, options: Options) {
    put_binary(out, filter.as_bytes());
    out.put_u8(options.encode());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    pub id: u16,
    pub properties: Properties<'a>,
    filters: &'a [u8],
}

impl<'a> Unsubscribe<'a> {
    /// Takes filters as strings one after the other.
    #[must_use]
    pub fn new(id: u16, properties: Properties<'a>, filters: &'a [u8]) -> Self {
        Self { id, properties, filters }
    }

    /// # Errors
    /// Malformed; no filter at all [MQTT-3.10.3-2].
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let id = packet_id(&mut reader)?;
        let properties = if version.has_properties() {
            Properties::read(&mut reader, Allowed::UNSUBSCRIBE)?
        } else {
            Properties::default()
        };
        let filters = reader.rest();
        if filters.is_empty() {
            return Err(Fault::protocol("UNSUBSCRIBE without a filter [MQTT-3.10.3-2]"));
        }
        while !reader.is_empty() {
            reader.text()?;
        }
        Ok(Self { id, properties, filters })
    }

    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.filters);
        std::iter::from_fn(move || reader.text().ok())
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        put_list(out, kind::UNSUBSCRIBE << 4 | 2, self.id, self.properties, self.filters, version);
    }
}

/// A code for each filter of the SUBSCRIBE, in its order [MQTT-3.9.3-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    pub id: u16,
    pub properties: Properties<'a>,
    pub codes: &'a [u8],
}

impl<'a> SubAck<'a> {
    /// # Errors
    /// Malformed.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let (id, properties, codes) = read_list(body, version)?;
        Ok(Self { id, properties, codes })
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        put_list(out, kind::SUBACK << 4, self.id, self.properties, self.codes, version);
    }
}

/// A code for each filter of the UNSUBSCRIBE in 5.0; in 3.x there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    pub id: u16,
    pub properties: Properties<'a>,
    pub codes: &'a [u8],
}

impl<'a> UnsubAck<'a> {
    /// # Errors
    /// Malformed.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let (id, properties, codes) = read_list(body, version)?;
        if !version.has_properties() && !codes.is_empty() {
            return Err(Fault::malformed("UNSUBACK has bytes it must not have"));
        }
        Ok(Self { id, properties, codes })
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        let codes = if version.has_properties() { self.codes } else { &[] };
        put_list(out, kind::UNSUBACK << 4, self.id, self.properties, codes, version);
    }
}

fn read_list(body: &[u8], version: Version) -> Result<(u16, Properties<'_>, &[u8]), Fault> {
    let mut reader = Reader::new(body);
    let id = packet_id(&mut reader)?;
    let properties = if version.has_properties() {
        Properties::read(&mut reader, Allowed::ACK)?
    } else {
        Properties::default()
    };
    Ok((id, properties, reader.rest()))
}

fn put_list(
    out: &mut BytesMut,
    first: u8,
    id: u16,
    properties: Properties<'_>,
    list: &[u8],
    version: Version,
) {
    let properties_len = if version.has_properties() { properties.encoded_len() } else { 0 };
    put_header(out, first, 2 + properties_len + list.len());
    out.put_u16(id);
    if version.has_properties() {
        properties.write(out);
    }
    out.put_slice(list);
}
