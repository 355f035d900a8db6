//! A protocol of lines, small enough to see through, that can ask for everything the driver has to do.
//!
//! The first line is `LINE`. Then one command a line: `echo X`, `big N`, `sub T`, `qsub Q`, `pub T B`, `pubt T B` (answered),
//! `put Q B` (answered), `open ID` (waits until it has the session), `hold` (consumes nothing until another input),
//! `later MS`, `bad`, `quit`, `panic`, `panic-at-last`, `explode` (panics at the next input that is no bytes).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mynah_core::protocol::{
    Connection, Credentials, CreditMode, Detect, Expiry, Farewell, From, Holder, Host, Input, Notice, Peer,
    Protocol, Reply, SessionSpec, SessionTerms, Source, Ticket, Violation, ViolationKind,
};
use mynah_core::{AddressRef, ConsumerId, Filter, Format, Guarantee, Outcome, PublishRef, Run, Wire};
use parking_lot::Mutex;

pub(super) const LOGIN_TIMEOUT: Duration = Duration::from_millis(500);
pub(super) const PREAMBLE: &[u8] = b"LINE\n";
/// Bytes that begin so may become anything.
pub(super) const UNDECIDED: &[u8] = b"?";
pub(super) const REFUSAL: &[u8] = b"speak LINE\n";

/// What the connections of one protocol were told, in order.
#[derive(Debug, Default)]
pub(super) struct Seen {
    log: Mutex<Vec<(u64, String)>>,
    /// How often the bytes lay elsewhere than the time before.
    pub(super) moved: AtomicUsize,
}

impl Seen {
    fn note(&self, connection: u64, what: impl Into<String>) {
        self.log.lock().push((connection, what.into()));
    }

    pub(super) fn of(&self, connection: u64) -> Vec<String> {
        self.log.lock().iter().filter(|(of, _)| *of == connection).map(|(_, what)| what.clone()).collect()
    }

    pub(super) fn count(&self, connection: u64, what: &str) -> usize {
        self.of(connection).iter().filter(|seen| *seen == what).count()
    }
}

#[derive(Debug, Default)]
pub(super) struct Lines(pub(super) Arc<Seen>);

impl Protocol for Lines {
    fn name(&self) -> &'static str {
        "line"
    }

    fn detect(&self, first: &[u8]) -> Detect {
        if first.starts_with(PREAMBLE) {
            Detect::Yes
        } else if PREAMBLE.starts_with(first) || first.starts_with(UNDECIDED) {
            Detect::NeedMore
        } else {
            Detect::No
        }
    }

    fn login_timeout(&self) -> Duration {
        LOGIN_TIMEOUT
    }

    fn accept(&self, peer: &Peer, _: Instant) -> Box<dyn Connection> {
        Box::new(Line {
            seen: Arc::clone(&self.0),
            number: peer.connection,
            deadline: None,
            tickets: 0,
            consumers: 0,
            waiting: false,
            panics: "",
            last_at: 0,
        })
    }

    fn refuse_unknown(&self) -> &'static [u8] {
        REFUSAL
    }
}

struct Line {
    seen: Arc<Seen>,
    number: u64,
    deadline: Option<Instant>,
    tickets: u64,
    consumers: u32,
    waiting: bool,
    panics: &'static str,
    last_at: usize,
}

