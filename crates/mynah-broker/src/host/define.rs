//! Declaring, binding and deleting.

use std::sync::Arc;

use mynah_core::exchange::{Arguments, Exchange, ExchangeSpec};
use mynah_core::protocol::{Change, Defined, Destination, Refusal, RefusalKind, Reply};
use mynah_core::queue::QueueSpec;

use super::Turn;
use super::consume::{bind_topic, unbind_topic};
use crate::queues::{QueueHandle, QueueKind};
use crate::routing::BindingTarget;
use crate::virtual_host::{CLIENT_EXCHANGE, TOPIC_EXCHANGE};

impl Turn<'_> {
    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<Reply, Refusal> {
        match change {
            Change::DeclareQueue { name, spec, passive } => self.declare_queue(name, spec, *passive),
            Change::DeleteQueue { name, if_unused, if_empty } => {
                self.remove_queue(name, *if_unused, *if_empty)
            }
            Change::PurgeQueue { name } => {
                let queue = self.own_queue(name)?;
                let messages = queue.lock().machine.purge();
                Ok(defined(&queue.name, messages, 0))
            }
            Change::DeclareExchange { name, spec, passive } => self.declare_exchange(name, spec, *passive),
            Change::DeleteExchange { name, if_unused } => self.delete_exchange(name, *if_unused),
            Change::Bind { source, destination, key, arguments } => {
                self.bind(source, *destination, key, arguments)
            }
            Change::Unbind { source, destination, key, arguments } => {
                self.unbind(source, *destination, key, arguments)
            }
            Change::BindTopic { filter, queue } => {
                let queue = self.own_queue(queue)?;
                if !queue.filters().contains(filter) {
                    bind_topic(&self.host.host.routes, &queue, filter);
                }
                Ok(defined(&queue.name, 0, 0))
            }
            Change::UnbindTopic { filter, queue } => {
                let queue = self.own_queue(queue)?;
                unbind_topic(&self.host.host.routes, &queue, filter);
                Ok(defined(&queue.name, 0, 0))
            }
        }
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

    fn check_owner(&self, queue: &QueueHandle) -> Result<(), Refusal> {
        if queue.owner.is_none_or(|owner| owner == self.host.inbox.connection()) {
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
        let name = if name.is_empty() {
            generated = host.generated_name("amq.gen-");
            &generated
        } else {
            name
        };
        if let Some(queue) = host.queue(name) {
            self.check_owner(&queue)?;
            let conflict = |text| Refusal::new(RefusalKind::Conflict, text);
            queue.spec().same_declaration(spec, name, &host.name).map_err(conflict)?;
            return Ok(state_of(&queue));
        }
        let owner = spec.exclusive.then(|| self.host.inbox.connection());
        let kind = QueueKind::Plain;
        let (queue, _) = host.queue_or_create(name, kind, owner, spec, self.now);
        self.check_owner(&queue)?;
        if owner.is_some() {
            self.host.rare().exclusive.push(Arc::clone(&queue.name));
        }
        Ok(state_of(&queue))
    }

    fn remove_queue(&mut self, name: &str, if_unused: bool, if_empty: bool) -> Result<Reply, Refusal> {
        let queue = self.own_queue(name)?;
        let (ready, consumers) = {
            let guarded = queue.lock();
            (guarded.machine.ready(), guarded.machine.consumers())
        };
        let host = Arc::clone(&self.host.host);
        if if_unused && consumers > 0 {
            let text = format!("queue '{name}' in vhost '{}' in use", host.name);
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        if if_empty && ready > 0 {
            let text = format!("queue '{name}' in vhost '{}' is not empty", host.name);
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        host.delete_queue(self.batch, &queue, self.now);
        Ok(defined(&queue.name, ready, 0))
    }

    fn no_exchange(&self, name: &str) -> Refusal {
        Refusal::new(
            RefusalKind::NotFound,
            format!("no exchange '{name}' in vhost '{}'", self.host.host.name),
        )
    }

    fn declare_exchange(&mut self, name: &str, spec: &ExchangeSpec, passive: bool) -> Result<Reply, Refusal> {
        let host = Arc::clone(&self.host.host);
        if name.is_empty() || name == TOPIC_EXCHANGE || name == CLIENT_EXCHANGE {
            // They are part of the address space, not entries of the table.
            return Ok(defined(&name.into(), 0, 0));
        }
        let mut tables = host.routes.write();
        if let Some(known) = tables.exchanges.get(name) {
            if !passive {
                let conflict = |text| Refusal::new(RefusalKind::Conflict, text);
                known.spec().same_declaration(spec, name, &host.name).map_err(conflict)?;
            }
            return Ok(defined(&name.into(), 0, 0));
        }
        if passive {
            return Err(self.no_exchange(name));
        }
        if name.starts_with("amq.") {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(Refusal::new(RefusalKind::Forbidden, text));
        }
        tables.exchanges.insert(name.into(), Exchange::new(Arc::new(spec.clone())));
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
        tables.exchanges.remove(name);
        let target = BindingTarget::Exchange(name.into());
        for exchange in tables.exchanges.values_mut() {
            exchange.remove_destination(&target);
        }
        Ok(defined(&name.into(), 0, 0))
    }

    /// Resolves where a binding leads, which must exist.
    fn binding_target(&self, destination: Destination<'_>) -> Result<BindingTarget, Refusal> {
        match destination {
            Destination::Queue(name) => {
                let queue = self.own_queue(name)?;
                queue.note_exchange();
                Ok(BindingTarget::Queue(Arc::clone(&queue.name)))
            }
            Destination::Exchange(name) => {
                let known =
                    name == TOPIC_EXCHANGE || self.host.host.routes.read().exchanges.contains_key(name);
                if known { Ok(BindingTarget::Exchange(name.into())) } else { Err(self.no_exchange(name)) }
            }
        }
    }

    fn bind(
        &mut self,
        source: &str,
        destination: Destination<'_>,
        key: &str,
        arguments: &Arguments,
    ) -> Result<Reply, Refusal> {
        if source.is_empty() {
            return Err(Refusal::new(
                RefusalKind::Forbidden,
                "operation not permitted on the default exchange",
            ));
        }
        let target = self.binding_target(destination)?;
        if source == TOPIC_EXCHANGE {
            return self.bind_exchange_to_topics(key, &target);
        }
        let mut tables = self.host.host.routes.write();
        let Some(exchange) = tables.exchanges.get_mut(source) else {
            drop(tables);
            return Err(self.no_exchange(source));
        };
        exchange.bind(key, arguments, target);
        Ok(defined(&source.into(), 0, 0))
    }

    fn bind_exchange_to_topics(&self, key: &str, target: &BindingTarget) -> Result<Reply, Refusal> {
        use crate::routing::Subscription;
        let filter = mynah_core::words::filter_from_dotted(key)
            .map_err(|error| Refusal::new(RefusalKind::Conflict, error.to_string()))?;
        let host = &self.host.host;
        match target {
            BindingTarget::Queue(name) => {
                let queue = host.queue(name).ok_or_else(|| self.no_queue(name))?;
                if !queue.filters().contains(&filter) {
                    bind_topic(&host.routes, &queue, &filter);
                }
            }
            BindingTarget::Exchange(name) => {
                host.routes.unsubscribe(
                    &filter,
                    |known| matches!(known, Subscription::Exchange(old) if old == name),
                );
                host.routes.subscribe(&filter, Subscription::Exchange(Arc::clone(name)));
            }
        }
        Ok(defined(&TOPIC_EXCHANGE.into(), 0, 0))
    }

    fn unbind(
        &mut self,
        source: &str,
        destination: Destination<'_>,
        key: &str,
        arguments: &Arguments,
    ) -> Result<Reply, Refusal> {
        use crate::routing::Subscription;
        if source.is_empty() {
            return Err(Refusal::new(
                RefusalKind::Forbidden,
                "operation not permitted on the default exchange",
            ));
        }
        // Unbinding what is not bound is done already [as RabbitMQ].
        let Ok(target) = self.binding_target(destination) else { return Ok(defined(&source.into(), 0, 0)) };
        let host = Arc::clone(&self.host.host);
        if source == TOPIC_EXCHANGE {
            if let Ok(filter) = mynah_core::words::filter_from_dotted(key) {
                match &target {
                    BindingTarget::Queue(name) => {
                        if let Some(queue) = host.queue(name) {
                            unbind_topic(&host.routes, &queue, &filter);
                        }
                    }
                    BindingTarget::Exchange(name) => {
                        host.routes.unsubscribe(
                            &filter,
                            |known| matches!(known, Subscription::Exchange(old) if old == name),
                        );
                    }
                }
            }
            return Ok(defined(&source.into(), 0, 0));
        }
        let mut tables = host.routes.write();
        let Some(exchange) = tables.exchanges.get_mut(source) else { return Err(self.no_exchange(source)) };
        exchange.unbind(key, arguments, &target);
        let ends = exchange.spec().auto_delete && exchange.is_empty();
        if ends {
            tables.exchanges.remove(source);
        }
        Ok(defined(&source.into(), 0, 0))
    }
}

fn state_of(queue: &QueueHandle) -> Reply {
    let guarded = queue.lock();
    defined(&queue.name, guarded.machine.ready(), guarded.machine.consumers())
}

fn defined(name: &Arc<str>, messages: u64, consumers: u32) -> Reply {
    Reply::Defined(Box::new(Defined { name: Arc::clone(name), messages, consumers }))
}
