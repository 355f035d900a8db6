//! MESSAGE frames.

use std::time::Instant;

use bytes::BytesMut;
use mynah_core::protocol::Host;
use mynah_core::{ConsumerId, Delivery};

use super::StompConnection;
use crate::codec::{Escape, plain_header, write_header, write_number};
use crate::subscription::{AckMode, Shown, Subscription};
use crate::translate::{Style, text_of, write_facts};
use crate::version::Version;

/// What the headers of a MESSAGE take, as a rule.
const HEAD_BYTES: usize = 256;

impl StompConnection {
    pub(super) fn on_deliveries(
        &mut self,
        now: Instant,
        deliveries: &mut Vec<Delivery>,
        host: &mut dyn Host,
    ) {
        for delivery in deliveries.drain(..) {
            if delivery.consumer == ConsumerId::SESSION {
                self.own_address();
            }
            let (version, escape) = (self.version.unwrap_or(Version::V1_0), self.escape());
            // What came for a subscription that was just ended goes back by itself.
            let Some(subscription) = self.subscriptions.get_mut(delivery.consumer) else { continue };
            write_message(version, escape, subscription, &delivery, now, host.wire());
            if subscription.mode == AckMode::Auto && !delivery.settled {
                self.settling.add(delivery.consumer, delivery.tag, host);
            }
        }
        self.settling.flush(host);
    }

    /// What is sent to the client by its identifier comes without SUBSCRIBE, as a subscription of that name.
    fn own_address(&mut self) {
        if self.subscriptions.get_mut(ConsumerId::SESSION).is_none() {
            let name = format!("/p2p/{}", self.client_id);
            let own = Subscription::new(
                ConsumerId::SESSION,
                Some(&name),
                &name,
                Shown::AsSubscribed,
                AckMode::Auto,
                self.escape(),
            );
            self.subscriptions.insert(own);
        }
    }

    /// A browser has seen all there was.
    pub(super) fn on_drained(&mut self, consumer: ConsumerId, host: &mut dyn Host) {
        let Some(subscription) = self.subscriptions.get_mut(consumer) else { return };
        if subscription.browser {
            let out = host.wire();
            let (prefix, number) = subscription.next_empty();
            out.extend_from_slice(prefix);
            write_number(number, out);
            out.extend_from_slice(b"\nbrowser:end\ncontent-length:0\n\n\0\n");
        }
    }
}

fn write_message(
    version: Version,
    escape: Escape,
    subscription: &mut Subscription,
    delivery: &Delivery,
    now: Instant,
    out: &mut BytesMut,
) {
    let message = &*delivery.message;
    let (mode, shown) = (subscription.mode, subscription.shown);
    let (prefix, number) = subscription.next(delivery);
    out.reserve(prefix.len() + HEAD_BYTES + message.body.len());
    out.extend_from_slice(prefix);
    write_number(number, out);
    if version == Version::V1_2 && mode != AckMode::Auto {
        out.extend_from_slice(b"\nack:");
        write_number(u64::from(delivery.consumer.0), out);
        out.extend_from_slice(b"-");
        write_number(number, out);
    }
    out.extend_from_slice(if delivery.redelivered {
        b"\nredelivered:true\n"
    } else {
        b"\nredelivered:false\n"
    });
    if delivery.redelivered || delivery.attempts > 0 {
        plain_header("delivery-count:", u64::from(delivery.attempts), out);
    }
    let style = match shown {
        Shown::AsSubscribed => Style::Dots,
        Shown::AsSent(style) => {
            write_header(escape, "destination", &text_of(message.address.as_ref(), style), out);
            style
        }
    };
    write_facts(escape, style, message, now, out);
    plain_header("content-length:", message.body.len() as u64, out);
    out.extend_from_slice(b"\n");
    out.extend_from_slice(&message.body);
    out.extend_from_slice(b"\0\n");
}
