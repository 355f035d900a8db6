//! SUBSCRIBE and UNSUBSCRIBE: filters as consumers of the broker.
//!
//! Each filter has a consumer number of its own, from 1; subscribing to it again uses the number again and so replaces the
//! subscription [MQTT-3.8.4-3]. The SUBACK goes out when the broker has answered for each filter.
//!
//! `$share/g/f` is a queue shared by a group, `$queue/q` a queue by name; both deliver within the in-flight window.

use std::borrow::Cow;
use std::collections::HashMap;

use mynah_core::hash::FastMap;
use mynah_core::limits::TOPIC_WORDS_MAX;
use mynah_core::protocol::{CreditMode, End, From, Holder, Host, Reply, Retained, Source};
use mynah_core::{ConsumerId, Filter, Guarantee, Segment, Wire};

use crate::address;
use crate::codec::property::{Properties, Value, id};
use crate::codec::publish::{guarantee, qos};
use crate::codec::subscribe::{Options, RetainHandling, SubAck, Subscribe, UnsubAck, Unsubscribe};
use crate::connection::{MqttConnection, TicketKind};
use crate::parked::Kept;
use crate::reason::{self, Fault, Reason};
use crate::translate::{self, MOUNT, SIZE_LIMIT};
use crate::version::Version;

const SHARE: &str = "$share/";
const EXCHANGE: &str = "$exchange/";

/// Subscriptions kept in a list; more are kept in a map. Most connections have a few.
const FEW: usize = 16;

/// Bytes of all filters of one connection.
const FILTER_BYTES_MAX: u32 = 16 << 20;

/// SUBSCRIBE and UNSUBSCRIBE packets waiting for the broker before reading stops.
const PENDING_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subscription {
    consumer: u32,
    /// 0 = none.
    identifier: u32,
    /// As in SUBSCRIBE.
    options: u8,
    /// An earlier connection of the session attached it, this one did not.
    inherited: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    few: Vec<(Box<str>, Subscription)>,
    many: Option<Box<Many>>,
    /// The consumer number given out last.
    last_consumer: u32,
    last_sequence: u32,
    unanswered: Option<Box<Unanswered>>,
    own: Option<Box<Own>>,
    /// Of all filters.
    bytes: u32,
}

/// A consumer whose deliveries do not say by which subscription they came: a member of a group, a consumer of a queue,
/// and every one of a client that takes topic aliases.
#[derive(Debug)]
pub(crate) struct OwnConsumer {
    pub wire: Wire,
    /// The queue was named: what is sent has the guarantee that was asked for, whatever the publisher's, because it is the
    /// consumer that settles. In a group it is the lower of the two [MQTT-3.8.4-8].
    pub named: bool,
}

#[derive(Debug, Default)]
struct Own {
    by_number: FastMap<u32, OwnConsumer>,
}

#[derive(Debug)]
struct Many {
    by_filter: HashMap<Box<str>, Subscription>,
}

/// Not there while there are none: most of the time.
#[derive(Debug, Default)]
struct Unanswered {
    packets: Vec<Pending>,
}

/// A SUBSCRIBE or UNSUBSCRIBE that the broker has not fully answered.
#[derive(Debug)]
struct Pending {
    sequence: u32,
    id: u16,
    unsubscribe: bool,
    waiting: u32,
    /// A code for each filter, in order.
    codes: Vec<u8>,
    /// Filters that were new, by place in the packet; they are forgotten if they are refused.
    made: Vec<Option<Box<str>>>,
}

/// A filter has less than 64 KiB.
fn len32(filter: &str) -> u32 {
    u32::try_from(filter.len()).unwrap_or(u32::MAX)
}

impl Subscriptions {
    fn get(&self, filter: &str) -> Option<Subscription> {
        match &self.many {
            Some(many) => many.by_filter.get(filter).copied(),
            None => {
                self.few.iter().find(|(known, _)| &**known == filter).map(|(_, subscription)| *subscription)
            }
        }
    }

