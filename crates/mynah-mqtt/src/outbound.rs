//! The sending side: packet identifiers, the in-flight window, what waits for it, and what a resumed session still owes.
//!
//! Identifiers are slots in a table, counted from a base; free slots form a list through the table, so taking and giving
//! back one costs a few instructions and an identifier in use is never given out again [MQTT-2.2.1-4], however long its
//! receiver takes. When nothing is in flight the table begins anew behind its last identifier, so that identifiers in a
//! trace follow each other. As long as a receiver acknowledges in order what nobody has to settle, there is no table: what is
//! in flight are so many identifiers behind the base. The window is the smaller of the receiver's receive maximum and ours.
//!
//! A delivery with QoS 2 is settled at PUBREC: from then on it is the receiver's [MQTT 5.0 4.3.3], and only the identifier is
//! kept until PUBCOMP. Never: sends a PUBLISH twice on one connection [MQTT-4.4.0-1].

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use mynah_core::protocol::{Host, Safe};
use mynah_core::{ConsumerId, Delivery, DeliveryTag, Guarantee, Mark, Outcome};

use crate::codec::ack::{Ack, AckKind};
use crate::connection::{self, MqttConnection};
use crate::parked::{Owed, Phase, sent_key, sent_note};
use crate::reason::{Fault, Reason};
use crate::subscription::OwnConsumer;
use crate::translate::{Alias, Copy, SIZE_LIMIT, put_publish};
use crate::version::Version;

/// Deliveries that nobody counts (settled by being sent, but with QoS 1 or 2) and that wait for a free identifier. Those
/// with credit are bounded by it; of these, what comes on top is dropped.
const UNCOUNTED_WAITING_MAX: usize = 4096;

/// No consumer: nothing is to be settled.
const NOBODY: ConsumerId = ConsumerId(u32::MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Sent with QoS 1 before the session was resumed; its message has not come again yet.
    Reserved,
    /// The same with QoS 2.
    ReservedExactlyOnce,
    AwaitsPubAck,
    AwaitsPubRec,
    AwaitsPubComp,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: DeliveryTag,
    consumer: ConsumerId,
    /// The next free identifier; 0 = none.
    next: u16,
    state: State,
}

