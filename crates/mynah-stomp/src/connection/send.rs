//! SEND.

use std::sync::Arc;
use std::time::Instant;

use mynah_core::protocol::{Change, From as SourceFrom, Host, Source};
use mynah_core::queue::QueueSpec;
use mynah_core::{Address, ContentRef, PublishRef};

use super::receipts::Due;
use super::replies::{Asked, Waiting};
use super::route::Route;
use super::{Flow, StompConnection};
use crate::codec::{Escape, Frame, write_header};
use crate::reason::Fault;
use crate::subscription::{AckMode, Shown, Subscription};
use crate::translate::{self, Destination, FORMAT, Send, queue_spec, reply_queue};

impl StompConnection {
    pub(super) fn on_send(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<Flow, Fault> {
        self.block.clear();
        let send = Send::read(frame, &self.config, now, &mut self.block)?;
        let raw = send.destination.filter(|raw| !raw.is_empty()).ok_or_else(|| {
            Fault::missing("SEND", "destination", "where to send, for example destination:/queue/a")
        })?;
        if self.routes.get(raw).is_none() && self.find_route(frame, raw, host)? == Flow::Again {
            return Ok(Flow::Again);
        }
        if let Some(reply_to) = send.reply_to
            && self.reply_to(frame, reply_to, host)? == Flow::Again
        {
            return Ok(Flow::Again);
        }
        if send.queue_arguments && self.declare(frame, raw, host)? == Flow::Again {
            return Ok(Flow::Again);
        }
        let transaction = match send.transaction {
            Some(name) => Some(self.transactions.get(&frame.text(name))?),
            None => None,
        };
        // The route was just found or made.
        let Some(route) = self.routes.get(raw) else { return Ok(Flow::Again) };
        // Whoever wants no receipt is told of a refusal all the same: one SEND of each read is asked about for each
        // destination, which costs a fast publisher little and tells a slow one at once.
        let ask = send.receipt.is_some() || route.asked != self.batch;
        route.asked = self.batch;
        let ticket = ask.then(|| {
            self.last_ticket += 1;
            mynah_core::protocol::Ticket(self.last_ticket)
        });
        let content = if self.block.is_empty() {
            ContentRef::None
        } else {
            ContentRef::Encoded { format: FORMAT, bytes: &self.block, decode: translate::decode }
        };
        let publish = PublishRef {
            address: route.address.as_ref(),
            header: send.header,
            content,
            body: frame.body,
            mandatory: route.mandatory,
            transaction,
            note: None,
            delay_ms: 0,
        };
        if let Some(ticket) = ticket {
            let receipt = send.receipt.map(|raw| frame.text(raw).into());
            self.receipts.push(Due::Send { ticket, receipt, forgiving: route.forgiving });
        }
        host.publish(ticket, &publish);
        Ok(Flow::Done)
    }

    fn find_route(&mut self, frame: &Frame<'_>, raw: &str, host: &mut dyn Host) -> Result<Flow, Fault> {
        let text = frame.text(raw);
        let destination = Destination::parse(&text, self.config.name_bytes_max)?;
        let address = match (&destination, destination.address()?) {
            (_, Some(address)) => address,
            (destination, None) => match self.temp_queue(frame, destination.name(), host)? {
                Some(queue) => Address::Queue(queue),
                None => return Ok(Flow::Again),
            },
        };
        self.routes.insert(Route::new(raw, &destination, address));
        Ok(Flow::Done)
    }

    /// Puts the reply address into the block. A temporary queue is made, and listened to, if it is not yet; others see it
    /// by its real name.
    fn reply_to(&mut self, frame: &Frame<'_>, raw: &str, host: &mut dyn Host) -> Result<Flow, Fault> {
        let text = frame.text(raw);
        let Some(name) = text.strip_prefix("/temp-queue/").filter(|name| !name.is_empty()) else {
            write_header(Escape::V1_2, "reply-to", &text, &mut self.block);
            return Ok(Flow::Done);
        };
        let Some(queue) = self.temp_queue(frame, name, host)? else { return Ok(Flow::Again) };
        let listening = |temp: &super::TempQueue| *temp.name == *name && temp.consumer.is_some();
        if !self.temp_queues.iter().any(listening) {
            self.listen(frame, &text, name, &queue, host)?;
            return Ok(Flow::Again);
        }
        write_header(Escape::V1_2, "reply-to", &reply_queue(&queue), &mut self.block);
        Ok(Flow::Done)
    }

    /// The queue behind `/temp-queue/<name>`; `None` while it is being made.
    pub(super) fn temp_queue(
        &mut self,
        frame: &Frame<'_>,
        name: &str,
        host: &mut dyn Host,
    ) -> Result<Option<Arc<str>>, Fault> {
        if let Some(temp) = self.temp_queues.iter().find(|temp| *temp.name == *name) {
            return Ok(Some(Arc::clone(&temp.queue)));
        }
        let max = self.config.temp_queues_max;
        if self.temp_queues.len() >= max {
            let text = format!(
                "This connection has {max} temporary queues, which is the limit. Use one for many requests and \
                 tell the replies apart by correlation-id"
            );
            return Err(Fault::limit("too many temporary queues", text));
        }
        let ticket = self.ticket();
        let spec = QueueSpec { exclusive: true, ..QueueSpec::default() };
        host.define(ticket, Change::DeclareQueue { name: "", spec: &spec, passive: false });
        let receipt = frame.get("receipt").map(|text| text.into());
        self.waiting = Some(Waiting { ticket, asked: Asked::TempQueue(name.into()), receipt });
        Ok(None)
    }

    /// Listens to a temporary queue nobody subscribed to, as a subscription of that name.
    fn listen(
        &mut self,
        frame: &Frame<'_>,
        destination: &str,
        name: &str,
        queue: &str,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        self.check_subscriptions(destination)?;
        let consumer = self.subscriptions.fresh();
        let ticket = self.ticket();
        self.subscriptions.insert(Subscription::new(
            consumer,
            Some(destination),
            destination,
            Shown::AsSubscribed,
            AckMode::Auto,
            self.escape(),
        ));
        if let Some(temp) = self.temp_queues.iter_mut().find(|temp| *temp.name == *name) {
            temp.consumer = Some(consumer);
        }
        let source =
            Source { settled: true, ..Source::new(SourceFrom::Queue { name: queue, create: false }) };
        host.attach(ticket, consumer, source);
        // The receipt is the SEND's, which comes again; it is named here in case of a refusal only.
        let asked = Asked::Listen { receipt: frame.get("receipt").map(|text| text.into()) };
        self.waiting = Some(Waiting { ticket, asked, receipt: None });
        Ok(())
    }

    /// Makes the queue as the SEND says, if it does not exist.
    fn declare(&mut self, frame: &Frame<'_>, raw: &str, host: &mut dyn Host) -> Result<Flow, Fault> {
        let Some(route) = self.routes.get(raw) else { return Ok(Flow::Done) };
        let Address::Queue(name) = &route.address else { return Ok(Flow::Done) };
        if route.declared || route.mandatory {
            return Ok(Flow::Done);
        }
        let name = Arc::clone(name);
        let (spec, _) = queue_spec(frame, true)?;
        let ticket = self.ticket();
        host.define(ticket, Change::DeclareQueue { name: &name, spec: &spec, passive: false });
        let receipt = frame.get("receipt").map(|text| text.into());
        self.waiting = Some(Waiting { ticket, asked: Asked::Declare(raw.into()), receipt });
        Ok(Flow::Again)
    }
}
