//! Bodies out of memory and back in, and messages out of files of the journal that are to be given back.
//!
//! Two threads, which sleep while nothing is to be done: one writes (pages of queues that have too much in memory, or of all
//! when the budget is spent; what an old file of the journal still holds), one reads pages ahead of the consumers.
//!
//! Never: holds a queue's lock while it reads or writes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mynah_core::engine::{Extent, LogObserver, Lsn, Records, SharedNumber};
use mynah_core::queue::Outgoing;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tracing::error;

use crate::broker::{Broker, Shared};
use crate::config::BrokerConfig;
use crate::limits::{LARGE_BODY, MEMORY_UNCOUNTED, QUEUE_MEMORY_LARGE, QUEUE_MEMORY_MAX, QUEUE_MEMORY_SMALL};
use crate::queues::{Guarded, QueueHandle};

/// Pages of one queue that are written before others have their turn.
const PAGES_AT_ONCE: usize = 8;

/// How long the pager rests after the disk has failed it.
const REST: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Pager {
    budget: u64,
    /// Bytes in memory of all queues, about.
    used: AtomicU64,
    /// The sum was found over the budget, and the writer knows.
    over: AtomicBool,
    work: Mutex<Work>,
    work_came: Condvar,
    reads: Mutex<Reads>,
    read_came: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    queues: VecDeque<Arc<QueueHandle>>,
    sweep: bool,
    look_at_log: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Reads {
    wanted: VecDeque<(Arc<QueueHandle>, Extent)>,
    stop: bool,
}

/// A page that is to be written.
struct Cut {
    outgoing: Outgoing,
    /// Where the log ended then: before that its messages were appended.
    after: Lsn,
}

enum Task {
    Shrink(Arc<QueueHandle>),
    Sweep,
    LookAtLog,
}

/// Has the log tell the pager that it wants a file emptied.
#[derive(Debug)]
struct Observer(Weak<Shared>);

impl LogObserver for Observer {
    fn look_again(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.pager.work.lock().look_at_log = true;
            shared.pager.work_came.notify_one();
        }
    }
}

impl Pager {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        Self {
            budget: config.memory_max,
            used: AtomicU64::new(0),
            over: AtomicBool::new(false),
            work: Mutex::default(),
            work_came: Condvar::new(),
            reads: Mutex::default(),
            read_came: Condvar::new(),
        }
    }

    /// Starts the threads; they end when the broker is gone.
    pub(crate) fn start(broker: &Arc<Broker>) {
        let shared = Arc::clone(&broker.shared);
        shared.engine.log.observe(Arc::new(Observer(Arc::downgrade(&shared))));
        shared.pager.work.lock().look_at_log = true;
        let of = Arc::downgrade(broker);
        let writer = {
            let (shared, of) = (Arc::clone(&shared), Weak::clone(&of));
            std::thread::Builder::new().name("mynah-pages-out".to_owned()).spawn(move || {
                while let Some(task) = shared.pager.next_task() {
                    let Some(broker) = of.upgrade() else { return };
                    broker.page(task);
                }
            })
        };
        let reader = std::thread::Builder::new().name("mynah-pages-in".to_owned()).spawn(move || {
            while let Some((queue, extent)) = shared.pager.next_read() {
                let Some(broker) = of.upgrade() else { return };
                broker.page_in(&queue, extent);
            }
        });
        if let Err(err) = writer.and(reader) {
            error!(%err, "the threads that page cannot be started: memory is not bounded");
        }
    }

    pub(crate) fn stop(&self) {
        self.work.lock().stop = true;
        self.work_came.notify_all();
        self.reads.lock().stop = true;
        self.read_came.notify_all();
    }

    /// Bytes of messages in memory, about.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// A queue was changed and is still locked: is there too much of it in memory, or too little?
    pub(crate) fn look_after(&self, queue: &Arc<QueueHandle>, guarded: &mut Guarded, shared: &Shared) {
        let memory = guarded.machine.memory();
        if memory.abs_diff(guarded.counted) > MEMORY_UNCOUNTED || (memory == 0 && guarded.counted > 0) {
            let more = memory.wrapping_sub(guarded.counted);
            let used = self.used.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
            guarded.counted = memory;
            if used > self.budget && shared.engine.lasting && !self.over.swap(true, Ordering::AcqRel) {
                self.work.lock().sweep = true;
                self.work_came.notify_one();
            }
        }
        if memory > guarded.page_at && !guarded.paging && shared.engine.lasting {
            guarded.paging = true;
            self.work.lock().queues.push_back(Arc::clone(queue));
            self.work_came.notify_one();
        }
        if guarded.paging && memory > 2 * guarded.bound {
            queue.gate.close();
        }
        if guarded.machine.has_pages()
            && let Some(extent) = guarded.machine.want_page()
        {
            self.reads.lock().wanted.push_back((Arc::clone(queue), extent));
            self.read_came.notify_one();
        }
    }

    /// Bytes that a queue may have in memory before its middle goes to pages.
    fn bound_of(&self, guarded: &Guarded) -> u64 {
        let (bytes, messages) = (guarded.machine.ready_bytes(), guarded.machine.ready());
        if bytes / messages.max(1) < LARGE_BODY {
            return QUEUE_MEMORY_MAX;
        }
        (self.budget / 8).clamp(QUEUE_MEMORY_MAX, QUEUE_MEMORY_LARGE)
    }

    fn next_task(&self) -> Option<Task> {
        let mut work = self.work.lock();
        loop {
            if work.stop {
                return None;
            }
            // First: it gives the disk room.
            if std::mem::take(&mut work.look_at_log) {
                return Some(Task::LookAtLog);
            }
            if let Some(queue) = work.queues.pop_front() {
                return Some(Task::Shrink(queue));
            }
            if std::mem::take(&mut work.sweep) {
                return Some(Task::Sweep);
            }
            self.work_came.wait(&mut work);
        }
    }

    fn next_read(&self) -> Option<(Arc<QueueHandle>, Extent)> {
        let mut reads = self.reads.lock();
        loop {
            if reads.stop {
                return None;
            }
            if let Some(wanted) = reads.wanted.pop_front() {
                return Some(wanted);
            }
            self.read_came.wait(&mut reads);
        }
    }
}

