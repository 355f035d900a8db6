//! The seam between the broker and what keeps its durable state: one log for messages, keyed state, a bus between nodes.
//!
//! The broker describes what happens as [`Records`]; an engine keeps them in order and says how far they are safe. What is
//! appended in one call survives whole or not at all. A confirm is sent when [`Log::durable`] has reached the position of
//! what it confirms; nothing else waits for a disk.
//!
//! The messages of a queue are in the journal until they are settled, or until a [`Page`] of them is written: a page holds
//! neighbours of one queue, is read back as a whole, and goes when its last message is settled. Both are an [`Extent`]: a
//! thing on disk that is given back when nothing in it is wanted any more.
//!
//! Never: files, threads, clocks; those are an engine's own.

mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod fields;
mod formats;
mod frames;
pub mod memory;
mod parts;
mod records;
mod stored;
mod tags;
mod values;
mod wires;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::DeliveryTag;
use crate::message::Message;
use crate::wire::Wire;

pub use clock::WallClock;
pub use fields::{Fault, Reader, put_bytes, put_text, put_varint};
pub use formats::{Encode, FormatEntry, Formats};
pub use frames::{sum_checked_frames, sum_frames};
pub use records::{EntryState, Gone, RecordRef, Records, SharedNumber, read_record, skip_message};
pub use stored::{decode_message, encode_message};
pub use tags::TagSet;
pub use values::{decode_arguments, decode_value, encode_arguments, encode_value};
pub use wires::{decode_wire, encode_wire};

/// A queue that is kept on disk, or pages to it. Never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueNumber(pub u64);

/// A position in the log: all before it was appended before. The start of the log is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

/// Something on disk that holds messages: a file of the journal, or a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent(u32);

impl Extent {
    /// The message is in memory only.
    pub const NONE: Self = Self(0);
    /// It is being appended; where it will stand is not known yet.
    pub const PENDING: Self = Self(u32::MAX);
    const PAGE: u32 = 1 << 31;

    /// A file of the journal, by its number from 1 on.
    #[must_use]
    pub fn journal(number: u32) -> Self {
        Self(number & !Self::PAGE)
    }

    /// A page, by its number from 1 on.
    #[must_use]
    pub fn page(number: u32) -> Self {
        Self(number | Self::PAGE)
    }

    #[must_use]
    pub fn is_page(self) -> bool {
        self.0 & Self::PAGE != 0 && self != Self::PENDING
    }

    #[must_use]
    pub fn is_journal(self) -> bool {
        self.0 & Self::PAGE == 0 && self != Self::NONE
    }

    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The number of the file or page.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 & !Self::PAGE
    }
}

/// A kind of keyed state. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Facts about the store itself as the broker sees it.
    Meta = 0,
    Queue = 1,
    Exchange = 2,
    Binding = 3,
    Session = 4,
    Subscription = 5,
    Retained = 6,
    User = 7,
    Policy = 8,
    /// Messages to be published later.
    Delayed = 9,
}

impl Space {
    pub const ALL: [Self; 10] = [
        Self::Meta,
        Self::Queue,
        Self::Exchange,
        Self::Binding,
        Self::Session,
        Self::Subscription,
        Self::Retained,
        Self::User,
        Self::Policy,
        Self::Delayed,
    ];

    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| *space as u8 == number)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Queue => "queue",
            Self::Exchange => "exchange",
            Self::Binding => "binding",
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Retained => "retained",
            Self::User => "user",
            Self::Policy => "policy",
            Self::Delayed => "delayed",
        }
    }
}

/// Where records went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// They are safe when [`Log::durable`] is at least this.
    pub lsn: Lsn,
    /// Holds the messages among them.
    pub extent: Extent,
}

/// Whether the log takes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Open,
    /// No room: new messages are to be refused. Settling goes on. Ends by itself.
    Full(Arc<str>),
    /// Nothing will become durable any more, and nothing is confirmed.
    Failed(Arc<str>),
}

/// What a [`Log::wait`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It is durable.
    Done,
    /// The waiter will be woken once.
    Registered,
    /// It will never be durable.
    Failed,
}

/// Somebody who waits for the log.
pub trait Waiter: Send + Sync {
    /// Called without any lock held; must not block.
    fn wake(&self);
}

/// A message in a queue, as it is kept.
#[derive(Debug, Clone)]
pub struct StoredEntry {
    pub tag: DeliveryTag,
    pub message: Arc<Message>,
    /// Of a session's subscription.
    pub wire: Option<Arc<Wire>>,
    pub attempts: u32,
    pub redelivered: bool,
    /// It survives a restart.
    pub durable: bool,
}

/// Neighbours of one queue on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub extent: Extent,
    /// The queue's level of priority.
    pub level: u8,
    /// Lowest and highest tag in it, settled ones included.
    pub first: DeliveryTag,
    pub last: DeliveryTag,
    /// Messages in it that are not settled.
    pub count: u32,
    /// What they count against the queue's bound, about.
    pub bytes: u64,
}

