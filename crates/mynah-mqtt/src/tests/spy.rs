//! A host that keeps what is published, with everything in it.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use mynah_core::protocol::{
    Change, Credentials, End, Farewell, Host, Safe, SessionSpec, Source, Step, Ticket,
};
use mynah_core::{ConsumerId, DeliveryTag, Message, Outcome, PublishRef, TransactionId};

#[derive(Default)]
pub(super) struct Spy {
    wire: BytesMut,
    pub messages: Vec<Message>,
}

impl Host for Spy {
    fn wire(&mut self) -> &mut BytesMut {
        &mut self.wire
    }

    fn publish(&mut self, _: Option<Ticket>, publish: &PublishRef<'_>) {
        self.messages.push(Message::from_publish(publish, Instant::now()));
    }

    fn authenticate(&mut self, _: Ticket, _: Credentials<'_>) {}
    fn open(&mut self, _: Ticket, _: SessionSpec<'_>) {}
    fn attach(&mut self, _: Ticket, _: ConsumerId, _: Source<'_>) {}
    fn flow(&mut self, _: ConsumerId, _: u32, _: bool) {}
    fn settle(&mut self, _: ConsumerId, _: &[DeliveryTag], _: &Outcome, _: Option<TransactionId>) {}
    fn detach(&mut self, _: Ticket, _: ConsumerId, _: End) {}
    fn define(&mut self, _: Ticket, _: Change<'_>) {}
    fn transact(&mut self, _: Ticket, _: Step) {}
    fn park(&mut self, _: Bytes) {}
    fn note(&mut self, _: u32, _: Option<&[u8]>, _: Safe) {}
    fn close(&mut self, _: Farewell) {}
}
