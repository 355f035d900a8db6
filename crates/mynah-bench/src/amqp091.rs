//! AMQP 0-9-1 as the load generator speaks it.
//!
//! One connection, one channel. A consumer declares its queue: the named one it competes for, or one of its own bound
//! to `amq.topic`. Confirms and acknowledgements may cover several messages.
//! Never: transactions, returns, flow.

use std::collections::BTreeSet;

use crate::account::Sink;
use crate::wire::{
    Fault, Role, Settle, Template, Terms, Wire, put_at, u8_at, u16_at, u32_at, u64_at, with_u32_len,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;
/// Frames offered to the broker at most; what it offers below this is taken.
const FRAME_MAX: u32 = 131_072;

/// One AMQP 0-9-1 connection.
#[derive(Debug)]
pub(crate) struct Amqp091 {
    terms: Terms,
    source: Option<String>,
    index: u32,
    template: Option<Template>,
    /// Highest delivery tag confirmed with all below.
    acked: u64,
    /// Tags above that are confirmed on their own.
    singles: BTreeSet<u64>,
    /// Delivery tag of the message whose content is arriving.
    tag: u64,
    body_left: u64,
    fresh_body: bool,
    unsettled: u32,
    ready: bool,
}

impl Amqp091 {
    pub(crate) fn new(terms: &Terms, role: &Role) -> Self {
        let mut wire = Self {
            terms: terms.clone(),
            source: None,
            index: 0,
            template: None,
            acked: 0,
            singles: BTreeSet::new(),
            tag: 0,
            body_left: 0,
            fresh_body: false,
            unsettled: 0,
            ready: false,
        };
        match role {
            Role::Subscriber { source, index, .. } => {
                wire.source = Some(source.clone());
                wire.index = *index;
            }
            Role::Publisher { id, targets } => {
                let template = Template::new(terms, *id, targets, |_, target, body, out| {
                    publish(terms, target, body, out);
                });
                wire.template = Some(template);
            }
        }
        wire
    }

    #[inline]
    fn on_method(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let (Some(class), Some(method)) = (u16_at(body, 0), u16_at(body, 2)) else {
            return Err(Fault::new("a method frame is cut short"));
        };
        match (class, method) {
            (60, 60) => self.on_deliver(body).ok_or_else(|| Fault::new("basic.deliver is cut short")),
            (60, 80) => self.on_ack(body).ok_or_else(|| Fault::new("basic.ack is cut short")),
            (60, 120) => Err(Fault::new("the broker refused a message (basic.nack)")),
            (10, 50) | (20, 40) => {
                let code = u16_at(body, 4).unwrap_or(0);
                let len = usize::from(u8_at(body, 6).unwrap_or(0));
                let text = String::from_utf8_lossy(body.get(7..7 + len).unwrap_or_default());
                Err(Fault::new(format!("the broker closed with {code}: {text}")))
            }
            _ => self.on_setup(class, method, body, out),
        }
    }

    /// Logging in, then one step after the other until consuming or publishing may start.
    fn on_setup(&mut self, class: u16, method: u16, body: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match (class, method) {
            (10, 10) => start_ok(&self.terms, out),
            (10, 30) => {
                let offered = u32_at(body, 6).unwrap_or(0);
                let frame_max = if offered == 0 { FRAME_MAX } else { offered.min(FRAME_MAX) };
                method_frame(0, 10, 31, out, |out| {
                    out.extend_from_slice(&u16_at(body, 4).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(&frame_max.to_be_bytes());
                    out.extend_from_slice(&[0, 0]);
                });
                let vhost = self.terms.vhost.clone();
                method_frame(0, 10, 40, out, |out| {
                    short(&vhost, out);
                    out.extend_from_slice(&[0, 0]);
                });
            }
            (10, 41) => method_frame(1, 20, 10, out, |out| out.push(0)),
            (20, 11) => self.on_channel(out),
            (85, 11) | (60, 21) => self.ready = true,
            (50, 11) if self.terms.store => self.ready = true,
            (50, 11) if self.terms.queues => self.consume(out),
            (50, 11) => {
                let queue = self.queue();
                let key = self.source.clone().unwrap_or_default();
                method_frame(1, 50, 20, out, |out| {
                    out.extend_from_slice(&[0, 0]);
                    short(&queue, out);
                    short("amq.topic", out);
                    short(&key, out);
                    out.extend_from_slice(&[0, 0, 0, 0, 0]);
                });
            }
            (50, 21) => self.consume(out),
            _ => {}
        }
        Ok(())
    }

    fn on_channel(&mut self, out: &mut Vec<u8>) {
        if self.source.is_some() {
            let queue = self.queue();
            // durable = 2, auto-delete = 8: a transient queue goes with its last consumer.
            let bits = if self.terms.durable { 2 } else { 8 };
            method_frame(1, 50, 10, out, |out| {
                out.extend_from_slice(&[0, 0]);
                short(&queue, out);
                out.push(bits);
                out.extend_from_slice(&[0, 0, 0, 0]);
            });
        } else if self.terms.confirm {
            method_frame(1, 85, 10, out, |out| out.push(0));
        } else {
            self.ready = true;
        }
    }

    /// The queue of this consumer: its source, or one of its own named after it.
    fn queue(&self) -> String {
        let source = self.source.clone().unwrap_or_default();
        if self.terms.queues { source } else { format!("{source}.s{}", self.index) }
    }

    fn consume(&self, out: &mut Vec<u8>) {
        let no_ack = self.terms.settle == Settle::Auto;
        if !no_ack {
            let prefetch = u16::try_from(self.terms.prefetch).unwrap_or(u16::MAX);
            method_frame(1, 60, 10, out, |out| {
                out.extend_from_slice(&[0, 0, 0, 0]);
                out.extend_from_slice(&prefetch.to_be_bytes());
                out.push(0);
            });
        }
        let queue = self.queue();
        method_frame(1, 60, 20, out, |out| {
            out.extend_from_slice(&[0, 0]);
            short(&queue, out);
            short("", out);
            out.push(if no_ack { 2 } else { 0 });
            out.extend_from_slice(&[0, 0, 0, 0]);
        });
    }

    #[inline]
    fn on_deliver(&mut self, body: &[u8]) -> Option<()> {
        let tag_len = usize::from(u8_at(body, 4)?);
        self.tag = u64_at(body, 5 + tag_len)?;
        Some(())
    }

    fn on_ack(&mut self, body: &[u8]) -> Option<()> {
        let tag = u64_at(body, 4)?;
        let multiple = u8_at(body, 12)? & 1 == 1;
        if multiple {
            self.acked = self.acked.max(tag);
            self.singles = self.singles.split_off(&(tag + 1));
        } else {
            self.singles.insert(tag);
        }
        while self.singles.remove(&(self.acked + 1)) {
            self.acked += 1;
        }
        Some(())
    }

    #[inline]
    fn on_body(&mut self, body: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) {
        if std::mem::take(&mut self.fresh_body) {
            sink.deliver(body);
        }
        self.body_left = self.body_left.saturating_sub(body.len() as u64);
        if self.body_left > 0 {
            return;
        }
        if let Settle::Every(every) = self.terms.settle {
            self.unsettled += 1;
            if self.unsettled >= every {
                self.unsettled = 0;
                ack(self.tag, every > 1, out);
            }
        }
    }
}

impl Wire for Amqp091 {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"AMQP\0\0\x09\x01");
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (Some(kind), Some(len)) = (u8_at(rest, 0), u32_at(rest, 3)) else { return Ok(at) };
            if rest.starts_with(b"AMQP") {
                return Err(Fault::new("the broker does not speak AMQP 0-9-1"));
            }
            let len = len as usize;
            let Some(body) = rest.get(7..7 + len) else { return Ok(at) };
            match rest.get(7 + len) {
                None => return Ok(at),
                Some(&END) => {}
                Some(_) => return Err(Fault::new("a frame does not end with 0xCE")),
            }
            match kind {
                METHOD => self.on_method(body, out)?,
                HEADER => {
                    self.body_left =
                        u64_at(body, 4).ok_or_else(|| Fault::new("a content header is cut short"))?;
                    self.fresh_body = true;
                }
                BODY => self.on_body(body, out, sink),
                HEARTBEAT => {}
                _ => return Err(Fault::new(format!("unexpected frame type {kind}"))),
            }
            at += 8 + len;
        }
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn room(&self) -> u64 {
        u64::MAX
    }

    fn publish(&mut self, count: usize, sent_ns: u64, out: &mut Vec<u8>) {
        if let Some(template) = &mut self.template {
            template.append(count, sent_ns, out, |_, _| {});
        }
    }

    fn acked(&self) -> u64 {
        if self.terms.confirm {
            self.acked + self.singles.len() as u64
        } else {
            self.template.as_ref().map_or(0, Template::sent)
        }
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.unsettled) > 0 {
            ack(self.tag, true, out);
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.terms.store && self.source.is_some() {
            let queue = self.queue();
            method_frame(1, 50, 40, out, |out| {
                out.extend_from_slice(&[0, 0]);
                short(&queue, out);
                out.push(0);
            });
        }
        method_frame(0, 10, 50, out, |out| {
            out.extend_from_slice(&200u16.to_be_bytes());
            short("bye", out);
            out.extend_from_slice(&[0, 0, 0, 0]);
        });
    }
}