/// What an engine found of one queue when it was opened.
#[derive(Debug, Default)]
pub struct RecoveredQueue {
    /// In the order of their tags; what is in pages is not among them. With the extent that holds each.
    pub entries: Vec<(StoredEntry, Extent)>,
    /// By level and then first tag.
    pub pages: Vec<Page>,
    /// The highest tag that was ever seen.
    pub last_tag: DeliveryTag,
    /// What a protocol has noted, see [`Records::note`].
    pub notes: Vec<(u32, Bytes)>,
}

/// How much an engine holds, for metrics and the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStatus {
    pub journal_files: u64,
    pub journal_bytes: u64,
    pub pages: u64,
    pub page_bytes: u64,
    /// Bytes appended and not written yet.
    pub backlog_bytes: u64,
    pub appended_bytes: u64,
    pub groups: u64,
    pub syncs: u64,
    /// Time spent in syncs, all together.
    pub sync_micros: u64,
    pub write_errors: u64,
    pub read_errors: u64,
    pub page_reads: u64,
    pub page_writes: u64,
}

/// Told by an engine about what it wants.
pub trait LogObserver: Send + Sync {
    /// [`Log::oldest_wanted`] may have an answer. Called without any lock held; must not block.
    fn look_again(&self);
}

/// The messages of durable queues, and every change of keyed state, in one order.
pub trait Log: Send + Sync + fmt::Debug {
    /// Adds records at the end; all of them survive a crash, or none. Never blocks and never fails: a caller that may wait
    /// looks at [`Log::condition`] before and at [`Log::backlog`].
    fn append(&self, records: &Records) -> Appended;

    /// Everything that was appended is before this.
    fn end(&self) -> Lsn;

    /// Everything before this is safe.
    fn durable(&self) -> Lsn;

    /// Wakes the waiter when everything before `lsn` is safe, or when it never will be.
    fn wait(&self, lsn: Lsn, waiter: &Arc<dyn Waiter>) -> Wait;

    fn condition(&self) -> Condition;

    /// Bytes appended and not yet written: above some bound publishers should pause.
    fn backlog(&self) -> usize;

    /// A number for the messages of one fan-out.
    fn next_shared(&self) -> SharedNumber;

    /// The extent of a page that will be written.
    fn next_page(&self) -> Extent;

    /// Writes a page of a queue; blocks. Before something durable in it is safe, everything before `after` is: where the log ended when
    /// its messages were in the queue. When it returns and something in it is durable, it is safe. Its messages are counted as in it; the caller has their old extents released by [`Records::released`].
    ///
    /// # Errors
    /// Nothing was kept of it.
    fn write_page(
        &self,
        queue: QueueNumber,
        extent: Extent,
        level: u8,
        entries: &[StoredEntry],
        after: Lsn,
    ) -> std::io::Result<Page>;

    /// The messages of a page that are not settled, in order; blocks.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    fn read_page(&self, queue: QueueNumber, extent: Extent) -> std::io::Result<Vec<StoredEntry>>;

    /// The extent of the journal whose messages should be moved (appended again or written to a page), because the journal
    /// is over its bound or the extent is nearly empty.
    fn oldest_wanted(&self) -> Option<Extent>;

    fn observe(&self, observer: Arc<dyn LogObserver>);

    /// What was found of a queue at start; once, the second time there is nothing.
    fn take_recovered(&self, queue: QueueNumber) -> RecoveredQueue;

    /// Numbers of all queues of which something was found at start and not taken.
    fn recovered(&self) -> Vec<QueueNumber>;

    /// How often the log was opened, this time included: higher than ever before.
    fn generation(&self) -> u32;

    fn status(&self) -> LogStatus;

    /// Copies everything, as it is about now, to an empty directory; blocks.
    ///
    /// # Errors
    /// The directory is not empty, cannot be written, or the engine has nothing to copy.
    fn backup(&self, _to: &std::path::Path) -> std::io::Result<()> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "nothing is kept on disk"))
    }

    /// Makes everything safe; blocks.
    ///
    /// # Errors
    /// The log has failed.
    fn flush(&self) -> std::io::Result<()>;
}

/// Keyed state, as of the last durable change. It is changed by [`Records::put`] and [`Records::delete`], so that one sync
/// covers state and messages.
pub trait State: Send + Sync + fmt::Debug {
    /// # Errors
    /// It cannot be read.
    fn get(&self, space: Space, key: &[u8]) -> std::io::Result<Option<Bytes>>;

    /// Every key of a space, in order, that begins with `prefix`.
    ///
    /// # Errors
    /// It cannot be read.
    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> std::io::Result<()>;
}

/// What one process keeps.
#[derive(Debug, Clone)]
pub struct Engine {
    pub log: Arc<dyn Log>,
    pub state: Arc<dyn State>,
    /// What this machine's clocks say, for times that are kept.
    pub clock: WallClock,
    /// False for an engine that forgets everything with the process.
    pub lasting: bool,
}
