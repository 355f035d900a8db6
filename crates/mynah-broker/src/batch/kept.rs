//! Pushing a run into its queues, and writing down in the log what must outlive the process, before it is delivered.
//!
//! One queue after the other, each under its own lock: a message that goes to several is written once and then named. When all
//! must have it or none (a dead letter with its origin, a note, a transaction), all queues are locked, in the order of their
//! numbers, and there is one append.
//!
//! Never: waits for the log; what must be safe before a reply leaves is for the turn to know.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mynah_core::engine::{Condition, Engine, Extent, QueueNumber, Records, SharedNumber};
use mynah_core::protocol::{Refusal, RefusalKind};
use mynah_core::queue::{Effect, Refused};
use mynah_core::{Address, DeliveryTag, Message, Wire};
use parking_lot::MutexGuard;

use super::Batch;
use crate::queues::{Guarded, Machine, QueueHandle};
use crate::routing::{QueueTarget, Route};
use crate::virtual_host::VirtualHost;

/// Why a queue did not take a message.
#[derive(Debug, Clone)]
pub(super) enum NotTaken {
    Full,
    TooLarge,
    /// The log takes nothing.
    Log(Condition),
}

impl From<Refused> for NotTaken {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::TooLarge => Self::TooLarge,
        }
    }
}

impl NotTaken {
    pub(super) fn refusal(&self, address: &Address) -> Refusal {
        let (kind, text) = match self {
            Self::Full => (
                RefusalKind::Full,
                format!("{address} is full: consume from it, or raise its maximum length"),
            ),
            Self::TooLarge => (RefusalKind::TooLarge, format!("the message is larger than {address} takes")),
            Self::Log(condition) => return refusal_of(condition),
        };
        Refusal::new(kind, text)
    }
}

/// What a publisher is told while the log takes nothing.
pub(crate) fn refusal_of(condition: &Condition) -> Refusal {
    match condition {
        Condition::Full(text) => Refusal::new(RefusalKind::Full, format!("no durable messages: {text}")),
        Condition::Failed(text) => {
            Refusal::new(RefusalKind::Unavailable, format!("no durable messages: {text}"))
        }
        Condition::Open => Refusal::new(RefusalKind::Unavailable, "try again"),
    }
}

/// Where the body of a message of the run stands.
#[derive(Debug)]
struct Body {
    /// Where it is in memory, as its identity; the run keeps it there.
    message: usize,
    number: SharedNumber,
    extent: Extent,
}

/// What is written down in one go.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) records: Records,
    bodies: Vec<Body>,
    pub(super) cursor: usize,
}

impl Writing {
    /// Begins a run that goes to many queues or to one.
    pub(super) fn begin(&mut self) {
        self.bodies.clear();
        self.begin_block();
    }

    fn begin_block(&mut self) {
        self.records.clear();
        self.cursor = 0;
    }

    /// Writes the messages pushed behind `before`. With `many`, so that other queues can name them.
    pub(super) fn new_messages(
        &mut self,
        engine: &Engine,
        queue: QueueNumber,
        machine: &mut Machine,
        before: DeliveryTag,
        many: bool,
    ) {
        let Self { records, bodies, cursor } = self;
        machine.for_each_new(before, |tag, state, message| {
            if !many {
                records.message(&engine.clock, queue, tag, state, None, message);
                return None;
            }
            let identity = Arc::as_ptr(message).addr();
            let same = |body: &Body| body.message == identity;
            let found = bodies.iter().skip(*cursor).position(same).map(|at| at + *cursor);
            if let Some((at, body)) =
                found.or_else(|| bodies.iter().position(same)).and_then(|at| Some((at, bodies.get(at)?)))
            {
                *cursor = at + 1;
                records.copy(body.number, body.extent, queue, tag, state);
                return Some(body.extent).filter(|extent| *extent != Extent::PENDING);
            }
            let number = engine.log.next_shared();
            records.message(&engine.clock, queue, tag, state, Some(number), message);
            // What it stands in is wanted until every queue has its copy.
            records.hold();
            bodies.push(Body { message: identity, number, extent: Extent::PENDING });
            None
        });
    }

    pub(super) fn appended(&mut self, extent: Extent) {
        let pending = self.bodies.iter_mut().filter(|body| body.extent == Extent::PENDING);
        pending.for_each(|body| body.extent = extent);
    }

    /// Every queue has its copy.
    pub(super) fn end(&mut self, host: &VirtualHost) {
        if self.bodies.is_empty() {
            return;
        }
        self.records.clear();
        for body in self.bodies.drain(..) {
            self.records.release(body.extent, 1);
        }
        host.shared.append(&mut self.records);
    }
}

/// Queues locked together.
pub(super) struct Locked<'q> {
    pub(super) queue: &'q Arc<QueueHandle>,
    pub(super) guarded: MutexGuard<'q, Guarded>,
    pub(super) before: DeliveryTag,
}

