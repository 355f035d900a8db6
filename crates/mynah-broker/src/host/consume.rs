//! Attaching, crediting and detaching consumers.

use std::sync::Arc;

use mynah_core::protocol::{
    Attached, CreditMode, End, From, Holder, Notice, Refusal, RefusalKind, Reply, Retained, Source,
};
use mynah_core::queue::{ConsumerKey, ConsumerTerms, Effect, QueueSpec};
use mynah_core::{
    AddressRef, ConsumerId, Delivery, DeliveryTag, Filter, Guarantee, Message, PublishRef, Retain, Run, Wire,
};

use super::Turn;
use crate::access::Action;
use crate::queues::{QueueHandle, QueueKind};
use crate::routing::{BindingTarget, Subscription};
use crate::sessions::SessionSubscription;

/// What the broker knows of a consumer.
#[derive(Debug)]
pub(crate) enum Consumer {
    /// In the routing table, without a queue.
    Direct {
        filter: Filter,
    },
    /// A subscription of the connection's durable session.
    Session,
    Queue(Box<FromQueue>),
}

#[derive(Debug)]
pub(crate) struct FromQueue {
    pub queue: Arc<QueueHandle>,
    /// Credit comes back when a delivery is handed to the socket.
    pub socket: bool,
    /// How to forget a durable subscription: its filter.
    pub durable: bool,
}