/// What an acknowledgement freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Freed {
    consumer: ConsumerId,
    tag: DeliveryTag,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    /// While it is empty, the identifiers in flight are those that follow `base`, and each awaits PUBACK for nobody.
    slots: Vec<Slot>,
    /// One less than the identifier of the first slot; below 65,535.
    base: u16,
    free_first: u16,
    free_last: u16,
    in_flight: u16,
    window: u16,
    /// Consumer of `accepted`.
    accepting: ConsumerId,
    /// Tags to settle at the end of the batch.
    accepted: Vec<DeliveryTag>,
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// Deliveries that wait for a free identifier.
    waiting: VecDeque<Delivery>,
    /// Identifiers of the session's deliveries that were sent before it was resumed.
    resumed: HashMap<DeliveryTag, u16>,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            base: 0,
            free_first: 0,
            free_last: 0,
            in_flight: 0,
            window: 0,
            accepting: NOBODY,
            accepted: Vec::new(),
            rare: None,
        }
    }

    pub(crate) fn set_window(&mut self, window: u16) {
        self.window = window;
    }

    pub(crate) fn window(&self) -> u16 {
        self.window
    }

    /// Free identifiers within the window; none while others wait for them.
    pub(crate) fn credit(&self) -> u32 {
        if self.is_waiting() { 0 } else { u32::from(self.window.saturating_sub(self.in_flight)) }
    }

    fn is_waiting(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.waiting.is_empty())
    }

    /// Takes an identifier, if the window has room.
    #[inline]
    fn take(&mut self, guarantee: Guarantee, consumer: ConsumerId, tag: DeliveryTag) -> Option<u16> {
        if self.in_flight >= self.window {
            return None;
        }
        let state = match guarantee {
            Guarantee::ExactlyOnce => State::AwaitsPubRec,
            Guarantee::AtMostOnce | Guarantee::AtLeastOnce => State::AwaitsPubAck,
        };
        if self.slots.is_empty() && state == State::AwaitsPubAck && consumer == NOBODY {
            let id = id_behind(self.base, self.in_flight);
            self.in_flight += 1;
            return Some(id);
        }
        self.lay_out();
        let id = match self.free_first {
            0 => {
                let place = u16::try_from(self.slots.len()).ok().filter(|place| *place < u16::MAX)?;
                let id = id_behind(self.base, place);
                self.slots.push(Slot { tag, consumer, next: 0, state });
                id
            }
            id => {
                let slot = self.slot(id)?;
                let next = slot.next;
                *slot = Slot { tag, consumer, next: 0, state };
                self.free_first = next;
                id
            }
        };
        self.in_flight += 1;
        Some(id)
    }

    /// Takes the identifier a delivery had before the session was resumed.
    fn retake(&mut self, id: u16, guarantee: Guarantee, tag: DeliveryTag) -> bool {
        let room = self.in_flight < self.window;
        let reserved = |slot: &&mut Slot| matches!(slot.state, State::Reserved | State::ReservedExactlyOnce);
        let Some(slot) = self.slot(id).filter(|slot| room && reserved(slot)) else { return false };
        slot.state = match guarantee {
            Guarantee::ExactlyOnce => State::AwaitsPubRec,
            Guarantee::AtMostOnce | Guarantee::AtLeastOnce => State::AwaitsPubAck,
        };
        slot.tag = tag;
        self.in_flight += 1;
        true
    }

    /// Gives each identifier its slot.
    #[inline]
    fn lay_out(&mut self) {
        if self.slots.is_empty() {
            let sent = Slot { tag: DeliveryTag(0), consumer: NOBODY, next: 0, state: State::AwaitsPubAck };
            self.slots.resize(usize::from(self.in_flight), sent);
        }
    }

    /// The first of those in flight without a table is acknowledged.
    #[inline]
    fn is_next(&mut self, id: u16, from: State) -> bool {
        let next = self.slots.is_empty()
            && self.in_flight > 0
            && from == State::AwaitsPubAck
            && id == id_behind(self.base, 0);
        if next {
            self.in_flight -= 1;
            self.base = id_behind(self.base, 1) - 1;
        }
        next
    }

    #[inline]
    fn slot(&mut self, id: u16) -> Option<&mut Slot> {
        self.lay_out();
        let before = id.checked_sub(1)?;
        let at = if before >= self.base { before - self.base } else { before + (u16::MAX - self.base) };
        self.slots.get_mut(usize::from(at))
    }

    /// Nothing is out: the table begins anew behind its last identifier.
    fn restart(&mut self) {
        let used = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        self.base = id_behind(self.base, used) - 1;
        self.slots.clear();
        (self.free_first, self.free_last) = (0, 0);
    }

    /// The connection is quiet: memory is given back.
    pub(crate) fn rest(&mut self) {
        if self.in_flight == 0 && self.slots.is_empty() {
            self.slots = Vec::new();
            self.accepted = Vec::new();
        }
        let unused = |rare: &Rare| rare.waiting.is_empty() && rare.resumed.is_empty();
        if self.rare.as_deref().is_some_and(unused) {
            self.rare = None;
        }
    }

    #[inline]
    fn release(&mut self, id: u16) {
        let Some(slot) = self.slot(id) else { return };
        let counted = !matches!(slot.state, State::Reserved | State::ReservedExactlyOnce);
        slot.state = State::Free;
        slot.next = 0;
        self.link_free(id);
        self.in_flight -= u16::from(counted);
        if self.in_flight == 0 && self.rare.as_ref().is_none_or(|rare| rare.resumed.is_empty()) {
            self.restart();
        }
    }

    /// Puts an identifier at the end of the free list, so that it rests for a while.
    #[inline]
    fn link_free(&mut self, id: u16) {
        let last = self.free_last;
        if self.free_first == 0 {
            self.free_first = id;
        } else if let Some(last) = self.slot(last) {
            last.next = id;
        }
        self.free_last = id;
    }

    /// Takes what waits in `from` to `to`, or frees it; `None` if the identifier is not in that state.
    #[inline]
    fn advance(&mut self, id: u16, from: State, to: State) -> Option<Freed> {
        if self.is_next(id, from) {
            return Some(Freed { consumer: NOBODY, tag: DeliveryTag(0) });
        }
        let slot = self.slot(id).filter(|slot| slot.state == from)?;
        let freed = Freed { consumer: slot.consumer, tag: slot.tag };
        if to == State::Free {
            self.release(id);
        } else {
            slot.state = to;
            slot.consumer = NOBODY;
        }
        Some(freed)
    }

    /// Patches the identifiers of a run.
    pub(crate) fn patch(&mut self, bytes: &mut [u8], marks: &[Mark]) {
        for mark in marks {
            let Some(id) = self.take(mark.guarantee, NOBODY, DeliveryTag(0)) else {
                debug_assert!(false, "more marks than marked_credit() allows");
                return;
            };
            if let Some(patch) = bytes.get_mut(mark.patch as usize..mark.patch as usize + 2) {
                patch.copy_from_slice(&id.to_be_bytes());
            }
        }
    }

    /// Notes a delivery to be settled as accepted at the end of the batch.
    fn accept(&mut self, freed: Freed, host: &mut dyn Host) {
        if freed.consumer == NOBODY {
            return;
        }
        if freed.consumer != self.accepting {
            self.flush(host);
            self.accepting = freed.consumer;
        }
        self.accepted.push(freed.tag);
    }

    fn reject(&mut self, freed: Freed, reason: Option<&str>, host: &mut dyn Host) {
        if freed.consumer == NOBODY {
            return;
        }
        self.flush(host);
        let outcome = Outcome::Rejected { reason: reason.map(Into::into) };
        host.settle(freed.consumer, &[freed.tag], &outcome, None);
    }

    /// Settles what was accepted in this batch, in one call for each consumer.
    pub(crate) fn flush(&mut self, host: &mut dyn Host) {
        if !self.accepted.is_empty() {
            host.settle(self.accepting, &self.accepted, &Outcome::Accepted, None);
            self.accepted.clear();
        }
    }

    /// What the session owes its receiver, in the order it was sent.
    pub(crate) fn owed(&self) -> Vec<Owed> {
        let mut owed = Vec::new();
        for (slot, place) in self.slots.iter().zip(0..) {
            let phase = match slot.state {
                State::AwaitsPubComp => Phase::Received,
                State::Reserved | State::AwaitsPubAck if slot.consumer == ConsumerId::SESSION => {
                    Phase::SentAtLeastOnce
                }
                State::ReservedExactlyOnce | State::AwaitsPubRec if slot.consumer == ConsumerId::SESSION => {
                    Phase::SentExactlyOnce
                }
                State::Free
                | State::Reserved
                | State::ReservedExactlyOnce
                | State::AwaitsPubAck
                | State::AwaitsPubRec => continue,
            };
            owed.push(Owed { id: id_behind(self.base, place), tag: slot.tag, phase });
        }
        // The tag is the place in the session's queue, and so the order of sending [MQTT-4.6.0-5].
        owed.sort_by_key(|owed| owed.tag);
        owed
    }

    /// Takes up what an earlier connection of the session owed.
    pub(crate) fn resume(&mut self, owed: &[Owed]) {
        let mut ids: Vec<u16> = owed.iter().map(|owed| owed.id).collect();
        ids.sort_unstable();
        let (first, size) = shortest_span(&ids);
        let free = Slot { tag: DeliveryTag(0), consumer: NOBODY, next: 0, state: State::Free };
        self.base = first - 1;
        self.slots = vec![free; usize::from(size)];
        for owed in owed {
            let Some(slot) = self.slot(owed.id) else { continue };
            slot.tag = owed.tag;
            match owed.phase {
                Phase::Received => {
                    slot.state = State::AwaitsPubComp;
                    self.in_flight += 1;
                }
                Phase::SentAtLeastOnce | Phase::SentExactlyOnce => {
                    slot.state = match owed.phase {
                        Phase::SentExactlyOnce => State::ReservedExactlyOnce,
                        Phase::SentAtLeastOnce | Phase::Received => State::Reserved,
                    };
                    slot.consumer = ConsumerId::SESSION;
                    self.rare.get_or_insert_default().resumed.insert(owed.tag, owed.id);
                }
            }
        }
        for id in (0..size).map(|place| id_behind(first - 1, place)) {
            if self.slot(id).is_some_and(|slot| slot.state == State::Free) {
                self.link_free(id);
            }
        }
    }

    /// The identifier under which the session sent this delivery before it was resumed.
    fn resumed_id(&self, delivery: &Delivery) -> Option<u16> {
        if delivery.consumer != ConsumerId::SESSION {
            return None;
        }
        self.rare.as_ref()?.resumed.get(&delivery.tag).copied()
    }

    /// All that was out has come again before the first that was not: what is still reserved has expired or was removed.
    /// Answers the identifiers of QoS 2: the receiver may hold them, and is told to let them go before they are used again;
    /// and those that are free.
    fn forget_resumed(&mut self) -> (Vec<u16>, Vec<u16>) {
        let resumed = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.resumed)).unwrap_or_default();
        let (mut held, mut free) = (Vec::new(), Vec::new());
        for (_, id) in resumed {
            let Some(slot) = self.slot(id) else { continue };
            if slot.state == State::ReservedExactlyOnce {
                slot.state = State::AwaitsPubComp;
                slot.consumer = NOBODY;
                self.in_flight += 1;
                held.push(id);
            } else {
                self.release(id);
                free.push(id);
            }
        }
        (held, free)
    }

    fn wait(&mut self, delivery: Delivery) {
        let waiting = &mut self.rare.get_or_insert_default().waiting;
        if !delivery.settled || waiting.len() < UNCOUNTED_WAITING_MAX {
            waiting.push_back(delivery);
        }
    }
}

