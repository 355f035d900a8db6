//! One test for each behaviour of the queue: the desk at which they are made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::address::AddressRef;
use crate::delivery::Outcome;
use crate::message::Header;
use crate::protocol::RefusalKind;
use crate::publish::PublishRef;

mod delivery;
mod durable;
mod policy;

const DEFAULTS: QueueDefaults =
    QueueDefaults { delivery_limit: 3, max_messages: 1000, max_bytes: 1 << 20, socket_window: 4 };

const FAILED: Outcome = Outcome::Modified { failed: true, undeliverable_here: false };
const NOT_HERE: Outcome = Outcome::Modified { failed: false, undeliverable_here: true };

/// A queue, a clock, and what came out.
struct Desk {
    queue: Queue<u32>,
    now: Instant,
    effects: Vec<Effect>,
}

fn key(consumer: u32) -> ConsumerKey {
    ConsumerKey { connection: 1, consumer: ConsumerId(consumer) }
}

fn terms(credit: CreditMode) -> ConsumerTerms {
    ConsumerTerms {
        settled: false,
        credit,
        exclusive: false,
        priority: 0,
        role: Role::Consumer,
        no_local: None,
    }
}

fn desk(spec: QueueSpec) -> Desk {
    Desk { queue: Queue::new(Arc::new(spec), DEFAULTS), now: Instant::now(), effects: Vec::new() }
}

impl Desk {
    fn with(terms: &[ConsumerTerms]) -> Self {
        let mut desk = desk(QueueSpec::default());
        (1..).zip(terms).for_each(|(consumer, terms)| desk.attach(consumer, *terms));
        desk
    }

    fn attach(&mut self, consumer: u32, terms: ConsumerTerms) {
        self.queue.attach(key(consumer), consumer, terms).unwrap();
    }

    fn refused(&mut self, consumer: u32, terms: ConsumerTerms) -> bool {
        let refusal = self.queue.attach(key(consumer), consumer, terms).err();
        refusal.is_some_and(|refusal| refusal.kind == RefusalKind::Forbidden)
    }

    fn push_from(&mut self, publisher: u64, body: &str, header: Header) -> Result<(), Refused> {
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), body.as_bytes()) };
        let message = Arc::new(Message::from_publish(&publish, self.now));
        self.queue.push(self.now, message, None, publisher, &mut self.effects)
    }

    /// One message for each letter.
    fn push(&mut self, letters: &str) {
        for letter in letters.chars() {
            self.push_from(0, &letter.to_string(), Header::default()).unwrap();
        }
    }

    fn push_ttl(&mut self, body: &str, ttl_ms: u64) {
        self.push_from(0, body, Header { ttl_ms: Some(ttl_ms), ..Header::default() }).unwrap();
    }

    fn deliveries(&mut self) -> Vec<(u32, Delivery)> {
        let mut out = Vec::new();
        self.queue.dispatch(self.now, &mut self.effects, |sink, batch| {
            assert!(!batch.is_empty());
            out.extend(batch.drain(..).map(|delivery| (*sink, delivery)));
        });
        out
    }

    /// `1:a 2:b`: consumer and body of each delivery.
    fn dispatch(&mut self) -> String {
        let deliveries = self.deliveries();
        let shown = |(sink, delivery): &(u32, Delivery)| format!("{sink}:{}", body(&delivery.message));
        deliveries.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    fn settle(&mut self, consumer: u32, tags: &[u64], outcome: &Outcome) -> usize {
        let tags: Vec<DeliveryTag> = tags.iter().copied().map(DeliveryTag).collect();
        self.queue.settle(self.now, key(consumer), &tags, outcome, &mut self.effects)
    }

    fn detach(&mut self, consumer: u32, keep_unsettled: bool, failed: bool) -> Option<u32> {
        self.queue.detach(self.now, key(consumer), keep_unsettled, failed, &mut self.effects)
    }

    /// `a queue-length` or `drained 1`.
    fn effects(&mut self) -> Vec<String> {
        let shown = |effect| match effect {
            Effect::DeadLetter { message, cause, reason, .. } => {
                let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
                format!("{} {}{reason}", body(&message), cause.name())
            }
            Effect::Drained { consumer } => format!("drained {}", consumer.consumer.0),
        };
        self.effects.drain(..).map(shown).collect()
    }

    fn peek(&self) -> String {
        self.queue.peek(0, usize::MAX).iter().map(|peeked| body(&peeked.message)).collect()
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}