impl Turn<'_> {
    pub(super) fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        let at = self.host.consumers.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.host.consumers.get(at).map(|(_, consumer)| consumer)
    }

    fn insert_consumer(&mut self, id: ConsumerId, consumer: Consumer) {
        let consumers = &mut self.host.consumers;
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
        ConsumerKey { connection: self.host.inbox.connection(), consumer }
    }

    pub(super) fn attach_consumer(&mut self, id: ConsumerId, source: &Source<'_>) -> Result<Reply, Refusal> {
        match &source.from {
            From::Topic { filter, holder } => self.attach_topic(id, source, filter, *holder),
            From::Shared { group, filter } => {
                self.may_consume(filter)?;
                let name = format!("$share/{group}/{filter}");
                let spec = source.queue_spec.cloned().unwrap_or_default();
                let host = Arc::clone(&self.host.host);
                let (queue, made) = host.queue_or_create(&name, QueueKind::Shared, None, &spec, self.now);
                if made {
                    bind_topic(&host.routes, &queue, filter);
                }
                self.attach_queue(id, source, queue, false)
            }
            From::Queue { name, create } => {
                let access = &self.host.broker.shared.access;
                access.authorise(self.user(), Action::Consume, AddressRef::Queue(name))?;
                let queue = self.host.host.queue_by_use(name, *create, source.queue_spec, self.now)?;
                self.attach_queue(id, source, queue, false)
            }
            From::Exchange { name, key, holder } => self.attach_exchange(id, source, name, key, *holder),
        }
    }

    fn may_consume(&self, filter: &Filter) -> Result<(), Refusal> {
        let text = filter.to_string();
        self.host.broker.shared.access.authorise(self.user(), Action::Consume, AddressRef::Topic(&text))
    }

    fn attach_topic(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        filter: &Filter,
        holder: Holder<'_>,
    ) -> Result<Reply, Refusal> {
        self.may_consume(filter)?;
        let direct = source.settled && source.credit == CreditMode::Socket;
        let host = Arc::clone(&self.host.host);
        match holder {
            Holder::Connection if direct => Ok(self.attach_direct(id, source, filter)),
            Holder::Session => self.attach_session(id, source, filter),
            Holder::Connection => {
                let name = host.generated_name("amq.gen-");
                let spec = QueueSpec {
                    exclusive: true,
                    auto_delete: true,
                    ..source.queue_spec.cloned().unwrap_or_default()
                };
                let owner = Some(self.host.inbox.connection());
                let (queue, _) = host.queue_or_create(&name, QueueKind::Temporary, owner, &spec, self.now);
                bind_topic(&host.routes, &queue, filter);
                self.attach_queue(id, source, queue, false)
            }
            Holder::Durable(name) => {
                let spec = QueueSpec { durable: true, ..source.queue_spec.cloned().unwrap_or_default() };
                let (queue, made) = host.queue_or_create(name, QueueKind::Durable, None, &spec, self.now);
                if !made && !queue.filters().contains(filter) {
                    // Subscribing under the same name to something else changes the subscription [JMS 2.0, 8.3.3].
                    for old in queue.filters() {
                        unbind_topic(&host.routes, &queue, &old);
                    }
                }
                if !queue.filters().contains(filter) {
                    bind_topic(&host.routes, &queue, filter);
                }
                self.attach_queue(id, source, queue, true)
            }
        }
    }

    fn attach_exchange(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        exchange: &str,
        key: &str,
        holder: Holder<'_>,
    ) -> Result<Reply, Refusal> {
        let host = Arc::clone(&self.host.host);
        if !host.routes.read().exchanges.contains_key(exchange) {
            let text = format!("no exchange '{exchange}' in vhost '{}'", host.name);
            return Err(Refusal::new(RefusalKind::NotFound, text));
        }
        let (name, kind, owner, durable) = match holder {
            Holder::Durable(name) => (name.to_owned(), QueueKind::Durable, None, true),
            Holder::Connection | Holder::Session => {
                let owner = Some(self.host.inbox.connection());
                (host.generated_name("amq.gen-"), QueueKind::Temporary, owner, false)
            }
        };
        let spec = QueueSpec {
            durable,
            exclusive: !durable,
            auto_delete: !durable,
            ..source.queue_spec.cloned().unwrap_or_default()
        };
        let (queue, _) = host.queue_or_create(&name, kind, owner, &spec, self.now);
        queue.note_exchange();
        if let Some(known) = host.routes.write().exchanges.get_mut(exchange) {
            known.bind(key, &Vec::new(), BindingTarget::Queue(Arc::clone(&queue.name)));
        }
        self.attach_queue(id, source, queue, durable)
    }

    fn attach_queue(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        queue: Arc<QueueHandle>,
        durable: bool,
    ) -> Result<Reply, Refusal> {
        let me = self.host.inbox.connection();
        if queue.owner.is_some_and(|owner| owner != me) {
            let text = format!(
                "cannot obtain exclusive access to locked queue '{}' in vhost '{}'",
                queue.name, self.host.host.name
            );
            return Err(Refusal::new(RefusalKind::Locked, text));
        }
        let new = self.detach_consumer(id, End { forget: false, keep_unsettled: false });
        let terms = ConsumerTerms {
            settled: source.settled,
            credit: source.credit,
            exclusive: source.exclusive,
            priority: source.priority,
            role: source.role,
            no_local: source.no_local.then_some(me),
        };
        let socket = source.credit == CreditMode::Socket;
        // The consumer must be known before its first delivery is handed to the socket.
        let from = FromQueue { queue: Arc::clone(&queue), socket, durable };
        self.insert_consumer(id, Consumer::Queue(Box::new(from)));
        let key = self.key(id);
        let inbox = Arc::clone(&self.host.inbox);
        let attached =
            queue.attach(self.now, key, &inbox, terms, &mut self.batch.touched, &mut self.batch.effects);
        self.batch.collect(&queue);
        if let Err(refusal) = attached {
            self.remove_consumer(id);
            return Err(refusal);
        }
        Ok(Reply::Attached(Box::new(Attached { queue: Some(Arc::clone(&queue.name)), new: !new })))
    }

    fn attach_direct(&mut self, id: ConsumerId, source: &Source<'_>, filter: &Filter) -> Reply {
        let replaced = self.detach_consumer(id, End { forget: false, keep_unsettled: false });
        let host = Arc::clone(&self.host.host);
        host.routes.subscribe(
            filter,
            Subscription::Direct {
                inbox: Arc::clone(&self.host.inbox),
                consumer: id,
                wire: source.wire.clone().map(Arc::new),
                no_local: source.no_local,
            },
        );
        self.insert_consumer(id, Consumer::Direct { filter: filter.clone() });
        if wants_retained(source.retained, !replaced) {
            self.send_retained(id, filter, source.wire.as_ref());
        }
        Reply::Attached(Box::new(Attached { queue: None, new: !replaced }))
    }

    fn attach_session(
        &mut self,
        id: ConsumerId,
        source: &Source<'_>,
        filter: &Filter,
    ) -> Result<Reply, Refusal> {
        let (Some(client), Some(wire)) = (self.host.client.clone(), source.wire.clone().map(Arc::new)) else {
            return Err(Refusal::new(RefusalKind::Conflict, "this connection has no durable session"));
        };
        let subscription = SessionSubscription {
            filter: filter.clone(),
            wire: Arc::clone(&wire),
            no_local: source.no_local,
        };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else {
            drop(state);
            return Ok(self.attach_direct(id, source, filter));
        };
        let queue = Arc::clone(&session.queue);
        let old = session.subscriptions.insert(id, subscription.clone());
        drop(state);
        let host = Arc::clone(&self.host.host);
        if let Some(old) = &old {
            remove_session_subscription(&host.routes, &queue, self.host.inbox.connection(), id, old);
        }
        add_session_subscription(&host.routes, &queue, Some(&self.host.inbox), id, &subscription);
        self.insert_consumer(id, Consumer::Session);
        if wants_retained(source.retained, old.is_none()) {
            self.send_retained_to_session(&queue, filter, &wire);
        }
        Ok(Reply::Attached(Box::new(Attached { queue: Some(Arc::clone(&queue.name)), new: old.is_none() })))
    }

    /// Retained messages for a subscriber without a queue: into its own inbox, whatever its bounds.
    fn send_retained(&mut self, id: ConsumerId, filter: &Filter, wire: Option<&Wire>) {
        let found = self.host.host.retained.matching(filter, self.now);
        if found.is_empty() {
            return;
        }
        let mut run = Run::default();
        let mut deliveries = Vec::new();
        for message in &found {
            match wire {
                Some(wire) => (wire.encode)(wire, &replayed(message, self.now), &mut run),
                None => deliveries.push(replayed_delivery(id, message, self.now)),
            }
        }
        let inbox = Arc::clone(&self.host.inbox);
        let mut wake = false;
        if run.frames > 0 {
            wake |= inbox.push_unbounded(&run).wake;
        }
        if !deliveries.is_empty() {
            wake |= inbox.push_deliveries(&mut deliveries).wake;
        }
        if wake {
            self.batch.touched.push(inbox);
        }
    }

    fn send_retained_to_session(&mut self, queue: &Arc<QueueHandle>, filter: &Filter, wire: &Arc<Wire>) {
        let found = self.host.host.retained.matching(filter, self.now);
        let mut run = Run::default();
        let mut kept = Vec::new();
        for message in &found {
            if wire.effective(message.header.guarantee) > Guarantee::AtMostOnce {
                kept.push(Arc::new(Message::from_publish(&replayed(message, self.now), self.now)));
            } else {
                (wire.encode)(wire, &replayed(message, self.now), &mut run);
            }
        }
        let inbox = Arc::clone(&self.host.inbox);
        if run.frames > 0 && inbox.push_unbounded(&run).wake {
            self.batch.touched.push(inbox);
        }
        let now = self.now;
        queue.update(now, &mut self.batch.touched, &mut self.batch.effects, |machine, effects| {
            for message in kept {
                // What does not fit is counted by the effects of the push.
                let _ = machine.push(now, message, Some(Arc::clone(wire)), 0, effects);
            }
        });
        self.batch.collect(queue);
    }

    pub(super) fn grant(&mut self, id: ConsumerId, credit: u32, drain: bool) {
        let Some(queue) = self.queue_of(id) else { return };
        let key = self.key(id);
        queue.update(self.now, &mut self.batch.touched, &mut self.batch.effects, |machine, _| {
            machine.flow(key, credit, drain);
        });
        let drained = self
            .batch
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Drained { consumer } if *consumer == key));
        self.batch.collect(&queue);
        if drained && self.host.inbox.push_notice(Notice::Drained { consumer: id }).wake {
            self.batch.touched.push(Arc::clone(&self.host.inbox));
        }
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
        let Some(consumer) = self.remove_consumer(id) else { return false };
        let me = self.host.inbox.connection();
        let host = Arc::clone(&self.host.host);
        match consumer {
            Consumer::Direct { filter } => {
                host.routes.unsubscribe(&filter, |subscription| subscription.is_of(me, id));
            }
            Consumer::Session => self.forget_session_subscription(id),
            Consumer::Queue(from) => {
                self.detach_from_queue(id, &from, end.keep_unsettled, false);
                if end.forget && from.durable {
                    host.delete_queue(self.batch, &from.queue, self.now);
                }
                if end.keep_unsettled {
                    self.host.rare().lingering.push((id, Consumer::Queue(from)));
                }
            }
        }
        true
    }

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
        let ends = match from.queue.kind {
            QueueKind::Temporary | QueueKind::Shared => true,
            QueueKind::Plain | QueueKind::Durable | QueueKind::Session => from.queue.spec().auto_delete,
        };
        if left == 0 && ends && !keep_unsettled {
            let host = Arc::clone(&self.host.host);
            host.delete_queue(self.batch, &from.queue, self.now);
        }
    }

    fn forget_session_subscription(&mut self, id: ConsumerId) {
        let Some(client) = self.host.client.clone() else { return };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else { return };
        let queue = Arc::clone(&session.queue);
        let old = session.subscriptions.remove(&id);
        drop(state);
        if let Some(old) = old {
            let me = self.host.inbox.connection();
            remove_session_subscription(&self.host.host.routes, &queue, me, id, &old);
        }
    }
}

