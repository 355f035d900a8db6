//! What every engine does, as a suite that each of them runs: only with the feature `testing`.
//!
//! An engine under test is a function that opens it again as after a crash, with all that was safe and nothing else.
//!
//! Never: looks behind the traits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Condition, Engine, EntryState, Extent, Gone, Lsn, QueueNumber, Records, RecoveredQueue, Space,
    StoredEntry, Wait, Waiter,
};
use crate::address::AddressRef;
use crate::delivery::DeliveryTag;
use crate::message::{Guarantee, Header, Message};
use crate::publish::PublishRef;

const Q: QueueNumber = QueueNumber(7);
const OTHER: QueueNumber = QueueNumber(9);

/// Opens the engine: empty the first time, and then as after a crash.
pub type Open<'a> = &'a mut dyn FnMut() -> Engine;

type Case = fn(Open<'_>);

/// Runs everything. `fresh` makes an empty engine, and the function that opens it again.
///
/// # Panics
/// The engine does not do what it should.
pub fn all(mut fresh: impl FnMut() -> Box<dyn FnMut() -> Engine>) {
    let cases: [(&str, Case); 9] = [
        ("messages come back", messages_come_back),
        ("what was settled stays away", settled_stay_away),
        ("attempts and deliveries are remembered", attempts_and_deliveries),
        ("notes", notes),
        ("copies", copies),
        ("pages", pages),
        ("a dropped queue leaves nothing", dropped_queue),
        ("keyed state", keyed_state),
        ("positions and waiting", waiting),
    ];
    for (name, case) in cases {
        let mut open = fresh();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut *open)));
        assert!(outcome.is_ok(), "contract: {name}");
    }
}

/// As after a crash, with nobody holding on to the old one.
fn again(engine: Engine, open: Open<'_>) -> Engine {
    drop(engine);
    open()
}

fn message(engine: &Engine, body: &str) -> Arc<Message> {
    let header = Header { guarantee: Guarantee::AtLeastOnce, ..Header::default() };
    let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), body.as_bytes()) };
    Arc::new(Message::from_publish(&publish, engine.clock.at))
}

fn kept() -> EntryState<'static> {
    EntryState { durable: true, ..EntryState::default() }
}

fn push(engine: &Engine, records: &mut Records, tag: u64) {
    let body = tag.to_string();
    records.message(&engine.clock, Q, DeliveryTag(tag), kept(), None, &message(engine, &body));
}

fn safe(engine: &Engine, records: &mut Records) -> Extent {
    records.demand_sync();
    let appended = engine.log.append(records);
    records.clear();
    assert!(engine.log.flush().is_ok());
    assert!(engine.log.durable() >= appended.lsn);
    appended.extent
}

/// Tag, body and attempts of all that is there, pages included; where each stands.
fn found(engine: &Engine, found: &RecoveredQueue) -> BTreeMap<u64, (String, u32, Extent)> {
    let mut all: Vec<(StoredEntry, Extent)> = found.entries.clone();
    for page in &found.pages {
        let entries = engine.log.read_page(Q, page.extent).unwrap_or_default();
        assert_eq!(entries.len(), page.count as usize);
        all.extend(entries.into_iter().map(|entry| (entry, page.extent)));
    }
    let body = |entry: &StoredEntry| String::from_utf8_lossy(&entry.message.body).into_owned();
    all.iter().map(|(entry, at)| (entry.tag.0, (body(entry), entry.attempts, *at))).collect()
}

fn tags(engine: &Engine, queue: &RecoveredQueue) -> Vec<u64> {
    found(engine, queue).into_keys().collect()
}

