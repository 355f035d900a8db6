//! Changes of the routing table: each is made under one lock of it, so that no message passes between an old binding and
//! the new one, and none leads to a queue that is gone.
//!
//! A queue is marked as deleted under its own lock before its bindings are taken out. Whoever binds looks at that
//! mark with the table locked: either the binding is there to be taken out, or it is not made.
//!
//! What of it outlives the process is written down under the same lock, so in the same order.
//!
//! Never: locks a queue or an inbox.

use std::sync::Arc;

use mynah_core::exchange::{Arguments, Exchange, ExchangeKind, check_headers_rule};
use mynah_core::protocol::{Refusal, RefusalKind};
use mynah_core::{ConsumerId, Filter, Wire};

use crate::durable::definitions::{TO_EXCHANGE, TO_QUEUE, TOPICS};
use crate::inbox::Inbox;
use crate::queues::QueueHandle;
use crate::routing::{BindingTarget, Subscription, Tables};
use crate::sessions::{Session, SessionSubscription};
use crate::virtual_host::VirtualHost;

/// What became of a request to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Yes,
    /// It was bound like that before.
    Already,
    /// The queue was deleted meanwhile.
    Gone,
}

/// Where a binding to make or take out leads.
#[derive(Debug)]
pub(crate) enum Bindable<'a> {
    Queue(&'a Arc<QueueHandle>),
    Exchange(&'a str),
}

impl Bindable<'_> {
    fn target(&self) -> BindingTarget {
        match self {
            Self::Queue(queue) => BindingTarget::Queue(Arc::clone(&queue.name)),
            Self::Exchange(name) => BindingTarget::Exchange((*name).into()),
        }
    }
}

// ---- queues and subscribers on topics ----

impl VirtualHost {
    /// Leads topics to a queue, without what connection `no_local` publishes.
    pub(crate) fn bind_topic(
        &self,
        queue: &Arc<QueueHandle>,
        filter: &Filter,
        no_local: Option<u64>,
    ) -> Bound {
        if queue.has_filter(filter) {
            // Members of a group come and go; the table need not change for it.
            return if queue.is_deleted() { Bound::Gone } else { Bound::Already };
        }
        let mut tables = self.routes.write();
        if queue.is_deleted() {
            return Bound::Gone;
        }
        if queue.has_filter(filter) {
            return Bound::Already;
        }
        lead(&mut tables, queue, filter, no_local);
        self.keep_topic(queue, filter);
        Bound::Yes
    }

    /// Leads these topics to a queue, in place of all others if it was not so before; in one step.
    pub(crate) fn rebind_topic(
        &self,
        queue: &Arc<QueueHandle>,
        filter: &Filter,
        no_local: Option<u64>,
    ) -> Bound {
        let mut tables = self.routes.write();
        if queue.is_deleted() {
            return Bound::Gone;
        }
        let same = queue.has_filter(filter);
        if same && no_local.is_none() {
            return Bound::Already;
        }
        // Bindings that others added stay while the subscription is the same.
        let old = if same { vec![filter.clone()] } else { queue.filters() };
        for old in &old {
            queue.forget_filter(old);
            tables.topics.remove_one(old, |known| known.leads_to(queue, None));
            self.drop_topic(queue, old);
        }
        lead(&mut tables, queue, filter, no_local);
        self.keep_topic(queue, filter);
        if same { Bound::Already } else { Bound::Yes }
    }

    /// False if it was not bound.
    pub(crate) fn unbind_topic(&self, queue: &Arc<QueueHandle>, filter: &Filter) -> bool {
        let mut tables = self.routes.write();
        let was = queue.forget_filter(filter);
        if was {
            self.drop_topic(queue, filter);
        }
        was && tables.topics.remove_one(filter, |known| known.leads_to(queue, None)).is_some()
    }

    /// A subscriber without a queue, in place of its `old` subscription.
    pub(crate) fn subscribe_direct(
        &self,
        inbox: &Arc<Inbox>,
        id: ConsumerId,
        old: Option<&Filter>,
        filter: &Filter,
        wire: Option<Arc<Wire>>,
        no_local: bool,
    ) {
        let mut tables = self.routes.write();
        if let Some(old) = old {
            tables.topics.remove_one(old, |known| known.is_of(inbox, id));
        }
        let inbox = Arc::clone(inbox);
        tables.topics.insert(filter, Subscription::Direct { inbox, consumer: id, wire, no_local });
    }

    pub(crate) fn unsubscribe_direct(&self, inbox: &Arc<Inbox>, id: ConsumerId, filter: &Filter) {
        self.routes.write().topics.remove_one(filter, |known| known.is_of(inbox, id));
    }

    // ---- sessions ----

