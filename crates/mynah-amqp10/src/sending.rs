//! The sending half of a session: the peer's window, delivery-ids, and transfers cut to the peer's frames
//! (AMQP 1.0 part 2.5.6, 2.6.14).
//!
//! A message that fits into one frame goes from its shared buffer to the wire with one copy. Of a larger one as much goes
//! as the window takes; the rest goes before anything else of the session.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mynah_core::protocol::Host;
use mynah_core::{Delivery, Outcome};

use crate::codec::transfer::{TRANSFER_HEAD_MAX, TransferHead, serial_distance};
use crate::context::Context;
use crate::outbound::Outbound;
use crate::translate;
use crate::unsettled::Unsettled;

#[derive(Debug)]
pub(crate) struct Sending {
    channel: u16,
    /// The number of the next transfer frame; begins at [`FIRST_TRANSFER`].
    pub(crate) next_outgoing_id: u32,
    next_delivery_id: u32,
    /// How many transfer frames the peer takes now.
    remote_window: u32,
    pub(crate) unsettled: Unsettled,
    stalled: Option<Stalled>,
}

pub(crate) const FIRST_TRANSFER: u32 = 0;

/// What is left of a message for which the window was too small.
#[derive(Debug)]
struct Stalled {
    head: TransferHead,
    rest: Bytes,
}

impl Sending {
    pub(crate) fn new(channel: u16, remote_window: u32) -> Self {
        Self {
            channel,
            next_outgoing_id: FIRST_TRANSFER,
            next_delivery_id: 0,
            remote_window,
            unsettled: Unsettled::default(),
            stalled: None,
        }
    }

    /// Whether a new delivery may begin.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.remote_window > 0 && self.stalled.is_none()
    }

    /// The peer's window, counted in frames from what it had seen when it said so [AMQP 2.5.6]. Answers whether the
    /// number it has seen can be.
    pub(crate) fn on_flow(&mut self, next_incoming_id: Option<u32>, incoming_window: u32) -> bool {
        let seen = next_incoming_id.unwrap_or(FIRST_TRANSFER);
        let Ok(on_the_way) = u32::try_from(serial_distance(seen, self.next_outgoing_id)) else {
            return false;
        };
        self.remote_window = incoming_window.saturating_sub(on_the_way);
        true
    }

    /// Sends one delivery, as much as the window takes. The caller has seen to credit and [`Self::is_open`].
    pub(crate) fn send(
        &mut self,
        link: &mut Outbound,
        delivery: &Delivery,
        ctx: &mut Context,
        host: &mut dyn Host,
        now: Instant,
    ) {
        ctx.head.clear();
        let tail = translate::write_payload(&mut ctx.head, delivery, link.tell_address, now);
        let len = ctx.head.len() + tail.len();
        if link.max_message_size > 0 && u64::try_from(len).is_ok_and(|len| len > link.max_message_size) {
            // This receiver cannot take it, another one may.
            if !delivery.settled {
                let outcome = Outcome::Modified { failed: false, undeliverable_here: true };
                host.settle(delivery.consumer, &[delivery.tag], &outcome, None);
            }
            return;
        }
        let delivery_id = self.next_delivery_id;
        self.next_delivery_id = delivery_id.wrapping_add(1);
        link.sent();
        if !delivery.settled {
            self.unsettled.push(delivery_id, link.at.handle, delivery.consumer, delivery.tag);
        }
        let head = TransferHead {
            channel: self.channel,
            handle: link.at.handle,
            delivery_id,
            first: true,
            settled: delivery.settled,
            more: false,
        };
        let wire = host.wire();
        if len <= payload_max(ctx.frame_max) {
            wire.reserve(TRANSFER_HEAD_MAX + len);
            head.write(wire, len);
            wire.put_slice(&ctx.head);
            wire.put_slice(tail);
            self.count();
            return;
        }
        let mut rest = BytesMut::with_capacity(len);
        rest.put_slice(&ctx.head);
        rest.put_slice(tail);
        self.stalled = Some(Stalled { head, rest: rest.freeze() });
        self.go_on(wire, ctx.frame_max);
    }

    /// Sends the frames that are left of a large message, as far as the window goes.
    pub(crate) fn go_on(&mut self, wire: &mut BytesMut, frame_max: u32) {
        let chunk_max = payload_max(frame_max);
        while self.remote_window > 0 {
            let Some(stalled) = &mut self.stalled else { return };
            let chunk = stalled.rest.get(..chunk_max).unwrap_or(&stalled.rest);
            let chunk_len = chunk.len();
            stalled.head.more = stalled.rest.len() > chunk_len;
            stalled.head.write(wire, chunk_len);
            wire.put_slice(chunk);
            stalled.rest.advance(chunk_len);
            stalled.head.first = false;
            if !stalled.head.more {
                self.stalled = None;
            }
            self.count();
        }
    }

    fn count(&mut self) {
        self.remote_window = self.remote_window.saturating_sub(1);
        self.next_outgoing_id = self.next_outgoing_id.wrapping_add(1);
    }

    /// A link has ended: nothing of it is out or under way any more.
    pub(crate) fn forget(&mut self, handle: u32) {
        self.unsettled.forget(handle);
        if self.stalled.as_ref().is_some_and(|stalled| stalled.head.handle == handle) {
            self.stalled = None;
        }
    }
}

fn payload_max(frame_max: u32) -> usize {
    usize::try_from(frame_max).unwrap_or(usize::MAX).saturating_sub(TRANSFER_HEAD_MAX).max(1)
}