fn frame(kind: u8, channel: u16, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    with_u32_len(out, body);
    out.push(END);
}

fn method_frame(
    channel: u16,
    class: u16,
    method: u16,
    out: &mut Vec<u8>,
    arguments: impl FnOnce(&mut Vec<u8>),
) {
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&class.to_be_bytes());
        out.extend_from_slice(&method.to_be_bytes());
        arguments(out);
    });
}

fn short(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn start_ok(terms: &Terms, out: &mut Vec<u8>) {
    let user = terms.user.as_deref().unwrap_or("guest");
    method_frame(0, 10, 11, out, |out| {
        // An empty table of client properties.
        out.extend_from_slice(&[0, 0, 0, 0]);
        short("PLAIN", out);
        with_u32_len(out, |out| {
            out.push(0);
            out.extend_from_slice(user.as_bytes());
            out.push(0);
            out.extend_from_slice(terms.password.as_bytes());
        });
        short("en_US", out);
    });
}

/// basic.ack; fixed length, so written in one go.
#[inline]
fn ack(tag: u64, multiple: bool, out: &mut Vec<u8>) {
    let mut frame =
        [METHOD, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, u8::from(multiple), END];
    put_at(&mut frame, 11, tag.to_be_bytes());
    out.extend_from_slice(&frame);
}

/// basic.publish with its content.
fn publish(terms: &Terms, target: &str, body: &[u8], out: &mut Vec<u8>) {
    method_frame(1, 60, 40, out, |out| {
        out.extend_from_slice(&[0, 0]);
        short(if terms.queues { "" } else { "amq.topic" }, out);
        short(target, out);
        out.push(0);
    });
    frame(HEADER, 1, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        // Property flags: bit 12 is delivery-mode.
        out.extend_from_slice(&0x1000u16.to_be_bytes());
        out.push(if terms.durable { 2 } else { 1 });
    });
    for part in body.chunks(FRAME_MAX as usize - 8) {
        frame(BODY, 1, out, |out| out.extend_from_slice(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Stamp;
    use crate::wire::tests::{feed, terms};

    fn subscriber(settle: Settle) -> Box<dyn Wire> {
        let role = Role::Subscriber { source: "q".into(), more: Vec::new(), index: 0 };
        Box::new(Amqp091::new(&Terms { settle, ..terms() }, &role))
    }

    fn deliver(tag: u64, parts: usize) -> Vec<u8> {
        let mut out = Vec::new();
        method_frame(1, 60, 60, &mut out, |out| {
            short("ctag", out);
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(0);
            short("", out);
            short("q", out);
        });
        let body = Stamp { run: 5, publisher: 1, sequence: tag - 1, sent_ns: 1 }.payload(64);
        frame(HEADER, 1, &mut out, |out| {
            out.extend_from_slice(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]);
        });
        for part in body.chunks(64 / parts) {
            frame(BODY, 1, &mut out, |out| out.extend_from_slice(part));
        }
        out
    }

    #[test]
    fn deliveries_are_counted_and_acknowledged_at_every_split() {
        let frames = [deliver(1, 1), deliver(2, 2)].concat();
        assert_eq!(feed(|| subscriber(Settle::Auto), &frames), (2, Vec::new()));
        let (delivered, answers) = feed(|| subscriber(Settle::Every(1)), &frames);
        assert_eq!((delivered, answers.len()), (2, 42));
        let (_, answers) = feed(|| subscriber(Settle::Every(2)), &frames);
        assert_eq!(answers, [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0xCE]);
    }

    #[test]
    fn logs_in_and_tunes() {
        let mut frames = Vec::new();
        method_frame(0, 10, 10, &mut frames, |out| out.extend_from_slice(&[0, 9, 0, 0, 0, 0]));
        method_frame(0, 10, 30, &mut frames, |out| out.extend_from_slice(&[7, 255, 0, 2, 0, 0, 0, 60]));
        let (_, answers) = feed(|| subscriber(Settle::Auto), &frames);
        assert!(memchr::memmem::find(&answers, b"PLAIN\0\0\0\x0c\0guest\0guest").is_some());
        assert!(memchr::memmem::find(&answers, &[0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 0]).is_some());
    }

    #[test]
    fn confirms_are_counted() {
        let role = Role::Publisher { id: 0, targets: vec!["q".into()] };
        let mut wire = Amqp091::new(&Terms { confirm: true, ..terms() }, &role);
        wire.publish(9, 0, &mut Vec::new());
        let mut frames = Vec::new();
        ack(3, true, &mut frames);
        ack(4, false, &mut frames);
        for frame in frames.chunks_exact(21) {
            wire.on_method(&frame[7..20], &mut Vec::new()).unwrap();
        }
        assert_eq!(wire.acked(), 4);
        for (tag, multiple, acked) in [(7, false, 5), (6, false, 6), (5, true, 7), (9, true, 9)] {
            let mut frame = Vec::new();
            ack(tag, multiple, &mut frame);
            wire.on_method(&frame[7..20], &mut Vec::new()).unwrap();
            assert_eq!(wire.acked(), acked, "{tag}");
        }
    }
}