    /// A session's subscription, in place of the `old` one of that number, in one step [MQTT-3.8.4-3].
    pub(crate) fn subscribe_session(
        &self,
        queue: &Arc<QueueHandle>,
        inbox: &Arc<Inbox>,
        id: ConsumerId,
        old: Option<&SessionSubscription>,
        new: &SessionSubscription,
    ) {
        let mut tables = self.routes.write();
        if let Some(old) = old {
            remove_direct(&mut tables, inbox, id, old);
            remove_queued(&mut tables, queue, id, old);
        }
        insert_direct(&mut tables, inbox, id, new);
        if !queue.is_deleted() {
            insert_queued(&mut tables, queue, inbox, id, new);
        }
    }

    pub(crate) fn unsubscribe_session(
        &self,
        queue: &Arc<QueueHandle>,
        inbox: &Arc<Inbox>,
        id: ConsumerId,
        old: &SessionSubscription,
    ) {
        let mut tables = self.routes.write();
        remove_direct(&mut tables, inbox, id, old);
        remove_queued(&mut tables, queue, id, old);
    }

    /// The session has a connection again.
    pub(crate) fn resume_subscriptions(&self, session: &Session, inbox: &Arc<Inbox>) {
        if session.subscriptions.is_empty() {
            return;
        }
        let mut tables = self.routes.write();
        for (id, subscription) in &session.subscriptions {
            insert_direct(&mut tables, inbox, *id, subscription);
            if subscription.no_local {
                // "Local" is another connection now.
                remove_queued(&mut tables, &session.queue, *id, subscription);
                insert_queued(&mut tables, &session.queue, inbox, *id, subscription);
            }
        }
    }

    /// The session's connection is gone: what goes directly has nowhere to go.
    pub(crate) fn suspend_subscriptions(&self, session: &Session, inbox: &Arc<Inbox>) {
        if session.subscriptions.is_empty() {
            return;
        }
        let mut tables = self.routes.write();
        for (id, subscription) in &session.subscriptions {
            remove_direct(&mut tables, inbox, *id, subscription);
        }
    }
}

fn lead(tables: &mut Tables, queue: &Arc<QueueHandle>, filter: &Filter, no_local: Option<u64>) {
    queue.note_filter(filter);
    let queue = Arc::clone(queue);
    tables.topics.insert(filter, Subscription::Queue { queue, consumer: None, wire: None, no_local });
}

// A session's subscription has two ways: what needs settling to the queue, the rest to the inbox while it is online.

fn insert_direct(tables: &mut Tables, inbox: &Arc<Inbox>, id: ConsumerId, of: &SessionSubscription) {
    let direct = Subscription::Direct {
        inbox: Arc::clone(inbox),
        consumer: id,
        wire: Some(Arc::clone(&of.wire)),
        no_local: of.no_local,
    };
    tables.topics.insert(&of.filter, direct);
}

fn insert_queued(
    tables: &mut Tables,
    queue: &Arc<QueueHandle>,
    inbox: &Arc<Inbox>,
    id: ConsumerId,
    of: &SessionSubscription,
) {
    queue.note_filter(&of.filter);
    let queued = Subscription::Queue {
        queue: Arc::clone(queue),
        consumer: Some(id),
        wire: Some(Arc::clone(&of.wire)),
        no_local: of.no_local.then(|| inbox.connection()),
    };
    tables.topics.insert(&of.filter, queued);
}

fn remove_direct(tables: &mut Tables, inbox: &Arc<Inbox>, id: ConsumerId, of: &SessionSubscription) {
    tables.topics.remove_one(&of.filter, |known| known.is_of(inbox, id));
}

fn remove_queued(tables: &mut Tables, queue: &Arc<QueueHandle>, id: ConsumerId, of: &SessionSubscription) {
    if queue.forget_filter(&of.filter) {
        tables.topics.remove_one(&of.filter, |known| known.leads_to(queue, Some(id)));
    }
}

// ---- exchanges ----

impl VirtualHost {
    pub(crate) fn no_exchange(&self, name: &str) -> Refusal {
        Refusal::new(RefusalKind::NotFound, format!("no exchange '{name}' in vhost '{}'", self.name))
    }

    fn no_queue(&self, name: &str) -> Refusal {
        Refusal::new(RefusalKind::NotFound, format!("no queue '{name}' in vhost '{}'", self.name))
    }

    /// # Errors
    /// Source or destination is not there, or a headers exchange cannot read the arguments.
    pub(crate) fn bind_exchange(
        &self,
        source: &str,
        destination: &Bindable<'_>,
        key: &str,
        arguments: &Arguments,
    ) -> Result<(), Refusal> {
        let mut tables = self.routes.write();
        self.check_destination(&tables, destination)?;
        let Some(exchange) = tables.exchanges.get_mut(source) else { return Err(self.no_exchange(source)) };
        if exchange.spec().kind == ExchangeKind::Headers {
            check_headers_rule(arguments).map_err(|text| Refusal::new(RefusalKind::Conflict, text))?;
        }
        let target = destination.target();
        if exchange.bind(key, arguments, target.clone()) {
            self.keep_binding(&tables, source, &target, key, arguments);
        }
        Ok(())
    }

