//! The last known good value of each topic.

use std::ops::ControlFlow;
use std::sync::Arc;

use mynah_core::topic_tree::TopicTree;
use mynah_core::{Filter, Message};
use parking_lot::RwLock;

#[derive(Debug)]
pub struct Retained {
    tree: RwLock<TopicTree<Arc<Message>>>,
    messages_max: usize,
}

impl Retained {
    #[must_use]
    pub fn new(messages_max: usize) -> Self {
        Self { tree: RwLock::default(), messages_max }
    }

    /// Keeps the message as the topic's value; an empty body clears it [MQTT-3.3.1-6]. False if the store is full.
    pub fn set(&self, topic: &str, message: &Arc<Message>) -> bool {
        let mut tree = self.tree.write();
        if message.body.is_empty() {
            tree.remove(topic);
            return true;
        }
        if tree.len() >= self.messages_max && tree.get(topic).is_none() {
            return false;
        }
        tree.insert(topic, Arc::clone(message));
        true
    }

    #[must_use]
    pub fn get(&self, topic: &str) -> Option<Arc<Message>> {
        self.tree.read().get(topic).cloned()
    }

    /// The values whose topics match, with those whose time is over left out.
    #[must_use]
    pub fn matching(&self, filter: &Filter, now: std::time::Instant) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        self.tree.read().matching(filter, &mut |_, message: &Arc<Message>| {
            if message.expires().is_none_or(|at| at > now) {
                found.push(Arc::clone(message));
            }
            ControlFlow::Continue(())
        });
        found
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