fn wants_retained(when: Retained, new: bool) -> bool {
    match when {
        Retained::Always => true,
        Retained::IfNew => new,
        Retained::Never => false,
    }
}

fn replayed(message: &Message, now: std::time::Instant) -> PublishRef<'_> {
    let mut publish = message.as_publish();
    publish.header.retain = Retain::Replayed;
    publish.header.ttl_ms = message.ttl_left_ms(now);
    publish
}

fn replayed_delivery(consumer: ConsumerId, message: &Message, now: std::time::Instant) -> Delivery {
    Delivery {
        consumer,
        tag: DeliveryTag(0),
        message: Arc::new(Message::from_publish(&replayed(message, now), now)),
        attempts: 0,
        redelivered: false,
        settled: true,
        remaining: 0,
        wire: None,
    }
}

pub(crate) fn bind_topic(routes: &crate::routing::RoutingTable, queue: &Arc<QueueHandle>, filter: &Filter) {
    queue.note_filter(filter);
    routes.subscribe(
        filter,
        Subscription::Queue { queue: Arc::clone(queue), consumer: None, wire: None, no_local: None },
    );
}

pub(crate) fn unbind_topic(
    routes: &crate::routing::RoutingTable,
    queue: &Arc<QueueHandle>,
    filter: &Filter,
) -> bool {
    queue.forget_filter(filter);
    routes.unsubscribe(filter, |subscription| subscription.leads_to(queue, None))
}

