//! Consumers: `basic.consume`, `basic.cancel`, and what is delivered to them.
//!
//! Each subscription of the core has a number of its own; a consumer tag names the one in force. When its credit changes
//! (`channel.flow`, shared prefetch) it is replaced by a new one, and the old number stays as long as it has something to settle.
//! Never: delivers after `basic.cancel-ok`, nor before `basic.consume-ok`.

use std::sync::Arc;

use mynah_core::hash::FastMap;
use mynah_core::protocol::{Change, CreditMode, End, From, Host, Source};
use mynah_core::queue::QueueSpec;
use mynah_core::{ConsumerId, Delivery, Outcome};

use crate::channel::{Channel, Replies};
use crate::codec::field::Table;
use crate::codec::method::Response;
use crate::connection::{Amqp091Connection, REPLACE_TICKET};
use crate::deliver::{self, Head};
use crate::reason::{Code, Fault};
use crate::settle::Entry;
use crate::translate::{REPLY_TO, exchange_and_key};
use crate::waiting::Asked;

/// Where a consumer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Asked for; what is delivered already waits for `basic.consume-ok`.
    Starting,
    Live,
    /// Another number took its place; what still comes is delivered.
    Replaced,
    /// Cancelled; what still comes goes back.
    Ended,
}

/// One subscription of the core.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) channel: u16,
    pub(crate) tag: Arc<str>,
    pub(crate) queue: Arc<str>,
    pub(crate) state: State,
    pub(crate) no_ack: bool,
    /// It takes single messages for `basic.get`.
    pub(crate) getter: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i32,
    /// Its place among the channel's consumers: the number it began with, which its replacements inherit.
    pub(crate) order: u32,
    /// The prefetch that was in force when it began.
    pub(crate) prefetch: u16,
    pub(crate) credit: CreditMode,
    /// Received and not settled, sent or held.
    pub(crate) unsettled: u32,
}

/// The arguments of `basic.consume`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consume<'a> {
    pub(crate) queue: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) no_wait: bool,
    pub(crate) arguments: Table<'a>,
}

const CONSUME: (u16, u16) = (60, 20);

impl Amqp091Connection {
    pub(crate) fn on_consume(
        &mut self,
        number: u16,
        consume: Consume<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let priority = priority(consume.arguments)?;
        if self.consumers.len() >= self.config.consumers_max {
            let max = self.config.consumers_max;
            return Err(Fault::precondition(format!("a connection has at most {max} consumers")));
        }
        let tag: Arc<str> = match consume.tag {
            "" => self.generated_tag(),
            given => given.into(),
        };
        let Some(channel) = self.channels.get(&number) else { return Ok(()) };
        if channel.tags.contains_key(&*tag) {
            return Err(Fault::new(Code::NotAllowed, format!("attempt to reuse consumer tag '{tag}'")));
        }
        let direct_reply = consume.queue == REPLY_TO;
        let queue: Arc<str> = if direct_reply {
            check_reply_consumer(channel, consume.no_ack)?;
            // The broker names the queue; whoever knows the name can reply, so it cannot be guessed.
            "".into()
        } else {
            self.channel_queue(number, consume.queue)?.into()
        };
        let id = ConsumerId(next(&mut self.last_consumer));
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let leads = leads(channel, &self.consumers, &queue, id.0);
        let consumer = Consumer {
            channel: number,
            tag: Arc::clone(&tag),
            queue,
            state: State::Starting,
            no_ack: consume.no_ack,
            getter: false,
            exclusive: consume.exclusive,
            priority,
            order: id.0,
            prefetch: channel.prefetch,
            credit: credit(channel, channel.prefetch, consume.no_ack, leads),
            unsettled: 0,
        };
        channel.tags.insert((*tag).into(), id);
        let asked = Asked::Consume { consumer: id };
        if direct_reply {
            channel.replies = Some(Replies { tag, reply_to: Box::default() });
            let spec = QueueSpec { exclusive: true, auto_delete: true, ..QueueSpec::default() };
            let ticket = self.ask(number, CONSUME, consume.no_wait, Asked::ReplyQueue { consumer: id });
            host.define(ticket, Change::DeclareQueue { name: "", spec: &spec, passive: false });
        } else {
            let ticket = self.ask(number, CONSUME, consume.no_wait, asked);
            host.attach(ticket, id, source(&consumer));
        }
        self.consumers.insert(id, consumer);
        Ok(())
    }

