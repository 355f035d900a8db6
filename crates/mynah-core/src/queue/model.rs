//! The queue against a plain model: random operations, and after each the two must agree.
//!
//! The model keeps messages in sorted maps and looks at everybody each time. It does not predict whose turn it is: it takes
//! the queue's word and checks that the choice was allowed, that nobody with credit was left out, and that nothing was lost,
//! given twice, or taken out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::address::AddressRef;
use crate::delivery::Outcome;
use crate::message::Header;
use crate::publish::PublishRef;

const DEFAULTS: QueueDefaults =
    QueueDefaults { delivery_limit: 2, max_messages: 12, max_bytes: 60, socket_window: 3 };

#[derive(Debug, Clone)]
enum Step {
    Push { publisher: u64, priority: u8, ttl_ms: Option<u64>, size: usize },
    Dispatch,
    Attach { consumer: u32, terms: ConsumerTerms },
    Detach { consumer: u32, keep_unsettled: bool, failed: bool },
    Flow { consumer: u32, credit: u32, drain: bool },
    Replenish { consumer: u32, sent: u32 },
    SetWindow { consumer: u32, window: u32 },
    Settle { consumer: u32, picks: Vec<prop::sample::Index>, outcome: Outcome },
    Pass { ms: u64 },
    Expire,
    Purge,
}

fn steps() -> impl Strategy<Value = Step> {
    let credit = prop_oneof![
        Just(CreditMode::Socket),
        (0..4_u32).prop_map(CreditMode::Window),
        Just(CreditMode::Granted)
    ];
    let role = prop_oneof![6 => Just(Role::Consumer), 1 => Just(Role::Getter), 1 => Just(Role::Browser)];
    let terms = (
        any::<bool>(),
        credit,
        prop::bool::weighted(0.1),
        -1..2_i32,
        role,
        prop::option::weighted(0.2, 0..2_u64),
    );
    let terms = terms.prop_map(|(settled, credit, exclusive, priority, role, no_local)| ConsumerTerms {
        settled,
        credit,
        exclusive,
        priority,
        role,
        no_local,
    });
    let outcome = prop_oneof![
        3 => Just(Outcome::Accepted),
        1 => Just(Outcome::Rejected { reason: None }),
        2 => Just(Outcome::Released),
        3 => any::<(bool, bool)>()
            .prop_map(|(failed, undeliverable_here)| Outcome::Modified { failed, undeliverable_here }),
    ];
    let consumer = 0..4_u32;
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop_oneof![
        8 => (0..3_u64, 0..4_u8, prop::option::weighted(0.3, 0..60_u64), 0..12_usize).prop_map(
            |(publisher, priority, ttl_ms, size)| Step::Push { publisher, priority, ttl_ms, size }
        ),
        6 => Just(Step::Dispatch),
        3 => (consumer.clone(), terms).prop_map(|(consumer, terms)| Step::Attach { consumer, terms }),
        2 => (consumer.clone(), any::<bool>(), any::<bool>()).prop_map(
            |(consumer, keep_unsettled, failed)| Step::Detach { consumer, keep_unsettled, failed }
        ),
        3 => (consumer.clone(), 0..5_u32, any::<bool>())
            .prop_map(|(consumer, credit, drain)| Step::Flow { consumer, credit, drain }),
        2 => (consumer.clone(), 0..4_u32).prop_map(|(consumer, sent)| Step::Replenish { consumer, sent }),
        1 => (consumer.clone(), 0..4_u32).prop_map(|(consumer, window)| Step::SetWindow { consumer, window }),
        5 => (consumer, picks, outcome)
            .prop_map(|(consumer, picks, outcome)| Step::Settle { consumer, picks, outcome }),
        2 => (1..40_u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Expire),
        1 => Just(Step::Purge),
    ]
}

