//! `basic.get`: one message on request.
//!
//! A channel has a hidden consumer for each queue it polls. It gets one credit with drain, so that the broker either delivers
//! at once or says that there is nothing.
//! Never: reads on before the answer is written.

use mynah_core::protocol::{CreditMode, End, Host, Role, Source};
use mynah_core::{ConsumerId, Delivery};

use crate::channel::Channel;
use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::consume::{Consumer, State, next, source};
use crate::deliver;
use crate::reason::Fault;
use crate::settle::Entry;
use crate::translate::exchange_and_key;
use crate::waiting::Asked;

/// The hidden consumer of a queue.
#[derive(Debug)]
pub(crate) struct Getter {
    queue: Box<str>,
    no_ack: bool,
    pub(crate) consumer: ConsumerId,
}

const GET: (u16, u16) = (60, 70);

impl Amqp091Connection {
    pub(crate) fn on_get(
        &mut self,
        number: u16,
        queue: &str,
        no_ack: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let queue = self.channel_queue(number, queue)?;
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let known = channel.getters.iter().find(|getter| *getter.queue == *queue && getter.no_ack == no_ack);
        if let Some(consumer) = known.map(|getter| getter.consumer) {
            self.take_one(number, consumer, host);
            return Ok(());
        }
        let oldest =
            (channel.getters.len() >= self.config.getters_max.max(1)).then(|| channel.getters.remove(0));
        let id = ConsumerId(next(&mut self.last_consumer));
        let consumer = Consumer {
            channel: number,
            tag: "".into(),
            queue: queue.into(),
            state: State::Starting,
            no_ack,
            getter: true,
            exclusive: false,
            priority: 0,
            order: id.0,
            prefetch: 0,
            credit: CreditMode::Granted,
            unsettled: 0,
        };
        if let Some(oldest) = oldest {
            self.end_getter(oldest.consumer, host);
        }
        let ticket = self.ask(number, GET, false, Asked::Get { consumer: id });
        host.attach(ticket, id, Source { role: Role::Getter, ..source(&consumer) });
        self.consumers.insert(id, consumer);
        Ok(())
    }

    /// The hidden consumer is there.
    pub(crate) fn on_getter(&mut self, number: u16, id: ConsumerId, host: &mut dyn Host) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.state = State::Live;
        let getter = Getter { queue: (*consumer.queue).into(), no_ack: consumer.no_ack, consumer: id };
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.getters.push(getter);
        }
        self.take_one(number, id, host);
    }

    fn take_one(&mut self, number: u16, consumer: ConsumerId, host: &mut dyn Host) {
        self.ask(number, GET, false, Asked::Message { consumer, got: false });
        host.flow(consumer, 1, true);
    }

    pub(crate) fn on_got(&mut self, delivery: &Delivery, host: &mut dyn Host) {
        let Some(consumer) = self.consumers.get(&delivery.consumer) else { return };
        let number = consumer.channel;
        let Some(channel) = self.channels.get_mut(&number) else { return };
        if let Some(Asked::Message { got, .. }) = self.waiting.as_mut().map(|waiting| &mut waiting.asked) {
            *got = true;
        }
        let tag = channel.next_delivery();
        if !delivery.settled {
            channel.unsettled.push(Entry::new(tag, delivery.tag, delivery.consumer, false));
        }
        let (exchange, key) = exchange_and_key(&delivery.message.address);
        let wire = host.wire();
        Response::BasicGetOk {
            tag,
            redelivered: delivery.redelivered,
            exchange,
            key: &key,
            messages: delivery.remaining,
        }
        .put(wire, number);
        deliver::put_content(wire, number, self.frame_max, &delivery.message, delivery.attempts);
    }

    /// The broker has delivered what there was.
    pub(crate) fn on_drained(&mut self, drained: ConsumerId, host: &mut dyn Host) {
        let asked = self.waiting.as_ref().map(|waiting| (&waiting.asked, waiting.channel));
        let Some((&Asked::Message { consumer, got }, number)) = asked else { return };
        if consumer != drained {
            return;
        }
        self.waiting = None;
        if !got && self.channels.get(&number).is_some_and(|channel| !channel.closing) {
            Response::BasicGetEmpty { cluster_id: "" }.put(host.wire(), number);
        }
    }

    fn end_getter(&mut self, id: ConsumerId, host: &mut dyn Host) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.state = State::Ended;
        let keep_unsettled = consumer.unsettled > 0;
        if !keep_unsettled {
            self.consumers.remove(&id);
        }
        let ticket = self.ticket();
        host.detach(ticket, id, End { forget: false, keep_unsettled });
    }

    /// The channel ends, and a get that still waits with it.
    pub(crate) fn forget_getters(&mut self, channel: &mut Channel) {
        channel.getters.clear();
        let waits = |asked: &Asked| matches!(asked, Asked::Message { .. });
        let serial = channel.serial;
        self.waiting.take_if(|waiting| waiting.serial == serial && waits(&waiting.asked));
    }
}