    /// The private queue was made; now it is consumed.
    pub(crate) fn on_reply_queue(
        &mut self,
        number: u16,
        no_wait: bool,
        id: ConsumerId,
        queue: &Arc<str>,
        host: &mut dyn Host,
    ) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.queue = Arc::clone(queue);
        let consumer = consumer.clone();
        if let Some(replies) = self.channels.get_mut(&number).and_then(|channel| channel.replies.as_mut()) {
            replies.reply_to = format!("{REPLY_TO}.{queue}").into();
        }
        let ticket = self.ask(number, CONSUME, no_wait, Asked::Consume { consumer: id });
        host.attach(ticket, id, source(&consumer));
    }

    pub(crate) fn on_consuming(&mut self, number: u16, no_wait: bool, id: ConsumerId, host: &mut dyn Host) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.state = State::Live;
        if !no_wait {
            Response::BasicConsumeOk { tag: &consumer.tag }.put(host.wire(), number);
        }
        self.send_held(number, host);
    }

    /// It could not be attached.
    pub(crate) fn forget_consumer(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        let Some(channel) = self.channels.get_mut(&consumer.channel) else { return };
        channel.held.retain(|held| held.consumer != id);
        if channel.tags.get(&*consumer.tag) == Some(&id) {
            channel.tags.remove(&*consumer.tag);
        }
        channel.replies.take_if(|replies| replies.tag == consumer.tag);
    }

    pub(crate) fn on_cancel(&mut self, number: u16, tag: &str, no_wait: bool, host: &mut dyn Host) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let Some(id) = channel.tags.remove(tag) else {
            // Cancelling what is not there is no error [0-9-1 basic.cancel].
            if !no_wait {
                Response::BasicCancelOk { tag }.put(host.wire(), number);
            }
            return;
        };
        let mut back = 0;
        channel.held.retain(|held| {
            if held.consumer == id && !held.settled {
                host.settle(id, &[held.tag], &Outcome::Released, None);
                back += 1;
            }
            held.consumer != id
        });
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        channel.replies.take_if(|replies| replies.tag == consumer.tag);
        consumer.state = State::Ended;
        consumer.unsettled = consumer.unsettled.saturating_sub(back);
        let keep_unsettled = consumer.unsettled > 0;
        if !keep_unsettled {
            self.consumers.remove(&id);
        }
        let shared = channel.shared_prefetch > 0;
        let ticket = self.ask(number, (60, 30), no_wait, Asked::Cancel { tag: tag.into() });
        host.detach(ticket, id, End { forget: false, keep_unsettled });
        if shared {
            // Another one of the queue may have to take the lead.
            self.renew_credit(number, host);
        }
    }

    /// The queue of a consumer is gone.
    pub(crate) fn on_cancelled(&mut self, id: ConsumerId, host: &mut dyn Host) {
        let Some(consumer) = self.consumers.get(&id).cloned() else { return };
        if let Some(channel) = self.channels.get_mut(&consumer.channel) {
            channel.getters.retain(|getter| getter.consumer != id);
        }
        // What it has unsettled is gone with the queue; acknowledging it is still no error.
        self.forget_consumer(id);
        let tell = consumer.state == State::Live && !consumer.getter && self.capabilities.cancel_notify;
        if tell {
            Response::BasicCancel { tag: &consumer.tag, no_wait: true }.put(host.wire(), consumer.channel);
        }
    }

    /// The credit of a channel's consumers has changed: each that it changes is replaced.
    pub(crate) fn renew_credit(&mut self, number: u16, host: &mut dyn Host) {
        if self.consumers.len() >= self.config.consumers_max {
            return;
        }
        let Some(channel) = self.channels.get_mut(&number) else { return };
        // Of consumers without acknowledgements nothing tells when the last delivery under way has come; one step is enough.
        let held: Vec<ConsumerId> = channel.held.iter().map(|held| held.consumer).collect();
        self.consumers.retain(|id, old| {
            old.channel != number || old.state != State::Replaced || !old.no_ack || held.contains(id)
        });
        let mut tickets = Vec::new();
        for current in channel.tags.values().copied().collect::<Vec<_>>() {
            let Some(old) = self.consumers.get(&current).filter(|consumer| consumer.state == State::Live)
            else {
                continue;
            };
            let leads = leads(channel, &self.consumers, &old.queue, old.order);
            let credit = credit(channel, old.prefetch, old.no_ack, leads);
            let Some(old) = self.consumers.get_mut(&current).filter(|old| old.credit != credit) else {
                continue;
            };
            let renewed = Consumer { credit, unsettled: 0, ..old.clone() };
            old.state = State::Replaced;
            let keep_unsettled = old.unsettled > 0;
            if !keep_unsettled && !old.no_ack {
                self.consumers.remove(&current);
            }
            let id = ConsumerId(next(&mut self.last_consumer));
            channel.tags.insert((*renewed.tag).into(), id);
            self.consumers.insert(id, renewed);
            tickets.push((current, keep_unsettled, id));
        }
        for (old, keep_unsettled, id) in tickets {
            let ticket = self.ticket();
            host.detach(ticket, old, End { forget: false, keep_unsettled });
            let Some(consumer) = self.consumers.get(&id) else { continue };
            host.attach(mynah_core::protocol::Ticket(REPLACE_TICKET | u64::from(id.0)), id, source(consumer));
        }
    }

    pub(crate) fn on_delivery(&mut self, delivery: Delivery, host: &mut dyn Host) {
        let live =
            self.consumers.get_mut(&delivery.consumer).filter(|consumer| consumer.state != State::Ended);
        let channel = live.as_ref().and_then(|consumer| self.channels.get_mut(&consumer.channel));
        let (Some(consumer), Some(channel)) = (live, channel) else {
            if !delivery.settled {
                host.settle(delivery.consumer, &[delivery.tag], &Outcome::Released, None);
            }
            return;
        };
        if !delivery.settled {
            consumer.unsettled += 1;
        }
        if consumer.getter {
            self.on_got(&delivery, host);
            return;
        }
        if consumer.state == State::Starting || !channel.held.is_empty() || !may_send(channel, consumer) {
            channel.held.push_back(delivery);
            return;
        }
        if !takes_turns(channel, consumer) {
            put_delivery(channel, consumer.channel, &consumer.tag, &delivery, self.frame_max, host);
            return;
        }
        let Some(consumer) = self.consumers.get(&delivery.consumer) else { return };
        let tag = turn(channel, &self.consumers, consumer);
        put_delivery(channel, consumer.channel, &tag, &delivery, self.frame_max, host);
    }

    /// Sends held deliveries as far as that is allowed now.
    pub(crate) fn send_held(&mut self, number: u16, host: &mut dyn Host) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        while let Some(first) = channel.held.front() {
            let Some(consumer) = self.consumers.get(&first.consumer) else {
                channel.held.pop_front();
                continue;
            };
            if consumer.state == State::Starting || !may_send(channel, consumer) {
                return;
            }
            if let Some(delivery) = channel.held.pop_front() {
                let tag = turn(channel, &self.consumers, consumer);
                put_delivery(channel, number, &tag, &delivery, self.frame_max, host);
            }
        }
    }

    fn generated_tag(&mut self) -> Arc<str> {
        self.serials += 1;
        format!("amq.ctag-{:x}.{:x}", self.connection, self.serials).into()
    }
}