fn specs() -> impl Strategy<Value = QueueSpec> {
    let overflow =
        prop::sample::select(&[Overflow::DropHead, Overflow::RejectPublish, Overflow::DeadLetter][..]);
    let delivery_limit = prop::option::of(0..3_u32);
    let parts = (
        overflow,
        delivery_limit,
        prop::option::of(0..3_u8),
        prop::option::of(0..50_u64),
        prop::option::of(0..6_u64),
        any::<bool>(),
        prop::option::of(8..12_u64),
    );
    parts.prop_map(
        |(overflow, delivery_limit, max_priority, ttl, max_messages, single, max_message_bytes)| QueueSpec {
            overflow,
            delivery_limit,
            max_priority,
            message_ttl: ttl.map(Duration::from_millis),
            max_messages,
            single_active_consumer: single,
            max_message_bytes,
            ..QueueSpec::default()
        },
    )
}

#[derive(Debug, Clone)]
struct Kept {
    level: u8,
    size: u64,
    publisher: u64,
    expires: Option<Instant>,
    attempts: u32,
    redelivered: bool,
    /// Attachments (by number) that refused it.
    avoids: BTreeSet<u64>,
}

#[derive(Debug)]
struct Member {
    terms: ConsumerTerms,
    attachment: u64,
    window: u32,
    on_the_way: u32,
    granted: u32,
    draining: bool,
    receives: bool,
    browsed: BTreeSet<u64>,
}

#[derive(Debug)]
struct Model {
    spec: QueueSpec,
    now: Instant,
    ready: BTreeMap<u64, Kept>,
    out: BTreeMap<u64, (u32, Kept)>,
    members: BTreeMap<u32, Member>,
    active: Option<u32>,
    last_seq: u64,
    attachments: u64,
    effects: Vec<String>,
}

impl Model {
    fn new(spec: QueueSpec, now: Instant) -> Self {
        Self {
            spec,
            now,
            ready: BTreeMap::new(),
            out: BTreeMap::new(),
            members: BTreeMap::new(),
            active: None,
            last_seq: 0,
            attachments: 0,
            effects: Vec::new(),
        }
    }

    fn dead(&mut self, seq: u64, cause: Cause) {
        self.effects.push(format!("{seq} {}", cause.name()));
    }

    fn unsettled_of(&self, consumer: u32) -> u32 {
        u32::try_from(self.out.values().filter(|(holder, _)| *holder == consumer).count()).unwrap()
    }

    fn credit(&self, consumer: u32) -> u32 {
        let member = &self.members[&consumer];
        let settled = member.terms.settled || member.terms.role == Role::Browser;
        match member.terms.credit {
            _ if !member.receives => 0,
            CreditMode::Socket => member.window.saturating_sub(member.on_the_way),
            CreditMode::Window(_) if settled && member.window > 0 => u32::MAX,
            CreditMode::Window(_) => member.window.saturating_sub(self.unsettled_of(consumer)),
            CreditMode::Granted => member.granted,
        }
    }

    /// What the consumer can get in the round.
    fn usable(&self, consumer: u32) -> u64 {
        let waits = match self.members[&consumer].terms.role {
            Role::Browser => true,
            Role::Getter => false,
            Role::Consumer => self.spec.single_active_consumer && self.active != Some(consumer),
        };
        if waits { 0 } else { u64::from(self.credit(consumer)) }
    }

    fn all_usable(&self) -> u64 {
        self.members.keys().map(|consumer| self.usable(*consumer)).sum()
    }

    fn takers(&self, kept: &Kept) -> Vec<u32> {
        let takes = |consumer: &u32| self.usable(*consumer) > 0 && self.may_take(*consumer, kept);
        self.members.keys().copied().filter(takes).collect()
    }

    fn may_take(&self, consumer: u32, kept: &Kept) -> bool {
        let member = &self.members[&consumer];
        member.terms.no_local != Some(kept.publisher) && !kept.avoids.contains(&member.attachment)
    }

    fn spend(&mut self, consumer: u32) {
        assert!(self.credit(consumer) > 0, "{consumer} had no credit");
        let member = self.members.get_mut(&consumer).unwrap();
        match member.terms.credit {
            CreditMode::Socket => member.on_the_way += 1,
            CreditMode::Granted => member.granted -= 1,
            CreditMode::Window(_) => {}
        }
    }

    /// Numbers in delivery order.
    fn order(&self) -> Vec<u64> {
        let mut order: Vec<u64> = self.ready.keys().copied().collect();
        order.sort_by_key(|seq| (std::cmp::Reverse(self.ready[seq].level), *seq));
        order
    }

