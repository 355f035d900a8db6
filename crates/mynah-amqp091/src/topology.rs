//! Classes `exchange` and `queue`: declarations, bindings, purge, delete.
//!
//! Bindings of `amq.topic` to queues are subscriptions of the topic space; all others are the exchange's own.
//! Never: asks the broker for what the default exchange or a reserved name does not allow.

use mynah_core::exchange::{Arguments, ExchangeKind, check_headers_rule};
use mynah_core::protocol::{Change, Destination, Host};
use mynah_core::words::filter_from_dotted;

use crate::arguments::{ExchangeBits, QueueBits, exchange_kind, exchange_spec, queue_spec};
use crate::codec::field::Table;
use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::reason::{Code, Fault};
use crate::translate::{CLIENT_EXCHANGE, TOPIC_EXCHANGE, queue_of_key};
use crate::waiting::Asked;

/// Exchanges that are always there.
const BUILT_IN: [&str; 5] = [TOPIC_EXCHANGE, "amq.direct", "amq.fanout", "amq.headers", "amq.match"];

/// The arguments of `queue.declare`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeclareQueue<'a> {
    pub(crate) name: &'a str,
    pub(crate) passive: bool,
    pub(crate) bits: QueueBits,
    pub(crate) no_wait: bool,
    pub(crate) arguments: Table<'a>,
}

/// The arguments of `exchange.declare`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeclareExchange<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) passive: bool,
    pub(crate) bits: ExchangeBits,
    pub(crate) no_wait: bool,
    pub(crate) arguments: Table<'a>,
}

/// A binding to make or undo.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: Destination<'a>,
    pub(crate) key: &'a str,
    pub(crate) arguments: Table<'a>,
    pub(crate) bind: bool,
    pub(crate) no_wait: bool,
}

fn not_default(exchange: &str) -> Result<(), Fault> {
    if exchange.is_empty() {
        return Err(Fault::access("operation not permitted on the default exchange"));
    }
    Ok(())
}

fn reserved(what: &str, name: &str) -> Fault {
    Fault::access(format!("{what} name '{name}' contains reserved prefix 'amq.*'"))
}

impl Amqp091Connection {
    /// The queue a method names; an empty name is the one declared last on the channel.
    pub(crate) fn channel_queue(&self, number: u16, name: &str) -> Result<Box<str>, Fault> {
        match self.channels.get(&number) {
            Some(channel) => channel.queue_name(name).map(Into::into),
            None => Ok(name.into()),
        }
    }

    pub(crate) fn on_queue_declare(
        &mut self,
        number: u16,
        declare: DeclareQueue<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let DeclareQueue { name, passive, no_wait, .. } = declare;
        if !passive && name.starts_with("amq.") {
            return Err(reserved("queue", name));
        }
        let spec = queue_spec(name, &self.virtual_host, declare.bits, declare.arguments)?;
        let name: Box<str> = if passive { self.channel_queue(number, name)? } else { name.into() };
        let ticket = self.ask(number, (50, 10), no_wait, Asked::DeclareQueue { passive, name: name.clone() });
        host.define(ticket, Change::DeclareQueue { name: queue_of_key(&name), spec: &spec, passive });
        Ok(())
    }

    pub(crate) fn on_queue_delete(
        &mut self,
        number: u16,
        name: &str,
        [if_unused, if_empty, no_wait]: [bool; 3],
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let name = self.channel_queue(number, name)?;
        let ticket = self.ask(number, (50, 40), no_wait, Asked::DeleteQueue);
        host.define(ticket, Change::DeleteQueue { name: &name, if_unused, if_empty });
        Ok(())
    }

    pub(crate) fn on_queue_purge(
        &mut self,
        number: u16,
        name: &str,
        no_wait: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let name = self.channel_queue(number, name)?;
        let ticket = self.ask(number, (50, 30), no_wait, Asked::PurgeQueue);
        host.define(ticket, Change::PurgeQueue { name: &name });
        Ok(())
    }

    pub(crate) fn on_queue_bind(
        &mut self,
        number: u16,
        queue: &str,
        binding: Binding<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let name = self.channel_queue(number, queue)?;
        // Both names empty: the last queue by its own name (0-9-1 queue.bind).
        let key = if queue.is_empty() && binding.key.is_empty() { &*name } else { binding.key };
        let binding = Binding { destination: Destination::Queue(&name), key, ..binding };
        self.on_binding(number, binding, host)
    }