fn check_reply_consumer(channel: &Channel, no_ack: bool) -> Result<(), Fault> {
    if !no_ack {
        return Err(Fault::precondition("reply consumer cannot acknowledge"));
    }
    if channel.replies.is_some() {
        return Err(Fault::precondition("reply consumer already set"));
    }
    Ok(())
}

pub(crate) fn next(last: &mut u32) -> u32 {
    // 0 is the session's consumer in the core; after four billion the first ones are long gone.
    *last = last.checked_add(1).unwrap_or(1);
    *last
}

pub(crate) fn source(consumer: &Consumer) -> Source<'_> {
    Source {
        settled: consumer.no_ack,
        credit: consumer.credit,
        exclusive: consumer.exclusive,
        priority: consumer.priority,
        ..Source::new(From::Queue { name: &consumer.queue, create: false })
    }
}

fn priority(arguments: Table<'_>) -> Result<i32, Fault> {
    let Some(value) = arguments.get("x-priority") else { return Ok(0) };
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Fault::precondition("invalid arg 'x-priority': a 32-bit integer is needed"))
}

/// How many deliveries may be under way to a consumer.
fn credit(channel: &Channel, prefetch: u16, no_ack: bool, leads: bool) -> CreditMode {
    if !channel.active {
        return CreditMode::Window(0);
    }
    match (prefetch, channel.shared_prefetch) {
        _ if no_ack => CreditMode::Socket,
        (_, 1..) if !leads => CreditMode::Window(0),
        (0, 0) => CreditMode::Socket,
        (one, 0) | (0, one) => CreditMode::Window(u32::from(one)),
        (own, shared) => CreditMode::Window(u32::from(own.min(shared))),
    }
}