    fn bytes(&self) -> u64 {
        self.ready.values().map(|kept| kept.size).sum()
    }

    fn exceeds(&self, more: u64, bytes: u64) -> bool {
        let after = self.ready.len() as u64 + more;
        let max_messages = self.spec.max_messages.unwrap_or(DEFAULTS.max_messages);
        after > self.all_usable()
            && (after - self.all_usable() > max_messages || self.bytes() + bytes > DEFAULTS.max_bytes)
    }

    fn drop_excess(&mut self) {
        while self.spec.overflow == Overflow::DropHead && self.exceeds(0, 0) {
            let (seq, _) = self.ready.pop_first().unwrap();
            self.dead(seq, Cause::QueueLength);
        }
    }

    /// The number of a refused message is 0: it has none.
    fn push(&mut self, kept: Kept) -> Result<(), Refused> {
        if self.spec.max_message_bytes.is_some_and(|max| kept.size > max) {
            if self.spec.overflow != Overflow::RejectPublish {
                self.dead(0, Cause::MessageLength);
            }
            return Err(Refused::TooLarge);
        }
        if self.spec.overflow != Overflow::DropHead && self.exceeds(1, kept.size) {
            if self.spec.overflow == Overflow::DeadLetter {
                self.dead(0, Cause::QueueLength);
            }
            return Err(Refused::Full);
        }
        self.last_seq += 1;
        self.ready.insert(self.last_seq, kept);
        self.drop_excess();
        Ok(())
    }

    fn dispatch(&mut self, deliveries: &[(u32, Delivery)], expired: &BTreeSet<u64>) {
        let mut given: BTreeMap<u64, (u32, &Delivery)> = BTreeMap::new();
        let mut last: BTreeMap<u32, (std::cmp::Reverse<u8>, u64)> = BTreeMap::new();
        for (consumer, delivery) in deliveries {
            let seq = delivery.tag.0;
            let kept = self.ready.get(&seq).expect("delivered, but not ready");
            let place = (std::cmp::Reverse(kept.level), seq);
            let before = last.insert(*consumer, place);
            assert!(before.is_none_or(|before| before < place), "out of order");
            assert_eq!((delivery.attempts, delivery.redelivered), (kept.attempts, kept.redelivered));
            assert_eq!(delivery.consumer.0, *consumer);
            assert!(kept.expires.is_none_or(|at| at >= self.now), "delivered after its time");
            if self.members[consumer].terms.role == Role::Browser {
                assert!(delivery.settled && self.may_take(*consumer, kept));
                assert!(self.members.get_mut(consumer).unwrap().browsed.insert(seq), "browsed twice");
                self.spend(*consumer);
            } else {
                assert!(given.insert(seq, (*consumer, delivery)).is_none(), "given twice");
            }
        }
        for seq in self.order() {
            if self.all_usable() == 0 {
                break;
            }
            if expired.contains(&seq) {
                assert!(self.ready[&seq].expires.is_some_and(|at| at < self.now));
                self.ready.remove(&seq);
                self.dead(seq, Cause::Expired);
                continue;
            }
            let takers = self.takers(&self.ready[&seq]);
            let Some((consumer, delivery)) = given.remove(&seq) else {
                let late = self.ready[&seq].expires.is_some_and(|at| at < self.now);
                assert!(late || takers.is_empty(), "{takers:?} could have taken {seq}");
                continue;
            };
            assert!(takers.contains(&consumer), "{consumer} cannot take {seq}");
            let rank = |consumer: &u32| {
                let terms = &self.members[consumer].terms;
                if terms.role == Role::Getter { i32::MAX } else { terms.priority }
            };
            assert_eq!(Some(rank(&consumer)), takers.iter().map(rank).max(), "others come first");
            self.spend(consumer);
            let mut kept = self.ready.remove(&seq).unwrap();
            assert_eq!(delivery.settled, self.members[&consumer].terms.settled);
            assert_eq!(u64::from(delivery.remaining), self.ready.len() as u64);
            if !delivery.settled {
                kept.redelivered = true;
                self.out.insert(seq, (consumer, kept));
            }
        }
        assert!(given.is_empty(), "without credit: {given:?}");
        for (consumer, member) in &mut self.members {
            if std::mem::take(&mut member.draining) {
                member.granted = 0;
                self.effects.push(format!("drained {consumer}"));
            }
        }
        self.drop_excess();
    }