/// The identifier `place` slots behind `base`; it goes round without 0.
fn id_behind(base: u16, place: u16) -> u16 {
    let at = u32::from(base) + u32::from(place);
    u16::try_from(at % u32::from(u16::MAX)).unwrap_or(0) + 1
}

/// The shortest way round through all identifiers: its first one and its length. They are sorted.
fn shortest_span(ids: &[u16]) -> (u16, u16) {
    let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return (1, 0) };
    // The widest gap is left out; the one between the last and the first is the first candidate.
    let mut span = (first, last - first + 1);
    for (&before, &after) in ids.iter().zip(ids.iter().skip(1)) {
        let length = u16::MAX - (after - before) + 1;
        if after > before && length < span.1 {
            span = (after, length);
        }
    }
    span
}

/// What a delivery's subscription says about it; a delivery without a subscription is one that was sent to the client itself.
fn copy_of<'a>(
    delivery: &'a Delivery,
    consumer: Option<&'a OwnConsumer>,
    now: Instant,
    version: Version,
) -> Copy<'a> {
    let published = delivery.message.header.guarantee;
    let wire = delivery.wire.as_deref().or(consumer.map(|consumer| &consumer.wire));
    let (guarantee, keep_retain, identifiers) = match wire {
        Some(wire) if consumer.is_some_and(|consumer| consumer.named) => {
            (wire.guarantee, wire.keep_retain, wire.identifiers.as_slice())
        }
        Some(wire) => (wire.effective(published), wire.keep_retain, wire.identifiers.as_slice()),
        None => (published, false, [].as_slice()),
    };
    Copy {
        has_properties: version.has_properties(),
        guarantee,
        keep_retain,
        dup: false,
        packet_id: 0,
        ttl_ms: delivery.message.ttl_left_ms(now),
        alias: Alias::None,
        identifiers,
        deaths: &delivery.message.deaths,
    }
}