impl Connection for Line {
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        let own = matches!(input, Input::Bytes(_) | Input::Lost);
        assert!(self.panics != "other" || own, "as the test asked for");
        if let Input::Bytes(bytes) = input {
            return self.on_bytes(now, bytes, host);
        }
        self.waiting = false;
        match input {
            Input::Bytes(_) => {}
            Input::Replies(replies) => replies.drain(..).for_each(|reply| self.on_reply(reply, host)),
            Input::Deliveries(deliveries) => {
                self.seen.note(self.number, "deliveries");
                for delivery in deliveries.drain(..) {
                    host.wire().extend_from_slice(&delivery.message.body);
                    host.wire().extend_from_slice(b"\n");
                    host.settle(delivery.consumer, &[delivery.tag], &Outcome::Accepted, None);
                }
            }
            Input::Encoded { .. } => self.seen.note(self.number, "encoded"),
            Input::Notice(notice) => self.on_notice(&notice, host),
            Input::Deadline => {
                self.deadline = None;
                self.seen.note(self.number, "deadline");
                host.wire().extend_from_slice(b"deadline\n");
            }
            Input::Shutdown => {
                self.seen.note(self.number, "shutdown");
                host.wire().extend_from_slice(b"bye\n");
                host.close(Farewell::Abrupt { expiry: None });
            }
            Input::Lost => {
                self.seen.note(self.number, "lost");
                assert_ne!(self.panics, "lost", "as the test asked for");
            }
        }
        Ok(0)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Line {
    fn on_bytes(&mut self, now: Instant, bytes: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        assert!(!bytes.is_empty());
        let at = bytes.as_ptr() as usize;
        if std::mem::replace(&mut self.last_at, at) != at {
            self.seen.moved.fetch_add(1, Ordering::Relaxed);
        }
        let mut used = 0;
        while !self.waiting
            && let Some(end) = bytes[used..].iter().position(|byte| *byte == b'\n')
        {
            let line = std::str::from_utf8(&bytes[used..used + end]).unwrap();
            used += end + 1;
            self.on_line(now, line, host)?;
        }
        Ok(used)
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn on_line(&mut self, now: Instant, line: &str, host: &mut dyn Host) -> Result<(), Violation> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, body) = rest.split_once(' ').unwrap_or((rest, ""));
        match command {
            "LINE" => {}
            "echo" => host.wire().extend_from_slice(format!("{rest}\n").as_bytes()),
            "big" => {
                let size = host.wire().len() + rest.parse::<usize>().unwrap();
                host.wire().resize(size, b'x');
            }
            "later" => self.deadline = Some(now + Duration::from_millis(rest.parse().unwrap())),
            "hold" => self.waiting = true,
            "pub" => host.publish(None, &PublishRef::new(AddressRef::Topic(name), body.as_bytes())),
            "pubt" => {
                let ticket = self.ticket();
                host.publish(Some(ticket), &PublishRef::new(AddressRef::Topic(name), body.as_bytes()));
            }
            "put" => {
                let ticket = self.ticket();
                host.publish(Some(ticket), &PublishRef::new(AddressRef::Queue(name), body.as_bytes()));
            }
            "sub" | "qsub" => self.subscribe(command, name, host),
            "open" => self.open(name, host),
            "bad" => {
                host.wire().extend_from_slice(b"that was bad\n");
                return Err(Violation::new(ViolationKind::Protocol, "bad"));
            }
            "quit" => {
                host.wire().extend_from_slice(b"bye\n");
                host.close(Farewell::Clean { expiry: None });
                self.waiting = true;
            }
            "panic" => panic!("as the test asked for"),
            "panic-at-last" => self.panics = "lost",
            "explode" => self.panics = "other",
            other => panic!("no such command: {other}"),
        }
        Ok(())
    }

    fn subscribe(&mut self, command: &str, name: &str, host: &mut dyn Host) {
        self.consumers += 1;
        let (ticket, consumer) = (self.ticket(), ConsumerId(self.consumers));
        let source = if command == "qsub" {
            let mut source = Source::new(From::Queue { name, create: true });
            source.credit = CreditMode::Window(10);
            source
        } else {
            let mut source =
                Source::new(From::Topic { filter: Filter::exact(name), holder: Holder::Connection });
            source.settled = true;
            source.wire = Some(Wire {
                format: Format("line"),
                version: 99,
                guarantee: Guarantee::AtMostOnce,
                direct_max: Guarantee::ExactlyOnce,
                keep_retain: false,
                identifiers: Vec::new(),
                apart: false,
                as_message: false,
                encode,
            });
            source
        };
        host.attach(ticket, consumer, source);
    }

    fn open(&mut self, id: &str, host: &mut dyn Host) {
        let (one, two) = (self.ticket(), self.ticket());
        host.authenticate(one, Credentials::Anonymous);
        let terms = SessionTerms { fresh: false, expiry: Expiry::AtEnd, credit: 10 };
        let session = SessionSpec {
            protocol: "LINE",
            virtual_host: None,
            client_id: id,
            session: Some(terms),
            will: None,
        };
        host.open(two, session);
        self.waiting = true;
    }

    fn on_reply(&mut self, (ticket, reply): (Ticket, Reply), host: &mut dyn Host) {
        assert!(ticket.0 <= self.tickets, "a reply to somebody else's ticket");
        let text = match reply {
            Reply::Authenticated { .. } => {
                self.waiting = true;
                return;
            }
            Reply::Opened(_) => {
                self.waiting = false;
                "opened\n".to_owned()
            }
            Reply::Published { routed } => format!("published {routed}\n"),
            Reply::Attached(_) => "attached\n".to_owned(),
            other @ (Reply::Challenge(_)
            | Reply::Returned(_)
            | Reply::Detached { .. }
            | Reply::Defined(_)
            | Reply::Done
            | Reply::Refused(_)) => {
                format!("{other:?}\n")
            }
        };
        self.seen.note(self.number, text.trim_end());
        host.wire().extend_from_slice(text.as_bytes());
    }

    fn on_notice(&mut self, notice: &Notice, host: &mut dyn Host) {
        self.seen.note(self.number, format!("{notice:?}"));
        match notice {
            Notice::TakenOver | Notice::Kicked { .. } => {
                host.wire().extend_from_slice(b"go\n");
                host.close(Farewell::Abrupt { expiry: None });
            }
            Notice::Drained { .. } | Notice::Cancelled { .. } => {}
        }
    }
}

/// `body`, and the end of the line.
fn encode(_: &Wire, publish: &PublishRef<'_>, run: &mut Run) {
    run.bytes.extend_from_slice(publish.body);
    run.bytes.extend_from_slice(b"\n");
    run.frames += 1;
}