    fn attach(&mut self, consumer: u32, terms: ConsumerTerms) -> bool {
        let mut others = self.members.iter().filter(|(id, member)| {
            **id != consumer && member.receives && member.terms.role == Role::Consumer
        });
        let conflict = others.any(|(_, member)| member.terms.exclusive || terms.exclusive);
        if conflict && terms.role == Role::Consumer {
            return false;
        }
        let on_the_way = self.members.get(&consumer).map_or(0, |member| member.on_the_way);
        self.leave(consumer);
        self.attachments += 1;
        let window = match terms.credit {
            CreditMode::Socket => DEFAULTS.socket_window,
            CreditMode::Window(window) => window,
            CreditMode::Granted => 0,
        };
        let member = Member {
            terms,
            attachment: self.attachments,
            window,
            on_the_way,
            granted: 0,
            draining: false,
            receives: true,
            browsed: BTreeSet::new(),
        };
        self.members.insert(consumer, member);
        if terms.role == Role::Consumer && self.spec.single_active_consumer && self.active.is_none() {
            self.active = Some(consumer);
        }
        true
    }

    fn leave(&mut self, consumer: u32) {
        let Some(member) = self.members.get_mut(&consumer) else { return };
        member.receives = false;
        member.draining = false;
        if self.active == Some(consumer) {
            let candidates = self
                .members
                .iter()
                .filter(|(_, member)| member.receives && member.terms.role == Role::Consumer);
            let next = candidates
                .max_by_key(|(_, member)| (member.terms.priority, std::cmp::Reverse(member.attachment)));
            self.active = next.map(|(consumer, _)| *consumer);
        }
    }

    fn detach(&mut self, consumer: u32, keep_unsettled: bool, failed: bool) {
        self.leave(consumer);
        if !keep_unsettled {
            let held: Vec<u64> = self.held_by(consumer);
            for seq in held {
                let (_, kept) = self.out.remove(&seq).unwrap();
                self.back(seq, kept, failed);
            }
        }
        self.clean(consumer);
    }

    fn clean(&mut self, consumer: u32) {
        if self.members.get(&consumer).is_some_and(|member| !member.receives)
            && self.unsettled_of(consumer) == 0
        {
            self.members.remove(&consumer);
        }
    }

    fn held_by(&self, consumer: u32) -> Vec<u64> {
        self.out.iter().filter(|(_, (holder, _))| *holder == consumer).map(|(seq, _)| *seq).collect()
    }

    fn back(&mut self, seq: u64, mut kept: Kept, failed: bool) {
        kept.attempts += u32::from(failed);
        let limit = self.spec.delivery_limit.unwrap_or(DEFAULTS.delivery_limit);
        if failed && limit > 0 && kept.attempts >= limit {
            self.dead(seq, Cause::ReadCount);
        } else if kept.expires.is_some_and(|at| at <= self.now) {
            self.dead(seq, Cause::Expired);
        } else {
            self.ready.insert(seq, kept);
        }
    }

    fn settle(&mut self, consumer: u32, tags: &[u64], outcome: &Outcome) -> usize {
        let mut count = 0;
        for seq in tags {
            if self.out.get(seq).is_none_or(|(holder, _)| *holder != consumer) {
                continue;
            }
            let (_, mut kept) = self.out.remove(seq).unwrap();
            count += 1;
            match *outcome {
                Outcome::Accepted => {}
                Outcome::Rejected { .. } => self.dead(*seq, Cause::Rejected),
                Outcome::Released => self.back(*seq, kept, false),
                Outcome::Modified { failed, undeliverable_here } => {
                    if undeliverable_here {
                        kept.avoids.insert(self.members[&consumer].attachment);
                    }
                    self.back(*seq, kept, failed);
                }
            }
        }
        self.clean(consumer);
        count
    }