impl MqttConnection {
    /// Messages that only this connection can encode.
    pub(crate) fn on_deliveries(
        &mut self,
        now: Instant,
        deliveries: &mut Vec<Delivery>,
        host: &mut dyn Host,
    ) {
        if !matches!(self.state, connection::State::Open) {
            // The session is open already, its CONNACK is on the way.
            deliveries.drain(..).for_each(|delivery| self.outbound.wait(delivery));
            return;
        }
        for delivery in deliveries.drain(..) {
            self.deliver(now, delivery, host);
        }
        self.outbound.flush(host);
    }

    fn deliver(&mut self, now: Instant, delivery: Delivery, host: &mut dyn Host) {
        let consumer = self.subscriptions.own_consumer(delivery.consumer);
        let guarantee = copy_of(&delivery, consumer, now, self.version).guarantee;
        // QoS 0 is never held back by the window [MQTT-3.3.4-7].
        if guarantee > Guarantee::AtMostOnce && self.outbound.is_waiting() {
            self.outbound.wait(delivery);
        } else if let Some(delivery) = self.send(now, delivery, host) {
            self.outbound.wait(delivery);
        }
    }

    /// Sends what waits, as far as the window allows.
    pub(crate) fn send_waiting(&mut self, now: Instant, host: &mut dyn Host) {
        loop {
            let Some(delivery) = self.outbound.rare.as_mut().and_then(|rare| rare.waiting.pop_front()) else {
                return;
            };
            if let Some(delivery) = self.send(now, delivery, host) {
                if let Some(rare) = &mut self.outbound.rare {
                    rare.waiting.push_front(delivery);
                }
                return;
            }
        }
    }