fn messages_come_back(open: Open<'_>) {
    let engine = open();
    let generation = engine.log.generation();
    let mut records = Records::default();
    for tag in 1..=50 {
        push(&engine, &mut records, tag);
    }
    safe(&engine, &mut records);
    let engine = again(engine, open);
    assert!(engine.log.generation() > generation);
    assert_eq!(engine.log.recovered(), [Q]);
    let queue = engine.log.take_recovered(Q);
    assert_eq!(tags(&engine, &queue), (1..=50).collect::<Vec<_>>());
    assert!(found(&engine, &queue).iter().all(|(tag, (body, ..))| *body == tag.to_string()));
    assert_eq!(queue.last_tag, DeliveryTag(50));
    // Taken once.
    assert!(engine.log.take_recovered(Q).entries.is_empty() && engine.log.recovered().is_empty());
}

fn settled_stay_away(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    (1..=6).for_each(|tag| push(&engine, &mut records, tag));
    let extent = safe(&engine, &mut records);
    let gone = |tag| Gone { extent, tag: DeliveryTag(tag) };
    records.settled(Q, &mut [gone(5), gone(2), gone(3)]);
    safe(&engine, &mut records);
    let engine = again(engine, open);
    let queue = engine.log.take_recovered(Q);
    assert_eq!(tags(&engine, &queue), [1, 4, 6]);
    assert_eq!(queue.last_tag, DeliveryTag(6));
}

fn attempts_and_deliveries(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    (1..=3).for_each(|tag| push(&engine, &mut records, tag));
    records.attempts(Q, DeliveryTag(2), 4);
    records.delivered(Q, DeliveryTag(2));
    safe(&engine, &mut records);
    let engine = again(engine, open);
    let queue = engine.log.take_recovered(Q);
    let facts: Vec<_> = queue.entries.iter().map(|(entry, _)| (entry.attempts, entry.redelivered)).collect();
    assert_eq!(facts, [(0, true), (4, true), (0, false)]);
}

fn notes(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    records.note(Q, 1, Some(b"one"));
    records.note(Q, 70_000, Some(b"old"));
    records.note(Q, 70_000, Some(b"new"));
    records.note(Q, 2, Some(b"two"));
    records.note(Q, 2, None);
    safe(&engine, &mut records);
    let notes = again(engine, open).log.take_recovered(Q).notes;
    let notes: Vec<(u32, &[u8])> = notes.iter().map(|(key, value)| (*key, &**value)).collect();
    assert_eq!(notes, [(1, b"one".as_slice()), (70_000, b"new")]);
}

fn copies(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    let number = engine.log.next_shared();
    let one = message(&engine, "shared");
    records.message(&engine.clock, Q, DeliveryTag(1), kept(), Some(number), &one);
    records.hold();
    let extent = safe(&engine, &mut records);
    records.copy(number, extent, OTHER, DeliveryTag(1), kept());
    records.settled(Q, &mut [Gone { extent, tag: DeliveryTag(1) }]);
    records.release(extent, 1);
    safe(&engine, &mut records);
    let engine = again(engine, open);
    assert!(engine.log.take_recovered(Q).entries.is_empty());
    let other = engine.log.take_recovered(OTHER);
    let bodies: Vec<_> = other.entries.iter().map(|(entry, _)| &*entry.message.body).collect();
    assert_eq!(bodies, [b"shared".as_slice()]);
}