/// Locks queues in the order of their numbers, each once; whoever locks several does it so.
pub(super) fn lock_all<'q>(queues: impl Iterator<Item = &'q Arc<QueueHandle>>) -> Vec<Locked<'q>> {
    let mut sorted: Vec<&Arc<QueueHandle>> = queues.collect();
    sorted.sort_by_key(|queue| queue.number);
    sorted.dedup_by_key(|queue| queue.number);
    sorted
        .into_iter()
        .map(|queue| {
            let guarded = queue.lock();
            let before = guarded.machine.last_tag();
            Locked { queue, guarded, before }
        })
        .collect()
}

impl Batch {
    /// Pushes the run's messages into the queues of its route.
    pub(super) fn flush_queues(&mut self, route: &Route, host: &VirtualHost, now: Instant) {
        let durable = self.messages.iter().any(|message| message.header.durable());
        let kept = route.queues.iter().filter(|target| target.queue.is_kept()).count();
        let writes = durable && kept > 0;
        // A dead letter is there already and only moves.
        self.trouble = if writes && self.origin.is_none() { host.shared.trouble() } else { None };
        if (writes && self.origin.is_some()) || !self.notes.is_empty() {
            self.push_together(route, host, now);
            return;
        }
        self.writing.begin();
        for target in &route.queues {
            self.push_to_queue(target, host, now, writes, kept > 1);
            self.collect(&target.queue);
        }
        self.writing.end(host);
    }

    fn push_to_queue(
        &mut self,
        target: &QueueTarget,
        host: &VirtualHost,
        now: Instant,
        writes: bool,
        many: bool,
    ) {
        let queue = &target.queue;
        let mut guarded = queue.lock();
        if queue.is_deleted() {
            drop(guarded);
            self.note_homeless();
            return;
        }
        let before = guarded.machine.last_tag();
        let already = self.effects.len();
        let pushed = self.push_run(target, &mut guarded.machine, now);
        if writes && guarded.machine.keeps_facts() {
            self.writing.begin_block();
            let engine = &host.shared.engine;
            self.writing.new_messages(engine, queue.number, &mut guarded.machine, before, many);
            if !self.writing.records.is_empty() {
                if !self.tickets.is_empty() {
                    self.writing.records.demand_sync();
                }
                let extent = host.shared.append(&mut self.writing.records).extent;
                self.writing.appended(extent);
                guarded.machine.stamp(before, extent);
            }
            forget_unwritten(&mut self.effects, already);
        }
        queue.dispatch(&mut guarded.machine, now, &mut self.touched, &mut self.effects);
        queue.unlock(guarded);
        if queue.gate.is_closed() {
            self.gated.push(Arc::clone(queue));
        }
        queue.published.fetch_add(pushed, Ordering::Relaxed);
    }

    /// Pushes messages of the broker's own choice (retained ones) into one queue.
    pub(crate) fn push_kept(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        queue: &Arc<QueueHandle>,
        wire: Option<&Arc<Wire>>,
        messages: Vec<Arc<Message>>,
    ) {
        let mut guarded = queue.lock();
        let before = guarded.machine.last_tag();
        let already = self.effects.len();
        for message in messages {
            // What does not fit is counted by the effects of the push.
            let _ = guarded.machine.push(now, message, wire.cloned(), 0, &mut self.effects);
        }
        self.writing.begin();
        let engine = &host.shared.engine;
        self.writing.new_messages(engine, queue.number, &mut guarded.machine, before, false);
        if !self.writing.records.is_empty() {
            let extent = host.shared.append(&mut self.writing.records).extent;
            guarded.machine.stamp(before, extent);
        }
        forget_unwritten(&mut self.effects, already);
        queue.dispatch(&mut guarded.machine, now, &mut self.touched, &mut self.effects);
        queue.unlock(guarded);
        self.collect(queue);
    }

    /// Answers how many the queue took.
    fn push_run(&mut self, target: &QueueTarget, machine: &mut Machine, now: Instant) -> u64 {
        let mut pushed = 0;
        let kept = machine.keeps_facts();
        for (at, message) in self.messages.iter().enumerate() {
            if !target.takes(message.header.guarantee, self.publisher) {
                continue;
            }
            if let (Some(condition), true) = (&self.trouble, kept && message.header.durable()) {
                self.refused.push((at, NotTaken::Log(condition.clone())));
                continue;
            }
            let copy = Arc::clone(message);
            match machine.push(now, copy, target.wire.clone(), self.publisher, &mut self.effects) {
                Ok(()) => pushed += 1,
                Err(refused) => self.refused.push((at, refused.into())),
            }
        }
        pushed
    }