    fn expire(&mut self) {
        let due = |kept: &Kept| kept.expires.is_some_and(|at| at <= self.now);
        let gone: Vec<u64> = self.ready.iter().filter(|(_, kept)| due(kept)).map(|(seq, _)| *seq).collect();
        for seq in gone {
            self.ready.remove(&seq);
            self.dead(seq, Cause::Expired);
        }
    }
}

fn key(consumer: u32) -> ConsumerKey {
    ConsumerKey { connection: 9, consumer: ConsumerId(consumer) }
}

/// The queue beside its model.
struct Pair {
    queue: Queue<u32>,
    model: Model,
    effects: Vec<Effect>,
    /// The number of each message, by its address.
    numbers: BTreeMap<*const Message, u64>,
    /// So that addresses are not used again.
    messages: Vec<Arc<Message>>,
}

impl Pair {
    fn new(spec: QueueSpec) -> Self {
        Self {
            queue: Queue::new(Arc::new(spec.clone()), DEFAULTS),
            model: Model::new(spec, Instant::now()),
            effects: Vec::new(),
            numbers: BTreeMap::new(),
            messages: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        let now = self.model.now;
        match step {
            Step::Push { publisher, priority, ttl_ms, size } => {
                self.push(*publisher, *priority, *ttl_ms, *size)
            }
            Step::Dispatch => self.dispatch(),
            Step::Attach { consumer, terms } => {
                let attached = self.queue.attach(key(*consumer), *consumer, *terms).is_ok();
                assert_eq!(attached, self.model.attach(*consumer, *terms));
            }
            Step::Detach { consumer, keep_unsettled, failed } => {
                let received = self.model.members.get(consumer).is_some_and(|member| member.receives);
                let sink =
                    self.queue.detach(now, key(*consumer), *keep_unsettled, *failed, &mut self.effects);
                assert_eq!(sink, received.then_some(*consumer));
                self.model.detach(*consumer, *keep_unsettled, *failed);
            }
            Step::Flow { consumer, credit, drain } => {
                self.queue.flow(key(*consumer), *credit, *drain);
                if let Some(member) = self.model.members.get_mut(consumer)
                    && member.terms.credit == CreditMode::Granted
                    && member.receives
                {
                    (member.granted, member.draining) = (*credit, *drain);
                }
            }
            Step::Replenish { consumer, sent } => {
                self.queue.replenish(key(*consumer), *sent);
                if let Some(member) = self.model.members.get_mut(consumer) {
                    member.on_the_way = member.on_the_way.saturating_sub(*sent);
                }
            }
            Step::SetWindow { consumer, window } => {
                self.queue.set_window(key(*consumer), *window);
                if let Some(member) = self.model.members.get_mut(consumer) {
                    member.window = *window;
                }
            }
            Step::Settle { consumer, picks, outcome } => self.settle(*consumer, picks, outcome),
            Step::Pass { ms } => self.model.now += Duration::from_millis(*ms),
            Step::Expire => {
                self.queue.expire(now, &mut self.effects);
                self.model.expire();
            }
            Step::Purge => {
                assert_eq!(self.queue.purge(), self.model.ready.len() as u64);
                self.model.ready.clear();
            }
        }
        self.compare();
    }

    fn dispatch(&mut self) {
        let now = self.model.now;
        let mut deliveries = Vec::new();
        self.queue.dispatch(now, &mut self.effects, |sink, batch| {
            deliveries.extend(batch.drain(..).map(|delivery| (*sink, delivery)));
        });
        let expired = |effect: &Effect| match effect {
            Effect::DeadLetter { message, cause: Cause::Expired, .. } => {
                Some(self.numbers[&Arc::as_ptr(message)])
            }
            Effect::DeadLetter { .. } | Effect::Drained { .. } => None,
        };
        let expired = self.effects.iter().filter_map(expired).collect();
        self.model.dispatch(&deliveries, &expired);
    }

    fn settle(&mut self, consumer: u32, picks: &[prop::sample::Index], outcome: &Outcome) {
        let now = self.model.now;
        let out: Vec<u64> = (0..=self.model.last_seq).collect();
        let held = self.model.held_by(consumer);
        let from = if held.is_empty() { &out } else { &held };
        let tags: Vec<u64> = picks.iter().map(|pick| *pick.get(from)).collect();
        let named: Vec<DeliveryTag> = tags.iter().copied().map(DeliveryTag).collect();
        let count = self.queue.settle(now, key(consumer), &named, outcome, &mut self.effects);
        assert_eq!(count, self.model.settle(consumer, &tags, outcome));
    }

    fn push(&mut self, publisher: u64, priority: u8, ttl_ms: Option<u64>, size: usize) {
        let now = self.model.now;
        let body = vec![0; size];
        let header = Header { priority: Some(priority), ttl_ms, ..Header::default() };
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), &body) };
        let message = Arc::new(Message::from_publish(&publish, now));
        let ttl = |ms| now + Duration::from_millis(ms);
        let queue_ttl = self.model.spec.message_ttl.map(|ttl| now + ttl);
        let kept = Kept {
            level: self.model.spec.max_priority.map_or(0, |max| priority.min(max)),
            size: size as u64,
            publisher,
            expires: ttl_ms.map(ttl).into_iter().chain(queue_ttl).min(),
            attempts: 0,
            redelivered: false,
            avoids: BTreeSet::new(),
        };
        self.numbers.insert(Arc::as_ptr(&message), self.model.last_seq + 1);
        self.messages.push(Arc::clone(&message));
        let expected = self.model.push(kept);
        if expected.is_err() {
            self.numbers.insert(Arc::as_ptr(&message), 0);
        }
        assert_eq!(self.queue.push(now, message, None, publisher, &mut self.effects), expected);
    }

    fn compare(&mut self) {
        let numbers = &self.numbers;
        let shown = |effect| match effect {
            Effect::DeadLetter { message, cause, .. } => {
                format!("{} {}", numbers[&Arc::as_ptr(&message)], cause.name())
            }
            Effect::Drained { consumer } => format!("drained {}", consumer.consumer.0),
        };
        let mut effects: Vec<String> = self.effects.drain(..).map(shown).collect();
        let mut expected = std::mem::take(&mut self.model.effects);
        effects.sort();
        expected.sort();
        assert_eq!(effects, expected);
        let (queue, model) = (&self.queue, &self.model);
        let peeked: Vec<u64> = queue.peek(0, usize::MAX).iter().map(|peeked| peeked.tag.0).collect();
        assert_eq!(peeked, model.order());
        let counts = (queue.ready(), queue.ready_bytes(), queue.unsettled());
        assert_eq!(counts, (model.ready.len() as u64, model.bytes(), model.out.len() as u64));
        let mut stats = queue.consumer_stats();
        stats.sort_by_key(|(key, ..)| key.consumer);
        let expected = model.members.keys().map(|id| (key(*id), model.credit(*id), model.unsettled_of(*id)));
        assert_eq!(stats, expected.collect::<Vec<_>>());
        let members = model.members.values();
        let consumers = members.filter(|member| member.receives && member.terms.role == Role::Consumer);
        assert_eq!(queue.consumers() as usize, consumers.count());
        assert_eq!(queue.usable_credit, model.all_usable());
        let first_expiry = model.ready.values().filter_map(|kept| kept.expires).min();
        assert!(first_expiry.is_none_or(|at| queue.next_expiry().is_some_and(|told| told <= at)));
        let avoided = model.ready.values().chain(model.out.values().map(|(_, kept)| kept));
        let avoided = avoided.filter(|kept| !kept.avoids.is_empty()).count();
        assert_eq!(queue.avoiding.len(), avoided);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_queue_and_the_model_agree(
        spec in specs(),
        steps in prop::collection::vec(steps(), 1..120),
    ) {
        let mut pair = Pair::new(spec);
        for step in &steps {
            pair.run(step);
        }
        // In the end everything is still there: the rest comes out when all is given back.
        for consumer in 0..4 {
            pair.run(&Step::Detach { consumer, keep_unsettled: false, failed: false });
        }
        prop_assert_eq!(pair.queue.drain_all().len(), pair.model.ready.len());
        prop_assert_eq!(pair.queue.ready(), 0);
    }
}
