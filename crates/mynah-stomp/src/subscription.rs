//! What a connection remembers of each subscription: its name, how it acknowledges, and what is out unsettled.
//!
//! Never: talks to the broker.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut as _, BytesMut};
use mynah_core::{ConsumerId, Delivery, DeliveryTag, TransactionId};

use crate::codec::{Escape, write_header, write_number};
use crate::translate::Style;

/// How the client acknowledges [STOMP 1.2, SUBSCRIBE ack Header].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckMode {
    Auto,
    /// An ACK counts for all that was sent before on the same subscription.
    Client,
    ClientIndividual,
}

/// What the `destination` header of its messages says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// What the client subscribed to: it is part of the prefix.
    AsSubscribed,
    /// Where the message was sent.
    AsSent(Style),
}

/// One message that was sent to the client and is not settled.
#[derive(Debug, Clone, Copy)]
struct Out {
    number: u64,
    tag: DeliveryTag,
    /// Settled in a transaction that is still open.
    staged: Option<TransactionId>,
}

/// What is out, in the order it was sent. Numbers rise, so that any is found by bisection.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    out: VecDeque<Out>,
}

impl Ledger {
    fn push(&mut self, number: u64, tag: DeliveryTag) {
        self.out.push_back(Out { number, tag, staged: None });
    }

    /// Takes the message of that number, and in `Client` mode all before it, out (or stages it) and lists the tags.
    /// Answers false if no message of that number waits for an acknowledgement.
    pub(crate) fn take(
        &mut self,
        number: u64,
        mode: AckMode,
        transaction: Option<TransactionId>,
        tags: &mut Vec<DeliveryTag>,
    ) -> bool {
        let at = self.out.partition_point(|out| out.number < number);
        if !self.out.get(at).is_some_and(|out| out.number == number && out.staged.is_none()) {
            return false;
        }
        let from = if mode == AckMode::Client { 0 } else { at };
        if transaction.is_some() {
            for out in self.out.range_mut(from..=at).filter(|out| out.staged.is_none()) {
                out.staged = transaction;
                tags.push(out.tag);
            }
            return true;
        }
        if from == at {
            tags.extend(self.out.remove(at).map(|out| out.tag));
            return true;
        }
        let later = self.out.split_off(at + 1);
        tags.extend(self.out.iter().filter(|out| out.staged.is_none()).map(|out| out.tag));
        self.out.retain(|out| out.staged.is_some());
        self.out.extend(later);
        true
    }

    /// A transaction ended: what it settled is gone, or waits for its acknowledgement as before.
    pub(crate) fn end(&mut self, transaction: TransactionId, committed: bool) {
        if committed {
            self.out.retain(|out| out.staged != Some(transaction));
            return;
        }
        for out in self.out.iter_mut().filter(|out| out.staged == Some(transaction)) {
            out.staged = None;
        }
    }
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) consumer: ConsumerId,
    /// The client's `id`, or where 1.0 allows none, the destination.
    pub(crate) key: Box<str>,
    pub(crate) mode: AckMode,
    pub(crate) shown: Shown,
    /// A durable subscription outlives the connection, and ends only with an UNSUBSCRIBE that says so.
    pub(crate) durable: bool,
    /// A browser is told where the queue ended.
    pub(crate) browser: bool,
    pub(crate) ledger: Ledger,
    /// The start of each of its frames, up to the number in `message-id`.
    prefix: BytesMut,
    sent: u64,
}

impl Subscription {
    /// `id` is `None` where 1.0 allows to leave it out.
    pub(crate) fn new(
        consumer: ConsumerId,
        id: Option<&str>,
        destination: &str,
        shown: Shown,
        mode: AckMode,
        escape: Escape,
    ) -> Self {
        let mut prefix = BytesMut::from("MESSAGE\n");
        if let Some(id) = id {
            write_header(escape, "subscription", id, &mut prefix);
        }
        if shown == Shown::AsSubscribed {
            write_header(escape, "destination", destination, &mut prefix);
        }
        prefix.put_slice(b"message-id:");
        write_number(u64::from(consumer.0), &mut prefix);
        prefix.put_slice(b"-");
        Self {
            consumer,
            key: id.unwrap_or(destination).into(),
            mode,
            shown,
            durable: false,
            browser: false,
            ledger: Ledger::default(),
            prefix,
            sent: 0,
        }
    }

    /// The start of the frame for a delivery, and the number that names it; remembers it if it must be acknowledged.
    pub(crate) fn next(&mut self, delivery: &Delivery) -> (&[u8], u64) {
        self.sent += 1;
        if !delivery.settled && self.mode != AckMode::Auto {
            self.ledger.push(self.sent, delivery.tag);
        }
        (&self.prefix, self.sent)
    }

