//! The last known good value of each topic.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use mynah_core::hash::{FastMap, Seed};
use mynah_core::topic_tree::{Stale, TopicTree};
use mynah_core::{AddressRef, Filter, Message, PublishRef};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::limits::RETAINED_AT_ONCE;

/// Values visited before others may change the tree.
const STEP: usize = 1024;
/// How often a walk begins again because topics were removed, before it keeps everybody out.
const WALKS: usize = 4;

/// One value.
#[derive(Debug)]
struct Value {
    message: Arc<Message>,
    /// Not written down yet; then its topic is in the list of those.
    unwritten: bool,
}

/// All values, found by filter or, sooner, by their whole topic.
#[derive(Debug, Default)]
struct Values {
    tree: TopicTree<Value>,
    /// The place in the tree by the topic's hash. Of two topics with one hash the later one is found by its words.
    places: FastMap<u64, u32>,
    seed: Seed,
}

impl Value {
    fn is_of(&self, topic: &str) -> bool {
        self.message.address.as_ref() == AddressRef::Topic(topic)
    }
}

impl Values {
    fn place_of(&self, topic: &str) -> Option<u32> {
        let hashed = self.places.get(&self.seed.hash_one(topic)).copied();
        let is_its = |place: &u32| self.tree.at(*place).is_some_and(|value| value.is_of(topic));
        hashed.filter(is_its).or_else(|| self.tree.place_of(topic))
    }

    fn get_mut(&mut self, topic: &str) -> Option<&mut Value> {
        let place = self.place_of(topic)?;
        self.tree.at_mut(place)
    }

    fn insert(&mut self, topic: &str, value: Value) {
        let (place, _) = self.tree.place(topic, value);
        self.places.entry(self.seed.hash_one(topic)).or_insert(place);
    }

    fn remove(&mut self, topic: &str) -> Option<Value> {
        let (hash, place) = (self.seed.hash_one(topic), self.place_of(topic)?);
        if self.places.get(&hash) == Some(&place) {
            self.places.remove(&hash);
        }
        self.tree.remove(topic)
    }
}

/// What became of a value that was to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Done,
    /// It is the first that waits to be written down.
    FirstToWrite,
    /// The store is full.
    Full,
}

/// Values whose time is over are taken out when somebody comes across them, and all of them when the store is full.
#[derive(Debug)]
pub struct Retained {
    values: RwLock<Values>,
    /// Topics whose values have changed and were not written down.
    unwritten: Mutex<VecDeque<String>>,
    messages_max: usize,
    /// Topics whose values' time was over, and that nobody has taken off the disk yet.
    over: Mutex<Vec<String>>,
    /// Held while a value is set and written down, so that both happen in one order.
    order: Mutex<()>,
    /// Before this, no value's time will be over that was not looked for; for a full store.
    sweep_at: Mutex<Option<Instant>>,
}

impl Retained {
    #[must_use]
    pub fn new(messages_max: usize) -> Self {
        Self {
            values: RwLock::default(),
            unwritten: Mutex::default(),
            messages_max,
            over: Mutex::default(),
            order: Mutex::default(),
            sweep_at: Mutex::default(),
        }
    }

    /// Keeps the message as the topic's value; an empty body clears it [MQTT-3.3.1-6]. With `later` its topic is noted, to be
    /// written down when there is time.
    pub fn set(&self, topic: &str, message: &Arc<Message>, later: bool) -> Set {
        let mut values = self.values.write();
        if message.body.is_empty() {
            let old = values.remove(topic);
            let noted = old.is_none_or(|old| old.unwritten);
            return if later && !noted { self.note(topic) } else { Set::Done };
        }
        let value = Value { message: Arc::clone(message), unwritten: later };
        if let Some(known) = values.get_mut(topic) {
            let old = std::mem::replace(known, value);
            self.look_at_end(message);
            return if later && !old.unwritten { self.note(topic) } else { Set::Done };
        }
        if values.tree.len() >= self.messages_max {
            self.sweep(&mut values, message.received);
            if values.tree.len() >= self.messages_max {
                return Set::Full;
            }
        }
        self.look_at_end(message);
        values.insert(topic, value);
        if later { self.note(topic) } else { Set::Done }
    }

    /// Gives a topic that has a value another one that is to be written down later, in the memory of the old one if nobody else
    /// holds it. `None`, and nothing has changed, if there is no value or it is to be cleared.
    pub fn renew(&self, topic: &str, publish: &PublishRef<'_>, now: Instant) -> Option<Set> {
        if publish.body.is_empty() {
            return None;
        }
        let mut values = self.values.write();
        let value = values.get_mut(topic)?;
        if !Arc::get_mut(&mut value.message).is_some_and(|message| message.renew(publish, now)) {
            let address = value.message.address.clone();
            value.message = Arc::new(Message::with_address(publish, address, now));
        }
        self.look_at_end(&value.message);
        let noted = std::mem::replace(&mut value.unwritten, true);
        Some(if noted { Set::Done } else { self.note(topic) })
    }

