//! PUBACK, PUBREC, PUBREL, PUBCOMP: one form [MQTT 5.0 3.4 - 3.7].

use bytes::{BufMut, BytesMut};

use super::primitive::Reader;
use super::property::{Allowed, Properties};
use super::{kind, packet_id, put_header};
use crate::reason::{Fault, Reason};
use crate::version::Version;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// The first byte: type and prescribed flags.
    #[must_use]
    pub fn first_byte(self) -> u8 {
        match self {
            Self::PubAck => kind::PUBACK << 4,
            Self::PubRec => kind::PUBREC << 4,
            Self::PubRel => kind::PUBREL << 4 | 2,
            Self::PubComp => kind::PUBCOMP << 4,
        }
    }

    /// Whether the standard has this code for it.
    fn allows(self, reason: Reason) -> bool {
        match self {
            Self::PubAck | Self::PubRec => {
                matches!(reason.0, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            Self::PubRel | Self::PubComp => matches!(reason.0, 0 | 0x92),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    pub kind: AckKind,
    pub id: u16,
    /// Success in 3.x.
    pub reason: Reason,
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    #[must_use]
    pub fn new(kind: AckKind, id: u16, reason: Reason) -> Self {
        Self { kind, id, reason, properties: Properties::default() }
    }

    /// # Errors
    /// Malformed, or identifier 0.
    pub fn decode(kind: AckKind, body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let id = packet_id(&mut reader)?;
        let mut ack = Self::new(kind, id, Reason::SUCCESS);
        if version.has_properties() && !reader.is_empty() {
            ack.reason = Reason(reader.u8()?);
            if !kind.allows(ack.reason) {
                return Err(Fault::malformed("the reason code does not exist for this packet"));
            }
            // The property length may be left out with the properties [MQTT 5.0 3.4.2.2.1].
            if !reader.is_empty() {
                ack.properties = Properties::read(&mut reader, Allowed::ACK)?;
            }
        }
        if reader.is_empty() { Ok(ack) } else { Err(Fault::malformed("bytes after the last field")) }
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        let first = self.kind.first_byte();
        if !version.has_properties() || (self.reason == Reason::SUCCESS && self.properties.is_empty()) {
            let [high, low] = self.id.to_be_bytes();
            out.extend_from_slice(&[first, 2, high, low]);
            return;
        }
        let properties = if self.properties.is_empty() { 0 } else { self.properties.encoded_len() };
        put_header(out, first, 3 + properties);
        out.put_u16(self.id);
        out.put_u8(self.reason.0);
        if properties > 0 {
            self.properties.write(out);
        }
    }
}
