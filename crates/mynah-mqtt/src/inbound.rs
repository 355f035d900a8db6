//! The receiving side: publishes of the peer on their way to the broker, and the confirms on their way back.
//!
//! A publish is decoded in place and handed on borrowed; nothing is kept of it but, with QoS 1 and 2, the identifier in its
//! ticket. With QoS 2 the identifier is remembered until PUBREL, so a repeated PUBLISH is answered but not published again
//! [MQTT-4.3.3-10]. Confirms go out in the order of the publishes [MQTT-4.6.0-2].

use std::collections::VecDeque;

use mynah_core::protocol::{Host, Refusal, Reply, Safe, Ticket};
use mynah_core::{AddressRef, ContentRef, Guarantee, Header, PublishRef, Retain};

use crate::address::{self, address_of, delayed, mounted, unescaped};
use crate::codec::ack::{Ack, AckKind};
use crate::codec::property::{Properties, fits, id, put_field};
use crate::codec::publish::{Facts, Publish, qos};
use crate::connection::{MqttConnection, TicketKind};
use crate::parked::received_key;
use crate::reading::Reading;
use crate::reason::{self, Fault, Reason};
use crate::translate;
use crate::version::Version;

/// Confirms held back for their order before reading stops.
const HELD_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Publishes given to the broker with a ticket, ever.
    asked: u64,
    /// Those without a reply.
    unanswered: u32,
    /// Publishes with QoS 1 that are not acknowledged.
    at_least_once: u16,
    rare: Option<Box<Rare>>,
}

/// What only some publishers need.
#[derive(Debug, Default)]
struct Rare {
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    unreleased: IdSet,
    /// Topics by alias, from 1 [MQTT 5.0 3.3.2.3.4].
    aliases: Vec<Option<Box<str>>>,
    /// Confirms that must not overtake those of earlier publishes: each waits for so many answers.
    held: VecDeque<(u64, AckKind, u16, Reason)>,
}

impl Inbound {
    /// Publishes without an answer of the broker.
    pub(crate) fn unanswered(&self) -> u64 {
        u64::from(self.unanswered)
    }

    /// Too many confirms wait for the broker's answers to earlier publishes.
    pub(crate) fn is_blocked(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.held.len() >= HELD_MAX)
    }

    /// Publishes that count against our receive maximum.
    fn in_flight(&self) -> u32 {
        u32::from(self.at_least_once) + self.rare.as_ref().map_or(0, |rare| rare.unreleased.len)
    }

    pub(crate) fn unreleased(&self) -> Vec<u16> {
        self.rare.as_ref().map(|rare| rare.unreleased.iter().collect()).unwrap_or_default()
    }

    pub(crate) fn resume(&mut self, unreleased: &[u16]) {
        for &id in unreleased {
            self.rare.get_or_insert_default().unreleased.insert(id);
        }
    }

    fn is_unreleased(&self, id: u16) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.unreleased.contains(id))
    }

    fn forget(&mut self, id: u16) -> bool {
        self.rare.as_mut().is_some_and(|rare| rare.unreleased.remove(id))
    }

    /// Keeps the alias of a topic, or finds the topic of an alias. The answer is empty if `topic` stands as it is.
    fn learn_alias(&mut self, alias: u16, topic: &str, alias_max: u16) -> Result<(), Fault> {
        if alias > alias_max {
            return Err(Fault::new(Reason::ALIAS_INVALID, "topic alias above the maximum [MQTT-3.3.2-9]"));
        }
        let aliases = &mut self.rare.get_or_insert_default().aliases;
        let at = usize::from(alias).saturating_sub(1);
        if topic.is_empty() {
            return match aliases.get(at) {
                Some(Some(_)) => Ok(()),
                _ => Err(Fault::protocol("the topic alias is not known on this connection")),
            };
        }
        if aliases.len() <= at {
            aliases.resize(at + 1, None);
        }
        if let Some(known) = aliases.get_mut(at)
            && known.as_deref() != Some(topic)
        {
            *known = Some(topic.into());
        }
        Ok(())
    }

    fn topic_of_alias(&self, alias: Option<u16>) -> &str {
        let at = usize::from(alias.unwrap_or(0)).saturating_sub(1);
        self.rare.as_ref().and_then(|rare| rare.aliases.get(at)?.as_deref()).unwrap_or_default()
    }
}

