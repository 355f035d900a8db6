//! Attaching, crediting and detaching consumers.

use std::cell::RefCell;
use std::sync::Arc;

use mynah_core::protocol::{
    Attached, CreditMode, End, From, Holder, Refusal, RefusalKind, Reply, Retained, Role, Source,
};
use mynah_core::queue::{ConsumerKey, ConsumerTerms, QueueSpec};
use mynah_core::{AddressRef, ConsumerId, Delivery, Filter, Wire, words};

use super::Turn;
use super::replay::Receiver;
use crate::bindings::Bound;
use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::rules::Action;
use crate::sessions::SessionSubscription;
use crate::virtual_host::TOPIC_EXCHANGE;

/// What the broker knows of a consumer.
#[derive(Debug)]
pub(crate) enum Consumer {
    /// In the routing table, without a queue.
    Direct {
        filter: KeptFilter,
    },
    /// A subscription of the connection's durable session.
    Session,
    Queue(Box<FromQueue>),
}

/// A filter at rest. Most name one topic, and a split filter is five times its text.
#[derive(Debug)]
pub(crate) enum KeptFilter {
    Topic(Box<str>),
    Split(Filter),
}

impl KeptFilter {
    fn new(filter: &Filter) -> Self {
        filter
            .as_topic()
            .map_or_else(|| Self::Split(filter.clone()), |topic| Self::Topic(topic.into_boxed_str()))
    }

    pub(crate) fn filter(&self) -> Filter {
        match self {
            Self::Topic(topic) => Filter::exact(topic),
            Self::Split(filter) => filter.clone(),
        }
    }
}

/// Subscribers come in crowds with the same wire class: they share one.
fn shared_wire(wire: &Wire) -> Arc<Wire> {
    thread_local! {
        static LAST: RefCell<Option<Arc<Wire>>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some(known) if **known == *wire => Arc::clone(known),
        _ => Arc::clone(last.insert(Arc::new(wire.clone()))),
    })
}

#[derive(Debug)]
pub(crate) struct FromQueue {
    pub queue: Arc<QueueHandle>,
    /// Credit comes back when a delivery is handed to the socket.
    pub socket: bool,
    /// It is a durable subscription, which detaching can forget.
    pub durable: bool,
    /// It is a consumer in the sense of [`Role::Consumer`].
    pub counts: bool,
}

