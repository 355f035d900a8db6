//! Values by topic, found by filter: what a new subscription gets of what is retained.
//!
//! A tree of words whose nodes are numbers in a slab: a child is found by one hash look-up, or by walking the list of
//! siblings where a wildcard asks for all. A match carries the set of positions in the filter that a branch has reached (see
//! `positions`), so a branch that cannot match is not entered and no topic is reported twice.
//!
//! Never: recursion; a topic may be as deep as its length allows.

use std::ops::ControlFlow;

use crate::filter::{Filter, Segment};
use crate::hash::FastMap;
use crate::positions::{FEW, MANY, Positions, Unbounded};
use crate::slab::{NONE, Slab};
use crate::trie::Edge;
use crate::vocabulary::Vocabulary;

const ROOT: u32 = 0;

/// Values by exact topic (words joined by `/`).
#[derive(Debug)]
pub struct TopicTree<T> {
    nodes: Slab<Node>,
    edges: FastMap<Edge, u32>,
    words: Vocabulary,
    values: Slab<T>,
    len: usize,
    /// Nodes that were taken out, ever: a walk that was left alone meanwhile may stand on one of them.
    pruned: u64,
}

/// A walk that can be left and taken up again.
#[derive(Debug)]
pub struct Cursor {
    wants: Vec<Want>,
    frames: Vec<Frame<Unbounded>>,
    topic: String,
    pruned: u64,
}

/// Topics were removed since the walk was left: it has to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

#[derive(Debug)]
struct Node {
    parent: u32,
    word: u32,
    first_child: u32,
    next: u32,
    previous: u32,
    value: u32,
}

/// One part of a filter, with its word as a number.
#[derive(Debug)]
enum Want {
    Word(u32),
    One,
    Rest,
}

/// Children still to visit.
#[derive(Debug)]
struct Frame<P> {
    child: u32,
    /// Only this child, not its siblings.
    alone: bool,
    /// Bytes of the topic down to the parent.
    above: usize,
    reached: P,
}