    /// Gives the delivery back if the window is full.
    fn send(&mut self, now: Instant, delivery: Delivery, host: &mut dyn Host) -> Option<Delivery> {
        let consumer = if delivery.settled { NOBODY } else { delivery.consumer };
        let freed = Freed { consumer, tag: delivery.tag };
        let known = self.subscriptions.own_consumer(delivery.consumer);
        if known.is_none() && delivery.consumer != ConsumerId::SESSION {
            // Unsubscribed while it waited: nothing new is sent [MQTT-3.10.4-2].
            if consumer != NOBODY {
                self.outbound.flush(host);
                host.settle(consumer, &[delivery.tag], &Outcome::Released, None);
            }
            return None;
        }
        let mut copy = copy_of(&delivery, known, now, self.version);
        if copy.guarantee > Guarantee::AtMostOnce {
            match self.outbound.resumed_id(&delivery) {
                Some(id) => {
                    if !self.outbound.retake(id, copy.guarantee, delivery.tag) {
                        return Some(delivery);
                    }
                    if let Some(rare) = &mut self.outbound.rare {
                        rare.resumed.remove(&delivery.tag);
                    }
                    copy.dup = true;
                    copy.packet_id = id;
                }
                None => {
                    if delivery.consumer == ConsumerId::SESSION && !delivery.redelivered {
                        let (held, free) = self.outbound.forget_resumed();
                        free.into_iter().for_each(|id| self.note_done(id, host));
                        for id in held {
                            let nothing = Freed { consumer: ConsumerId::SESSION, tag: DeliveryTag(0) };
                            self.note_sent(nothing, id, Phase::Received, host);
                            Ack::new(AckKind::PubRel, id, Reason::SUCCESS).encode(self.version, host.wire());
                        }
                    }
                    let Some(id) = self.outbound.take(copy.guarantee, consumer, delivery.tag) else {
                        return Some(delivery);
                    };
                    copy.packet_id = id;
                }
            }
        }
        let own_limit = [self.packet_max | SIZE_LIMIT];
        if copy.identifiers.is_empty() && self.packet_max < SIZE_LIMIT {
            copy.identifiers = &own_limit;
        }
        let publish = delivery.message.as_publish();
        if let Some(aliases) = &self.aliases {
            copy.alias = aliases.alias_of(publish.address);
        }
        let sent = put_publish(host.wire(), &publish, &copy).is_ok();
        if let (true, Alias::New(alias), Some(aliases)) = (sent, copy.alias, &mut self.aliases) {
            aliases.learn(publish.address, alias);
        }
        let (guarantee, packet_id, dup) = (copy.guarantee, copy.packet_id, copy.dup);
        if sent {
            self.on_sent(freed, guarantee, packet_id, host);
        } else {
            self.on_unsent(freed, packet_id, dup, host);
        }
        None
    }

