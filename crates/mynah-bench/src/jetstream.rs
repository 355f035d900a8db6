//! NATS JetStream as far as the pattern "store" needs it: a stream that is created and deleted, and publishers that get an
//! answer for each message.
//!
//! The answers of one publisher come in the order of its messages on a subject of its own, so they are only counted.
//! Never: consumers, headers.

use crate::account::Sink;
use crate::wire::{Fault, Role, Template, Terms, Wire};

/// One connection of the NATS client protocol.
#[derive(Debug)]
pub(crate) struct Jetstream {
    /// The subject, and so the stream that is named after it.
    subject: String,
    inbox: String,
    template: Option<Template>,
    acked: u64,
    asked: bool,
    ready: bool,
}

impl Jetstream {
    pub(crate) fn new(terms: &Terms, role: &Role) -> Self {
        let (subject, own, template) = match role {
            Role::Subscriber { source, index, .. } => (source.clone(), format!("s{index}"), None),
            Role::Publisher { id, targets } => {
                let inbox = format!("_INBOX.{:08x}.p{id}", terms.run);
                let template = Template::new(terms, *id, targets, |_, target, body, out| {
                    out.extend_from_slice(format!("PUB {target} {inbox} {}\r\n", body.len()).as_bytes());
                    out.extend_from_slice(body);
                    out.extend_from_slice(b"\r\n");
                });
                (targets.first().cloned().unwrap_or_default(), format!("p{id}"), Some(template))
            }
        };
        let inbox = format!("_INBOX.{:08x}.{own}", terms.run);
        Self { subject, inbox, template, acked: 0, asked: false, ready: false }
    }

    /// What the server calls the stream: no dots.
    fn stream(&self) -> String {
        self.subject.replace('.', "-")
    }

    fn ask(&self, verb: &str, body: &str, out: &mut Vec<u8>) {
        let line = format!(
            "PUB $JS.API.STREAM.{verb}.{} {} {}\r\n{body}\r\n",
            self.stream(),
            self.inbox,
            body.len()
        );
        out.extend_from_slice(line.as_bytes());
    }

    fn on_message(&mut self, body: &[u8]) -> Result<(), Fault> {
        if memchr::memmem::find(body, b"\"error\"").is_some() {
            return Err(Fault::new(format!("JetStream refused: {}", String::from_utf8_lossy(body))));
        }
        if self.template.is_some() {
            self.acked += 1;
        } else {
            self.ready = true;
        }
        Ok(())
    }

    /// The server has answered our PING: it knows the inbox.
    fn on_pong(&mut self, out: &mut Vec<u8>) {
        if self.template.is_some() {
            self.ready = true;
        } else if !std::mem::replace(&mut self.asked, true) {
            let stream = self.stream();
            let body = format!(
                r#"{{"name":"{stream}","subjects":["{}"],"retention":"limits","storage":"file","num_replicas":1}}"#,
                self.subject
            );
            self.ask("CREATE", &body, out);
        }
    }
}

impl Wire for Jetstream {
    fn open(&mut self, out: &mut Vec<u8>) {
        let line = format!("CONNECT {{\"verbose\":false}}\r\nSUB {} 1\r\nPING\r\n", self.inbox);
        out.extend_from_slice(line.as_bytes());
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, _sink: &mut Sink<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(at) };
            let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
            at += end + 1;
            if line.starts_with(b"MSG ") {
                let word = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
                let len: usize = std::str::from_utf8(word)
                    .ok()
                    .and_then(|word| word.parse().ok())
                    .ok_or_else(|| Fault::new("MSG without a length"))?;
                let Some(body) = input.get(at..at.saturating_add(len)) else { return Ok(at - end - 1) };
                if input.len() < at + len + 2 {
                    return Ok(at - end - 1);
                }
                self.on_message(body)?;
                at += len + 2;
            } else if line.starts_with(b"PING") {
                out.extend_from_slice(b"PONG\r\n");
            } else if line.starts_with(b"PONG") {
                self.on_pong(out);
            } else if line.starts_with(b"-ERR") {
                return Err(Fault::new(String::from_utf8_lossy(line).into_owned()));
            }
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
        self.acked
    }

    fn settle(&mut self, _out: &mut Vec<u8>) {}

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.template.is_none() {
            self.ask("DELETE", "", out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{feed, terms};

    #[test]
    fn answers_are_counted_at_every_split() {
        let frames = b"INFO {}\r\nPONG\r\nMSG _INBOX.00000005.p0 1 14\r\n{\"stream\":\"q\"}\r\nPING\r\n";
        let role = Role::Publisher { id: 0, targets: vec!["q".into()] };
        let (_, answers) = feed(|| Box::new(Jetstream::new(&terms(), &role)), frames);
        assert_eq!(answers, b"PONG\r\n");
        let mut wire = Jetstream::new(&terms(), &role);
        wire.on_message(b"{\"stream\":\"q\",\"seq\":1}").unwrap();
        assert_eq!(wire.acked(), 1);
        wire.on_message(b"{\"error\":{\"code\":503}}").unwrap_err();
    }

    #[test]
    fn a_stream_is_made_once_and_deleted() {
        let role = Role::Subscriber { source: "bench.1".into(), more: Vec::new(), index: 0 };
        let mut wire = Jetstream::new(&terms(), &role);
        let mut out = Vec::new();
        wire.on_pong(&mut out);
        wire.on_pong(&mut out);
        assert!(out.starts_with(b"PUB $JS.API.STREAM.CREATE.bench-1 _INBOX.00000005.s0 "));
        assert_eq!(memchr::memmem::find_iter(&out, b"CREATE").count(), 1);
        wire.on_message(b"{}").unwrap();
        assert!(wire.ready());
        wire.close(&mut out);
        assert!(out.ends_with(b"DELETE.bench-1 _INBOX.00000005.s0 0\r\n\r\n"));
    }
}
