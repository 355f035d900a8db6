//! STOMP 1.2 as the load generator speaks it.
//!
//! Receipts carry a number of fixed width, so that frames keep one length and are patched in place.
//! Never: transactions, heart-beats.

use memchr::memchr;

use crate::account::Sink;
use crate::wire::{Fault, Role, Settle, Template, Terms, Wire, put_at};

/// Digits of a receipt.
const DIGITS: usize = 12;
/// Bytes of headers after which a frame is taken for garbage.
const HEAD_MAX: usize = 64 * 1024;

/// One STOMP connection.
#[derive(Debug)]
pub(crate) struct Stomp {
    terms: Terms,
    source: Option<String>,
    template: Option<Template>,
    receipt_at: usize,
    acked: u64,
    unsettled: u32,
    /// Ack id of the newest message not settled.
    last_ack: Vec<u8>,
    ready: bool,
}

impl Stomp {
    pub(crate) fn new(terms: &Terms, role: &Role) -> Self {
        let mut wire = Self {
            terms: terms.clone(),
            source: None,
            template: None,
            receipt_at: 0,
            acked: 0,
            unsettled: 0,
            last_ack: Vec::new(),
            ready: false,
        };
        match role {
            Role::Subscriber { source, .. } => wire.source = Some(source.clone()),
            Role::Publisher { id, targets } => {
                let mut receipt_at = 0;
                let template = Template::new(terms, *id, targets, |_, target, body, out| {
                    receipt_at = send(terms, target, body, out);
                });
                wire.template = Some(template);
                wire.receipt_at = receipt_at;
            }
        }
        wire
    }

    fn on_connected(&mut self, out: &mut Vec<u8>) {
        let Some(source) = &self.source else {
            self.ready = true;
            return;
        };
        let (ack, prefetch) = match self.terms.settle {
            Settle::Auto => ("auto", String::new()),
            Settle::Every(1) => ("client-individual", format!("prefetch-count:{}\n", self.terms.prefetch)),
            Settle::Every(_) => ("client", format!("prefetch-count:{}\n", self.terms.prefetch)),
        };
        let lifetime = queue_headers(&self.terms);
        let frame = format!(
            "SUBSCRIBE\nid:0\ndestination:{source}\nack:{ack}\n{prefetch}{lifetime}receipt:subscribed\n\n\0"
        );
        out.extend_from_slice(frame.as_bytes());
    }

    fn on_message(&mut self, head: &[u8], body: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) {
        sink.deliver(body);
        let Settle::Every(every) = self.terms.settle else { return };
        let Some(id) = header(head, b"\nack:") else { return };
        self.unsettled += 1;
        if self.unsettled >= every {
            self.unsettled = 0;
            ack(id, out);
        } else {
            self.last_ack.clear();
            self.last_ack.extend_from_slice(id);
        }
    }
}

impl Wire for Stomp {
    fn open(&mut self, out: &mut Vec<u8>) {
        let Terms { user, password, vhost, .. } = &self.terms;
        let login =
            user.as_ref().map_or(String::new(), |user| format!("login:{user}\npasscode:{password}\n"));
        let frame = format!("CONNECT\naccept-version:1.2\nhost:{vhost}\nheart-beat:0,0\n{login}\n\0");
        out.extend_from_slice(frame.as_bytes());
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            if let Some(b'\n' | b'\r') = rest.first() {
                at += 1;
                continue;
            }
            let Some((head, body, len)) = frame(rest)? else { return Ok(at) };
            if head.starts_with(b"MESSAGE\n") || head.starts_with(b"MESSAGE\r\n") {
                self.on_message(head, body, out, sink);
            } else if head.starts_with(b"RECEIPT") {
                // Only the subscription asks for a receipt on a subscriber's connection.
                self.ready = true;
                self.acked += 1;
            } else if head.starts_with(b"CONNECTED") {
                self.on_connected(out);
            } else if head.starts_with(b"ERROR") {
                let text = header(head, b"\nmessage:").unwrap_or(body);
                let body = String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default());
                return Err(Fault::new(format!("ERROR {}: {}", String::from_utf8_lossy(text), body.trim())));
            } else {
                return Err(Fault::new("an unknown frame arrived"));
            }
            at += len;
        }
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn room(&self) -> u64 {
        u64::MAX
    }

    fn publish(&mut self, count: usize, sent_ns: u64, out: &mut Vec<u8>) {
        let Some(template) = &mut self.template else { return };
        if self.terms.confirm {
            let at = self.receipt_at;
            template.append(count, sent_ns, out, |frame, number| put_at(frame, at, digits(number)));
        } else {
            template.append(count, sent_ns, out, |_, _| {});
        }
    }

    fn acked(&self) -> u64 {
        if self.terms.confirm { self.acked } else { self.template.as_ref().map_or(0, Template::sent) }
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.unsettled) > 0 {
            ack(&self.last_ack, out);
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.source.is_some() {
            out.extend_from_slice(b"UNSUBSCRIBE\nid:0\n\n\0");
        }
        out.extend_from_slice(b"DISCONNECT\n\n\0");
    }
}

/// Command and headers, body, and whole length of a frame.
type Frame<'a> = (&'a [u8], &'a [u8], usize);