fn pages(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    (1..=8).for_each(|tag| push(&engine, &mut records, tag));
    let extent = safe(&engine, &mut records);
    let entries: Vec<StoredEntry> = (3..=6_u64)
        .map(|tag| StoredEntry {
            tag: DeliveryTag(tag),
            message: message(&engine, &tag.to_string()),
            wire: None,
            attempts: u32::from(tag == 4),
            redelivered: false,
            durable: tag != 6,
        })
        .collect();
    let page = engine.log.next_page();
    let written = engine.log.write_page(Q, page, 2, &entries, engine.log.end());
    assert!(written.is_ok_and(|page| page.count == 4));
    records.paged(Q, page, (3..=6).map(DeliveryTag));
    records.release(extent, 4);
    records.settled(Q, &mut [Gone { extent: page, tag: DeliveryTag(5) }]);
    safe(&engine, &mut records);
    let read = engine.log.read_page(Q, page).unwrap_or_default();
    assert_eq!(read.iter().map(|entry| entry.tag.0).collect::<Vec<_>>(), [3, 4, 6]);
    let engine = again(engine, open);
    let queue = engine.log.take_recovered(Q);
    // What is not durable goes with the process, also from a page.
    assert_eq!(tags(&engine, &queue), [1, 2, 3, 4, 7, 8]);
    assert_eq!(queue.pages.iter().map(|page| (page.level, page.count)).collect::<Vec<_>>(), [(2, 2)]);
    assert_eq!(found(&engine, &queue).get(&4).map(|(_, attempts, _)| *attempts), Some(1));
    records.clear();
    records.page_dropped(Q, page);
    safe(&engine, &mut records);
    let engine = again(engine, open);
    assert_eq!(tags(&engine, &engine.log.take_recovered(Q)), [1, 2, 7, 8]);
}

fn dropped_queue(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    push(&engine, &mut records, 1);
    records.note(Q, 1, Some(b"x"));
    let extent = safe(&engine, &mut records);
    records.release(extent, 1);
    records.queue_dropped(Q);
    safe(&engine, &mut records);
    let queue = again(engine, open).log.take_recovered(Q);
    assert!(queue.entries.is_empty() && queue.notes.is_empty() && queue.pages.is_empty());
}

fn keyed_state(open: Open<'_>) {
    let engine = open();
    let mut records = Records::default();
    records.put(Space::Queue, b"a1", b"old");
    records.put(Space::Queue, b"a1", b"new");
    records.put(Space::Queue, b"a2", b"two");
    records.put(Space::Queue, b"b", b"other");
    records.put(Space::Meta, b"a1", b"elsewhere");
    records.delete(Space::Queue, b"a2");
    // A topic may have 65,535 bytes, and there is more in a key.
    let long = vec![b'a'; 70_000];
    records.put(Space::Retained, &long, b"long");
    safe(&engine, &mut records);
    let engine = again(engine, open);
    let mut seen = Vec::new();
    let scanned =
        engine.state.scan(Space::Queue, b"a", &mut |key, value| seen.push((key.to_vec(), value.to_vec())));
    assert!(scanned.is_ok());
    assert_eq!(seen, [(b"a1".to_vec(), b"new".to_vec())]);
    let found = engine.state.get(Space::Retained, &long).ok().flatten();
    assert_eq!(found.as_deref(), Some(b"long".as_slice()));
    let mut keys = Vec::new();
    let scanned = engine.state.scan(Space::Retained, b"aa", &mut |key, _| keys.push(key.len()));
    assert!(scanned.is_ok() && keys == [70_000]);
    let get = |key: &[u8]| engine.state.get(Space::Queue, key).ok().flatten();
    assert_eq!((get(b"b").as_deref(), get(b"a2")), (Some(b"other".as_slice()), None));
}

#[derive(Default)]
struct Bell(AtomicUsize);

impl Waiter for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn waiting(open: Open<'_>) {
    let engine = open();
    assert_eq!(engine.log.condition(), Condition::Open);
    let mut records = Records::default();
    let mut last = Lsn(0);
    for tag in 1..=10 {
        records.clear();
        push(&engine, &mut records, tag);
        let appended = engine.log.append(&records);
        assert!(appended.lsn > last);
        last = appended.lsn;
    }
    let bell = Arc::new(Bell::default());
    let waiter: Arc<dyn Waiter> = Arc::<Bell>::clone(&bell);
    let registered = engine.log.wait(last, &waiter) == Wait::Registered;
    assert!(engine.log.flush().is_ok());
    assert!(engine.log.durable() >= last);
    assert_eq!(engine.log.wait(last, &waiter), Wait::Done);
    if registered {
        while bell.0.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
    let engine = again(engine, open);
    let queue = engine.log.take_recovered(Q);
    assert_eq!(tags(&engine, &queue).len(), 10);
}
