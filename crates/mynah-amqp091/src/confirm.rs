//! What became of publishes: confirms, returns, and refusals that close the channel.
//!
//! Replies come in the order of the publishes, so a channel's confirms are one ascending row: what came in one batch is one
//! `basic.ack`, with `multiple` if it is more than one.
//! Never: confirms a publish before the broker has answered it, nor before the `basic.return` of the same publish.

use bytes::BytesMut;
use mynah_core::Message;
use mynah_core::protocol::{Host, RefusalKind, Reply, Ticket};

use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::deliver;
use crate::reason::{Code, Fault};
use crate::translate::exchange_and_key;

/// The confirm mode of a channel. Publishes count from 1.
#[derive(Debug, Default)]
pub(crate) struct Confirm {
    /// The number given last.
    pub(crate) published: u64,
    /// Answered by the broker up to here, in this batch.
    accepted: u64,
    /// Confirmed to the client up to here.
    written: u64,
}

impl Confirm {
    /// Writes what is to be confirmed.
    pub(crate) fn write(&mut self, wire: &mut BytesMut, channel: u16) {
        if self.accepted > self.written {
            let multiple = self.accepted - self.written > 1;
            Response::BasicAck { tag: self.accepted, multiple }.put(wire, channel);
            self.written = self.accepted;
        }
    }
}

/// A publish the broker has not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) ticket: Ticket,
    pub(crate) channel: u16,
    pub(crate) serial: u64,
    /// Its number if the channel confirms; 0 = it does not.
    pub(crate) number: u64,
    /// Sent to the default exchange, where a missing queue is no error.
    pub(crate) to_queue: bool,
}

const PUBLISH: (u16, u16) = (60, 40);

impl Amqp091Connection {
    pub(crate) fn on_confirm_select(
        &mut self,
        number: u16,
        no_wait: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        if channel.transaction.is_some() {
            return Err(Fault::precondition("cannot switch from tx to confirm mode"));
        }
        channel.confirm.get_or_insert_default();
        if !no_wait {
            Response::ConfirmSelectOk {}.put(host.wire(), number);
        }
        Ok(())
    }

    pub(crate) fn on_published(&mut self, ticket: Ticket, reply: Reply, host: &mut dyn Host) {
        let Some(published) = self.publishes.front().copied().filter(|first| first.ticket == ticket) else {
            return;
        };
        self.publishes.pop_front();
        let channel = self.channels.get(&published.channel);
        if !channel.is_some_and(|channel| channel.serial == published.serial && !channel.closing) {
            return;
        }
        match reply {
            Reply::Returned(message) => {
                self.put_return(published.channel, &message, host);
                self.accept(published);
            }
            Reply::Refused(refusal) => match refusal.kind {
                RefusalKind::NotFound if published.to_queue => self.accept(published),
                RefusalKind::Unauthenticated | RefusalKind::Forbidden | RefusalKind::NotFound => {
                    let fault = Fault::refused(refusal).by(PUBLISH);
                    self.close_channel(published.channel, &fault, host);
                }
                // In a transaction every step counts.
                _ if self.in_transaction(published.channel) => {
                    let fault = Fault::refused(refusal).by(PUBLISH);
                    self.close_channel(published.channel, &fault, host);
                }
                RefusalKind::Conflict
                | RefusalKind::Locked
                | RefusalKind::Full
                | RefusalKind::TooLarge
                | RefusalKind::Unavailable => self.refuse(published, host),
            },
            Reply::Published { .. }
            | Reply::Authenticated { .. }
            | Reply::Challenge(_)
            | Reply::Opened(_)
            | Reply::Attached(_)
            | Reply::Detached { .. }
            | Reply::Defined(_)
            | Reply::Done => self.accept(published),
        }
    }

    fn in_transaction(&self, number: u16) -> bool {
        self.channels.get(&number).is_some_and(|channel| channel.transaction.is_some())
    }

    fn accept(&mut self, published: Published) {
        let Some(channel) = self.channels.get_mut(&published.channel) else { return };
        let Some(confirm) = channel.confirm.as_mut().filter(|_| published.number > 0) else { return };
        if confirm.accepted <= confirm.written {
            self.confirming.push(published.channel);
        }
        confirm.accepted = published.number;
    }

    fn refuse(&mut self, published: Published, host: &mut dyn Host) {
        let Some(channel) = self.channels.get_mut(&published.channel) else { return };
        let Some(confirm) = channel.confirm.as_mut().filter(|_| published.number > 0) else { return };
        confirm.write(host.wire(), published.channel);
        Response::BasicNack { tag: published.number, multiple: false, requeue: false }
            .put(host.wire(), published.channel);
        confirm.accepted = published.number;
        confirm.written = published.number;
    }

    fn put_return(&mut self, number: u16, message: &Message, host: &mut dyn Host) {
        let (exchange, key) = exchange_and_key(&message.address);
        let wire = host.wire();
        Response::BasicReturn {
            code: Code::NoRoute.number(),
            text: Code::NoRoute.name(),
            exchange,
            key: &key,
        }
        .put(wire, number);
        deliver::put_content(wire, number, self.frame_max, message, 0);
    }

    /// At the end of a batch of replies.
    pub(crate) fn write_confirms(&mut self, host: &mut dyn Host) {
        for number in self.confirming.drain(..) {
            let confirm = self.channels.get_mut(&number).and_then(|channel| channel.confirm.as_mut());
            if let Some(confirm) = confirm {
                confirm.write(host.wire(), number);
            }
        }
    }
}