    /// As `bind_exchange`, and takes out every other binding of a durable subscription. True if there was a change.
    ///
    /// # Errors
    /// As `bind_exchange`.
    pub(crate) fn rebind_exchange(
        &self,
        source: &str,
        queue: &Arc<QueueHandle>,
        key: &str,
    ) -> Result<bool, Refusal> {
        let mut tables = self.routes.write();
        self.check_destination(&tables, &Bindable::Queue(queue))?;
        let target = BindingTarget::Queue(Arc::clone(&queue.name));
        let Some(exchange) = tables.exchanges.get_mut(source) else { return Err(self.no_exchange(source)) };
        if !exchange.bind(key, &Vec::new(), target.clone()) {
            return Ok(false);
        }
        let mut ended: Vec<Arc<str>> = Vec::new();
        for (name, exchange) in &mut tables.exchanges {
            self.forget_kept(name, exchange, &target);
            let unbound = exchange.remove_destination(&target) > 0;
            if **name == *source {
                exchange.bind(key, &Vec::new(), target.clone());
            } else if unbound && exchange.spec().auto_delete && exchange.is_empty() {
                ended.push(Arc::clone(name));
            }
        }
        for name in ended {
            self.remove_exchange(&mut tables, &name);
        }
        self.keep_binding(&tables, source, &target, key, &Vec::new());
        Ok(true)
    }

    fn check_destination(&self, tables: &Tables, destination: &Bindable<'_>) -> Result<(), Refusal> {
        use crate::virtual_host::TOPIC_EXCHANGE;
        match destination {
            Bindable::Queue(queue) => {
                if queue.is_deleted() {
                    return Err(self.no_queue(&queue.name));
                }
                queue.note_exchange();
                Ok(())
            }
            Bindable::Exchange(name) => {
                let known = *name == TOPIC_EXCHANGE || tables.exchanges.contains_key(*name);
                if known { Ok(()) } else { Err(self.no_exchange(name)) }
            }
        }
    }

    /// Leads topics to an exchange.
    ///
    /// # Errors
    /// There is no such exchange.
    pub(crate) fn bind_exchange_to_topic(&self, filter: &Filter, exchange: &str) -> Result<(), Refusal> {
        let mut tables = self.routes.write();
        self.check_destination(&tables, &Bindable::Exchange(exchange))?;
        let mut bound = self.topics_to_exchanges.lock();
        let filters = bound.entry(exchange.into()).or_default();
        if !filters.contains(filter) {
            filters.push(filter.clone());
            tables.topics.insert(filter, Subscription::Exchange(exchange.into()));
            let lasts = tables.exchanges.get(exchange).is_some_and(|exchange| exchange.spec().durable);
            if lasts || exchange == crate::virtual_host::TOPIC_EXCHANGE {
                self.put_binding(TOPICS, (TO_EXCHANGE, exchange), &filter.to_string(), &Vec::new(), None);
            }
        }
        Ok(())
    }

    pub(crate) fn unbind_exchange_from_topic(&self, filter: &Filter, exchange: &str) {
        let mut tables = self.routes.write();
        let mut bound = self.topics_to_exchanges.lock();
        let Some(filters) = bound.get_mut(exchange) else { return };
        let before = filters.len();
        filters.retain(|known| known != filter);
        if filters.len() < before {
            tables.topics.remove_one(filter, |known| leads_to_exchange(known, exchange));
            self.delete_binding(TOPICS, (TO_EXCHANGE, exchange), &filter.to_string(), &Vec::new());
        }
        if filters.is_empty() {
            bound.remove(exchange);
        }
    }

    /// Takes a binding out; an exchange that was to go with its last binding goes.
    pub(crate) fn unbind_exchange(
        &self,
        source: &str,
        destination: &Bindable<'_>,
        key: &str,
        arguments: &Arguments,
    ) {
        let mut tables = self.routes.write();
        let Some(exchange) = tables.exchanges.get_mut(source) else { return };
        let target = destination.target();
        let unbound = exchange.unbind(key, arguments, &target);
        if unbound && exchange.spec().durable {
            self.delete_binding(source, named(&target), key, arguments);
        }
        if unbound && exchange.spec().auto_delete && exchange.is_empty() {
            self.remove_exchange(&mut tables, source);
        }
    }

    /// Takes an exchange out, with all that leads to it.
    pub(crate) fn remove_exchange(&self, tables: &mut Tables, name: &str) {
        if let Some(exchange) = tables.exchanges.remove(name) {
            self.forget_exchange(name, &exchange);
        }
        self.remove_destination(tables, BindingTarget::Exchange(name.into()));
    }

