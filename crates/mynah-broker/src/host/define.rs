//! Declaring, binding and deleting.

use std::sync::Arc;

use mynah_core::exchange::{Arguments, Exchange, ExchangeKind, ExchangeSpec};
use mynah_core::protocol::{Change, Defined, Destination, Refusal, RefusalKind, Reply};
use mynah_core::queue::QueueSpec;
use mynah_core::{AddressRef, Filter};

use super::Turn;
use crate::bindings::{Bindable, Bound};
use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::rules::Action;
use crate::virtual_host::{CLIENT_EXCHANGE, TOPIC_EXCHANGE, builtin, is_reserved};

impl Turn<'_> {
    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<Reply, Refusal> {
        match change {
            Change::DeclareQueue { name, spec, passive } => self.declare_queue(name, spec, *passive),
            Change::DeleteQueue { name, if_unused, if_empty } => {
                self.remove_queue(name, *if_unused, *if_empty)
            }
            Change::PurgeQueue { name } => {
                let queue = self.own_queue(name)?;
                let messages = queue.purge();
                Ok(defined(&queue.name, messages, 0))
            }
            Change::DeclareExchange { name, spec, passive } => self.declare_exchange(name, spec, *passive),
            Change::DeleteExchange { name, if_unused } => self.delete_exchange(name, *if_unused),
            Change::Bind { source, destination, key, arguments } => {
                self.may_bind(AddressRef::Exchange { name: source, key })?;
                self.bind(source, *destination, key, arguments)
            }
            Change::Unbind { source, destination, key, arguments } => {
                self.unbind(source, *destination, key, arguments)
            }
            Change::BindTopic { filter, queue } => {
                self.may_bind(AddressRef::Topic(&filter.to_string()))?;
                let queue = self.own_queue(queue)?;
                self.bind_queue_to_topic(&queue, filter)?;
                Ok(defined(&queue.name, 0, 0))
            }
            Change::UnbindTopic { filter, queue } => {
                let queue = self.own_queue(queue)?;
                self.host.host.unbind_topic(&queue, filter);
                Ok(defined(&queue.name, 0, 0))
            }
        }
    }

    /// A binding brings messages, as a subscription does.
    fn may_bind(&self, address: AddressRef<'_>) -> Result<(), Refusal> {
        self.host.broker.shared.access.authorise(self.who(), Action::Subscribe, address)
    }

    fn no_queue(&self, name: &str) -> Refusal {
        Refusal::new(RefusalKind::NotFound, format!("no queue '{name}' in vhost '{}'", self.host.host.name))
    }

    /// A queue that this connection may use.
    fn own_queue(&self, name: &str) -> Result<Arc<QueueHandle>, Refusal> {
        let queue = self.host.host.queue(name).ok_or_else(|| self.no_queue(name))?;
        self.check_owner(&queue)?;
        Ok(queue)
    }

    fn bind_queue_to_topic(&self, queue: &Arc<QueueHandle>, filter: &Filter) -> Result<(), Refusal> {
        match self.host.host.bind_topic(queue, filter, None) {
            Bound::Yes | Bound::Already => Ok(()),
            Bound::Gone => Err(self.no_queue(&queue.name)),
        }
    }

    pub(super) fn check_owner(&self, queue: &QueueHandle) -> Result<(), Refusal> {
        // Sessions and groups are reached by subscribing, and by nobody else.
        if matches!(queue.kind, QueueKind::Session | QueueKind::Shared) {
            let text =
                format!("queue '{}' belongs to subscriptions and is not to be used by its name", queue.name);
            return Err(Refusal::new(RefusalKind::Forbidden, text));
        }
        if queue.owner.is_none_or(|owner| owner == self.host.info.inbox.connection()) {
            return Ok(());
        }
        let text = format!(
            "cannot obtain exclusive access to locked queue '{}' in vhost '{}'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.",
            queue.name, self.host.host.name
        );
        Err(Refusal::new(RefusalKind::Locked, text))
    }

    fn declare_queue(&mut self, name: &str, spec: &QueueSpec, passive: bool) -> Result<Reply, Refusal> {
        let host = Arc::clone(&self.host.host);
        if passive {
            return self.own_queue(name).map(|queue| state_of(&queue));
        }
        let generated;
        let assigned = name.is_empty();
        let name = if assigned {
            generated = host.generated_name("amq.gen-");
            &generated
        } else {
            name
        };
        let known = host.queue(name);
        if known.is_none() && !assigned && is_reserved(name) {
            let text = format!(
                "queue name '{name}' contains reserved prefix 'amq.*' or '$': choose another, or leave it empty for a generated one"
            );
            return Err(Refusal::new(RefusalKind::Forbidden, text));
        }
        let me = self.host.info.inbox.connection();
        let owner = spec.exclusive.then_some(me);
        let (queue, made) = match known {
            Some(queue) => (queue, false),
            None => host.queue_or_create(name, QueueKind::Plain, owner, spec, self.now),
        };
        if made {
            if owner.is_some() {
                self.note_exclusive(&queue.name);
            }
            return Ok(state_of(&queue));
        }
        self.check_owner(&queue)?;
        let conflict = |text| Refusal::new(RefusalKind::Conflict, text);
        queue.spec().same_declaration(spec, name, &host.name).map_err(conflict)?;
        // Declaring it again is a use [x-expires].
        queue.lock().unused_since = self.now;
        Ok(state_of(&queue))
    }

    /// Remembers a queue to be deleted with this connection, and forgets those that are gone already.
    fn note_exclusive(&mut self, name: &Arc<str>) {
        let host = Arc::clone(&self.host.host);
        let me = Some(self.host.info.inbox.connection());
        let exclusive = &mut self.host.rare().exclusive;
        if exclusive.len() >= 16 && exclusive.len().is_power_of_two() {
            exclusive.retain(|name| host.queue(name).is_some_and(|queue| queue.owner == me));
        }
        exclusive.push(Arc::clone(name));
    }

    fn remove_queue(&mut self, name: &str, if_unused: bool, if_empty: bool) -> Result<Reply, Refusal> {
        let queue = self.own_queue(name)?;
        let host = Arc::clone(&self.host.host);
        let mut refusal = None;
        let allowed = |guarded: &Guarded| {
            let why = if if_unused && guarded.machine.consumers() > 0 {
                "in use"
            } else if if_empty && guarded.machine.ready() > 0 {
                "is not empty"
            } else {
                return true;
            };
            refusal = Some(why);
            false
        };
        let removed = host.delete_queue_if(self.batch, &queue, self.now, allowed);
        if let Some(why) = refusal {
            let text = format!("queue '{name}' in vhost '{}' {why}", host.name);
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        if queue.owner.is_some() {
            self.host.rare().exclusive.retain(|known| *known != queue.name);
        }
        Ok(defined(&queue.name, removed.unwrap_or_default(), 0))
    }

    fn declare_exchange(&mut self, name: &str, spec: &ExchangeSpec, passive: bool) -> Result<Reply, Refusal> {
        let host = Arc::clone(&self.host.host);
        // These are part of the address space, not entries of the table.
        let part_of_broker = match name {
            "" => Some(ExchangeKind::Direct),
            TOPIC_EXCHANGE => Some(ExchangeKind::Topic),
            CLIENT_EXCHANGE => Some(ExchangeKind::Direct),
            _ => None,
        };
        let conflict = |text| Refusal::new(RefusalKind::Conflict, text);
        if let Some(kind) = part_of_broker {
            if !passive {
                builtin(kind).same_declaration(spec, name, &host.name).map_err(conflict)?;
            }
            return Ok(defined(&name.into(), 0, 0));
        }
        let mut tables = host.routes.write();
        if let Some(known) = tables.exchanges.get(name) {
            if !passive {
                known.spec().same_declaration(spec, name, &host.name).map_err(conflict)?;
            }
            return Ok(defined(&name.into(), 0, 0));
        }
        if passive {
            return Err(host.no_exchange(name));
        }
        if name.starts_with("amq.") {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(Refusal::new(RefusalKind::Forbidden, text));
        }
        tables.exchanges.insert(name.into(), Exchange::new(Arc::new(spec.clone())));
        host.keep_exchange(name, spec);
        Ok(defined(&name.into(), 0, 0))
    }

    fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Reply, Refusal> {
        if name.is_empty() || name.starts_with("amq.") || name == CLIENT_EXCHANGE {
            let text = format!("exchange '{name}' is part of the broker and cannot be deleted");
            return Err(Refusal::new(RefusalKind::Forbidden, text));
        }
        let host = Arc::clone(&self.host.host);
        let mut tables = host.routes.write();
        let Some(known) = tables.exchanges.get(name) else { return Ok(defined(&name.into(), 0, 0)) };
        if if_unused && !known.is_empty() {
            let text = format!("exchange '{name}' in vhost '{}' in use", host.name);
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        host.remove_exchange(&mut tables, name);
        Ok(defined(&name.into(), 0, 0))
    }

    fn bind(
        &mut self,
        source: &str,
        destination: Destination<'_>,
        key: &str,
        arguments: &Arguments,
    ) -> Result<Reply, Refusal> {
        check_source(source)?;
        let host = Arc::clone(&self.host.host);
        if source == TOPIC_EXCHANGE {
            let filter = mynah_core::words::filter_from_dotted(key)
                .map_err(|error| Refusal::new(RefusalKind::Conflict, error.to_string()))?;
            match destination {
                Destination::Queue(name) => {
                    let queue = self.own_queue(name)?;
                    self.bind_queue_to_topic(&queue, &filter)?;
                }
                Destination::Exchange(name) => host.bind_exchange_to_topic(&filter, name)?,
            }
            return Ok(defined(&source.into(), 0, 0));
        }
        match destination {
            Destination::Queue(name) => {
                let queue = self.own_queue(name)?;
                host.bind_exchange(source, &Bindable::Queue(&queue), key, arguments)?;
            }
            Destination::Exchange(name) => {
                host.bind_exchange(source, &Bindable::Exchange(name), key, arguments)?;
            }
        }
        Ok(defined(&source.into(), 0, 0))
    }

    /// Unbinding what is not bound, or not there at all, is done already [as RabbitMQ].
    fn unbind(
        &mut self,
        source: &str,
        destination: Destination<'_>,
        key: &str,
        arguments: &Arguments,
    ) -> Result<Reply, Refusal> {
        check_source(source)?;
        let host = Arc::clone(&self.host.host);
        let done = Ok(defined(&source.into(), 0, 0));
        let queue = match destination {
            Destination::Queue(name) => {
                let Some(queue) = host.queue(name) else { return done };
                self.check_owner(&queue)?;
                Some(queue)
            }
            Destination::Exchange(_) => None,
        };
        let bindable = match (&queue, destination) {
            (Some(queue), _) => Bindable::Queue(queue),
            (None, Destination::Queue(name) | Destination::Exchange(name)) => Bindable::Exchange(name),
        };
        if source != TOPIC_EXCHANGE {
            host.unbind_exchange(source, &bindable, key, arguments);
            return done;
        }
        let Ok(filter) = mynah_core::words::filter_from_dotted(key) else { return done };
        match bindable {
            Bindable::Queue(queue) => {
                host.unbind_topic(queue, &filter);
            }
            Bindable::Exchange(name) => host.unbind_exchange_from_topic(&filter, name),
        }
        done
    }
}

fn check_source(source: &str) -> Result<(), Refusal> {
    let what = match source {
        "" => "the default exchange",
        CLIENT_EXCHANGE => "the exchange of clients' addresses",
        _ => return Ok(()),
    };
    Err(Refusal::new(RefusalKind::Forbidden, format!("operation not permitted on {what}")))
}

fn state_of(queue: &QueueHandle) -> Reply {
    let guarded = queue.lock();
    defined(&queue.name, guarded.machine.ready(), guarded.machine.consumers())
}

fn defined(name: &Arc<str>, messages: u64, consumers: u32) -> Reply {
    Reply::Defined(Box::new(Defined { name: Arc::clone(name), messages, consumers }))
}