/// How a PUBLISH with QoS 1 or 2 is treated.
enum Receipt {
    Publish(Ticket),
    /// A QoS 2 message that was received before.
    Repeated,
}

impl MqttConnection {
    #[inline]
    pub(crate) fn on_publish<'a>(
        &mut self,
        first: u8,
        body: &'a [u8],
        reading: &mut Reading<'a>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let mut publish = Publish::decode_after(reading.topic, first, body, self.version)?;
        if self.config.is_restricted {
            self.restrict(&mut publish)?;
        }
        if !std::ptr::eq(publish.topic, reading.topic) {
            let plain = self.config.mount_point.is_empty() && address::is_plain(publish.topic);
            reading.set_topic(publish.topic, plain);
        }
        if reading.plain && publish.properties.is_empty() && publish.guarantee == Guarantee::AtMostOnce {
            // The shortest ways; what they cannot do ends up below.
            if !reading.pass_on(self.version, self.config.packet_bytes_max, host) {
                let address = AddressRef::Topic(publish.topic);
                host.publish(None, &borrowed(&publish, &Facts::default(), address));
            }
            return Ok(());
        }
        let facts = publish.facts();
        if facts.identified {
            return Err(Fault::protocol("a client must not send subscription identifiers [MQTT-3.3.4-6]"));
        }
        if let Some(alias) = facts.alias {
            self.inbound.learn_alias(alias, publish.topic, self.config.topic_alias_max)?;
        }
        let ticket = match publish.guarantee {
            Guarantee::AtMostOnce => None,
            Guarantee::AtLeastOnce | Guarantee::ExactlyOnce => match self.receive(&publish)? {
                Receipt::Publish(ticket) => Some(ticket),
                Receipt::Repeated => {
                    self.confirm(AckKind::PubRec, publish.id, Reason::SUCCESS, host);
                    return Ok(());
                }
            },
        };
        let topic = match publish.topic {
            "" => self.inbound.topic_of_alias(facts.alias),
            topic => topic,
        };
        let (topic, delay_ms) = match delayed(topic) {
            Ok(found) => found,
            Err(fault) => {
                self.refuse_publish(&publish, fault.reason, host);
                return Ok(());
            }
        };
        match address_of(&mounted(&self.config.mount_point, unescaped(topic))) {
            Ok(address) => {
                let mut published = PublishRef { delay_ms, ..borrowed(&publish, &facts, address) };
                if publish.guarantee == Guarantee::ExactlyOnce {
                    // Its sender has to release it yet.
                    host.answer_first();
                    // With the message, or it would come twice after a restart.
                    published.note = self.durable.then(|| received_key(publish.id));
                }
                host.publish(ticket, &published);
                self.inbound.asked += u64::from(ticket.is_some());
                self.inbound.unanswered += u32::from(ticket.is_some());
            }
            Err(fault) => self.refuse_publish(&publish, fault.reason, host),
        }
        Ok(())
    }

    /// What the listener does not offer [MQTT-3.2.2-12, MQTT-3.2.2-14].
    fn restrict(&self, publish: &mut Publish<'_>) -> Result<(), Fault> {
        if qos(publish.guarantee) > self.config.qos_max {
            return Err(Fault::new(Reason::QOS_NOT_SUPPORTED, "QoS above the maximum of this listener"));
        }
        if publish.retain && !self.config.retain {
            if self.version.has_properties() {
                return Err(Fault::new(Reason::RETAIN_NOT_SUPPORTED, "messages are not retained here"));
            }
            publish.retain = false;
        }
        Ok(())
    }

    /// Counts it against the receive maximum and remembers its identifier.
    fn receive(&mut self, publish: &Publish<'_>) -> Result<Receipt, Fault> {
        let exactly_once = publish.guarantee == Guarantee::ExactlyOnce;
        if exactly_once && self.inbound.is_unreleased(publish.id) {
            return Ok(Receipt::Repeated);
        }
        // 3.x has no receive maximum: there, and where that is tolerated, reading stops instead, see `is_blocked`.
        let closes = self.version.has_properties() && !self.config.tolerant;
        if closes && self.inbound.in_flight() >= u32::from(self.config.receive_max) {
            return Err(Fault::new(Reason::RECEIVE_MAX_EXCEEDED, "receive maximum exceeded [MQTT-3.3.4-9]"));
        }
        if exactly_once {
            self.inbound.rare.get_or_insert_default().unreleased.insert(publish.id);
            return Ok(Receipt::Publish(TicketKind::ExactlyOnce.ticket(u64::from(publish.id))));
        }
        self.inbound.at_least_once = self.inbound.at_least_once.saturating_add(1);
        Ok(Receipt::Publish(TicketKind::AtLeastOnce.ticket(u64::from(publish.id))))
    }

    /// A topic that may not be published to: 5.0 is told, 3.x has no word for it and is acknowledged [MQTT-3.3.5-2 of 3.1.1].
    fn refuse_publish(&mut self, publish: &Publish<'_>, reason: Reason, host: &mut dyn Host) {
        let reason = if self.version.has_properties() { reason } else { Reason::SUCCESS };
        match publish.guarantee {
            Guarantee::AtMostOnce => {}
            Guarantee::AtLeastOnce => {
                self.inbound.at_least_once = self.inbound.at_least_once.saturating_sub(1);
                self.confirm(AckKind::PubAck, publish.id, reason, host);
            }
            Guarantee::ExactlyOnce => {
                if reason.is_failure() {
                    self.inbound.forget(publish.id);
                } else {
                    self.note_received(publish.id, true, host);
                }
                self.confirm(AckKind::PubRec, publish.id, reason, host);
            }
        }
    }

    /// A confirm that does not come from the broker: it must not overtake those that do.
    fn confirm(&mut self, kind: AckKind, id: u16, reason: Reason, host: &mut dyn Host) {
        if self.inbound.unanswered() == 0 {
            Ack::new(kind, id, reason).encode(self.version, host.wire());
        } else {
            let after = self.inbound.asked;
            self.inbound.rare.get_or_insert_default().held.push_back((after, kind, id, reason));
        }
    }

    /// The broker's answer to a publish.
    #[inline]
    pub(crate) fn on_published(&mut self, kind: AckKind, id: u16, reply: &Reply, host: &mut dyn Host) {
        self.inbound.unanswered = self.inbound.unanswered.saturating_sub(1);
        if kind == AckKind::PubAck {
            self.inbound.at_least_once = self.inbound.at_least_once.saturating_sub(1);
        }
        match reply {
            Reply::Refused(refusal) => self.on_publish_refused(kind, id, refusal, host),
            Reply::Published { routed: 0 } if self.version == Version::V5 => {
                Ack::new(kind, id, Reason::NO_MATCHING_SUBSCRIBERS).encode(self.version, host.wire());
            }
            Reply::Published { .. }
            | Reply::Authenticated { .. }
            | Reply::Challenge(_)
            | Reply::Opened(_)
            | Reply::Returned(_)
            | Reply::Attached(_)
            | Reply::Detached { .. }
            | Reply::Defined(_)
            | Reply::Done => Ack::new(kind, id, Reason::SUCCESS).encode(self.version, host.wire()),
        }
        if self.inbound.rare.is_some() {
            self.release_held(host);
        }
    }

    fn on_publish_refused(&mut self, kind: AckKind, id: u16, refusal: &Refusal, host: &mut dyn Host) {
        if !self.version.has_properties() {
            if reason::acknowledged_in_v3(refusal) {
                Ack::new(kind, id, Reason::SUCCESS).encode(self.version, host.wire());
                if kind == AckKind::PubRec {
                    self.note_received(id, true, host);
                }
            } else if self.inbound.forget(id) {
                self.note_received(id, false, host);
            }
            return;
        }
        if kind == AckKind::PubRec && self.inbound.forget(id) {
            self.note_received(id, false, host);
        }
        let mut text = Vec::new();
        let reason = reason::of_publish(refusal);
        let told = reason.told(self.config.reveal_denials);
        if self.problem_info && told == reason {
            put_field(&mut text, id::REASON_STRING, refusal.text.as_bytes());
        }
        let mut ack = Ack::new(kind, id, told);
        // Identifier and reason.
        if fits(&text, 3, self.packet_max) {
            ack.properties = Properties::trusted(&text);
        }
        ack.encode(self.version, host.wire());
    }

    fn release_held(&mut self, host: &mut dyn Host) {
        let answered = self.inbound.asked - self.inbound.unanswered();
        while let Some(rare) = &mut self.inbound.rare
            && let Some(&(_, kind, id, reason)) = rare.held.front().filter(|held| held.0 <= answered)
        {
            rare.held.pop_front();
            // A repeated message whose first copy was refused has been answered by that.
            let pointless = kind == AckKind::PubRec && !reason.is_failure() && !rare.unreleased.contains(id);
            if !pointless {
                Ack::new(kind, id, reason).encode(self.version, host.wire());
            }
        }
    }

    /// A durable session has received a QoS 2 message, or lets its identifier go.
    fn note_received(&self, id: u16, received: bool, host: &mut dyn Host) {
        if self.durable {
            host.note(received_key(id), received.then_some(b"".as_slice()), Safe::BeforeWire);
        }
    }

    pub(crate) fn on_pubrel(&mut self, id: u16, host: &mut dyn Host) {
        let known = self.inbound.forget(id);
        if known {
            // Before the client uses the identifier again: its next message must not be taken for this one.
            self.note_received(id, false, host);
        }
        let reason = if known { Reason::SUCCESS } else { Reason::IDENTIFIER_NOT_FOUND };
        Ack::new(AckKind::PubComp, id, reason).encode(self.version, host.wire());
    }
}