impl<T> Default for TopicTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> TopicTree<T> {
    #[must_use]
    pub fn new() -> Self {
        let mut nodes = Slab::default();
        nodes.insert(Node::new(NONE, NONE));
        Self {
            nodes,
            edges: FastMap::default(),
            words: Vocabulary::default(),
            values: Slab::default(),
            len: 0,
            pruned: 0,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the topic's value; answers the old one.
    pub fn insert(&mut self, topic: &str, value: T) -> Option<T> {
        self.place(topic, value).1
    }

    /// As [`TopicTree::insert`]; answers also the value's place, which it has until it is removed.
    pub fn place(&mut self, topic: &str, value: T) -> (u32, Option<T>) {
        let mut at = ROOT;
        for word in topic.split('/') {
            at = self.child_or_new(at, word);
        }
        let Some(node) = self.nodes.get_mut(at) else { return (NONE, None) };
        if let Some(old) = self.values.get_mut(node.value) {
            return (node.value, Some(std::mem::replace(old, value)));
        }
        node.value = self.values.insert(value);
        self.len += 1;
        (node.value, None)
    }

    /// The value at a place.
    #[must_use]
    pub fn at(&self, place: u32) -> Option<&T> {
        self.values.get(place)
    }

    pub fn at_mut(&mut self, place: u32) -> Option<&mut T> {
        self.values.get_mut(place)
    }

    /// The place of a topic's value.
    #[must_use]
    pub fn place_of(&self, topic: &str) -> Option<u32> {
        let value = self.nodes.get(self.find(topic)?)?.value;
        self.values.get(value).map(|_| value)
    }

    pub fn remove(&mut self, topic: &str) -> Option<T> {
        let at = self.find(topic)?;
        let node = self.nodes.get_mut(at)?;
        let value = self.values.remove(std::mem::replace(&mut node.value, NONE))?;
        self.len -= 1;
        self.prune(at);
        Some(value)
    }

    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&T> {
        self.at(self.place_of(topic)?)
    }

    /// Every topic that the filter matches with its value, each once, in no order, until `f` breaks off.
    pub fn matching<'t>(&'t self, filter: &Filter, f: &mut impl FnMut(&str, &'t T) -> ControlFlow<()>) {
        let wants = self.wants(filter);
        // It ends when everything is visited or `f` breaks off; both are an end.
        let _ = if wants.len() <= FEW {
            self.walk::<u64>(&wants, &mut self.begin(&wants), &mut String::new(), f)
        } else if wants.len() <= MANY {
            self.walk::<u128>(&wants, &mut self.begin(&wants), &mut String::new(), f)
        } else {
            self.walk::<Unbounded>(&wants, &mut self.begin(&wants), &mut String::new(), f)
        };
    }

    /// The same in parts: [`TopicTree::resume`] goes on with it. A topic that is new meanwhile may be left out.
    #[must_use]
    pub fn cursor(&self, filter: &Filter) -> Cursor {
        let wants = self.wants(filter);
        Cursor { frames: self.begin(&wants), wants, topic: String::new(), pruned: self.pruned }
    }

    /// Goes on until `f` breaks off (false) or everything was visited (true).
    ///
    /// # Errors
    /// Topics were removed since the cursor was made.
    pub fn resume<'t>(
        &'t self,
        cursor: &mut Cursor,
        f: &mut impl FnMut(&str, &'t T) -> ControlFlow<()>,
    ) -> Result<bool, Stale> {
        if cursor.pruned != self.pruned {
            return Err(Stale);
        }
        Ok(self.walk(&cursor.wants, &mut cursor.frames, &mut cursor.topic, f).is_continue())
    }

    fn wants(&self, filter: &Filter) -> Vec<Want> {
        let want = |segment: &Segment| match segment {
            Segment::Word(word) => Want::Word(self.words.find(word)),
            Segment::One => Want::One,
            Segment::Rest => Want::Rest,
        };
        filter.segments().iter().map(want).collect()
    }

    fn begin<P: Positions>(&self, wants: &[Want]) -> Vec<Frame<P>> {
        let mut start = P::only(0);
        close_over_rests(&mut start, wants);
        self.frame(ROOT, 0, start, wants).into_iter().collect()
    }

    fn walk<'t, P: Positions>(
        &'t self,
        wants: &[Want],
        frames: &mut Vec<Frame<P>>,
        topic: &mut String,
        f: &mut impl FnMut(&str, &'t T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while let Some(frame) = frames.last_mut() {
            let Some(node) = self.nodes.get(frame.child) else {
                frames.pop();
                continue;
            };
            let (at, above) = (frame.child, frame.above);
            let reached = advanced(&frame.reached, node.word, wants);
            frame.child = if frame.alone { NONE } else { node.next };
            let word = self.words.text(node.word).map_or("", |word| word);
            // A leading wildcard does not match `$...` [MQTT-4.7.2-1].
            let hidden =
                node.parent == ROOT && word.starts_with('$') && !matches!(wants.first(), Some(Want::Word(_)));
            if hidden || reached.is_empty() {
                continue;
            }
            topic.truncate(above);
            if node.parent != ROOT {
                topic.push('/');
            }
            topic.push_str(word);
            let hit = reached.has(wants.len());
            // First, so that a walk which is broken off can go on.
            frames.extend(self.frame(at, topic.len(), reached, wants));
            if hit && let Some(value) = self.values.get(node.value) {
                f(topic, value)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The children of a node that a match which has reached these positions must visit.
    fn frame<P: Positions>(&self, at: u32, above: usize, reached: P, wants: &[Want]) -> Option<Frame<P>> {
        let first_child = self.nodes.get(at)?.first_child;
        let mut rest = reached.clone();
        let mut only = NONE;
        while let Some(position) = rest.lowest() {
            rest.remove(position);
            match wants.get(position) {
                // With a `Rest` before it a word is never alone.
                Some(Want::Word(word)) => only = *word,
                Some(Want::One | Want::Rest) => {
                    return Some(Frame { child: first_child, alone: false, above, reached });
                }
                None => {}
            }
        }
        let child = *self.edges.get(&Edge { node: at, word: only })?;
        Some(Frame { child, alone: true, above, reached })
    }

    fn find(&self, topic: &str) -> Option<u32> {
        topic.split('/').try_fold(ROOT, |node, word| {
            let word = self.words.find(word);
            self.edges.get(&Edge { node, word }).copied()
        })
    }

    fn child_or_new(&mut self, at: u32, word: &str) -> u32 {
        let known = self.words.find(word);
        if known != NONE
            && let Some(child) = self.edges.get(&Edge { node: at, word: known })
        {
            return *child;
        }
        let word = self.words.hold(word);
        let child = self.nodes.insert(Node::new(at, word));
        self.edges.insert(Edge { node: at, word }, child);
        let next =
            self.nodes.get_mut(at).map_or(NONE, |node| std::mem::replace(&mut node.first_child, child));
        if let Some(node) = self.nodes.get_mut(next) {
            node.previous = child;
        }
        if let Some(node) = self.nodes.get_mut(child) {
            node.next = next;
        }
        child
    }

    /// Removes nodes that lead nowhere, from a leaf up.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let leaf = |node: &&Node| node.first_child == NONE && node.value == NONE;
            if self.nodes.get(at).filter(leaf).is_none() {
                return;
            }
            let Some(node) = self.nodes.remove(at) else { return };
            self.pruned += 1;
            if let Some(next) = self.nodes.get_mut(node.next) {
                next.previous = node.previous;
            }
            match self.nodes.get_mut(node.previous) {
                Some(previous) => previous.next = node.next,
                None => {
                    if let Some(parent) = self.nodes.get_mut(node.parent) {
                        parent.first_child = node.next;
                    }
                }
            }
            self.edges.remove(&Edge { node: node.parent, word: node.word });
            self.words.release(node.word);
            at = node.parent;
        }
    }
}

impl Node {
    fn new(parent: u32, word: u32) -> Self {
        Self { parent, word, first_child: NONE, next: NONE, previous: NONE, value: NONE }
    }
}

/// One word further.
fn advanced<P: Positions>(reached: &P, word: u32, wants: &[Want]) -> P {
    let mut next = P::default();
    let mut rest = reached.clone();
    while let Some(position) = rest.lowest() {
        rest.remove(position);
        match wants.get(position) {
            Some(Want::Rest) => next.add(position),
            Some(Want::One) => next.add(position + 1),
            Some(Want::Word(want)) if *want == word => next.add(position + 1),
            Some(Want::Word(_)) | None => {}
        }
    }
    close_over_rests(&mut next, wants);
    next
}

/// A `Rest` also matches no word at all.
fn close_over_rests<P: Positions>(reached: &mut P, wants: &[Want]) {
    for (position, want) in wants.iter().enumerate() {
        if matches!(want, Want::Rest) && reached.has(position) {
            reached.add(position + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        let word = |word| match word {
            "+" => Segment::One,
            "#" => Segment::Rest,
            _ => Segment::Word(Into::into(word)),
        };
        Filter::new(text.split('/').map(word).collect())
    }

    fn found<T>(tree: &TopicTree<T>, wanted: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.matching(&filter(wanted), &mut |topic, _| {
            found.push(topic.to_owned());
            ControlFlow::Continue(())
        });
        found.sort();
        found
    }

    fn check(topics: &[&str], wanted: &str, expected: &[&str]) {
        let mut tree = TopicTree::new();
        topics.iter().for_each(|topic| assert_eq!(tree.insert(topic, *topic), None));
        assert_eq!(found(&tree, wanted), expected, "{wanted}");
    }

    #[test]
    fn a_walk_in_steps_meets_what_a_whole_one_does() {
        let mut tree = TopicTree::new();
        for topic in ["a", "a/b", "a/b/c", "a/x/c", "/a", "a/", "$SYS/a", "b/b/c"] {
            tree.insert(topic, ());
        }
        for wanted in ["#", "a/#", "a/+/c", "+/b/#", "$SYS/+", "a/b", "x"] {
            let (mut cursor, mut topics) = (tree.cursor(&filter(wanted)), Vec::new());
            loop {
                let step = tree.resume(&mut cursor, &mut |topic, ()| {
                    topics.push(topic.to_owned());
                    ControlFlow::Break(())
                });
                if step.unwrap() {
                    break;
                }
                // What is new does not disturb it.
                tree.insert("$new/topic", ());
            }
            topics.sort();
            assert_eq!(topics, found(&tree, wanted), "{wanted}");
        }
        let mut cursor = tree.cursor(&filter("#"));
        tree.remove("a/x/c");
        assert_eq!(tree.resume(&mut cursor, &mut |_, ()| ControlFlow::Continue(())), Err(Stale));
    }

    #[test]
    fn by_filter() {
        let topics = ["a", "a/b", "a/b/c", "a/x/c", "/a", "a/", "$SYS/a", "$SYS"];
        check(&topics, "#", &["/a", "a", "a/", "a/b", "a/b/c", "a/x/c"]);
        check(&topics, "a/#", &["a", "a/", "a/b", "a/b/c", "a/x/c"]);
        check(&topics, "a/+/c", &["a/b/c", "a/x/c"]);
        check(&topics, "+", &["a"]);
        check(&topics, "+/a", &["/a"]);
        check(&topics, "$SYS/+", &["$SYS/a"]);
        check(&topics, "#/c", &["a/b/c", "a/x/c"]);
        check(&topics, "a/b", &["a/b"]);
        check(&topics, "b/#", &[]);
    }

    #[test]
    fn values_are_replaced_and_removed() {
        let mut tree = TopicTree::new();
        assert_eq!(tree.insert("a/b", 1), None);
        assert_eq!(tree.insert("a/b", 2), Some(1));
        assert_eq!((tree.get("a/b"), tree.get("a"), tree.get("a/b/c")), (Some(&2), None, None));
        assert_eq!(tree.insert("a", 3), None);
        assert_eq!((tree.len(), tree.remove("a/b"), tree.remove("a/b")), (2, Some(2), None));
        assert_eq!(tree.remove("a"), Some(3));
        assert!(tree.is_empty() && tree.edges.is_empty());
        assert_eq!(tree.nodes.iter().count(), 1);
    }

    #[test]
    fn it_breaks_off_when_told() {
        let mut tree = TopicTree::new();
        (0..10).for_each(|n| assert_eq!(tree.insert(&format!("t/{n}"), n), None));
        let mut seen = 0;
        tree.matching(&filter("t/+"), &mut |_, _| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, 3);
    }

    #[test]
    fn deep_names_and_many_rests() {
        let mut tree = TopicTree::new();
        let deep = vec!["a"; 3_000].join("/");
        tree.insert(&deep, ());
        assert_eq!(found(&tree, &format!("#/{}", vec!["+"; 200].join("/"))).len(), 1);
        assert_eq!(found(&tree, &vec!["#/a"; 60].join("/")).len(), 1);
        assert_eq!(found(&tree, &format!("{}/b", vec!["#/a"; 60].join("/"))).len(), 0);
    }

    fn words(alphabet: &'static [&'static str], max: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(alphabet), 1..max).prop_map(|words| words.join("/"))
    }

    proptest! {
        #[test]
        fn it_finds_what_the_filter_matches_one_by_one(
            topics in prop::collection::vec((words(&["a", "b", "", "$x", "c"], 7), any::<bool>()), 1..40),
            filters in prop::collection::vec(words(&["a", "b", "", "$x", "+", "#"], 6), 1..20),
        ) {
            let mut tree = TopicTree::new();
            let mut all = std::collections::BTreeMap::new();
            for (at, (topic, keep)) in topics.iter().enumerate() {
                if *keep {
                    prop_assert_eq!(tree.insert(topic, at), all.insert(topic.clone(), at));
                } else {
                    prop_assert_eq!(tree.remove(topic), all.remove(topic));
                }
                prop_assert_eq!(tree.len(), all.len());
            }
            for text in filters {
                let wanted = filter(&text);
                let expected: Vec<String> = all.keys().filter(|topic| wanted.matches(topic)).cloned().collect();
                prop_assert_eq!(found(&tree, &text), expected, "{}", text);
            }
        }
    }
}
