//! The last known good value of each topic.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use mynah_core::topic_tree::{Stale, TopicTree};
use mynah_core::{Filter, Message};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::limits::RETAINED_AT_ONCE;

/// Values visited before others may change the tree.
const STEP: usize = 1024;
/// How often a walk begins again because topics were removed, before it keeps everybody out.
const WALKS: usize = 4;

/// Values whose time is over are taken out when somebody comes across them, and all of them when the store is full.
#[derive(Debug)]
pub struct Retained {
    tree: RwLock<TopicTree<Arc<Message>>>,
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
            tree: RwLock::default(),
            messages_max,
            over: Mutex::default(),
            order: Mutex::default(),
            sweep_at: Mutex::default(),
        }
    }

    /// Keeps the message as the topic's value; an empty body clears it [MQTT-3.3.1-6]. False if the store is full.
    pub fn set(&self, topic: &str, message: &Arc<Message>) -> bool {
        let mut tree = self.tree.write();
        if message.body.is_empty() {
            tree.remove(topic);
            return true;
        }
        if tree.len() >= self.messages_max && tree.get(topic).is_none() {
            self.sweep(&mut tree, message.received);
            if tree.len() >= self.messages_max {
                return false;
            }
        }
        if let Some(at) = message.expires() {
            let mut sweep_at = self.sweep_at.lock();
            *sweep_at = Some(sweep_at.map_or(at, |known| known.min(at)));
        }
        tree.insert(topic, Arc::clone(message));
        true
    }

    /// Takes out all values whose time is over, if there can be any.
    fn sweep(&self, tree: &mut TopicTree<Arc<Message>>, now: Instant) {
        let mut sweep_at = self.sweep_at.lock();
        if sweep_at.is_none_or(|at| at > now) {
            return;
        }
        let (mut over, mut next) = (Vec::new(), None::<Instant>);
        for filter in ["#", "$SYS/#"].iter().filter_map(|text| Filter::parse(text).ok()) {
            tree.matching(&filter, &mut |topic, message: &Arc<Message>| {
                match message.expires() {
                    Some(at) if at <= now => over.push(topic.to_owned()),
                    Some(at) => next = Some(next.map_or(at, |known| known.min(at))),
                    None => {}
                }
                ControlFlow::Continue(())
            });
        }
        for topic in &over {
            tree.remove(topic);
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
        self.tree.read().get(topic).cloned()
    }

    /// The values whose topics match, with those whose time is over left out.
    #[must_use]
    pub fn matching(&self, filter: &Filter, now: Instant) -> Vec<Arc<Message>> {
        let is_over = |message: &Message| message.expires().is_some_and(|at| at <= now);
        let (mut found, mut over) = (Vec::new(), Vec::new());
        self.tree.read().matching(filter, &mut |topic, message: &Arc<Message>| {
            if is_over(message) {
                over.push(topic.to_owned());
            } else {
                found.push(Arc::clone(message));
            }
            ControlFlow::Continue(())
        });
        if !over.is_empty() {
            let mut tree = self.tree.write();
            over.retain(|topic| tree.get(topic).is_some_and(|message| is_over(message)));
            over.iter().for_each(|topic| {
                tree.remove(topic);
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
            let mut cursor = self.tree.read().cursor(filter);
            loop {
                let mut left = STEP;
                let step = self.tree.read().resume(&mut cursor, &mut |_, message: &Arc<Message>| {
                    if message.expires().is_none_or(|at| at > now) {
                        found.push(Arc::clone(message));
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
        self.tree.read().matching(filter, &mut |topic, message: &Arc<Message>| {
            if found.len() == count {
                return ControlFlow::Break(());
            }
            found.push((topic.to_owned(), Arc::clone(message)));
            ControlFlow::Continue(())
        });
        found
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.tree.read().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