    fn insert(&mut self, filter: &str, subscription: Subscription) {
        if self.get(filter).is_none() {
            self.bytes += len32(filter);
        }
        if self.few.is_empty() {
            // Most clients have one subscription; a vector would start with room for four.
            self.few.reserve_exact(1);
        }
        if self.many.is_none() && self.few.len() >= FEW && self.get(filter).is_none() {
            let by_filter = std::mem::take(&mut self.few).into_iter().collect();
            self.many = Some(Box::new(Many { by_filter }));
        }
        if let Some(many) = &mut self.many {
            many.by_filter.insert(filter.into(), subscription);
        } else if let Some((_, known)) = self.few.iter_mut().find(|(known, _)| &**known == filter) {
            *known = subscription;
        } else {
            self.few.push((filter.into(), subscription));
        }
    }

    fn remove(&mut self, filter: &str) -> Option<Subscription> {
        let removed = if let Some(many) = &mut self.many {
            many.by_filter.remove(filter)?
        } else {
            let at = self.few.iter().position(|(known, _)| &**known == filter)?;
            self.few.swap_remove(at).1
        };
        self.bytes = self.bytes.saturating_sub(len32(filter));
        if let Some(own) = &mut self.own {
            own.by_number.remove(&removed.consumer);
        }
        Some(removed)
    }

    pub(crate) fn own_consumer(&self, consumer: ConsumerId) -> Option<&OwnConsumer> {
        self.own.as_ref()?.by_number.get(&consumer.0)
    }

    /// Rare: looks at all of them. A refused filter is removed by its name.
    pub(crate) fn remove_consumer(&mut self, consumer: u32) {
        let few = self.few.iter().map(|(filter, subscription)| (filter, subscription));
        let many = self.many.iter().flat_map(|many| many.by_filter.iter());
        let found = few.chain(many).find(|(_, subscription)| subscription.consumer == consumer);
        if let Some(filter) = found.map(|(filter, _)| filter.clone()) {
            self.remove(&filter);
        }
    }

    fn len(&self) -> usize {
        self.few.len() + self.many.as_ref().map_or(0, |many| many.by_filter.len())
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.unanswered.as_ref().is_some_and(|unanswered| unanswered.packets.len() >= PENDING_MAX)
    }

    pub(crate) fn kept(&self) -> Vec<Kept> {
        let few = self.few.iter().map(|(filter, subscription)| (filter, subscription));
        let many = self.many.iter().flat_map(|many| many.by_filter.iter());
        few.chain(many)
            .map(|(filter, subscription)| Kept {
                consumer: subscription.consumer,
                identifier: subscription.identifier,
                options: subscription.options,
                filter: filter.clone(),
            })
            .collect()
    }
}

/// What a filter names.
enum Target<'a> {
    Topic(Filter),
    Shared { group: &'a str, filter: Filter },
    Queue(Cow<'a, str>),
}

impl<'a> Target<'a> {
    fn parse(text: &'a str, mount_point: &str) -> Result<Self, Fault> {
        let invalid = |text| Fault::new(Reason::FILTER_INVALID, text);
        let parse = |text: &str| {
            if text.len() > TOPIC_WORDS_MAX && text.split('/').count() > TOPIC_WORDS_MAX {
                return Err(invalid("the filter has more than 128 levels"));
            }
            let filter = Filter::parse(&address::mounted(mount_point, Cow::Borrowed(text)))
                .map_err(|_| invalid("the filter is empty or misuses a wildcard [MQTT-4.7.1-1]"))?;
            Ok(if text.contains('%') { unescaped_filter(&filter) } else { filter })
        };
        if let Some(rest) = text.strip_prefix(SHARE) {
            // [MQTT-4.8.2-1, MQTT-4.8.2-2]
            return match rest.split_once('/') {
                Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) => {
                    Ok(Self::Shared { group, filter: parse(filter)? })
                }
                _ => Err(invalid("$share needs a name without wildcards and a filter")),
            };
        }
        if let Some(name) = text.strip_prefix(address::QUEUE) {
            if name.is_empty() || name.contains(['+', '#']) {
                return Err(invalid("$queue needs a name without wildcards"));
            }
            return Ok(Self::Queue(address::unescaped(name)));
        }
        if text.starts_with(EXCHANGE) {
            return Err(invalid("$exchange is for publishing"));
        }
        parse(text).map(Self::Topic)
    }
}

