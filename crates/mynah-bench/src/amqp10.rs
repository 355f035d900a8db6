//! AMQP 1.0 as the load generator speaks it.
//!
//! One connection, one session; a link for each destination. Transfers and dispositions are written by hand with
//! fixed lengths, what comes once for a connection goes through [`List`].
//! Never: multi-frame transfers out, transactions, resuming of links.

use crate::account::Sink;
use crate::amqp10_codec::{Fields, List, Value, described, frame, payload, performative, value};
use crate::wire::{Fault, Role, Settle, Template, Terms, Wire, put_at, u8_at, u16_at, u32_at};

/// Frames that we accept.
const FRAME_MAX: u32 = 1 << 20;
/// Session window that we grant: the link credit is what bounds.
const WINDOW: u32 = 0x7FFF_FFFF;
/// Settlements held back when a broker leaves to us what was asked for pre-settled.
const UNASKED: u32 = 50;
const ACCEPTED: [u8; 4] = [0x00, 0x53, 0x24, 0x45];

/// One sending link: the peer's handle, and the count up to which it may send.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    theirs: Option<u32>,
    limit: u64,
}

/// One AMQP 1.0 connection.
#[derive(Debug)]
pub(crate) struct Amqp10 {
    terms: Terms,
    name: String,
    targets: Vec<String>,
    source: Option<String>,
    template: Option<Template>,
    links: Vec<Link>,
    frame_len: usize,
    session_limit: u64,
    acked: u64,
    next_incoming: u32,
    /// Whole messages received, and of these since the last flow.
    received: u32,
    since_flow: u32,
    arriving: bool,
    /// First and last delivery not yet settled.
    unsettled: Option<(u32, u32)>,
    delivery: u32,
    settled: bool,
    ready: bool,
}

impl Amqp10 {
    pub(crate) fn new(terms: &Terms, role: &Role, name: String) -> Self {
        let mut wire = Self {
            terms: terms.clone(),
            name,
            targets: Vec::new(),
            source: None,
            template: None,
            links: Vec::new(),
            frame_len: 0,
            session_limit: 0,
            acked: 0,
            next_incoming: 0,
            received: 0,
            since_flow: 0,
            arriving: false,
            unsettled: None,
            delivery: 0,
            settled: false,
            ready: false,
        };
        match role {
            Role::Subscriber { source, .. } => wire.source = Some(source.clone()),
            Role::Publisher { id, targets } => {
                let template = Template::new(terms, *id, targets, |handle, _, body, out| {
                    transfer(
                        u8::try_from(handle).unwrap_or(u8::MAX),
                        !terms.confirm,
                        terms.durable,
                        body,
                        out,
                    );
                    wire.frame_len = out.len();
                });
                wire.frame_len /= targets.len().max(1);
                wire.template = Some(template);
                wire.links = vec![Link::default(); targets.len()];
                wire.targets.clone_from(targets);
            }
        }
        wire
    }

    fn on_sasl(&mut self, code: u64, fields: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match code {
            0x40 => {
                let (mechanism, response) = match &self.terms.user {
                    Some(user) => ("PLAIN", format!("\0{user}\0{}", self.terms.password)),
                    None => ("ANONYMOUS", "anonymous".to_owned()),
                };
                frame(1, out, |out| {
                    performative(0x41, out, List::new().symbol(mechanism).binary(response.as_bytes()));
                });
            }
            0x44 => {
                if fields.into_iter().next().and_then(Value::number) != Some(0) {
                    return Err(Fault::new("the broker refused the login"));
                }
                out.extend_from_slice(b"AMQP\0\x01\0\0");
                let open = List::new().string(&self.name).string(&self.terms.vhost_name()).uint(FRAME_MAX);
                frame(0, out, |out| performative(0x10, out, open));
                let begin = List::new().null().uint(0).uint(WINDOW).uint(WINDOW).uint(1023);
                frame(0, out, |out| performative(0x11, out, begin));
            }
            _ => {}
        }
        Ok(())
    }

    fn attach(&self, out: &mut Vec<u8>) {
        let capability = if self.terms.queues { "queue" } else { "topic" };
        let durable = u32::from(self.terms.durable && self.terms.queues) * 2;
        if let Some(source) = &self.source {
            let mode = if self.terms.settle == Settle::Auto { 1 } else { 0 };
            let source = List::new().string(source).uint(durable).nulls(8).symbol(capability);
            let list = List::new().string("link-0").uint(0).bool(true).ubyte(mode).ubyte(0);
            let list = list.described(0x28, source).described(0x29, List::new().string(&self.name));
            frame(0, out, |out| performative(0x12, out, list));
        }
        for (handle, target) in (0u32..).zip(&self.targets) {
            let mode = if self.terms.confirm { 0 } else { 1 };
            let target = List::new().string(target).uint(durable).nulls(4).symbol(capability);
            let list =
                List::new().string(&format!("link-{handle}")).uint(handle).bool(false).ubyte(mode).ubyte(0);
            let list = list.described(0x28, List::new().string(&self.name)).described(0x29, target);
            frame(0, out, |out| performative(0x12, out, list.nulls(2).uint(0)));
        }
    }

