//! What a channel remembers, and the class `channel`: open, flow, close.
//!
//! Never: outlives its number; replies to what an earlier channel of the same number asked are told apart by the serial.

use std::collections::VecDeque;
use std::sync::Arc;

use mynah_core::hash::FastMap;
use mynah_core::protocol::Host;
use mynah_core::{ConsumerId, Delivery};

use crate::codec::method::Response;
use crate::confirm::Confirm;
use crate::connection::Amqp091Connection;
use crate::get::Getter;
use crate::publish::Incoming;
use crate::reason::{Code, Fault};
use crate::settle::Unsettled;
use crate::tx::Transaction;

/// One open channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) serial: u64,
    /// `channel.close` was sent: everything but the answer is discarded [0-9-1 1.5.2.5].
    pub(crate) closing: bool,
    /// What an empty queue name stands for.
    pub(crate) last_queue: Box<str>,
    /// Prefetch of consumers to come; 0 = no limit.
    pub(crate) prefetch: u16,
    /// Prefetch that all consumers of the channel share; 0 = no limit.
    pub(crate) shared_prefetch: u16,
    /// Deliveries that use the shared prefetch.
    pub(crate) prefetched: u32,
    /// Which of a queue's consumers was shown a delivery last, while they share a prefetch.
    pub(crate) turn: usize,
    /// `channel.flow`: whether the client wants deliveries.
    pub(crate) active: bool,
    /// The delivery tag given last.
    pub(crate) delivered: u64,
    pub(crate) unsettled: Unsettled,
    /// Deliveries that may not be sent yet: the shared prefetch is used up, or the flow is stopped.
    pub(crate) held: VecDeque<Delivery>,
    pub(crate) incoming: Incoming,
    pub(crate) confirm: Option<Confirm>,
    pub(crate) transaction: Option<Box<Transaction>>,
    /// The consumer in force of each consumer tag.
    pub(crate) tags: FastMap<Box<str>, ConsumerId>,
    pub(crate) getters: Vec<Getter>,
    pub(crate) replies: Option<Replies>,
}

/// The channels by number. Clients count from 1, so this is a table: each frame looks its channel up several times.
#[derive(Debug, Default)]
pub(crate) struct Channels(Vec<Option<Box<Channel>>>);

impl Channels {
    pub(crate) fn get(&self, number: &u16) -> Option<&Channel> {
        self.0.get(usize::from(*number))?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, number: &u16) -> Option<&mut Channel> {
        self.0.get_mut(usize::from(*number))?.as_deref_mut()
    }

    pub(crate) fn insert(&mut self, number: u16, channel: Box<Channel>) {
        let at = usize::from(number);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        if let Some(place) = self.0.get_mut(at) {
            *place = Some(channel);
        }
    }

    pub(crate) fn remove(&mut self, number: &u16) -> Option<Box<Channel>> {
        let channel = self.0.get_mut(usize::from(*number))?.take();
        while let Some(None) = self.0.last() {
            self.0.pop();
        }
        channel
    }

    /// Gives back room that only a burst needed.
    pub(crate) fn shrink(&mut self) {
        for channel in self.0.iter_mut().flatten() {
            channel.unsettled.shrink();
            channel.held.shrink_to_fit();
            channel.incoming.shrink();
        }
    }
}

/// The consumer of `amq.rabbitmq.reply-to` and what stands for it.
#[derive(Debug)]
pub(crate) struct Replies {
    pub(crate) tag: Arc<str>,
    /// What requests carry as their reply-to: the name of a private queue behind a prefix. Empty until the queue is made.
    pub(crate) reply_to: Box<str>,
}

impl Channel {
    pub(crate) fn new(serial: u64) -> Self {
        Self {
            serial,
            closing: false,
            last_queue: Box::default(),
            prefetch: 0,
            shared_prefetch: 0,
            prefetched: 0,
            turn: 0,
            active: true,
            delivered: 0,
            unsettled: Unsettled::default(),
            held: VecDeque::new(),
            incoming: Incoming::default(),
            confirm: None,
            transaction: None,
            tags: FastMap::default(),
            getters: Vec::new(),
            replies: None,
        }
    }

    /// The tag of the next delivery.
    pub(crate) fn next_delivery(&mut self) -> u64 {
        self.delivered += 1;
        self.delivered
    }

    /// An empty queue name is the queue declared last on this channel.
    pub(crate) fn queue_name<'a>(&'a self, name: &'a str) -> Result<&'a str, Fault> {
        match (name, &*self.last_queue) {
            ("", "") => Err(Fault::new(Code::NotFound, "no previously declared queue")),
            ("", last) => Ok(last),
            (name, _) => Ok(name),
        }
    }
}

impl Amqp091Connection {
    pub(crate) fn on_channel_open(&mut self, number: u16, host: &mut dyn Host) -> Result<(), Fault> {
        if number == 0 || number > self.channel_max {
            let text =
                format!("channel {number} is not in the negotiated range of 1 to {}", self.channel_max);
            return Err(Fault::new(Code::ChannelError, text));
        }
        if self.channels.get(&number).is_some() {
            return Err(Fault::new(Code::ChannelError, "second 'channel.open' seen"));
        }
        self.serials += 1;
        self.channels.insert(number, Box::new(Channel::new(self.serials)));
        Response::ChannelOpenOk { channel_id: b"" }.put(host.wire(), number);
        Ok(())
    }

    /// The client stops or resumes deliveries.
    pub(crate) fn on_channel_flow(&mut self, number: u16, active: bool, host: &mut dyn Host) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.active = active;
        Response::ChannelFlowOk { active }.put(host.wire(), number);
        self.renew_credit(number, host);
        self.send_held(number, host);
    }

    /// The client closes a channel.
    pub(crate) fn on_channel_close(&mut self, number: u16, host: &mut dyn Host) {
        self.forget_channel(number, host);
        Response::ChannelCloseOk {}.put(host.wire(), number);
    }

    /// Ends everything a channel has; the number is free.
    pub(crate) fn forget_channel(&mut self, number: u16, host: &mut dyn Host) {
        let Some(mut channel) = self.channels.remove(&number) else { return };
        self.assembling = self.assembling.saturating_sub(channel.incoming.assembled());
        if !channel.closing {
            self.release(number, &mut channel, host);
        }
    }

    /// A soft error: the channel is closed, and what still comes on it is discarded until the client has answered.
    pub(crate) fn close_channel(&mut self, number: u16, fault: &Fault, host: &mut dyn Host) {
        let Some(mut channel) = self.channels.remove(&number) else { return };
        if channel.closing {
            self.channels.insert(number, channel);
            return;
        }
        if let Some(confirm) = &mut channel.confirm {
            confirm.write(host.wire(), number);
        }
        self.assembling = self.assembling.saturating_sub(channel.incoming.assembled());
        self.release(number, &mut channel, host);
        // What it held is gone; only the fact that it is closing stays.
        let closing = Channel { closing: true, ..Channel::new(channel.serial) };
        self.channels.insert(number, Box::new(closing));
        let (class, method) = fault.caused_by;
        Response::ChannelClose { code: fault.code.number(), text: &fault.reply_text(), class, method }
            .put(host.wire(), number);
    }
}
