//! The seam between the event loop and a protocol: one [`Wire`] for each connection, bytes in, bytes out.
//!
//! A call covers a whole read or a whole batch, so that the dynamic call costs nothing for a message. Publishers
//! append copies of frames encoded before the run ([`Template`]) and change only what moves in them.
//! Never: a socket, a clock.

use crate::account::Sink;
use crate::payload::{self, Stamp};

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub String);

impl Fault {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// One connection as its protocol sees it.
pub(crate) trait Wire: Send {
    /// The first bytes to send.
    fn open(&mut self, out: &mut Vec<u8>);
    /// Takes whole frames from `input`, appends answers to `out` and answers how many bytes it took.
    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<usize, Fault>;
    /// Whether logging in, and subscribing or preparing to publish, was confirmed.
    fn ready(&self) -> bool;
    /// Messages that the protocol's own window lets this publisher send now.
    fn room(&self) -> u64;
    /// Appends the next `count` messages.
    fn publish(&mut self, count: usize, sent_ns: u64, out: &mut Vec<u8>);
    /// Messages that the broker settled; equal to what was sent where nothing is confirmed.
    fn acked(&self) -> u64;
    /// Settles what a subscriber has held back for a larger batch.
    fn settle(&mut self, out: &mut Vec<u8>);
    /// The goodbye.
    fn close(&mut self, out: &mut Vec<u8>);
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends to each of the destinations in turn.
    Publisher { id: u32, targets: Vec<String> },
    /// Reads one destination, and in MQTT more of them; the index tells apart those who read the same.
    Subscriber { source: String, more: Vec<String>, index: u32 },
}

/// How a consumer settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Nothing to settle: no-ack, ack:auto, pre-settled.
    Auto,
    /// One settlement for each so many messages; 1 settles each on its own.
    Every(u32),
}

/// All that the connections of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub run: u32,
    pub user: Option<String>,
    pub password: String,
    /// Virtual host of AMQP and STOMP.
    pub vhost: String,
    /// Bytes of a payload.
    pub size: usize,
    /// MQTT only.
    pub qos: u8,
    pub settle: Settle,
    /// Publisher confirms, receipts, or unsettled transfers.
    pub confirm: bool,
    /// Persistent messages, durable queues.
    pub durable: bool,
    /// Messages a consumer may hold unsettled, and link credit.
    pub prefetch: u32,
    /// Competing consumers on named queues, not one subscription for each consumer.
    pub queues: bool,
    /// The reader only declares its queue and deletes it in the end; confirms count as deliveries.
    pub store: bool,
    /// A publisher numbers all its messages, not those to each destination.
    pub numbered_through: bool,
}

/// Frames of equal length, encoded once, one for each destination, repeated up to a batch.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    frames: Vec<u8>,
    frame_len: usize,
    count: usize,
    cycle: usize,
    numbered_through: bool,
    payload_at: usize,
    next: usize,
    lane: usize,
    lane_sequence: u64,
    sent: u64,
}

/// Frames that a template repeats at least.
const BATCH: usize = 64;