    fn on_attach(&mut self, fields: Fields<'_>, out: &mut Vec<u8>) {
        let mut fields = fields.into_iter();
        let name = fields.next().and_then(Value::bytes).unwrap_or_default();
        let theirs = fields.next().and_then(Value::number).and_then(|handle| u32::try_from(handle).ok());
        if self.source.is_some() {
            self.grant(out);
            self.ready = true;
            return;
        }
        let index = name.strip_prefix(b"link-").and_then(|text| std::str::from_utf8(text).ok());
        if let Some(link) =
            index.and_then(|text| text.parse::<usize>().ok()).and_then(|at| self.links.get_mut(at))
        {
            link.theirs = theirs;
        }
    }

    /// Credit for a full prefetch, counted from what has arrived.
    fn grant(&mut self, out: &mut Vec<u8>) {
        self.since_flow = 0;
        let list = List::new().uint(self.next_incoming).uint(WINDOW).uint(0).uint(WINDOW);
        let list = list.uint(0).uint(self.received).uint(self.terms.prefetch);
        frame(0, out, |out| performative(0x13, out, list));
    }

    /// What the peer grants: in the session, and on one link. Serial arithmetic: ids and counts wrap [AMQP 2.6.7].
    fn on_flow(&mut self, fields: Fields<'_>) {
        let numbers: Vec<Option<u32>> = fields
            .into_iter()
            .take(7)
            .map(|value| value.number().and_then(|number| u32::try_from(number).ok()))
            .collect();
        let at = |index: usize| numbers.get(index).copied().flatten();
        let Some(template) = &self.template else { return };
        let (sent, lanes) = (template.sent(), self.links.len().max(1) as u64);
        let limit = |sent: u64, seen: u32, grant: u32| {
            let behind = u32::try_from(sent & 0xFFFF_FFFF).unwrap_or(0).wrapping_sub(seen);
            (sent + u64::from(grant)).saturating_sub(u64::from(behind))
        };
        if let Some(window) = at(1) {
            self.session_limit = limit(sent, at(0).unwrap_or(0), window);
        }
        let (Some(handle), Some(credit)) = (at(4), at(6)) else { return };
        let lane = template.lane() as u64;
        for (index, link) in (0u64..).zip(&mut self.links) {
            if link.theirs == Some(handle) {
                let on_link = sent / lanes + u64::from(index < lane);
                link.limit = limit(on_link, at(5).unwrap_or(0), credit);
            }
        }
        self.ready |= self.links.iter().all(|link| link.limit > 0);
    }

    fn on_disposition(&mut self, fields: Fields<'_>) -> Result<(), Fault> {
        let mut fields = fields.into_iter().skip(1);
        let first = fields.next().and_then(Value::number).unwrap_or(0);
        let last = fields.next().and_then(Value::number).unwrap_or(first);
        let _settled = fields.next();
        match fields.next() {
            Some(Value::Described(0x24, _)) => {
                self.acked += last.saturating_add(1).saturating_sub(first);
                Ok(())
            }
            outcome => Err(Fault::new(format!("a message was not accepted: {outcome:?}"))),
        }
    }

    /// Returns whether the transfer was understood.
    #[inline]
    fn on_transfer(
        &mut self,
        list: &[u8],
        body: &[u8],
        out: &mut Vec<u8>,
        sink: &mut Sink<'_>,
    ) -> Option<()> {
        let mut fields = Fields::new(list)?.into_iter();
        fields.next()?;
        let id = fields.next().and_then(Value::number);
        let mut fields = fields.skip(2);
        let settled = matches!(fields.next(), Some(Value::Bool(true)));
        let more = matches!(fields.next(), Some(Value::Bool(true)));
        self.next_incoming = self.next_incoming.wrapping_add(1);
        if !std::mem::replace(&mut self.arriving, more) {
            self.delivery = u32::try_from(id?).ok()?;
            self.settled = settled;
            sink.deliver(payload(body)?);
        }
        self.settled |= settled;
        if !more {
            self.received = self.received.wrapping_add(1);
            self.since_flow += 1;
            if !self.settled {
                self.hold(out);
            }
            if self.since_flow * 2 >= self.terms.prefetch {
                self.grant(out);
            }
        }
        Some(())
    }

