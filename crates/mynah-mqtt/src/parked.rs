//! What is kept of a connection with its durable session: our own encoding, with a version in front.
//!
//! Identifiers of QoS 2 messages received and not released, identifiers of messages sent and not completed, and the table of
//! subscriptions, so that a resumed connection knows the numbers of its consumers.
//! Never: messages; those are in the session's queue.

use bytes::{BufMut, Bytes, BytesMut};

use mynah_core::DeliveryTag;

use crate::codec::primitive::{Reader, put_binary};
use crate::reason::Fault;

const FORM: u8 = 1;

/// How far a message of QoS 1 or 2 came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// PUBLISH with QoS 1 was sent: it is sent again, with DUP.
    SentAtLeastOnce,
    /// PUBLISH with QoS 2 was sent: it is sent again, with DUP.
    SentExactlyOnce,
    /// PUBREC came: PUBREL is sent again.
    Received,
}

/// One message that was sent and not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    pub id: u16,
    pub tag: DeliveryTag,
    pub phase: Phase,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub consumer: u32,
    pub identifier: u32,
    /// As in SUBSCRIBE.
    pub options: u8,
    pub filter: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parked {
    pub unreleased: Vec<u16>,
    pub owed: Vec<Owed>,
    pub subscriptions: Vec<Kept>,
}

impl Parked {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORM);
        put_count(&mut out, self.unreleased.len());
        for &id in &self.unreleased {
            out.put_u16(id);
        }
        put_count(&mut out, self.owed.len());
        for owed in &self.owed {
            out.put_u16(owed.id);
            out.put_u64(owed.tag.0);
            out.put_u8(match owed.phase {
                Phase::SentAtLeastOnce => 0,
                Phase::SentExactlyOnce => 1,
                Phase::Received => 2,
            });
        }
        put_count(&mut out, self.subscriptions.len());
        for kept in &self.subscriptions {
            out.put_u32(kept.consumer);
            out.put_u32(kept.identifier);
            out.put_u8(kept.options);
            put_binary(&mut out, kept.filter.as_bytes());
        }
        out.freeze()
    }

    /// # Errors
    /// Bytes that this version did not write; the session then goes on without them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORM {
            return Err(Fault::malformed("the parked state is of another version"));
        }
        let mut parked = Self::default();
        for _ in 0..reader.u32()? {
            parked.unreleased.push(reader.u16()?);
        }
        for _ in 0..reader.u32()? {
            let id = reader.u16()?;
            let tag = DeliveryTag(u64::from(reader.u32()?) << 32 | u64::from(reader.u32()?));
            let phase = match reader.u8()? {
                0 => Phase::SentAtLeastOnce,
                1 => Phase::SentExactlyOnce,
                _ => Phase::Received,
            };
            parked.owed.push(Owed { id, tag, phase });
        }
        for _ in 0..reader.u32()? {
            parked.subscriptions.push(Kept {
                consumer: reader.u32()?,
                identifier: reader.u32()?,
                options: reader.u8()?,
                filter: reader.text()?.into(),
            });
        }
        Ok(parked)
    }
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_cut() {
        let parked = Parked {
            unreleased: vec![1, 65_535],
            owed: vec![
                Owed { id: 7, tag: DeliveryTag(u64::MAX), phase: Phase::SentExactlyOnce },
                Owed { id: 9, tag: DeliveryTag(1), phase: Phase::Received },
            ],
            subscriptions: vec![Kept { consumer: 1, identifier: 5, options: 0x2d, filter: "a/#".into() }],
        };
        let bytes = parked.encode();
        assert_eq!(Parked::decode(&bytes).unwrap(), parked);
        for cut in 0..bytes.len() {
            assert!(Parked::decode(&bytes[..cut]).is_err());
        }
    }
}