    fn look_at_end(&self, message: &Message) {
        if let Some(at) = message.expires() {
            let mut sweep_at = self.sweep_at.lock();
            *sweep_at = Some(sweep_at.map_or(at, |known| known.min(at)));
        }
    }

    /// A topic may be noted twice; that costs only a second look.
    fn note(&self, topic: &str) -> Set {
        let mut unwritten = self.unwritten.lock();
        unwritten.push_back(topic.to_owned());
        if unwritten.len() == 1 { Set::FirstToWrite } else { Set::Done }
    }

    /// The topics that were noted first, at most `count`, and whether there are more.
    pub(crate) fn take_unwritten(&self, count: usize) -> (Vec<String>, bool) {
        let mut unwritten = self.unwritten.lock();
        let count = count.min(unwritten.len());
        (unwritten.drain(..count).collect(), !unwritten.is_empty())
    }

    /// The values of these topics that are to be written down; none where there is no value any more. What was written meanwhile is
    /// left out.
    pub(crate) fn begin_writing<'t>(&self, topics: &'t [String]) -> Vec<(&'t str, Option<Arc<Message>>)> {
        let mut values = self.values.write();
        let value = |topic: &'t String| match values.get_mut(topic) {
            None => Some((topic.as_str(), None)),
            Some(value) if value.unwritten => {
                value.unwritten = false;
                Some((topic.as_str(), Some(Arc::clone(&value.message))))
            }
            Some(_) => None,
        };
        topics.iter().filter_map(value).collect()
    }

    /// Takes out all values whose time is over, if there can be any.
    fn sweep(&self, values: &mut Values, now: Instant) {
        let mut sweep_at = self.sweep_at.lock();
        if sweep_at.is_none_or(|at| at > now) {
            return;
        }
        let (mut over, mut next) = (Vec::new(), None::<Instant>);
        for filter in ["#", "$SYS/#"].iter().filter_map(|text| Filter::parse(text).ok()) {
            values.tree.matching(&filter, &mut |topic, value: &Value| {
                match value.message.expires() {
                    Some(at) if at <= now => over.push(topic.to_owned()),
                    Some(at) => next = Some(next.map_or(at, |known| known.min(at))),
                    None => {}
                }
                ControlFlow::Continue(())
            });
        }
        for topic in &over {
            values.remove(topic);
        }
        self.over.lock().append(&mut over);
        *sweep_at = next;
    }

    pub(crate) fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock()
    }

    /// Topics whose values' time was over since the last call.
    #[must_use]
    pub(crate) fn take_over(&self) -> Vec<String> {
        std::mem::take(&mut self.over.lock())
    }

    #[must_use]
    pub fn get(&self, topic: &str) -> Option<Arc<Message>> {
        let values = self.values.read();
        values.tree.at(values.place_of(topic)?).map(|value| Arc::clone(&value.message))
    }

    /// The values whose topics match, with those whose time is over left out.
    #[must_use]
    pub fn matching(&self, filter: &Filter, now: Instant) -> Vec<Arc<Message>> {
        let is_over = |message: &Message| message.expires().is_some_and(|at| at <= now);
        let (mut found, mut over) = (Vec::new(), Vec::new());
        self.values.read().tree.matching(filter, &mut |topic, value: &Value| {
            if is_over(&value.message) {
                over.push(topic.to_owned());
            } else {
                found.push(Arc::clone(&value.message));
            }
            ControlFlow::Continue(())
        });
        if !over.is_empty() {
            let mut values = self.values.write();
            over.retain(|topic| values.tree.get(topic).is_some_and(|value| is_over(&value.message)));
            over.iter().for_each(|topic| {
                values.remove(topic);
            });
            self.over.lock().append(&mut over);
        }
        found
    }

    /// Whether [`Retained::matching`] would look at many values.
    #[must_use]
    pub fn is_long(&self, filter: &Filter) -> bool {
        self.len() > RETAINED_AT_ONCE && filter.has_wildcard()
    }

    /// The same as [`Retained::matching`] in steps between which others can set values; not for a task that reads sockets.
    #[must_use]
    pub fn matching_slowly(&self, filter: &Filter, now: Instant) -> Vec<Arc<Message>> {
        for _ in 0..WALKS {
            let mut found = Vec::new();
            let mut cursor = self.values.read().tree.cursor(filter);
            loop {
                let mut left = STEP;
                let step = self.values.read().tree.resume(&mut cursor, &mut |_, value: &Value| {
                    if value.message.expires().is_none_or(|at| at > now) {
                        found.push(Arc::clone(&value.message));
                    }
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                match step {
                    Ok(true) => return found,
                    Ok(false) => {}
                    Err(Stale) => break,
                }
            }
        }
        self.matching(filter, now)
    }

    /// At most `count` topics that match, with their values.
    #[must_use]
    pub fn list(&self, filter: &Filter, count: usize) -> Vec<(String, Arc<Message>)> {
        let mut found = Vec::new();
        self.values.read().tree.matching(filter, &mut |topic, value: &Value| {
            if found.len() == count {
                return ControlFlow::Break(());
            }
            found.push((topic.to_owned(), Arc::clone(&value.message)));
            ControlFlow::Continue(())
        });
        found
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.values.read().tree.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
