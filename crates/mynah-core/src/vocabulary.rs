//! The words of a tree, each kept once and counted: a million filters use few different words.

use std::sync::Arc;

use crate::hash::FastMap;
use crate::slab::{NONE, Slab};

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    ids: FastMap<Arc<str>, u32>,
    words: Slab<Entry>,
}

impl Vocabulary {
    /// The word's number, or [`NONE`] if nobody uses it.
    pub(crate) fn find(&self, word: &str) -> u32 {
        if self.ids.is_empty() {
            return NONE;
        }
        self.ids.get(word).copied().unwrap_or(NONE)
    }

    /// The word's number, with one more use.
    pub(crate) fn hold(&mut self, word: &str) -> u32 {
        if let Some(&id) = self.ids.get(word) {
            if let Some(entry) = self.words.get_mut(id) {
                entry.uses += 1;
            }
            return id;
        }
        let text: Arc<str> = word.into();
        let id = self.words.insert(Entry { text: Arc::clone(&text), uses: 1 });
        self.ids.insert(text, id);
        id
    }

    pub(crate) fn release(&mut self, id: u32) {
        let Some(entry) = self.words.get_mut(id) else { return };
        entry.uses -= 1;
        if entry.uses == 0
            && let Some(entry) = self.words.remove(id)
        {
            self.ids.remove(&entry.text);
        }
    }

    pub(crate) fn text(&self, id: u32) -> Option<&Arc<str>> {
        self.words.get(id).map(|entry| &entry.text)
    }
}