    /// Makes or undoes a binding, to a queue or to an exchange.
    pub(crate) fn on_binding(
        &mut self,
        number: u16,
        binding: Binding<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Binding { source, destination, key, bind, no_wait, .. } = binding;
        not_default(source)?;
        if source == CLIENT_EXCHANGE {
            return Err(Fault::access(format!("exchange '{source}' leads to clients and cannot be bound")));
        }
        let (asked, ids) = match (destination, bind) {
            (Destination::Queue(_), true) => (Asked::BindQueue, (50, 20)),
            (Destination::Queue(_), false) => (Asked::UnbindQueue, (50, 50)),
            (Destination::Exchange(name), _) => {
                not_default(name)?;
                if bind { (Asked::BindExchange, (40, 30)) } else { (Asked::UnbindExchange, (40, 40)) }
            }
        };
        let arguments: Arguments = binding.arguments.to_arguments();
        check_headers_rule(&arguments).map_err(Fault::precondition)?;
        if let (TOPIC_EXCHANGE, Destination::Queue(queue)) = (source, destination) {
            let filter = filter_from_dotted(key)
                .map_err(|error| Fault::precondition(format!("invalid binding key '{key}': {error}")))?;
            let ticket = self.ask(number, ids, no_wait, asked);
            let change = if bind {
                Change::BindTopic { filter: &filter, queue }
            } else {
                Change::UnbindTopic { filter: &filter, queue }
            };
            host.define(ticket, change);
            return Ok(());
        }
        let ticket = self.ask(number, ids, no_wait, asked);
        let arguments = &arguments;
        host.define(
            ticket,
            if bind {
                Change::Bind { source, destination, key, arguments }
            } else {
                Change::Unbind { source, destination, key, arguments }
            },
        );
        Ok(())
    }

    pub(crate) fn on_exchange_declare(
        &mut self,
        number: u16,
        declare: DeclareExchange<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let DeclareExchange { name, passive, no_wait, .. } = declare;
        not_default(name)?;
        if !passive && name.starts_with("amq.") && !BUILT_IN.contains(&name) {
            return Err(reserved("exchange", name));
        }
        let kind = match exchange_kind(declare.kind) {
            Some(kind) => kind,
            // Asking whether it is there needs no type.
            None if passive => ExchangeKind::Direct,
            None => {
                let text =
                    format!("invalid exchange type '{}': use direct, fanout, topic or headers", declare.kind);
                return Err(Fault::precondition(text));
            }
        };
        let spec = exchange_spec(name, &self.virtual_host, kind, declare.bits, declare.arguments)?;
        if name == TOPIC_EXCHANGE || name == CLIENT_EXCHANGE {
            // These two are the address space itself: always there, and never otherwise.
            if !passive {
                let kind = if name == TOPIC_EXCHANGE { ExchangeKind::Topic } else { ExchangeKind::Direct };
                let bits = ExchangeBits { durable: true, auto_delete: false, internal: false };
                let current = exchange_spec(name, &self.virtual_host, kind, bits, Table::default())?;
                current.same_declaration(&spec, name, &self.virtual_host).map_err(Fault::precondition)?;
            }
            if !no_wait {
                Response::ExchangeDeclareOk {}.put(host.wire(), number);
            }
            return Ok(());
        }
        let ticket = self.ask(number, (40, 10), no_wait, Asked::DeclareExchange);
        host.define(ticket, Change::DeclareExchange { name, spec: &spec, passive });
        Ok(())
    }

    pub(crate) fn on_exchange_delete(
        &mut self,
        number: u16,
        name: &str,
        if_unused: bool,
        no_wait: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        not_default(name)?;
        if name.starts_with("amq.") {
            return Err(reserved("exchange", name));
        }
        if name == CLIENT_EXCHANGE {
            return Err(Fault::new(Code::AccessRefused, "exchange 'p2p' belongs to the broker"));
        }
        let ticket = self.ask(number, (40, 20), no_wait, Asked::DeleteExchange);
        host.define(ticket, Change::DeleteExchange { name, if_unused });
        Ok(())
    }
}