impl Broker {
    fn page(&self, task: Task) {
        match task {
            Task::Shrink(queue) => self.shrink(&queue),
            Task::Sweep => self.sweep(),
            Task::LookAtLog => {
                while let Some(held) = self.shared.engine.log.oldest_wanted() {
                    self.empty(held);
                }
            }
        }
    }

    fn all_queues(&self) -> Vec<Arc<QueueHandle>> {
        let hosts: Vec<_> = self.hosts.iter().map(|host| Arc::clone(&host)).collect();
        hosts
            .iter()
            .flat_map(|host| host.queues.iter().map(|queue| Arc::clone(&queue)).collect::<Vec<_>>())
            .collect()
    }

    /// Pages out the middle of a queue until it is well under its bound. Each page is cut one ahead of being written: meanwhile the
    /// journal makes its messages safe, and nobody has to wait for that.
    fn shrink(&self, queue: &Arc<QueueHandle>) {
        let mut ahead: Option<Cut> = None;
        for _ in 0..PAGES_AT_ONCE {
            let cut = self.cut_middle(queue);
            let done = cut.is_none();
            if let Some(ready) = std::mem::replace(&mut ahead, cut)
                && !self.write_page(queue, ready)
            {
                return Self::rest(queue, ahead);
            }
            if done {
                return;
            }
        }
        if let Some(last) = ahead
            && !self.write_page(queue, last)
        {
            return Self::rest(queue, None);
        }
        // There is more, but others wait as well.
        self.shared.pager.work.lock().queues.push_back(Arc::clone(queue));
    }

    /// The next page of a queue that has too much in memory.
    fn cut_middle(&self, queue: &Arc<QueueHandle>) -> Option<Cut> {
        let log = &self.shared.engine.log;
        let mut guarded = queue.lock();
        let memory = guarded.machine.memory();
        let bound = self.shared.pager.bound_of(&guarded);
        guarded.bound = bound;
        let low = memory <= bound / 4 * 3;
        if memory < bound / 2 * 3 {
            queue.gate.open();
        }
        let cut = if low { None } else { guarded.machine.cut_page(log.next_page(), false) };
        if cut.is_none() {
            guarded.paging = false;
            // What cannot be cut is out with consumers, or of too few messages: look again when it has grown.
            guarded.page_at = if low { bound } else { memory.max(bound) + (4 << 20) };
            queue.gate.open();
        }
        let cut = cut.map(|outgoing| Cut { outgoing, after: log.end() });
        queue.unlock(guarded);
        cut
    }

    /// The disk has failed: the queue grows for a while.
    fn rest(queue: &Arc<QueueHandle>, unwritten: Option<Cut>) {
        let mut guarded = queue.lock();
        if let Some(cut) = unwritten {
            guarded.machine.not_paged(cut.outgoing);
        }
        guarded.paging = false;
        guarded.page_at = guarded.machine.memory() + (16 << 20);
        queue.unlock(guarded);
        queue.gate.open();
    }

    /// All queues together have too much in memory: the largest give first.
    fn sweep(&self) {
        let pager = &self.shared.pager;
        let measured = |queue: Arc<QueueHandle>| {
            let memory = queue.lock().machine.memory();
            (memory, queue)
        };
        let mut queues: Vec<_> = self.all_queues().into_iter().map(measured).collect();
        queues.retain(|(memory, _)| *memory > QUEUE_MEMORY_SMALL);
        queues.sort_by_key(|(memory, _)| std::cmp::Reverse(*memory));
        let enough = pager.budget / 8 * 7;
        for (_, queue) in queues {
            while pager.used() > enough {
                let mut guarded = queue.lock();
                let some = guarded.machine.memory() > QUEUE_MEMORY_SMALL;
                let log = &self.shared.engine.log;
                let outgoing = some.then(|| guarded.machine.cut_page(log.next_page(), true));
                let after = log.end();
                queue.unlock(guarded);
                let Some(outgoing) = outgoing.flatten() else { break };
                if !self.write_page(&queue, Cut { outgoing, after }) {
                    break;
                }
            }
        }
        pager.over.store(false, Ordering::Release);
    }