/// The first frame in `input`: command and headers, body, and its length; none if it is not complete.
fn frame(input: &[u8]) -> Result<Option<Frame<'_>>, Fault> {
    let Some((head_len, gap)) = head_end(input) else {
        return if input.len() > HEAD_MAX {
            Err(Fault::new("a frame's headers do not end"))
        } else {
            Ok(None)
        };
    };
    let (head, rest) =
        (input.get(..head_len).unwrap_or_default(), input.get(head_len + gap..).unwrap_or_default());
    let body_len = match header(head, b"\ncontent-length:") {
        Some(text) => number(text).ok_or_else(|| Fault::new("content-length is not a number"))?,
        None => match memchr(0, rest) {
            Some(len) => len,
            None => return Ok(None),
        },
    };
    let Some(body) = rest.get(..body_len) else { return Ok(None) };
    match rest.get(body_len) {
        None => Ok(None),
        Some(0) => Ok(Some((head, body, head_len + gap + body_len + 1))),
        Some(_) => Err(Fault::new("a frame's body does not end with NUL")),
    }
}

/// Length of command and headers (with the last header's line feed), and of the blank line.
#[inline]
fn head_end(input: &[u8]) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let line = from + memchr(b'\n', input.get(from..)?)? + 1;
        match (input.get(line), input.get(line + 1)) {
            (Some(b'\n'), _) => return Some((line, 1)),
            (Some(b'\r'), Some(b'\n')) => return Some((line, 2)),
            _ => from = line,
        }
    }
}

/// The first value of a header; `name` as `\nname:`.
#[inline]
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut from = 0;
    loop {
        let line = from + memchr(b'\n', head.get(from..)?)?;
        let rest = head.get(line..)?;
        if let Some(value) = rest.strip_prefix(name) {
            let value = value.get(..memchr(b'\n', value)?)?;
            return Some(value.strip_suffix(b"\r").unwrap_or(value));
        }
        from = line + 1;
    }
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn ack(id: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"ACK\nid:");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\n\n\0");
}

/// A number in [`DIGITS`] digits.
#[inline]
fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut text = [b'0'; DIGITS];
    for place in text.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    text
}

/// How a queue is declared, in the headers that RabbitMQ and Mynah read and others ignore.
fn queue_headers(terms: &Terms) -> &'static str {
    match (terms.queues, terms.durable) {
        (false, _) => "",
        (true, true) => "durable:true\nauto-delete:false\n",
        (true, false) => "durable:false\nauto-delete:true\nexclusive:false\n",
    }
}

/// Appends a SEND and answers where the digits of its receipt lie.
fn send(terms: &Terms, target: &str, body: &[u8], out: &mut Vec<u8>) -> usize {
    let persistent = if terms.durable { "persistent:true\n" } else { "" };
    let mut head = format!(
        "SEND\ndestination:{target}\n{}{persistent}content-length:{}\n",
        queue_headers(terms),
        body.len()
    );
    let mut receipt_at = 0;
    if terms.confirm {
        head.push_str("receipt:");
        receipt_at = head.len();
        head.push_str("000000000000\n");
    }
    head.push('\n');
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
    out.push(0);
    receipt_at
}

#[cfg(test)]
mod tests {
    use memchr::memmem;

    use super::*;
    use crate::payload::Stamp;
    use crate::wire::tests::{feed, terms};

    fn message(extra: &str) -> Vec<u8> {
        let body = Stamp { run: 5, publisher: 0, sequence: 0, sent_ns: 1 }.payload(32);
        let mut frame = format!("MESSAGE\nsubscription:0\n{extra}content-length:32\n\n").into_bytes();
        frame.extend_from_slice(&body);
        frame.extend_from_slice(b"\0\n");
        frame
    }

    fn subscriber(settle: Settle) -> Box<dyn Wire> {
        let role = Role::Subscriber { source: "/queue/a".into(), more: Vec::new(), index: 0 };
        Box::new(Stomp::new(&Terms { settle, ..terms() }, &role))
    }

    #[test]
    fn a_message_is_delivered_and_acknowledged_at_every_split() {
        assert_eq!(feed(|| subscriber(Settle::Auto), &message("")), (1, Vec::new()));
        let (delivered, answers) = feed(|| subscriber(Settle::Every(1)), &message("ack:T_1@@2\r\n"));
        assert_eq!((delivered, answers.as_slice()), (1, b"ACK\nid:T_1@@2\n\n\0".as_slice()));
    }

    #[test]
    fn acks_of_several_are_held_back() {
        let mut frames = message("ack:1\n");
        frames.extend_from_slice(&message("ack:2\n"));
        let (_, answers) = feed(|| subscriber(Settle::Every(2)), &frames);
        assert_eq!(answers, b"ACK\nid:2\n\n\0");
    }

    #[test]
    fn subscribes_after_connected() {
        let (_, answers) = feed(|| subscriber(Settle::Auto), b"CONNECTED\nversion:1.2\n\n\0\n");
        assert!(answers.starts_with(b"SUBSCRIBE\nid:0\ndestination:/queue/a\nack:auto\n"), "{answers:?}");
    }

    #[test]
    fn receipts_are_numbered_in_place() {
        let role = Role::Publisher { id: 0, targets: vec!["/queue/a".into()] };
        let mut wire = Stomp::new(&Terms { confirm: true, ..terms() }, &role);
        let mut out = Vec::new();
        wire.publish(12, 0, &mut out);
        assert!(memmem::find(&out, b"receipt:000000000011\n\n").is_some());
        assert_eq!(wire.acked(), 0);
        assert_eq!(digits(987_654_321_012), *b"987654321012");
    }

    #[test]
    fn garbage_is_a_fault() {
        assert!(frame(b"MESSAGE\ncontent-length:x\n\nabc\0").is_err());
        assert!(frame(b"MESSAGE\ncontent-length:2\n\nabc\0").is_err());
        assert_eq!(frame(b"MESSAGE\nsubscription:0\n").unwrap(), None);
    }
}