/// Whether it is the first of the channel's consumers of its queue. With a shared prefetch the first takes the messages for
/// all of them, so that the queue gives no more than the channel may have.
fn leads(channel: &Channel, consumers: &FastMap<ConsumerId, Consumer>, queue: &str, order: u32) -> bool {
    let mut others = channel.tags.values().filter_map(|id| consumers.get(id));
    !others.any(|other| !other.no_ack && *other.queue == *queue && other.order < order)
}

fn takes_turns(channel: &Channel, consumer: &Consumer) -> bool {
    channel.shared_prefetch > 0 && !consumer.no_ack && channel.tags.len() > 1
}

/// The tag a delivery is shown under: with a shared prefetch the consumers of a queue take turns.
fn turn(channel: &mut Channel, consumers: &FastMap<ConsumerId, Consumer>, consumer: &Consumer) -> Arc<str> {
    let own = Arc::clone(&consumer.tag);
    if !takes_turns(channel, consumer) {
        return own;
    }
    let live =
        |other: &&Consumer| other.state == State::Live && !other.no_ack && other.queue == consumer.queue;
    let mut others: Vec<&Consumer> =
        channel.tags.values().filter_map(|id| consumers.get(id)).filter(live).collect();
    others.sort_unstable_by_key(|other| other.order);
    channel.turn = channel.turn.wrapping_add(1);
    let at = channel.turn.checked_rem(others.len());
    at.and_then(|at| others.get(at)).map_or(own, |other| Arc::clone(&other.tag))
}

fn may_send(channel: &Channel, consumer: &Consumer) -> bool {
    let room = channel.shared_prefetch == 0 || channel.prefetched < u32::from(channel.shared_prefetch);
    channel.active && (consumer.no_ack || room)
}

fn put_delivery(
    channel: &mut Channel,
    number: u16,
    consumer: &str,
    delivery: &Delivery,
    frame_max: usize,
    host: &mut dyn Host,
) {
    let tag = channel.next_delivery();
    if !delivery.settled {
        channel.unsettled.push(Entry::new(tag, delivery.tag, delivery.consumer, true));
        channel.prefetched += 1;
    }
    let (exchange, key) = exchange_and_key(&delivery.message.address);
    let head =
        Head { channel: number, consumer, tag, redelivered: delivery.redelivered, exchange, key: &key };
    deliver::put_delivery(host.wire(), frame_max, &head, &delivery.message, delivery.attempts);
}