    /// Takes out all bindings of exchanges that lead to something that is gone. An exchange that was to go with its last
    /// binding goes too, with all that leads to it, and so on.
    fn remove_destination(&self, tables: &mut Tables, gone: BindingTarget) {
        let mut gone = vec![gone];
        while let Some(target) = gone.pop() {
            let mut ended: Vec<Arc<str>> = Vec::new();
            for (name, exchange) in &mut tables.exchanges {
                self.forget_kept(name, exchange, &target);
                let unbound = exchange.remove_destination(&target) > 0;
                if unbound && exchange.spec().auto_delete && exchange.is_empty() {
                    ended.push(Arc::clone(name));
                }
            }
            if let BindingTarget::Exchange(name) = &target {
                for filter in self.topics_to_exchanges.lock().remove(name).unwrap_or_default() {
                    tables.topics.remove_one(&filter, |known| leads_to_exchange(known, name));
                    self.delete_binding(TOPICS, (TO_EXCHANGE, name), &filter.to_string(), &Vec::new());
                }
            }
            for name in ended {
                if let Some(exchange) = tables.exchanges.remove(&name) {
                    self.forget_exchange(&name, &exchange);
                }
                gone.push(BindingTarget::Exchange(name));
            }
        }
    }

    /// Takes the bindings of a queue that is marked as deleted out of the tables; the queue knows where they are.
    pub(crate) fn forget_bindings(&self, queue: &Arc<QueueHandle>) {
        let mut tables = self.routes.write();
        let (filters, in_exchanges) = queue.take_bindings();
        for filter in filters {
            self.drop_topic(queue, &filter);
            tables.topics.remove_one(
                &filter,
                |known| matches!(known, Subscription::Queue { queue: other, .. } if Arc::ptr_eq(other, queue)),
            );
        }
        // By name; that the name is not given to a new queue before this is `queue_or_create`'s part.
        if in_exchanges {
            self.remove_destination(&mut tables, BindingTarget::Queue(Arc::clone(&queue.name)));
        }
    }
}

// ---- what of it outlives the process ----

impl VirtualHost {
    /// As it was before the process began.
    pub(crate) fn restore_topic(&self, queue: &Arc<QueueHandle>, filter: &Filter) {
        lead(&mut self.routes.write(), queue, filter, None);
    }

    /// False if the exchange is not there any more.
    pub(crate) fn restore_topic_to_exchange(&self, filter: &Filter, exchange: &str) -> bool {
        self.bind_exchange_to_topic(filter, exchange).is_ok()
    }

    /// A session that nobody is connected to is in force: what needs settling waits in its queue.
    pub(crate) fn restore_subscriptions(&self, session: &Session) {
        let mut tables = self.routes.write();
        let nobody = Inbox::new(0, 0);
        for (id, subscription) in &session.subscriptions {
            insert_queued(&mut tables, &session.queue, &nobody, *id, subscription);
        }
    }

    /// A binding is kept if both its ends are.
    fn keep_binding(
        &self,
        tables: &Tables,
        source: &str,
        target: &BindingTarget,
        key: &str,
        arguments: &Arguments,
    ) {
        let lasts = |name: &str| tables.exchanges.get(name).is_some_and(|known| known.spec().durable);
        let Some(queue) = self.keeps_target(target).filter(|_| lasts(source)) else { return };
        let (kind, name) = named(target);
        if queue.is_some() || name == crate::virtual_host::TOPIC_EXCHANGE || lasts(name) {
            self.put_binding(source, (kind, name), key, arguments, queue);
        }
    }

    /// All bindings of an exchange to this are about to go.
    fn forget_kept(&self, source: &str, exchange: &Exchange<BindingTarget>, target: &BindingTarget) {
        if exchange.spec().durable {
            for (key, arguments) in exchange.bindings_to(target) {
                self.delete_binding(source, named(target), &key, &arguments);
            }
        }
    }

    /// An exchange is gone, and what it led to with it.
    fn forget_exchange(&self, name: &str, exchange: &Exchange<BindingTarget>) {
        if exchange.spec().durable {
            for binding in exchange.bindings() {
                self.delete_binding(name, named(binding.destination), binding.key, binding.arguments);
            }
            self.drop_exchange(name, exchange.spec());
        }
    }
}

fn named(target: &BindingTarget) -> (&str, &str) {
    match target {
        BindingTarget::Queue(name) => (TO_QUEUE, name),
        BindingTarget::Exchange(name) => (TO_EXCHANGE, name),
    }
}

fn leads_to_exchange(subscription: &Subscription, name: &str) -> bool {
    matches!(subscription, Subscription::Exchange(known) if **known == *name)
}