fn unescaped_filter(filter: &Filter) -> Filter {
    let segments = filter.segments().iter().map(|segment| match segment {
        Segment::Word(word) => Segment::Word(address::unescaped(word).into()),
        Segment::One => Segment::One,
        Segment::Rest => Segment::Rest,
    });
    Filter::new(segments.collect())
}

impl MqttConnection {
    pub(crate) fn on_subscribe(&mut self, packet: &Subscribe<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let shared_without_local =
            |(filter, options): (&str, Options)| options.no_local && filter.starts_with(SHARE);
        if packet.filters(self.version).any(shared_without_local) {
            return Err(Fault::protocol("no local on a shared subscription [MQTT-3.8.3-4]"));
        }
        let identifier = subscription_identifier(packet.properties);
        let mut pending = self.begin(packet.id, false);
        for (filter, options) in packet.filters(self.version) {
            self.subscribe(&mut pending, filter, options, identifier, host)?;
        }
        self.finish(pending, host);
        Ok(())
    }

    fn subscribe(
        &mut self,
        pending: &mut Pending,
        filter: &str,
        mut options: Options,
        identifier: u32,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if qos(options.guarantee) > self.config.qos_max {
            // Granted less than was asked for [MQTT-3.8.4-7].
            options.guarantee = guarantee(self.config.qos_max)?;
        }
        let known = self.subscriptions.get(filter);
        let mut refuse = |reason| {
            pending.codes.push(reason::suback_code(reason, self.version));
            pending.made.push(None);
        };
        let target = match Target::parse(filter, &self.config.mount_point) {
            Ok(target) => target,
            Err(fault) => {
                refuse(fault.reason);
                return Ok(());
            }
        };
        let full = self.subscriptions.len() >= self.config.subscriptions_max
            || self.subscriptions.bytes + len32(filter) > FILTER_BYTES_MAX;
        if known.is_none() && full {
            refuse(Reason::QUOTA_EXCEEDED);
            return Ok(());
        }
        let consumer = known.map_or_else(
            || {
                self.subscriptions.last_consumer += 1;
                self.subscriptions.last_consumer
            },
            |known| known.consumer,
        );
        let options_byte = options.encode();
        let subscription = Subscription { consumer, identifier, options: options_byte, inherited: false };
        let ticket = pending.next_ticket(TicketKind::Attach)?;
        pending.codes.push(qos(options.guarantee));
        pending.made.push(known.is_none().then(|| filter.into()));
        self.subscriptions.insert(filter, subscription);
        let retained = match options.retain_handling {
            RetainHandling::Always => Retained::Always,
            RetainHandling::IfNew => Retained::IfNew,
            RetainHandling::Never => Retained::Never,
        };
        let memo = self.memo(filter, subscription);
        let source = self.source(ConsumerId(consumer), &target, options, identifier, retained);
        host.attach(ticket, ConsumerId(consumer), Source { memo: memo.as_deref(), ..source });
        Ok(())
    }