    fn hold(&mut self, out: &mut Vec<u8>) {
        let first = self.unsettled.map_or(self.delivery, |(first, _)| first);
        let every = match self.terms.settle {
            Settle::Auto => UNASKED,
            Settle::Every(every) => every,
        };
        self.unsettled = Some((first, self.delivery));
        if self.delivery.wrapping_sub(first) + 1 >= every {
            self.settle(out);
        }
    }

    fn on_frame(
        &mut self,
        kind: u8,
        body: &[u8],
        out: &mut Vec<u8>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Fault> {
        if body.is_empty() {
            return Ok(());
        }
        let (code, list, len) = described(body).ok_or_else(|| Fault::new("a performative is malformed"))?;
        if code == 0x14 {
            let rest = body.get(len..).unwrap_or_default();
            return self
                .on_transfer(list, rest, out, sink)
                .ok_or_else(|| Fault::new("a transfer is malformed"));
        }
        let fields = Fields::new(list).ok_or_else(|| Fault::new("a performative is no list"))?;
        if kind == 1 {
            return self.on_sasl(code, fields, out);
        }
        match code {
            0x10 => {
                let theirs = fields.into_iter().nth(2).and_then(Value::number).unwrap_or(u64::MAX);
                if theirs < self.frame_len as u64 {
                    return Err(Fault::new(format!("the broker takes frames of {theirs} bytes only")));
                }
            }
            0x11 => {
                let mut fields = fields.into_iter().skip(1);
                let next = fields.next().and_then(Value::number).unwrap_or(0);
                self.next_incoming = u32::try_from(next).unwrap_or(0);
                self.session_limit = fields.next().and_then(Value::number).unwrap_or(0);
                self.attach(out);
            }
            0x12 => self.on_attach(fields, out),
            0x13 => self.on_flow(fields),
            0x15 => self.on_disposition(fields)?,
            0x16..=0x18 => {
                let error = fields.into_iter().last();
                return Err(Fault::new(format!(
                    "the broker ended it: {}",
                    error.map_or(String::new(), error_text)
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

fn error_text(error: Value<'_>) -> String {
    let Value::Described(_, list) = error else { return "no reason given".to_owned() };
    let texts = Fields::new(list).into_iter().flatten().filter_map(Value::bytes);
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>().join(": ")
}

impl Terms {
    /// What the open performative names: `vhost:NAME` for another than the default, as RabbitMQ reads it.
    fn vhost_name(&self) -> String {
        if self.vhost == "/" { "localhost".to_owned() } else { format!("vhost:{}", self.vhost) }
    }
}

impl Wire for Amqp10 {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"AMQP\x03\x01\0\0");
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (Some(size), Some(doff), Some(kind)) = (u32_at(rest, 0), u8_at(rest, 4), u8_at(rest, 5))
            else {
                return Ok(at);
            };
            if rest.starts_with(b"AMQP") {
                match u16_at(rest, 6) {
                    None => return Ok(at),
                    Some(0) if matches!(rest.get(4..6), Some([0 | 3, 1])) => at += 8,
                    Some(_) => return Err(Fault::new("the broker does not speak AMQP 1.0")),
                }
                continue;
            }
            let (size, head) = (size as usize, usize::from(doff) * 4);
            if size < head || head < 8 || size > 2 * FRAME_MAX as usize {
                return Err(Fault::new("a frame's size is malformed"));
            }
            let Some(body) = rest.get(head..size) else { return Ok(at) };
            self.on_frame(kind, body, out, sink)?;
            at += size;
        }
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn room(&self) -> u64 {
        let Some(template) = &self.template else { return 0 };
        let (sent, lanes) = (template.sent(), self.links.len().max(1) as u64);
        let lowest = self.links.iter().map(|link| link.limit).min().unwrap_or(0);
        self.session_limit.min(lowest.saturating_mul(lanes)).saturating_sub(sent)
    }

    fn publish(&mut self, count: usize, sent_ns: u64, out: &mut Vec<u8>) {
        let Some(template) = &mut self.template else { return };
        template.append(count, sent_ns, out, |frame, number| {
            let id = u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0).to_be_bytes();
            put_at(frame, ID_AT, id);
            put_at(frame, TAG_AT, id);
        });
    }

    fn acked(&self) -> u64 {
        if self.terms.confirm { self.acked } else { self.template.as_ref().map_or(0, Template::sent) }
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        let Some((first, last)) = self.unsettled.take() else { return };
        let mut disposition = [
            0, 0, 0, 30, 2, 0, 0, 0, 0x00, 0x53, 0x15, 0xC0, 17, 5, 0x41, 0x70, 0, 0, 0, 0, 0x70, 0, 0, 0, 0,
            0x41,
        ];
        put_at(&mut disposition, 16, first.to_be_bytes());
        put_at(&mut disposition, 21, last.to_be_bytes());
        out.extend_from_slice(&disposition);
        out.extend_from_slice(&ACCEPTED);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        frame(0, out, |out| performative(0x18, out, List::new()));
    }
}

/// Where in a transfer's frame the delivery id and the tag lie.
const ID_AT: usize = 17;
const TAG_AT: usize = 23;

/// Appends one transfer with one data section.
fn transfer(handle: u8, settled: bool, durable: bool, body: &[u8], out: &mut Vec<u8>) {
    frame(0, out, |out| {
        let settled = if settled { 0x41 } else { 0x42 };
        // handle, delivery-id, delivery-tag, message-format, settled.
        out.extend_from_slice(&[
            0x00, 0x53, 0x14, 0xC0, 16, 5, 0x52, handle, 0x70, 0, 0, 0, 0, 0xA0, 4, 0, 0, 0, 0,
        ]);
        out.extend_from_slice(&[0x43, settled]);
        if durable {
            out.extend_from_slice(&[0x00, 0x53, 0x70, 0xC0, 2, 1, 0x41]);
        }
        out.extend_from_slice(&[0x00, 0x53, 0x75]);
        value::binary(body, out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{feed, terms};

    fn subscriber(settle: Settle) -> Box<dyn Wire> {
        let role = Role::Subscriber { source: "q".into(), more: Vec::new(), index: 0 };
        Box::new(Amqp10::new(&Terms { settle, prefetch: 1000, ..terms() }, &role, "c".into()))
    }

    fn publisher(confirm: bool) -> Amqp10 {
        let role = Role::Publisher { id: 0, targets: vec!["q".into()] };
        Amqp10::new(&Terms { confirm, ..terms() }, &role, "c".into())
    }

    #[test]
    fn transfers_are_delivered_and_settled_at_every_split() {
        let mut frames = Vec::new();
        publisher(false).publish(3, 1, &mut frames);
        assert_eq!(feed(|| subscriber(Settle::Auto), &frames), (3, Vec::new()));
        frames.clear();
        publisher(true).publish(3, 1, &mut frames);
        let (delivered, answers) = feed(|| subscriber(Settle::Every(3)), &frames);
        assert_eq!((delivered, answers.len()), (3, 30));
        let mut wire = publisher(true);
        wire.publish(3, 1, &mut Vec::new());
        let mut sender = publisher(true);
        sender.publish(3, 1, &mut Vec::new());
        let (_, list, _) = described(&answers[8..]).unwrap();
        sender.on_disposition(Fields::new(list).unwrap()).unwrap();
        assert_eq!(sender.acked(), 3);
    }

    #[test]
    fn credit_and_session_window_bound_a_sender() {
        let mut wire = publisher(false);
        wire.links[0].theirs = Some(7);
        let flow = |next: u32, window, count, credit| {
            let mut out = Vec::new();
            let list = List::new().uint(next).uint(window).uint(0).uint(9).uint(7).uint(count).uint(credit);
            performative(0x13, &mut out, list);
            out
        };
        let give = |wire: &mut Amqp10, bytes: &[u8]| {
            let (_, list, _) = described(bytes).unwrap();
            wire.on_flow(Fields::new(list).unwrap());
        };
        give(&mut wire, &flow(0, 100, 0, 10));
        assert!(wire.ready());
        assert_eq!(wire.room(), 10);
        wire.publish(6, 0, &mut Vec::new());
        assert_eq!(wire.room(), 4);
        give(&mut wire, &flow(4, 5, 4, 50));
        assert_eq!(wire.room(), 3);
        give(&mut wire, &flow(6, 100, 6, 50));
        assert_eq!(wire.room(), 50);
    }

    #[test]
    fn logs_in_and_attaches() {
        let mut frames = b"AMQP\x03\x01\0\0".to_vec();
        frame(1, &mut frames, |out| performative(0x40, out, List::new().symbol("PLAIN")));
        frame(1, &mut frames, |out| performative(0x44, out, List::new().ubyte(0)));
        frames.extend_from_slice(b"AMQP\0\x01\0\0");
        frame(0, &mut frames, |out| performative(0x10, out, List::new().string("broker")));
        let begin = List::new().ushort(0).uint(1).uint(5).uint(5);
        frame(0, &mut frames, |out| performative(0x11, out, begin));
        let (_, answers) = feed(|| subscriber(Settle::Auto), &frames);
        assert!(memchr::memmem::find(&answers, b"\0guest\0guest").is_some());
        assert!(memchr::memmem::find(&answers, b"link-0").is_some());
        assert!(memchr::memmem::find(&answers, b"queue").is_some());
    }
}
