//! Wire scripts against the whole machine, in virtual time and with a broker that only writes down what it is asked.

mod bad_input;
mod deliveries;
mod limits;
mod login;
mod properties;
mod scripts;
mod telnet;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::protocol::{Connection, Input, Peer, Protocol, Reply, Ticket, Violation};
use mynah_core::testing::RecordingHost;
use mynah_core::{AddressRef, ConsumerId, Delivery, DeliveryTag, Message, PublishRef};

use crate::{Stomp, StompConfig};

/// `^` is NUL, as it is written on paper.
fn bytes(text: &str) -> Vec<u8> {
    text.replace('^', "\0").into_bytes()
}

/// One client, the machine and the broker.
struct Client {
    connection: Box<dyn Connection>,
    host: RecordingHost,
    now: Instant,
    held: Vec<u8>,
    /// What the broker was asked, in words.
    calls: Vec<String>,
    failed: Option<Violation>,
}

impl Client {
    fn new() -> Self {
        Self::with(StompConfig::default())
    }

    fn with(config: StompConfig) -> Self {
        let now = Instant::now();
        let peer = Peer::new(7, "127.0.0.1:5000".parse().unwrap(), Arc::from("stomp"));
        Self {
            connection: Stomp::new(config).accept(&peer, now),
            host: RecordingHost::default(),
            now,
            held: Vec::new(),
            calls: Vec::new(),
            failed: None,
        }
    }

    /// Logged in, and all that belongs to it forgotten.
    fn open(version: &str) -> Self {
        let mut client = Self::new();
        client.log_in(version);
        client
    }

    fn log_in(&mut self, version: &str) {
        self.play(&format!("CONNECT\naccept-version:{version}\nhost:h\nclient-id:me\n\n^"));
        let answer = self.wire();
        assert!(answer.starts_with(&format!("CONNECTED\nversion:{version}\n")), "{answer}");
        self.calls.clear();
    }

    /// One input; afterwards the driver's work: what was not consumed is kept.
    fn input(&mut self, input: Input<'_>) -> usize {
        if self.failed.is_some() || self.host.closed.is_some() {
            return 0;
        }
        match self.connection.handle(self.now, input, &mut self.host) {
            Ok(used) => used,
            Err(violation) => {
                self.failed = Some(violation);
                0
            }
        }
    }

    fn show(&mut self) {
        let held = std::mem::take(&mut self.held);
        let used = self.input(Input::Bytes(&held));
        assert!(used <= held.len());
        self.held = held[used..].to_vec();
    }

    fn feed(&mut self, text: &str) {
        self.held.extend_from_slice(&bytes(text));
        self.show();
    }

    /// What was asked since the last time, with the tickets that wait.
    fn asked(&mut self) -> Vec<(Option<Ticket>, String)> {
        let calls: Vec<_> = self.host.calls.drain(..).map(|call| (call.ticket, call.text)).collect();
        self.calls.extend(calls.iter().map(|(_, text)| text.clone()));
        calls
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.input(Input::Replies(&mut vec![(ticket, reply)]));
        self.show();
    }

    /// Says yes until nothing is asked any more.
    fn agree(&mut self) {
        loop {
            self.calls.extend(self.host.calls.iter().map(|call| call.text.clone()));
            let mut replies = self.host.agree();
            if replies.is_empty() {
                return;
            }
            for (_, reply) in &mut replies {
                // The broker makes up a name.
                if let Reply::Defined(defined) = reply
                    && defined.name.is_empty()
                {
                    defined.name = "amq.gen-1".into();
                }
            }
            self.input(Input::Replies(&mut replies));
            self.show();
        }
    }

    fn play(&mut self, text: &str) {
        self.feed(text);
        self.agree();
    }

    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        let mut deliveries = deliveries;
        self.input(Input::Deliveries(&mut deliveries));
        assert!(deliveries.is_empty());
    }

    fn wire(&mut self) -> String {
        String::from_utf8_lossy(&self.host.take_wire()).replace('\0', "^")
    }

    fn take_calls(&mut self) -> Vec<String> {
        self.asked();
        std::mem::take(&mut self.calls)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        while self.connection.deadline().is_some_and(|due| due <= self.now) && self.failed.is_none() {
            self.input(Input::Deadline);
        }
    }

    fn is_closed(&self) -> bool {
        self.failed.is_some() || self.host.closed.is_some()
    }
}

/// A message to `queue`, unsettled, as the first of its queue.
fn delivery(consumer: u32, tag: u64, address: AddressRef<'_>, body: &str) -> Delivery {
    delivery_of(consumer, tag, &PublishRef::new(address, body.as_bytes()))
}

fn delivery_of(consumer: u32, tag: u64, publish: &PublishRef<'_>) -> Delivery {
    Delivery {
        consumer: ConsumerId(consumer),
        tag: DeliveryTag(tag),
        message: Arc::new(Message::from_publish(publish, Instant::now())),
        attempts: 0,
        redelivered: false,
        settled: false,
        remaining: 0,
        wire: None,
    }
}

/// Plays `frames` on a fresh connection of each of `versions`: the broker must be asked `calls`, and the client told `wire`.
#[track_caller]
fn check(versions: &[&str], frames: &str, calls: &[&str], wire: &str) {
    for version in versions {
        let mut client = Client::open(version);
        client.play(frames);
        assert_eq!(client.take_calls(), calls, "{version}: {frames}");
        assert_eq!(client.wire(), wire, "{version}: {frames}");
        assert_eq!(client.failed, None);
    }
}

/// Plays `frames`: the client is told an ERROR with this `message`, and its text says this.
#[track_caller]
fn check_error(versions: &[&str], frames: &str, message: &str, says: &str) {
    for version in versions {
        let mut client = Client::open(version);
        client.play(frames);
        let wire = client.wire();
        let at = wire.find("ERROR\n").unwrap_or_else(|| panic!("{version}: no ERROR to {frames}: {wire}"));
        let error = &wire[at..];
        assert!(error.contains(&format!("message:{message}\n")), "{version}: {error}");
        assert!(error.contains(says), "{version}: {error}");
        assert!(error.ends_with("\n^\n"), "{error}");
        assert!(client.is_closed(), "{version}: open after {error}");
        // Nothing behind an ERROR is obeyed [STOMP 1.2, ERROR].
        client.take_calls();
        client.feed("SEND\ndestination:/queue/late\n\nx^");
        assert!(client.take_calls().is_empty());
    }
}

const ALL: &[&str] = &["1.0", "1.1", "1.2"];
const LATER: &[&str] = &["1.1", "1.2"];

#[test]
fn the_factory_names_itself_and_knows_its_own() {
    let stomp = Stomp::default();
    assert_eq!(stomp.name(), "stomp");
    assert_eq!(stomp.detect(b"CONNECT\n"), mynah_core::protocol::Detect::Yes);
    assert!(stomp.refuse_unknown().starts_with(b"ERROR\n"));
}
