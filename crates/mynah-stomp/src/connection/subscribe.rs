//! SUBSCRIBE and UNSUBSCRIBE.

use mynah_core::protocol::{
    Change, CreditMode, End, From as SourceFrom, Holder, Host, Retained, Role, Source,
};
use mynah_core::queue::QueueSpec;
use mynah_core::{ConsumerId, Filter};

use super::replies::{Asked, Waiting};
use super::{Flow, StompConnection};
use crate::codec::{Frame, number};
use crate::reason::{Fault, clipped};
use crate::subscription::{AckMode, Shown, Subscription};
use crate::translate::{Destination, Style, durable_name, filter, is_durable, queue_spec};
use crate::version::Version;

/// Where a subscription gets its messages.
enum Place<'a> {
    Topic(Filter),
    Queue { name: &'a str, create: bool },
    Exchange { name: &'a str, key: &'a str },
}

impl StompConnection {
    pub(super) fn on_subscribe(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        let text = frame.require("destination", "what to hear, for example destination:/topic/a.b")?;
        let id = self.id(frame)?;
        self.check_subscriptions(id.as_deref().unwrap_or(&text))?;
        let mode = ack_mode(frame)?;
        if frame.get("selector").is_some_and(|selector| !selector.trim().is_empty()) {
            let text = "Selectors are not supported yet. Leave the header selector out and choose in the client, or \
                        give each kind of message its own topic";
            return Err(Fault::protocol("selector not supported", text));
        }
        let destination = Destination::parse(&text, self.config.name_bytes_max)?;
        let (place, shown) = match &destination {
            Destination::Client(client) => {
                return self.subscribe_own(frame, id.as_deref(), client, &text, host);
            }
            Destination::TempQueue(name) => {
                return self.subscribe_temp(frame, id.as_deref(), mode, name, &text, host);
            }
            Destination::Topic(words) => {
                let filter = filter(words)?;
                let exact = !filter.has_wildcard();
                let shown = if exact { Shown::AsSubscribed } else { Shown::AsSent(Style::of(words)) };
                (Place::Topic(filter), shown)
            }
            Destination::Queue(name) => (Place::Queue { name, create: true }, Shown::AsSubscribed),
            Destination::ExistingQueue(name) | Destination::ReplyQueue(name) => {
                (Place::Queue { name, create: false }, Shown::AsSubscribed)
            }
            Destination::Exchange { name, key } => {
                (Place::Exchange { name, key }, Shown::AsSent(Style::Dots))
            }
        };
        let consumer = self.subscriptions.fresh();
        let mut subscription = self.subscription(consumer, id.as_deref(), &text, shown, mode);
        let queue = self.queue_of(frame, &place, id.as_deref(), &text)?;
        subscription.durable = queue.durable;
        let source = self.source(frame, &place, &queue, mode)?;
        subscription.browser = source.role == Role::Browser;
        self.attach(frame, subscription, &text, source, host);
        Ok(Flow::Done)
    }