    /// False if it could not be written.
    fn write_page(&self, queue: &Arc<QueueHandle>, cut: Cut) -> bool {
        let Cut { outgoing, after } = cut;
        let log = &self.shared.engine.log;
        let entries = outgoing.stored();
        let written = log.write_page(queue.number, outgoing.extent, outgoing.level, &entries, after);
        let mut guarded = queue.lock();
        let done = match written {
            Ok(_) => {
                self.shared.write(|records| guarded.machine.paged(outgoing, queue.number, records));
                true
            }
            Err(err) => {
                error!(queue = %queue.name, %err, "a page could not be written: its messages stay in memory");
                guarded.machine.not_paged(outgoing);
                false
            }
        };
        queue.unlock(guarded);
        if !done {
            std::thread::sleep(REST);
        }
        done
    }

    fn page_in(&self, queue: &Arc<QueueHandle>, extent: Extent) {
        let found = self.shared.engine.log.read_page(queue.number, extent);
        let failed = found.is_err();
        let now = Instant::now();
        let mut batch = self.own_batch();
        let mut guarded = queue.lock();
        match found {
            Ok(entries) => guarded.machine.page_arrived(extent, entries),
            Err(err) => {
                if guarded.machine.holds_page(extent) {
                    error!(queue = %queue.name, %err, "a page cannot be read: its messages wait");
                }
                guarded.machine.page_not_read(extent);
            }
        }
        if failed {
            drop(guarded);
            std::thread::sleep(REST);
            guarded = queue.lock();
        }
        queue.dispatch(&mut guarded.machine, now, &mut batch.touched, &mut batch.effects);
        queue.unlock(guarded);
        batch.collect(queue);
        if let Some(host) = self.host(&queue.home().host) {
            batch.finish(&host, now);
        }
        batch.wake();
        batch.end();
    }

    /// Moves what a file of the journal holds: to pages, or to the journal's end.
    fn empty(&self, held: Extent) {
        let log = &self.shared.engine.log;
        // One message may be in many queues; its body is moved once.
        let mut bodies: HashMap<usize, (SharedNumber, Extent, Arc<mynah_core::Message>)> = HashMap::new();
        for queue in self.all_queues() {
            if !queue.is_kept() {
                continue;
            }
            loop {
                let mut guarded = queue.lock();
                let cut = guarded.machine.cut_held(log.next_page(), held);
                let after = log.end();
                let Some(outgoing) = cut else {
                    self.append_again(&queue, &mut guarded, held, &mut bodies);
                    queue.unlock(guarded);
                    break;
                };
                queue.unlock(guarded);
                if !self.write_page(&queue, Cut { outgoing, after }) {
                    break;
                }
            }
        }
        if !bodies.is_empty() {
            self.shared.write(|records| {
                bodies.values().for_each(|(_, extent, _)| records.release(*extent, 1));
            });
        }
    }

    fn append_again(
        &self,
        queue: &QueueHandle,
        guarded: &mut Guarded,
        held: Extent,
        bodies: &mut HashMap<usize, (SharedNumber, Extent, Arc<mynah_core::Message>)>,
    ) {
        let count = guarded.machine.holds(held);
        if count == 0 {
            return;
        }
        let (log, clock) = (&self.shared.engine.log, &self.shared.engine.clock);
        let mut records = Records::default();
        let (mut copied, mut fresh) = (HashMap::new(), Vec::new());
        guarded.machine.for_each_held(held, |tag, state, message| {
            let identity = Arc::as_ptr(message).addr();
            if let Some((number, extent, _)) = bodies.get(&identity) {
                records.copy(*number, *extent, queue.number, tag, state);
                copied.insert(tag, *extent);
            } else {
                let number = log.next_shared();
                records.message(clock, queue.number, tag, state, Some(number), message);
                records.hold();
                bodies.insert(identity, (number, Extent::PENDING, Arc::clone(message)));
                fresh.push(identity);
            }
        });
        records.release(held, u32::try_from(count).unwrap_or(u32::MAX));
        let extent = self.shared.append(&mut records).extent;
        for identity in fresh {
            if let Some((_, at, _)) = bodies.get_mut(&identity) {
                *at = extent;
            }
        }
        guarded.machine.moved(held, |tag| {
            copied.get(&tag).copied().filter(|at| *at != Extent::PENDING).unwrap_or(extent)
        });
    }
}