    fn on_sent(&mut self, freed: Freed, guarantee: Guarantee, id: u16, host: &mut dyn Host) {
        match guarantee {
            Guarantee::AtMostOnce => self.outbound.accept(freed, host),
            Guarantee::AtLeastOnce => self.note_sent(freed, id, Phase::SentAtLeastOnce, host),
            Guarantee::ExactlyOnce => self.note_sent(freed, id, Phase::SentExactlyOnce, host),
        }
    }

    /// It is larger than the receiver takes. `again`: an earlier connection had sent it.
    fn on_unsent(&mut self, freed: Freed, id: u16, again: bool, host: &mut dyn Host) {
        self.outbound.release_unsent(id);
        if again {
            self.note_done(id, host);
        }
        if freed.consumer == ConsumerId::SESSION {
            // As if it had been sent and completed [MQTT-3.1.2-25].
            self.outbound.accept(freed, host);
        } else {
            self.outbound.reject(freed, Some("the receiver cannot take a packet of this size"), host);
        }
    }

    /// PUBACK, PUBREC and PUBCOMP of the receiver.
    #[inline]
    pub(crate) fn on_ack(&mut self, now: Instant, ack: &Ack<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let id = ack.id;
        let freed = match ack.kind {
            AckKind::PubAck => self.outbound.advance(id, State::AwaitsPubAck, State::Free),
            AckKind::PubRec if ack.reason.is_failure() => {
                self.outbound.advance(id, State::AwaitsPubRec, State::Free)
            }
            AckKind::PubRec => self.on_pubrec(id, host),
            AckKind::PubComp => self.outbound.advance(id, State::AwaitsPubComp, State::Free),
            AckKind::PubRel => {
                self.on_pubrel(id, host);
                return Ok(());
            }
        };
        // Acknowledgements of nothing are ignored: they may be left over from before a session was lost.
        if let Some(freed) = freed {
            if ack.kind == AckKind::PubRec && !ack.reason.is_failure() {
                let of_session = Freed { consumer: ConsumerId::SESSION, ..freed };
                self.note_sent(of_session, id, Phase::Received, host);
            } else {
                self.note_done(id, host);
            }
            if ack.reason.is_failure() && ack.kind != AckKind::PubComp {
                self.outbound.reject(freed, None, host);
            } else {
                self.outbound.accept(freed, host);
            }
            if self.outbound.is_waiting() {
                self.send_waiting(now, host);
            }
        }
        Ok(())
    }

    /// A durable session has sent a message, or knows that it was received. One that is sent exactly once must come under the
    /// same identifier after a restart, so that is safe first.
    fn note_sent(&self, freed: Freed, id: u16, phase: Phase, host: &mut dyn Host) {
        if self.durable && freed.consumer == ConsumerId::SESSION {
            let when = if phase == Phase::SentAtLeastOnce { Safe::InTime } else { Safe::BeforeWire };
            host.note(sent_key(id), Some(&sent_note(freed.tag, phase)), when);
        }
    }

    fn note_done(&self, id: u16, host: &mut dyn Host) {
        if self.durable {
            host.note(sent_key(id), None, Safe::InTime);
        }
    }

    fn on_pubrec(&mut self, id: u16, host: &mut dyn Host) -> Option<Freed> {
        let freed = self.outbound.advance(id, State::AwaitsPubRec, State::AwaitsPubComp);
        let known = freed.is_some() || self.outbound.awaits_pubcomp(id);
        let reason = if known { Reason::SUCCESS } else { Reason::IDENTIFIER_NOT_FOUND };
        Ack::new(AckKind::PubRel, id, reason).encode(self.version, host.wire());
        freed
    }
}

impl Outbound {
    fn awaits_pubcomp(&mut self, id: u16) -> bool {
        self.slot(id).is_some_and(|slot| slot.state == State::AwaitsPubComp)
    }

    fn release_unsent(&mut self, id: u16) {
        if id != 0 {
            self.release(id);
        }
    }
}

#[cfg(test)]
mod tests;