#[inline]
fn borrowed<'a>(publish: &Publish<'a>, facts: &Facts, address: AddressRef<'a>) -> PublishRef<'a> {
    let header = Header {
        guarantee: publish.guarantee,
        retain: if publish.retain { Retain::Keep } else { Retain::No },
        priority: None,
        ttl_ms: facts.expiry.map(|seconds| u64::from(seconds) * 1000),
        text: facts.text,
    };
    let content = if facts.content {
        ContentRef::Encoded {
            format: translate::PROPERTIES,
            bytes: publish.properties.bytes(),
            decode: translate::decode,
        }
    } else {
        ContentRef::None
    };
    PublishRef { header, content, ..PublishRef::new(address, publish.payload) }
}

/// A set of packet identifiers in pages that are made when first needed: half a kilobyte for 4,096 of them.
#[derive(Debug, Default)]
struct IdSet {
    pages: [Option<Box<[u64; 64]>>; 16],
    len: u32,
}

impl IdSet {
    fn place(id: u16) -> (usize, usize, u64) {
        (usize::from(id >> 12), usize::from(id >> 6 & 63), 1 << (id & 63))
    }

    fn contains(&self, id: u16) -> bool {
        let (page, word, bit) = Self::place(id);
        let word = || self.pages.get(page)?.as_ref()?.get(word);
        word().is_some_and(|word| word & bit != 0)
    }

    fn insert(&mut self, id: u16) {
        let (page, word, bit) = Self::place(id);
        let Some(page) = self.pages.get_mut(page) else { return };
        let Some(word) = page.get_or_insert_with(|| Box::new([0; 64])).get_mut(word) else { return };
        self.len += u32::from(*word & bit == 0);
        *word |= bit;
    }

    fn remove(&mut self, id: u16) -> bool {
        let (page, word, bit) = Self::place(id);
        let word = self.pages.get_mut(page).and_then(Option::as_mut).and_then(|page| page.get_mut(word));
        let Some(word) = word.filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        self.len -= 1;
        true
    }

    fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|&id| self.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_identifiers() {
        let mut set = IdSet::default();
        for id in [1, 63, 64, 4095, 4096, 65_535, 1] {
            set.insert(id);
        }
        assert_eq!(set.len, 6);
        assert!(set.contains(4096) && !set.contains(2));
        assert!(set.remove(64) && !set.remove(64) && !set.remove(9000));
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 63, 4095, 4096, 65_535]);
    }
}
