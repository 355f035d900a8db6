//! What is kept of a connection with its durable session: our own encoding, with a version in front.
//!
//! Identifiers of QoS 2 messages received and not released, identifiers of messages sent and not completed, and the table of
//! subscriptions, so that a resumed connection knows the numbers of its consumers.
//! Never: messages; those are in the session's queue.

use bytes::{BufMut, Bytes, BytesMut};

use mynah_core::{ConsumerId, DeliveryTag};

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

/// Keys of what is noted with a durable session, beside the packet's identifier: it was received and not released ...
const RECEIVED: u32 = 0x0001_0000;
/// ... or sent and not completed.
const SENT: u32 = 0x0002_0000;

pub(crate) fn received_key(id: u16) -> u32 {
    RECEIVED | u32::from(id)
}

pub(crate) fn sent_key(id: u16) -> u32 {
    SENT | u32::from(id)
}

/// The note of a message that was sent.
pub(crate) fn sent_note(tag: DeliveryTag, phase: Phase) -> [u8; 10] {
    let mut note = [FORM, phase.number(), 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(place) = note.get_mut(2..) {
        place.copy_from_slice(&tag.0.to_be_bytes());
    }
    note
}

impl Phase {
    fn number(self) -> u8 {
        match self {
            Self::SentAtLeastOnce => 0,
            Self::SentExactlyOnce => 1,
            Self::Received => 2,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::SentAtLeastOnce,
            1 => Self::SentExactlyOnce,
            _ => Self::Received,
        }
    }
}

impl Kept {
    /// What is to be known of the subscription after a restart, but for its number.
    pub(crate) fn memo(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORM);
        out.put_u32(self.identifier);
        out.put_u8(self.options);
        put_binary(&mut out, self.filter.as_bytes());
        out.freeze()
    }

    fn from_memo(consumer: u32, memo: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(memo);
        if reader.u8()? != FORM {
            return Err(Fault::malformed("the memo is of another version"));
        }
        let (identifier, options) = (reader.u32()?, reader.u8()?);
        Ok(Self { consumer, identifier, options, filter: reader.text()?.into() })
    }
}

impl Parked {
    /// From what was noted and to be remembered, when the process ended before anything could be parked. What cannot be read
    /// is left out.
    pub(crate) fn from_notes(notes: &[(u32, Bytes)], memos: &[(ConsumerId, Bytes)]) -> Self {
        let mut parked = Self::default();
        for (key, value) in notes {
            let [high, kind, ..] = key.to_be_bytes();
            let id = u16::try_from(key & 0xffff).unwrap_or_default();
            match (high, kind) {
                (0, 1) => parked.unreleased.push(id),
                (0, 2) => parked.owed.extend(Self::owed_of(id, value).ok()),
                _ => {}
            }
        }
        parked.owed.sort_by_key(|owed| owed.tag);
        let kept = memos.iter().filter_map(|(consumer, memo)| Kept::from_memo(consumer.0, memo).ok());
        parked.subscriptions = kept.collect();
        parked
    }

    fn owed_of(id: u16, note: &[u8]) -> Result<Owed, Fault> {
        let mut reader = Reader::new(note);
        if reader.u8()? != FORM {
            return Err(Fault::malformed("the note is of another version"));
        }
        let phase = Phase::of(reader.u8()?);
        let tag = DeliveryTag(u64::from(reader.u32()?) << 32 | u64::from(reader.u32()?));
        Ok(Owed { id, tag, phase })
    }

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
            out.put_u8(owed.phase.number());
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
            let phase = Phase::of(reader.u8()?);
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
    fn what_was_noted_is_what_was_parked() {
        let parked = Parked {
            unreleased: vec![1, 65_535],
            owed: vec![
                Owed { id: 9, tag: DeliveryTag(1), phase: Phase::Received },
                Owed { id: 7, tag: DeliveryTag(u64::MAX), phase: Phase::SentExactlyOnce },
            ],
            subscriptions: vec![Kept { consumer: 1, identifier: 5, options: 0x2d, filter: "a/#".into() }],
        };
        let received = parked.unreleased.iter().map(|id| (received_key(*id), Bytes::new()));
        let sent = parked
            .owed
            .iter()
            .map(|owed| (sent_key(owed.id), Bytes::copy_from_slice(&sent_note(owed.tag, owed.phase))));
        let mut notes: Vec<_> = received.chain(sent).collect();
        let memos: Vec<_> =
            parked.subscriptions.iter().map(|kept| (ConsumerId(kept.consumer), kept.memo())).collect();
        assert_eq!(Parked::from_notes(&notes, &memos), parked);
        // What a later version has written is left out.
        notes.push((sent_key(3), Bytes::from_static(&[9, 1])));
        notes.push((0x0303_0001, Bytes::new()));
        assert_eq!(Parked::from_notes(&notes, &[]).owed, parked.owed);
    }

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