    /// The client's number for it, which only 1.0 may leave out [STOMP 1.2, SUBSCRIBE id Header].
    fn id<'a>(&self, frame: &Frame<'a>) -> Result<Option<std::borrow::Cow<'a, str>>, Fault> {
        let id = frame.get("id");
        if id.is_none() && self.version != Some(Version::V1_0) {
            let hint = "a number or name for the subscription, for example id:0";
            return Err(Fault::missing(frame.command.text(), "id", hint));
        }
        Ok(id)
    }

    pub(super) fn check_subscriptions(&self, key: &str) -> Result<(), Fault> {
        if self.subscriptions.contains(key) {
            let text = format!(
                "There is a subscription '{}' on this connection already. UNSUBSCRIBE it first, or use another id",
                clipped(key)
            );
            return Err(Fault::protocol("subscription exists already", text));
        }
        let max = self.config.subscriptions_max;
        if self.subscriptions.len() >= max {
            let text = format!("This connection has {max} subscriptions, which is the limit. Use wildcards");
            return Err(Fault::limit("too many subscriptions", text));
        }
        Ok(())
    }

    fn subscription(
        &self,
        consumer: ConsumerId,
        id: Option<&str>,
        destination: &str,
        shown: Shown,
        mode: AckMode,
    ) -> Subscription {
        Subscription::new(consumer, id, destination, shown, mode, self.escape())
    }

    fn queue_of(
        &self,
        frame: &Frame<'_>,
        place: &Place<'_>,
        id: Option<&str>,
        destination: &str,
    ) -> Result<HeldIn, Fault> {
        let (mut spec, mut said) = queue_spec(frame, true)?;
        if matches!(place, Place::Queue { .. }) {
            // A queue outlives its subscribers anyway; `durable` speaks of the queue.
            if frame.get("durable").is_some_and(|value| value.trim() == "false") {
                (spec.durable, said) = (false, true);
            }
            return Ok(HeldIn { name: None, durable: false, spec: said.then_some(spec) });
        }
        let durable = is_durable(frame);
        let named = frame.get("x-queue-name").filter(|name| !name.is_empty());
        if durable {
            spec.auto_delete = false;
            let name = durable_name(frame, &self.client_id, id, destination)?;
            return Ok(HeldIn { name: Some(name), durable, spec: Some(spec) });
        }
        spec.durable = false;
        if let Some(name) = named {
            // A queue others may share while one of them listens.
            spec.auto_delete = frame.get("auto-delete").is_none_or(|value| value.trim() != "false");
            return Ok(HeldIn { name: Some(name.into_owned()), durable, spec: Some(spec) });
        }
        Ok(HeldIn { name: None, durable, spec: said.then_some(spec) })
    }

    fn source<'a>(
        &self,
        frame: &Frame<'_>,
        place: &Place<'a>,
        queue: &'a HeldIn,
        mode: AckMode,
    ) -> Result<Source<'a>, Fault> {
        let holder = queue.name.as_deref().map_or(Holder::Connection, Holder::Durable);
        let from = match place {
            Place::Topic(filter) => SourceFrom::Topic { filter: filter.clone(), holder },
            Place::Queue { name, create } => SourceFrom::Queue { name, create: *create },
            Place::Exchange { name, key } => SourceFrom::Exchange { name, key, holder },
        };
        let browse = matches!(place, Place::Queue { .. }) && frame.is_true("browser");
        let priority = match frame.get("x-priority").or_else(|| frame.get("activemq.priority")) {
            Some(text) => {
                let digits = text.trim();
                digits
                    .parse()
                    .map_err(|_| Fault::bad_value("x-priority", digits, "a whole number, higher is first"))?
            }
            None => 0,
        };
        Ok(Source {
            settled: mode == AckMode::Auto || browse,
            credit: match mode {
                _ if browse => CreditMode::Granted,
                AckMode::Auto => CreditMode::Socket,
                AckMode::Client | AckMode::ClientIndividual => CreditMode::Window(self.prefetch(frame)?),
            },
            no_local: frame.is_true("no-local") || frame.is_true("activemq.noLocal"),
            retained: if matches!(place, Place::Topic(_)) { Retained::Always } else { Retained::Never },
            exclusive: frame.is_true("exclusive") || frame.is_true("activemq.exclusive"),
            priority,
            role: if browse { Role::Browser } else { Role::Consumer },
            queue_spec: queue.spec.as_ref(),
            ..Source::new(from)
        })
    }

    fn prefetch(&self, frame: &Frame<'_>) -> Result<u32, Fault> {
        let max = self.config.prefetch_max;
        for name in ["prefetch-count", "activemq.prefetchSize"] {
            if let Some(text) = frame.get(name) {
                let asked: u32 = number(&text)
                    .ok_or_else(|| Fault::bad_value(name, &text, "a number of messages, 0 for no limit"))?;
                return Ok(if asked == 0 { max } else { asked.min(max) });
            }
        }
        Ok(self.config.prefetch_default.min(max))
    }

    fn attach(
        &mut self,
        frame: &Frame<'_>,
        subscription: Subscription,
        destination: &str,
        source: Source<'_>,
        host: &mut dyn Host,
    ) {
        let ticket = self.ticket();
        let consumer = subscription.consumer;
        let browse = subscription.browser.then_some(consumer);
        // Known before the broker answers, as deliveries may come before the answer.
        self.subscriptions.insert(subscription);
        host.attach(ticket, consumer, source);
        let asked = Asked::Attach { destination: destination.into(), browse };
        let receipt = frame.get("receipt").map(|text| text.into());
        self.waiting = Some(Waiting { ticket, asked, receipt });
    }

    /// The client's own address needs no subscription; this one only gives it a name.
    fn subscribe_own(
        &mut self,
        frame: &Frame<'_>,
        id: Option<&str>,
        client: &str,
        destination: &str,
        host: &mut dyn Host,
    ) -> Result<Flow, Fault> {
        if client.is_empty() || *client != *self.client_id {
            let text = format!(
                "Only /p2p/{} can be subscribed to on this connection; its name is the client-id given in CONNECT",
                self.client_id
            );
            return Err(Fault::protocol("another client's address", text));
        }
        self.subscriptions.remove(ConsumerId::SESSION);
        let own = self.subscription(ConsumerId::SESSION, id, destination, Shown::AsSubscribed, AckMode::Auto);
        self.subscriptions.insert(own);
        self.done(frame.get("receipt").map(|text| text.into()), host);
        Ok(Flow::Done)
    }

    fn subscribe_temp(
        &mut self,
        frame: &Frame<'_>,
        id: Option<&str>,
        mode: AckMode,
        name: &str,
        destination: &str,
        host: &mut dyn Host,
    ) -> Result<Flow, Fault> {
        let Some(queue) = self.temp_queue(frame, name, host)? else { return Ok(Flow::Again) };
        if let Some(automatic) = self.subscriptions.by_key(destination).map(|own| own.consumer) {
            // A SEND with this reply-to subscribed already; from now on the client's own subscription counts.
            self.detach(automatic, false, None, host);
            return Ok(Flow::Again);
        }
        let consumer = self.subscriptions.fresh();
        let subscription = self.subscription(consumer, id, destination, Shown::AsSubscribed, mode);
        let place = Place::Queue { name: &queue, create: false };
        let held = HeldIn { name: None, durable: false, spec: None };
        let source = self.source(frame, &place, &held, mode)?;
        if let Some(temp) = self.temp_queues.iter_mut().find(|temp| *temp.name == *name) {
            temp.consumer = Some(consumer);
        }
        self.attach(frame, subscription, destination, source, host);
        Ok(Flow::Done)
    }

    pub(super) fn on_unsubscribe(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        let id = self.id(frame)?;
        let destination = frame.get("destination");
        let key = id.as_deref().or(destination.as_deref());
        let key = key.ok_or_else(|| Fault::missing("UNSUBSCRIBE", "id", "the id given in SUBSCRIBE"))?;
        let receipt: Option<Box<str>> = frame.get("receipt").map(|text| text.into());
        let Some(found) = self.subscriptions.by_key(key) else {
            if is_durable(frame) {
                return self.forget(frame, id.as_deref(), destination.as_deref().unwrap_or_default(), host);
            }
            let text = format!(
                "There is no subscription '{}' on this connection. Use the id given in SUBSCRIBE",
                clipped(key)
            );
            return Err(Fault::protocol("no such subscription", text));
        };
        let (consumer, forget) = (found.consumer, found.durable && is_durable(frame));
        if consumer == ConsumerId::SESSION {
            self.subscriptions.remove(consumer);
            self.done(receipt, host);
            return Ok(Flow::Done);
        }
        self.detach(consumer, forget, receipt, host);
        Ok(Flow::Done)
    }

    fn detach(&mut self, consumer: ConsumerId, forget: bool, receipt: Option<Box<str>>, host: &mut dyn Host) {
        self.settling.flush(host);
        self.subscriptions.remove(consumer);
        for temp in self.temp_queues.iter_mut().filter(|temp| temp.consumer == Some(consumer)) {
            temp.consumer = None;
        }
        let ticket = self.ticket();
        host.detach(ticket, consumer, End { forget, keep_unsettled: false });
        self.waiting = Some(Waiting { ticket, asked: Asked::Detach, receipt });
    }

    /// Deletes a durable subscription that this connection does not use.
    fn forget(
        &mut self,
        frame: &Frame<'_>,
        id: Option<&str>,
        destination: &str,
        host: &mut dyn Host,
    ) -> Result<Flow, Fault> {
        let name = durable_name(frame, &self.client_id, id, destination)?;
        let ticket = self.ticket();
        host.define(ticket, Change::DeleteQueue { name: &name, if_unused: false, if_empty: false });
        let receipt = frame.get("receipt").map(|text| text.into());
        self.waiting = Some(Waiting { ticket, asked: Asked::Forget, receipt });
        Ok(Flow::Done)
    }
}

/// The queue behind a subscription.
struct HeldIn {
    /// Of a queue that is not only this consumer's.
    name: Option<String>,
    durable: bool,
    /// What the client said about it, if anything.
    spec: Option<QueueSpec>,
}

fn ack_mode(frame: &Frame<'_>) -> Result<AckMode, Fault> {
    Ok(match frame.get("ack").as_deref().map(str::trim) {
        None | Some("auto") => AckMode::Auto,
        Some("client") => AckMode::Client,
        Some("client-individual") => AckMode::ClientIndividual,
        Some(other) => return Err(Fault::bad_value("ack", other, "auto, client or client-individual")),
    })
}
