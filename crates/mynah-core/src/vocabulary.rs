//! The words of a tree, each kept once and counted: a million filters use few different words.
//!
//! A short word lies in the table itself, so that finding it costs one look into memory and not two.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::hash::FastMap;
use crate::slab::{NONE, Slab};

/// Bytes of a word that need no place of their own.
const SHORT: usize = 22;

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

/// Equal and hashed as its bytes.
#[derive(Debug)]
enum Word {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

impl Word {
    fn new(text: &Arc<str>) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(Arc::clone(text)),
        }
    }
}

impl Borrow<[u8]> for Word {
    fn borrow(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(text) => text.as_bytes(),
        }
    }
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        Borrow::<[u8]>::borrow(self) == Borrow::<[u8]>::borrow(other)
    }
}

impl Eq for Word {}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    ids: FastMap<Word, u32>,
    words: Slab<Entry>,
}

impl Vocabulary {
    /// The word's number, or [`NONE`] if nobody uses it.
    pub(crate) fn find(&self, word: &str) -> u32 {
        if self.ids.is_empty() {
            return NONE;
        }
        self.ids.get(word.as_bytes()).copied().unwrap_or(NONE)
    }

    /// The word's number, with one more use.
    pub(crate) fn hold(&mut self, word: &str) -> u32 {
        if let Some(&id) = self.ids.get(word.as_bytes()) {
            if let Some(entry) = self.words.get_mut(id) {
                entry.uses += 1;
            }
            return id;
        }
        let text: Arc<str> = word.into();
        let key = Word::new(&text);
        let id = self.words.insert(Entry { text, uses: 1 });
        self.ids.insert(key, id);
        id
    }

    pub(crate) fn release(&mut self, id: u32) {
        let Some(entry) = self.words.get_mut(id) else { return };
        entry.uses -= 1;
        if entry.uses == 0
            && let Some(entry) = self.words.remove(id)
        {
            self.ids.remove(entry.text.as_bytes());
        }
    }

    pub(crate) fn text(&self, id: u32) -> Option<&Arc<str>> {
        self.words.get(id).map(|entry| &entry.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_length_are_found_until_the_last_use_is_over() {
        let mut words = Vocabulary::default();
        let texts: Vec<String> = (0..50).map(|len| "x".repeat(len)).collect();
        let ids: Vec<u32> = texts.iter().map(|text| words.hold(text)).collect();
        for (text, id) in texts.iter().zip(&ids) {
            assert_eq!((words.find(text), words.hold(text)), (*id, *id));
            assert_eq!(words.text(*id).map(|text| &**text), Some(text.as_str()));
            words.release(*id);
            assert_eq!(words.find(text), *id);
            words.release(*id);
            assert_eq!(words.find(text), NONE);
        }
        assert!(size_of::<Word>() <= 24);
    }
}