impl Turn<'_> {
    pub(super) fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        let at = self.host.consumers.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.host.consumers.get(at).map(|(_, consumer)| consumer)
    }

    fn insert_consumer(&mut self, id: ConsumerId, consumer: Consumer) {
        let consumers = &mut self.host.consumers;
        if consumers.len() >= 16 && consumers.len().is_power_of_two() {
            // Those that were cancelled with their queue, and that the protocol has not detached.
            consumers.retain(|(_, known)| !matches!(known, Consumer::Queue(from) if from.queue.is_deleted()));
        }
        match consumers.binary_search_by_key(&id, |(known, _)| *known) {
            Ok(at) => {
                if let Some(entry) = consumers.get_mut(at) {
                    entry.1 = consumer;
                }
            }
            Err(at) => {
                if consumers.is_empty() {
                    // Most clients have one subscription; a vector would start with room for four.
                    consumers.reserve_exact(1);
                }
                consumers.insert(at, (id, consumer));
            }
        }
    }

    fn remove_consumer(&mut self, id: ConsumerId) -> Option<Consumer> {
        let at = self.host.consumers.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        Some(self.host.consumers.remove(at).1)
    }

    fn key(&self, consumer: ConsumerId) -> ConsumerKey {
        ConsumerKey { connection: self.host.info.inbox.connection(), consumer }
    }

    pub(super) fn attach_consumer(&mut self, id: ConsumerId, source: &Source<'_>) -> Result<Reply, Refusal> {
        loop {
            // A queue that was deleted between finding it and attaching to it is looked for again.
            if let Some(attached) = self.try_attach(id, source)? {
                return Ok(Reply::Attached(Box::new(attached)));
            }
        }
    }

    /// `None`: the queue it was to consume from has been deleted meanwhile.
    fn try_attach(&mut self, id: ConsumerId, source: &Source<'_>) -> Result<Option<Attached>, Refusal> {
        match &source.from {
            From::Topic { filter, holder } => self.attach_topic(id, source, filter, *holder),
            From::Shared { group, filter } => {
                self.may_consume(filter)?;
                self.may_share(filter)?;
                let name = format!("$share/{group}/{filter}");
                let spec = source.queue_spec.cloned().unwrap_or_default();
                let host = Arc::clone(&self.host.host);
                let (queue, _) = host.queue_or_create(&name, QueueKind::Shared, None, &spec, self.now);
                match host.bind_topic(&queue, filter, None) {
                    Bound::Yes | Bound::Already => self.attach_queue(id, source, queue, false),
                    Bound::Gone => Ok(None),
                }
            }
            From::Queue { name, create } => {
                let access = &self.host.broker.shared.access;
                access.authorise(self.who(), Action::Subscribe, AddressRef::Queue(name))?;
                let queue = self.host.host.queue_by_use(name, *create, source.queue_spec, self.now)?;
                self.check_owner(&queue)?;
                self.attach_queue(id, source, queue, false)
            }
            From::Exchange { name: TOPIC_EXCHANGE, key, holder } => {
                let filter = words::filter_from_dotted(key)
                    .map_err(|error| Refusal::new(RefusalKind::Conflict, error.to_string()))?;
                self.attach_topic(id, source, &filter, *holder)
            }
            From::Exchange { name, key, holder } => {
                let access = &self.host.broker.shared.access;
                access.authorise(self.who(), Action::Subscribe, AddressRef::Exchange { name, key })?;
                self.attach_exchange(id, source, name, key, *holder)
            }
        }
    }

    fn may_consume(&self, filter: &Filter) -> Result<(), Refusal> {
        let text = filter.to_string();
        self.host.broker.shared.access.authorise(self.who(), Action::Subscribe, AddressRef::Topic(&text))
    }

    /// The members of a group take each other's messages, so nobody looks at them one by one.
    fn may_share(&self, filter: &Filter) -> Result<(), Refusal> {
        let rules = &self.host.broker.shared.access.rules;
        if rules.is_empty() || !rules.deny_part_of(self.who(), &filter.to_string()) {
            return Ok(());
        }
        let text = format!("some of {filter} is not for user '{}' (auth.rules): share less", self.user());
        Err(Refusal::new(RefusalKind::Forbidden, text))
    }

    /// Whether the rules let this client have a message of this topic.
    pub(super) fn may_have(&self, topic: AddressRef<'_>) -> bool {
        let rules = &self.host.broker.shared.access.rules;
        rules.is_empty() || rules.allow(self.who(), Action::Deliver, topic)
    }

    fn attach_topic(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        filter: &Filter,
        holder: Holder<'_>,
    ) -> Result<Option<Attached>, Refusal> {
        self.may_consume(filter)?;
        let direct = source.settled && source.credit == CreditMode::Socket;
        let host = Arc::clone(&self.host.host);
        let no_local = source.no_local.then(|| self.host.info.inbox.connection());
        let (queue, bound) = match holder {
            Holder::Connection if direct => return Ok(Some(self.attach_direct(id, source, filter))),
            Holder::Session => return self.attach_session(id, source, filter).map(Some),
            Holder::Connection => {
                let queue = self.temporary_queue(source);
                let bound = host.bind_topic(&queue, filter, no_local);
                (queue, bound)
            }
            Holder::Durable(name) => {
                let queue = self.durable_queue(name, source);
                let others = !queue.filters().is_empty();
                let bound = host.rebind_topic(&queue, filter, no_local);
                if bound == Bound::Yes && others {
                    // Subscribing under the same name to something else is a new subscription [JMS 2.0, 8.3.3].
                    queue.purge();
                }
                (queue, bound)
            }
        };
        if bound == Bound::Gone {
            return Ok(None);
        }
        if self.host.info.inbox.reader().is_some_and(|reader| queue.set_reader(&reader)) {
            host.routes.invalidate();
        }
        let durable = holder != Holder::Connection;
        let attached = self.attach_queue(id, source, Arc::clone(&queue), durable)?;
        // A durable subscription that goes on has had them.
        if attached.is_some() && bound == Bound::Yes && wants_retained(source.retained, true) {
            self.send_retained(id, filter, Receiver::Queue(queue, None));
        }
        Ok(attached)
    }

    /// A fresh queue for one consumer.
    fn temporary_queue(&self, source: &Source<'_>) -> Arc<QueueHandle> {
        let host = &self.host.host;
        let name = host.generated_name("amq.gen-");
        let owner = Some(self.host.info.inbox.connection());
        let spec = QueueSpec {
            exclusive: true,
            auto_delete: true,
            ..source.queue_spec.cloned().unwrap_or_default()
        };
        host.queue_or_create(&name, QueueKind::Temporary, owner, &spec, self.now).0
    }

    fn durable_queue(&self, name: &str, source: &Source<'_>) -> Arc<QueueHandle> {
        let spec = QueueSpec { durable: true, ..source.queue_spec.cloned().unwrap_or_default() };
        self.host.host.queue_or_create(name, QueueKind::Durable, None, &spec, self.now).0
    }

    fn attach_exchange(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        exchange: &str,
        key: &str,
        holder: Holder<'_>,
    ) -> Result<Option<Attached>, Refusal> {
        let host = Arc::clone(&self.host.host);
        if !host.routes.read().exchanges.contains_key(exchange) {
            return Err(host.no_exchange(exchange));
        }
        let durable = matches!(holder, Holder::Durable(_));
        let queue = match holder {
            Holder::Durable(name) => self.durable_queue(name, source),
            Holder::Connection | Holder::Session => self.temporary_queue(source),
        };
        let used = queue.lock().machine.last_tag() > host.shared.first_tag();
        if source.no_local {
            queue.leave_out(self.host.info.inbox.connection());
        }
        match host.rebind_exchange(exchange, &queue, key) {
            Ok(changed) => {
                if changed && durable && used {
                    queue.purge();
                }
            }
            // The queue or the exchange was deleted meanwhile; if it was the exchange, the next look says so.
            Err(_) if queue.is_deleted() => return Ok(None),
            Err(refusal) => {
                if !durable {
                    host.delete_queue(self.batch, &queue, self.now);
                }
                return Err(refusal);
            }
        }
        self.attach_queue(id, source, queue, durable)
    }

    fn attach_queue(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        queue: Arc<QueueHandle>,
        durable: bool,
    ) -> Result<Option<Attached>, Refusal> {
        let me = self.host.info.inbox.connection();
        let terms = ConsumerTerms {
            settled: source.settled,
            credit: source.credit,
            exclusive: source.exclusive,
            priority: source.priority,
            role: source.role,
            // Nobody else takes what is left in the queue of one subscription: its binding leaves that out.
            no_local: (source.no_local && !matches!(queue.kind, QueueKind::Temporary | QueueKind::Durable))
                .then_some(me),
        };
        let replaced = self.make_way(id, &queue);
        let (key, inbox) = (self.key(id), Arc::clone(&self.host.info.inbox));
        let attached =
            queue.attach(self.now, key, &inbox, terms, &mut self.batch.touched, &mut self.batch.effects);
        self.batch.collect(&queue);
        if !matches!(attached, Ok(true)) {
            // If it was attached to this very queue, it still is unless the queue is gone.
            return attached.map(|_| None);
        }
        let from = FromQueue {
            queue: Arc::clone(&queue),
            socket: source.credit == CreditMode::Socket,
            durable,
            counts: source.role == Role::Consumer,
        };
        // Deliveries are taken from the inbox by this very task, so not before it is known here.
        self.insert_consumer(id, Consumer::Queue(Box::new(from)));
        if queue.kind == QueueKind::Shared {
            self.join_group(id, &queue);
        }
        if let Some(rare) = self.host.rare.as_deref_mut() {
            // It goes on with what it had when it was cancelled.
            rare.lingering.retain(|(known, _)| *known != id);
        }
        Ok(Some(Attached { queue: Some(Arc::clone(&queue.name)), new: !replaced }))
    }

    /// Ends whatever has this number, so that a consumer of `queue` can have it. What that had unsettled goes back, unless it
    /// is attached to the same queue: then it stays with it. True if there was one.
    fn make_way(&mut self, id: ConsumerId, queue: &Arc<QueueHandle>) -> bool {
        let same = |from: &FromQueue| Arc::ptr_eq(&from.queue, queue);
        let lingering = self.host.rare.as_deref_mut().and_then(|rare| {
            let at = rare.lingering.iter().position(|(known, from)| *known == id && !same(from))?;
            Some(rare.lingering.swap_remove(at).1)
        });
        if let Some(from) = lingering {
            self.detach_from_queue(id, &from, false, false);
        }
        let keeps = matches!(self.consumer(id), Some(Consumer::Queue(from)) if same(from));
        keeps || self.detach_consumer(id, End { forget: false, keep_unsettled: false })
    }

    fn attach_direct(&mut self, id: ConsumerId, source: &Source<'_>, filter: &Filter) -> Attached {
        let host = Arc::clone(&self.host.host);
        let (old, replaced) = match self.consumer(id) {
            Some(Consumer::Direct { filter }) => (Some(filter.filter()), true),
            _ => (None, self.detach_consumer(id, End { forget: false, keep_unsettled: false })),
        };
        let wire = source.wire.as_ref().map(shared_wire);
        host.subscribe_direct(&self.host.info.inbox, id, old.as_ref(), filter, wire, source.no_local);
        self.insert_consumer(id, Consumer::Direct { filter: KeptFilter::new(filter) });
        if wants_retained(source.retained, !replaced) {
            let encoded = source.wire.as_ref().filter(|wire| !wire.as_message);
            self.send_retained(id, filter, Receiver::Inbox(encoded.cloned().map(Arc::new)));
        }
        Attached { queue: None, new: !replaced }
    }

    fn attach_session(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        filter: &Filter,
    ) -> Result<Attached, Refusal> {
        let (Some(client), Some(wire)) = (self.host.client.clone(), source.wire.clone().map(Arc::new)) else {
            return Err(Refusal::new(RefusalKind::Conflict, "this connection has no durable session"));
        };
        let subscription = SessionSubscription {
            filter: filter.clone(),
            wire: Arc::clone(&wire),
            no_local: source.no_local,
        };
        if !matches!(self.consumer(id), None | Some(Consumer::Session)) {
            self.detach_consumer(id, End { forget: false, keep_unsettled: false });
        }
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else {
            drop(state);
            return Ok(self.attach_direct(id, source, filter));
        };
        let queue = Arc::clone(&session.queue);
        let old = session.subscriptions.insert(id, subscription.clone());
        // The client stays locked, or its session could end before it is subscribed.
        self.host.host.subscribe_session(&queue, &self.host.info.inbox, id, old.as_ref(), &subscription);
        drop(state);
        self.insert_consumer(id, Consumer::Session);
        if wants_retained(source.retained, old.is_none()) {
            self.send_retained(id, filter, Receiver::Queue(Arc::clone(&queue), Some(wire)));
        }
        Ok(Attached { queue: Some(Arc::clone(&queue.name)), new: old.is_none() })
    }

    pub(super) fn grant(&mut self, id: ConsumerId, credit: u32, drain: bool) {
        let Some(queue) = self.queue_of(id) else { return };
        let key = self.key(id);
        queue.update(self.now, &mut self.batch.touched, &mut self.batch.effects, |machine, _| {
            machine.flow(key, credit, drain);
        });
        if queue.spec().expires.is_some() {
            // Getting is a use [x-expires].
            queue.lock().unused_since = self.now;
        }
        self.batch.collect(&queue);
    }

    /// Takes out the deliveries of consumers that have ended since they left the inbox.
    pub fn forget_ended(&self, deliveries: &mut Vec<Delivery>) {
        let mut known = None;
        deliveries.retain(|delivery| {
            let id = delivery.consumer;
            // They come in runs of one consumer.
            let alive = known == Some(id)
                || id == ConsumerId::SESSION
                || self.consumer(id).is_some()
                || self
                    .host
                    .rare
                    .as_deref()
                    .is_some_and(|rare| rare.lingering.iter().any(|(old, _)| *old == id));
            if alive {
                known = Some(id);
            }
            alive
        });
    }

    /// Deliveries have left the inbox for the socket: consumers without credit of their own may get as many again.
    pub fn sent(&mut self, deliveries: &[Delivery]) {
        self.batch.meter.delivered += deliveries.len() as u64;
        let mut rest = deliveries;
        while let Some(first) = rest.first() {
            let id = first.consumer;
            let count = rest.iter().take_while(|delivery| delivery.consumer == id).count();
            rest = rest.get(count..).unwrap_or_default();
            let Some(Consumer::Queue(from)) = self.consumer(id) else { continue };
            if !from.socket {
                continue;
            }
            let queue = Arc::clone(&from.queue);
            let key = self.key(id);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            queue.update(self.now, &mut self.batch.touched, &mut self.batch.effects, |machine, _| {
                machine.replenish(key, count);
            });
            self.batch.collect(&queue);
        }
    }

    /// True if there was such a consumer.
    pub(super) fn detach_consumer(&mut self, id: ConsumerId, end: End) -> bool {
        self.forget_replays(id);
        if end.forget || matches!(self.consumer(id), Some(Consumer::Session)) {
            self.drop_subscription(id);
        }
        let Some(consumer) = self.remove_consumer(id) else {
            // A resumed session has subscriptions that this connection never attached.
            let member = end.forget && self.leave_group(id);
            return self.forget_session_subscription(id) || member;
        };
        let host = Arc::clone(&self.host.host);
        match consumer {
            Consumer::Direct { filter } => {
                host.unsubscribe_direct(&self.host.info.inbox, id, &filter.filter())
            }
            Consumer::Session => {
                self.forget_session_subscription(id);
            }
            Consumer::Queue(from) => {
                if from.queue.kind == QueueKind::Shared {
                    self.leave_group(id);
                }
                self.detach_from_queue(id, &from, end.keep_unsettled, false);
                if end.forget && from.durable {
                    host.delete_queue(self.batch, &from.queue, self.now);
                }
                if end.keep_unsettled && from.queue.knows(self.key(id)) {
                    self.host.rare().lingering.push((id, *from));
                }
            }
        }
        true
    }

    /// Ends a consumer of a queue; the queue too, if it was to go with its last consumer. What that one may still settle
    /// has gone with the queue then.
    pub(super) fn detach_from_queue(
        &mut self,
        id: ConsumerId,
        from: &FromQueue,
        keep_unsettled: bool,
        failed: bool,
    ) {
        let key = self.key(id);
        let left = from.queue.detach(
            self.now,
            key,
            keep_unsettled,
            failed,
            &mut self.batch.touched,
            &mut self.batch.effects,
        );
        self.batch.collect(&from.queue);
        if !keep_unsettled {
            // It has gone back, and the number may be given to another consumer before the inbox is looked at.
            self.host.info.inbox.forget(id);
        }
        let ends = match from.queue.kind {
            QueueKind::Temporary | QueueKind::Shared => true,
            // Only a consumer's going ends it, not that of somebody who got a message or looked at it.
            QueueKind::Plain | QueueKind::Durable => from.counts && from.queue.spec().auto_delete,
            QueueKind::Session => false,
        };
        if left == 0 && ends {
            let host = Arc::clone(&self.host.host);
            host.delete_queue_if(self.batch, &from.queue, self.now, Guarded::is_abandoned);
        }
    }

    /// True if there was one.
    /// Being a member of a group is part of a durable session: the group's queue stays while the session does.
    fn join_group(&mut self, id: ConsumerId, group: &Arc<QueueHandle>) {
        let Some(client) = self.host.client.clone() else { return };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else { return };
        if session.groups.iter().any(|(known, queue)| *known == id && Arc::ptr_eq(queue, group)) {
            return;
        }
        // What it was a member of under this number before it was away, or is gone.
        let (old, rest) = std::mem::take(&mut session.groups)
            .into_iter()
            .partition(|(known, queue)| *known == id || queue.is_deleted());
        session.groups = rest;
        session.groups.push((id, Arc::clone(group)));
        group.lock().members += 1;
        drop(state);
        self.host.host.keep_group(group);
        let (host, old): (_, Vec<(ConsumerId, Arc<QueueHandle>)>) = (Arc::clone(&self.host.host), old);
        for (_, group) in old {
            host.leave_group(self.batch, &group, self.now);
        }
    }

    /// False if its session was no member under this number.
    fn leave_group(&mut self, id: ConsumerId) -> bool {
        let Some(client) = self.host.client.clone() else { return false };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else { return false };
        let Some(at) = session.groups.iter().position(|(known, _)| *known == id) else { return false };
        let (_, group) = session.groups.swap_remove(at);
        drop(state);
        let host = Arc::clone(&self.host.host);
        host.leave_group(self.batch, &group, self.now);
        true
    }

    fn forget_session_subscription(&mut self, id: ConsumerId) -> bool {
        let Some(client) = self.host.client.clone() else { return false };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else { return false };
        let old = session.subscriptions.remove(&id);
        if let Some(old) = &old {
            self.host.host.unsubscribe_session(&session.queue, &self.host.info.inbox, id, old);
        }
        old.is_some()
    }
}

fn wants_retained(when: Retained, new: bool) -> bool {
    match when {
        Retained::Always => true,
        Retained::IfNew => new,
        Retained::Never => false,
    }
}