impl Template {
    /// `encode` writes the frame for one destination around the given payload.
    pub(crate) fn new(
        terms: &Terms,
        publisher: u32,
        targets: &[String],
        mut encode: impl FnMut(usize, &str, &[u8], &mut Vec<u8>),
    ) -> Self {
        let body = Stamp { run: terms.run, publisher, sequence: 0, sent_ns: 0 }.payload(terms.size);
        let mut cycle = Vec::new();
        let mut frame_len = 0;
        for (index, target) in targets.iter().enumerate() {
            let before = cycle.len();
            encode(index, target, &body, &mut cycle);
            frame_len = cycle.len() - before;
        }
        debug_assert_eq!(cycle.len(), frame_len * targets.len(), "frames differ in length");
        let payload_at = memchr::memmem::find(&cycle, &body).unwrap_or(0);
        let repeats = BATCH.div_ceil(targets.len().max(1));
        Self {
            frames: cycle.repeat(repeats),
            frame_len: frame_len.max(1),
            count: targets.len() * repeats,
            cycle: targets.len(),
            numbered_through: terms.numbered_through,
            payload_at,
            next: 0,
            lane: 0,
            lane_sequence: 0,
            sent: 0,
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Index of the destination of the next message.
    pub(crate) fn lane(&self) -> usize {
        self.lane
    }

    /// Appends the next `count` frames; `patch` gets each frame and its number, counted from 0.
    #[inline]
    pub(crate) fn append(
        &mut self,
        mut count: usize,
        sent_ns: u64,
        out: &mut Vec<u8>,
        mut patch: impl FnMut(&mut [u8], u64),
    ) {
        while count > 0 {
            let now = count.min(self.count - self.next);
            let Some(batch) = self.frames.get(self.next * self.frame_len..(self.next + now) * self.frame_len)
            else {
                return;
            };
            let from = out.len();
            out.extend_from_slice(batch);
            for frame in out.get_mut(from..).unwrap_or_default().chunks_exact_mut(self.frame_len) {
                let sequence = if self.numbered_through { self.sent } else { self.lane_sequence };
                payload::restamp(frame, self.payload_at, sequence, sent_ns);
                patch(frame, self.sent);
                self.sent += 1;
                self.lane += 1;
                if self.lane == self.cycle {
                    self.lane = 0;
                    self.lane_sequence += 1;
                }
            }
            self.next = (self.next + now) % self.count;
            count -= now;
        }
    }
}

/// The byte at `at`.
#[inline]
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Two bytes at `at`, network order.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

/// Four bytes at `at`, network order.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

/// Eight bytes at `at`, network order.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

/// Overwrites bytes at `at`; does nothing if they do not fit.
#[inline]
pub(crate) fn put_at<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *place = value;
    }
}

/// Writes a length in front of what `body` appends.
pub(crate) fn with_u32_len(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    put_at(out, at, len.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::account::{Ledger, Tally};

    pub(crate) fn terms() -> Terms {
        Terms {
            run: 5,
            user: Some("guest".into()),
            password: "guest".into(),
            vhost: "/".into(),
            size: 64,
            qos: 0,
            settle: Settle::Auto,
            confirm: false,
            durable: false,
            prefetch: 100,
            queues: true,
            store: false,
            numbered_through: false,
        }
    }

    /// Feeds `input` to `wire` at every split and answers (delivered, bytes answered at the plain feeding).
    pub(crate) fn feed(make: impl Fn() -> Box<dyn Wire>, input: &[u8]) -> (u64, Vec<u8>) {
        let mut plain = None;
        for split in 0..=input.len() {
            let mut wire = make();
            let (mut ledger, mut tally) = (Ledger::whole(0, 4), Tally::new(5, 4));
            let mut sink =
                Sink { ledger: &mut ledger, tally: &mut tally, now_ns: 9, measuring: true, run_of: (0, 0) };
            let mut out = Vec::new();
            let mut kept = input[..split].to_vec();
            let taken = wire.read(&kept, &mut out, &mut sink).unwrap();
            kept.drain(..taken);
            kept.extend_from_slice(&input[split..]);
            let taken = wire.read(&kept, &mut out, &mut sink).unwrap();
            assert_eq!(taken, kept.len(), "rest after a split at {split}");
            let result = (tally.delivered, out);
            let first = plain.get_or_insert_with(|| result.clone());
            assert_eq!(first.0, result.0, "split at {split}");
        }
        plain.unwrap()
    }

    #[test]
    fn a_template_cycles_over_its_targets() {
        let targets = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let mut template = Template::new(&terms(), 3, &targets, |index, target, body, out| {
            out.push(u8::try_from(index).unwrap());
            out.extend_from_slice(target.as_bytes());
            out.extend_from_slice(body);
        });
        let mut out = Vec::new();
        let mut numbers = Vec::new();
        template.append(2, 77, &mut out, |_, number| numbers.push(number));
        template.append(200, 78, &mut out, |_, number| numbers.push(number));
        assert_eq!(numbers, (0..202).collect::<Vec<_>>());
        for (number, frame) in out.chunks_exact(66).enumerate() {
            assert_eq!(usize::from(frame[0]), number % 3);
            let stamp = Stamp::read(&frame[2..]).unwrap();
            assert_eq!(stamp.sequence, number as u64 / 3);
            assert_eq!(stamp.sent_ns, if number < 2 { 77 } else { 78 });
            assert_eq!((stamp.run, stamp.publisher), (5, 3));
        }
        assert_eq!((template.sent(), template.lane()), (202, 1));
    }
}