    fn source<'a>(
        &mut self,
        consumer: ConsumerId,
        target: &'a Target<'_>,
        options: Options,
        identifier: u32,
        retained: Retained,
    ) -> Source<'a> {
        let holder = if self.durable { Holder::Session } else { Holder::Connection };
        let direct = holder == Holder::Connection;
        // What needs settling is delivered within the window; the rest as fast as the socket takes it.
        let (settled, credit) = match options.guarantee {
            Guarantee::AtMostOnce => (true, CreditMode::Socket),
            Guarantee::AtLeastOnce | Guarantee::ExactlyOnce => {
                (false, CreditMode::Window(u32::from(self.outbound.window())))
            }
        };
        let mut wire = self.wire(options, identifier);
        // Aliases are particular to one receiver: nobody else can encode for it.
        let alone = direct && self.aliases.is_some();
        if alone || !matches!(target, Target::Topic(_)) {
            let named = matches!(target, Target::Queue(_));
            let own = OwnConsumer { wire: wire.clone(), named };
            self.subscriptions.own.get_or_insert_default().by_number.insert(consumer.0, own);
        }
        match target {
            Target::Topic(filter) => {
                if !direct {
                    wire.direct_max = Guarantee::AtMostOnce;
                }
                wire.as_message = alone;
                Source {
                    wire: Some(wire),
                    settled: direct,
                    no_local: options.no_local || self.bridge,
                    retained,
                    ..Source::new(From::Topic { filter: filter.clone(), holder })
                }
            }
            Target::Shared { group, filter } => Source {
                wire: Some(wire),
                settled,
                credit,
                ..Source::new(From::Shared { group, filter: filter.clone() })
            },
            Target::Queue(name) => Source {
                wire: Some(wire),
                settled,
                credit,
                ..Source::new(From::Queue { name, create: true })
            },
        }
    }

    fn wire(&self, options: Options, identifier: u32) -> Wire {
        let mut identifiers = Vec::new();
        if identifier != 0 {
            identifiers.push(identifier);
        }
        let mount = u32::try_from(self.config.mount_point.len()).unwrap_or(0);
        if mount > 0 {
            identifiers.push(mount | MOUNT);
        }
        if self.packet_max < SIZE_LIMIT {
            identifiers.push(self.packet_max | SIZE_LIMIT);
        }
        Wire {
            format: translate::WIRE,
            version: self.version.wire(),
            guarantee: options.guarantee,
            direct_max: Guarantee::ExactlyOnce,
            keep_retain: options.retain_as_published || self.bridge,
            identifiers,
            apart: self.config.copy_each,
            as_message: false,
            encode: translate::encode,
        }
    }

    pub(crate) fn on_unsubscribe(
        &mut self,
        packet: &Unsubscribe<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let mut pending = self.begin(packet.id, true);
        for filter in packet.filters() {
            match self.subscriptions.remove(filter) {
                Some(known) => {
                    if known.inherited {
                        // Only what this connection has attached can it detach.
                        self.reattach(filter, known, host);
                    }
                    let ticket = pending.next_ticket(TicketKind::Detach)?;
                    pending.codes.push(Reason::SUCCESS.0);
                    // What is in flight is still completed [MQTT-3.10.4-3].
                    let end = End { forget: true, keep_unsettled: true };
                    host.detach(ticket, ConsumerId(known.consumer), end);
                }
                None => pending.codes.push(Reason::NO_SUBSCRIPTION_EXISTED.0),
            }
            pending.made.push(None);
        }
        self.finish(pending, host);
        Ok(())
    }

    fn begin(&mut self, id: u16, unsubscribe: bool) -> Pending {
        let sequence = self.subscriptions.last_sequence.wrapping_add(1);
        self.subscriptions.last_sequence = sequence;
        Pending { sequence, id, unsubscribe, waiting: 0, codes: Vec::new(), made: Vec::new() }
    }

    /// Answers at once if nothing is left to wait for.
    fn finish(&mut self, pending: Pending, host: &mut dyn Host) {
        if pending.waiting > 0 {
            self.subscriptions.unanswered.get_or_insert_default().packets.push(pending);
            return;
        }
        let (id, properties) = (pending.id, Properties::default());
        if pending.unsubscribe {
            UnsubAck { id, properties, codes: &pending.codes }.encode(self.version, host.wire());
        } else {
            SubAck { id, properties, codes: &pending.codes }.encode(self.version, host.wire());
        }
    }

    /// The broker's answer for one filter.
    pub(crate) fn on_subscribed(&mut self, number: u64, reply: &Reply, host: &mut dyn Host) {
        let (sequence, place) = (number >> 16, usize::from(low_16(number)));
        let Some(unanswered) = &mut self.subscriptions.unanswered else { return };
        let list = &mut unanswered.packets;
        let Some(at) = list.iter().position(|pending| u64::from(pending.sequence) == sequence) else {
            return;
        };
        let Some(pending) = list.get_mut(at) else { return };
        pending.waiting = pending.waiting.saturating_sub(1);
        let code = match reply {
            Reply::Refused(refusal) => {
                let reason = reason::of_subscribe(refusal).told(self.config.reveal_denials);
                Some(reason::suback_code(reason, self.version))
            }
            Reply::Detached { existed: false } => Some(Reason::NO_SUBSCRIPTION_EXISTED.0),
            Reply::Detached { existed: true }
            | Reply::Attached(_)
            | Reply::Authenticated { .. }
            | Reply::Challenge(_)
            | Reply::Opened(_)
            | Reply::Published { .. }
            | Reply::Returned(_)
            | Reply::Defined(_)
            | Reply::Done => None,
        };
        if let (Some(code), Some(known)) = (code, pending.codes.get_mut(place)) {
            *known = code;
        }
        let made = pending.made.get_mut(place).and_then(Option::take);
        let done = pending.waiting == 0;
        let finished = done.then(|| unanswered.packets.remove(at));
        if unanswered.packets.is_empty() {
            // An idle connection keeps no room for what it may never do again.
            self.subscriptions.unanswered = None;
        }
        if let (Reply::Refused(_), Some(filter)) = (reply, made) {
            self.subscriptions.remove(&filter);
        }
        if let Some(pending) = finished {
            self.finish(pending, host);
        }
    }

    /// Takes the subscriptions of the resumed session up again. Those to topics are in force; members of groups and
    /// consumers of queues ended with the connection and are attached again, quietly.
    pub(crate) fn resume_subscriptions(&mut self, kept: &[Kept], host: &mut dyn Host) {
        for kept in kept {
            let in_force =
                matches!(Target::parse(&kept.filter, &self.config.mount_point), Ok(Target::Topic(_)));
            let subscription = Subscription {
                consumer: kept.consumer,
                identifier: kept.identifier,
                options: kept.options,
                inherited: in_force,
            };
            self.subscriptions.insert(&kept.filter, subscription);
            self.subscriptions.last_consumer = self.subscriptions.last_consumer.max(kept.consumer);
            if !in_force {
                self.reattach(&kept.filter, subscription, host);
            }
        }
    }

    /// What a durable session has to know of a subscription after a restart.
    fn memo(&self, filter: &str, subscription: Subscription) -> Option<bytes::Bytes> {
        let Subscription { consumer, identifier, options, .. } = subscription;
        self.durable.then(|| Kept { consumer, identifier, options, filter: filter.into() }.memo())
    }

    fn reattach(&mut self, filter: &str, subscription: Subscription, host: &mut dyn Host) {
        let target = Target::parse(filter, &self.config.mount_point);
        let options = Options::decode(subscription.options, Version::V5);
        let (Ok(target), Ok(options)) = (target, options) else { return };
        let consumer = ConsumerId(subscription.consumer);
        let ticket = TicketKind::Reattach.ticket(u64::from(subscription.consumer));
        let memo = self.memo(filter, subscription);
        let source = self.source(consumer, &target, options, subscription.identifier, Retained::Never);
        host.attach(ticket, consumer, Source { memo: memo.as_deref(), ..source });
    }
}

impl Pending {
    fn next_ticket(&mut self, kind: TicketKind) -> Result<mynah_core::protocol::Ticket, Fault> {
        let Ok(place) = u16::try_from(self.codes.len()) else {
            return Err(Fault::new(Reason::QUOTA_EXCEEDED, "more than 65,535 filters in one packet"));
        };
        self.waiting += 1;
        Ok(kind.ticket(u64::from(self.sequence) << 16 | u64::from(place)))
    }
}

fn low_16(number: u64) -> u16 {
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn subscription_identifier(properties: Properties<'_>) -> u32 {
    let identifier = |(id, value)| match (id, value) {
        (id::SUBSCRIPTION_ID, Value::VarInt(number)) => Some(number),
        _ => None,
    };
    properties.iter().find_map(identifier).unwrap_or(0)
}