/// A session's subscription has two ways: what needs settling to the queue, the rest to the inbox while it is online.
pub(crate) fn add_session_subscription(
    routes: &crate::routing::RoutingTable,
    queue: &Arc<QueueHandle>,
    inbox: Option<&Arc<crate::inbox::Inbox>>,
    id: ConsumerId,
    subscription: &SessionSubscription,
) {
    let SessionSubscription { filter, wire, no_local } = subscription;
    if let Some(inbox) = inbox {
        routes.subscribe(
            filter,
            Subscription::Direct {
                inbox: Arc::clone(inbox),
                consumer: id,
                wire: Some(Arc::clone(wire)),
                no_local: *no_local,
            },
        );
    }
    let known = routes.read().topics.get(filter).iter().any(|known| known.leads_to(queue, Some(id)));
    if !known {
        queue.note_filter(filter);
        routes.subscribe(
            filter,
            Subscription::Queue {
                queue: Arc::clone(queue),
                consumer: Some(id),
                wire: Some(Arc::clone(wire)),
                no_local: inbox.filter(|_| *no_local).map(|inbox| inbox.connection()),
            },
        );
    }
}

pub(crate) fn remove_session_subscription(
    routes: &crate::routing::RoutingTable,
    queue: &Arc<QueueHandle>,
    connection: u64,
    id: ConsumerId,
    subscription: &SessionSubscription,
) {
    queue.forget_filter(&subscription.filter);
    routes.unsubscribe(&subscription.filter, |known| {
        known.is_of(connection, id) || known.leads_to(queue, Some(id))
    });
}