    /// The same for a frame that is no delivery.
    pub(crate) fn next_empty(&mut self) -> (&[u8], u64) {
        self.sent += 1;
        (&self.prefix, self.sent)
    }
}

/// All subscriptions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// By consumer, rising: numbers are never used again.
    list: Vec<Subscription>,
    by_key: HashMap<Box<str>, ConsumerId>,
    last: u32,
}

impl Subscriptions {
    /// A consumer number that was never used; 0 is the client's own address.
    pub(crate) fn fresh(&mut self) -> ConsumerId {
        self.last += 1;
        ConsumerId(self.last)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    pub(crate) fn insert(&mut self, subscription: Subscription) {
        self.by_key.insert(subscription.key.clone(), subscription.consumer);
        let at = self.list.partition_point(|other| other.consumer < subscription.consumer);
        self.list.insert(at, subscription);
    }

    pub(crate) fn get_mut(&mut self, consumer: ConsumerId) -> Option<&mut Subscription> {
        let at = self.list.partition_point(|other| other.consumer < consumer);
        self.list.get_mut(at).filter(|found| found.consumer == consumer)
    }

    pub(crate) fn by_key(&mut self, key: &str) -> Option<&mut Subscription> {
        let consumer = *self.by_key.get(key)?;
        self.get_mut(consumer)
    }

    pub(crate) fn remove(&mut self, consumer: ConsumerId) -> Option<Subscription> {
        let at = self.list.partition_point(|other| other.consumer < consumer);
        self.list.get(at).filter(|found| found.consumer == consumer)?;
        let removed = self.list.remove(at);
        self.by_key.remove(&removed.key);
        Some(removed)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.list.iter_mut()
    }
}

/// Reads `<consumer>-<number>`, the form of `message-id` and `ack` in a MESSAGE.
pub(crate) fn parse_id(text: &str) -> Option<(ConsumerId, u64)> {
    let (consumer, number) = text.split_once('-')?;
    Some((ConsumerId(consumer.parse().ok()?), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        (1..=5).for_each(|number| ledger.push(number, DeliveryTag(number + 100)));
        ledger
    }

    fn take(ledger: &mut Ledger, number: u64, mode: AckMode, tx: Option<u64>) -> Option<Vec<u64>> {
        let mut tags = Vec::new();
        let known = ledger.take(number, mode, tx.map(TransactionId), &mut tags);
        known.then(|| tags.into_iter().map(|tag| tag.0).collect())
    }

    #[test]
    fn individual_acknowledgements_in_any_order() {
        let mut ledger = ledger();
        let mode = AckMode::ClientIndividual;
        assert_eq!(take(&mut ledger, 3, mode, None), Some(vec![103]));
        assert_eq!(take(&mut ledger, 3, mode, None), None);
        assert_eq!(take(&mut ledger, 1, mode, None), Some(vec![101]));
        assert_eq!(take(&mut ledger, 9, mode, None), None);
        assert_eq!(take(&mut ledger, 5, mode, None), Some(vec![105]));
    }

    #[test]
    fn cumulative_acknowledgements() {
        let mut ledger = ledger();
        assert_eq!(take(&mut ledger, 3, AckMode::Client, None), Some(vec![101, 102, 103]));
        assert_eq!(take(&mut ledger, 2, AckMode::Client, None), None);
        assert_eq!(take(&mut ledger, 4, AckMode::Client, None), Some(vec![104]));
    }

    #[test]
    fn what_a_transaction_settled_comes_back_when_it_is_aborted() {
        let mut ledger = ledger();
        let mode = AckMode::Client;
        assert_eq!(take(&mut ledger, 2, mode, Some(7)), Some(vec![101, 102]));
        assert_eq!(take(&mut ledger, 2, mode, None), None);
        assert_eq!(take(&mut ledger, 4, mode, None), Some(vec![103, 104]));
        ledger.end(TransactionId(7), false);
        assert_eq!(take(&mut ledger, 2, mode, Some(8)), Some(vec![101, 102]));
        ledger.end(TransactionId(8), true);
        assert_eq!(take(&mut ledger, 2, mode, None), None);
        assert_eq!(take(&mut ledger, 5, mode, None), Some(vec![105]));
    }

    #[test]
    fn identifiers_come_back() {
        assert_eq!(parse_id("3-17"), Some((ConsumerId(3), 17)));
        for bad in ["", "3", "3-", "-1", "a-b", "3-17x", "99999999999-1"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