    /// All queues of the route get the run, or none after a crash; with its notes, and with what the dead letter leaves behind.
    fn push_together(&mut self, route: &Route, host: &VirtualHost, now: Instant) {
        let engine = &host.shared.engine;
        let mut locked = lock_all(route.queues.iter().map(|target| &target.queue));
        self.writing.begin();
        let many = locked.iter().filter(|locked| locked.guarded.machine.keeps_facts()).count() > 1;
        let mut effects_of: Vec<(usize, usize)> = Vec::new();
        for (at, Locked { queue, guarded, before }) in locked.iter_mut().enumerate() {
            if queue.is_deleted() {
                self.note_homeless();
                continue;
            }
            let already = self.effects.len();
            for target in route.targets_in(queue) {
                let pushed = self.push_run(target, &mut guarded.machine, now);
                queue.published.fetch_add(pushed, Ordering::Relaxed);
            }
            self.writing.cursor = 0;
            self.writing.new_messages(engine, queue.number, &mut guarded.machine, *before, many);
            forget_unwritten(&mut self.effects, already);
            effects_of.push((at, self.effects.len()));
        }
        self.write_notes();
        // A letter that is homeless for a moment has not moved yet.
        if let Some((from, origin)) = self.origin.take_if(|_| self.homeless.is_empty()) {
            self.writing.records.settled(from, &mut [origin]);
        }
        let mut extent = Extent::NONE;
        if !self.writing.records.is_empty() {
            if !self.tickets.is_empty() || self.noted {
                self.writing.records.demand_sync();
            }
            extent = host.shared.append(&mut self.writing.records).extent;
        }
        self.noted = false;
        self.writing.appended(extent);
        self.deliver_together(locked, effects_of, extent, now);
        self.writing.end(host);
    }

    /// Hands over from queues that were pushed to together, and lets go of them.
    pub(super) fn deliver_together(
        &mut self,
        locked: Vec<Locked<'_>>,
        effects_of: Vec<(usize, usize)>,
        extent: Extent,
        now: Instant,
    ) {
        // The effects of all pushes stand in one list, queue by queue.
        let mut rest = std::mem::take(&mut self.effects);
        let mut taken = 0;
        for (at, Locked { queue, mut guarded, before }) in locked.into_iter().enumerate() {
            if let Some((_, end)) = effects_of.iter().find(|(of, _)| *of == at) {
                self.effects.extend(rest.drain(..end.saturating_sub(taken)));
                taken = *end;
            }
            guarded.machine.stamp(before, extent);
            queue.dispatch(&mut guarded.machine, now, &mut self.touched, &mut self.effects);
            queue.unlock(guarded);
            self.collect(queue);
        }
        debug_assert!(rest.is_empty());
        if self.effects.capacity() < rest.capacity() {
            self.effects = rest;
        }
    }

    /// The notes of the run's publishes, in one with them.
    fn write_notes(&mut self) {
        let Some(session) = self.session else {
            self.notes.clear();
            return;
        };
        for key in self.notes.drain(..) {
            self.writing.records.note(session, key, Some(b""));
            self.noted = true;
        }
    }

    /// Notes of publishes that no queue takes.
    pub(super) fn write_notes_alone(&mut self, host: &VirtualHost) {
        if self.notes.is_empty() {
            return;
        }
        self.writing.begin();
        self.write_notes();
        if std::mem::take(&mut self.noted) {
            self.writing.records.demand_sync();
            host.shared.append(&mut self.writing.records);
        }
    }

    /// Notes that this was received, with what is written next.
    pub(crate) fn note_publish(&mut self, note: Option<u32>) {
        self.notes.extend(note);
    }

    /// Writes something with the notes, safe before the turn's bytes leave.
    pub(crate) fn write_with_notes(&mut self, host: &VirtualHost, fill: impl FnOnce(&mut Records)) {
        self.writing.begin();
        self.write_notes();
        self.noted = false;
        fill(&mut self.writing.records);
        if !self.writing.records.is_empty() {
            self.writing.records.demand_sync();
            host.shared.append(&mut self.writing.records);
        }
    }

    /// What the dead letter has left behind, if it has gone nowhere that is kept.
    pub(super) fn settle_origin(&mut self, host: &VirtualHost) {
        let Some((from, origin)) = self.origin.take() else { return };
        self.writing.begin();
        self.writing.records.settled(from, &mut [origin]);
        host.shared.append(&mut self.writing.records);
    }
}

/// Messages that left their queue before they were written anywhere leave nothing behind.
pub(super) fn forget_unwritten(effects: &mut [Effect], already: usize) {
    for effect in effects.iter_mut().skip(already) {
        if let Effect::DeadLetter { origin, .. } = effect
            && origin.is_some_and(|gone| gone.extent == Extent::PENDING)
        {
            *origin = None;
        }
    }
}
