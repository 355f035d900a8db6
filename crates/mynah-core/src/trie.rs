//! Who wants a topic: values by filter.
//!
//! Filters without wildcards, the many, are found by one look-up of the whole topic. The others form a tree of words in
//! which a match carries the set of positions reached (see `positions`), so it visits a node at most once, reports each
//! value once, and needs no recursion. Nodes are numbers in a slab, and edges one hash map: a million filters fit.
//!
//! Never: allocates to match a topic of up to 127 words.

use std::hash::{Hash, Hasher};

use crate::filter::{Filter, Segment};
use crate::hash::FastMap;
use crate::positions::{FEW, MANY, Positions, Unbounded};
use crate::slab::{NONE, Slab};
use crate::vocabulary::Vocabulary;

const ROOT: u32 = 0;

/// Words of nearly all topics: clearing larger buffers would cost more than the walk.
const SHORT: usize = 12;

/// Values by [`Filter`]; one filter may have several.
#[derive(Debug)]
pub struct Trie<T> {
    separator: u8,
    /// A leading wildcard does not match `$...` [MQTT-4.7.2-1].
    dollar_is_apart: bool,
    exact: FastMap<Box<str>, Values<T>>,
    nodes: Slab<Node>,
    edges: FastMap<Edge, u32>,
    words: Vocabulary,
    values: Slab<Values<T>>,
    len: usize,
}

/// The step from a node by a word. Shared with [`crate::topic_tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) node: u32,
    pub(crate) word: u32,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.node) << 32 | u64::from(self.word));
    }
}

#[derive(Debug, Clone, Copy)]
enum Label {
    Root,
    Word(u32),
    One,
    Rest,
}

#[derive(Debug)]
struct Node {
    label: Label,
    parent: u32,
    one: u32,
    rest: u32,
    /// How many edges by words leave it.
    words: u32,
    values: u32,
}

impl Node {
    fn new(label: Label, parent: u32) -> Self {
        Self { label, parent, one: NONE, rest: NONE, words: 0, values: NONE }
    }

    fn is_leaf(&self) -> bool {
        self.one == NONE && self.rest == NONE && self.words == 0 && self.values == NONE
    }
}

/// Most filters have one value; it needs no allocation.
#[derive(Debug)]
enum Values<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Values<T> {
    fn push(&mut self, value: T) {
        match std::mem::replace(self, Self::Many(Vec::new())) {
            Self::One(first) => *self = Self::Many(vec![first, value]),
            Self::Many(mut values) => {
                values.push(value);
                *self = Self::Many(values);
            }
        }
    }

    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// Moves what is wanted out; true if nothing is left.
    fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool, out: &mut Vec<T>) -> bool {
        let mut values = match std::mem::replace(self, Self::Many(Vec::new())) {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        };
        out.extend(values.extract_if(.., |value| wanted(value)));
        if values.len() > 1 {
            *self = Self::Many(values);
            return false;
        }
        let Some(last) = values.pop() else { return true };
        *self = Self::One(last);
        false
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Trie<T> {
    /// For topics: words separated by `/`, a leading wildcard leaves `$...` out.
    #[must_use]
    pub fn new() -> Self {
        Self::with(b'/', true)
    }

    /// For keys in the exchanges' spelling: words separated by `.`, and `$` is a character like others.
    #[must_use]
    pub fn dotted() -> Self {
        Self::with(b'.', false)
    }

    fn with(separator: u8, dollar_is_apart: bool) -> Self {
        let mut nodes = Slab::default();
        nodes.insert(Node::new(Label::Root, NONE));
        Self {
            separator,
            dollar_is_apart,
            exact: FastMap::default(),
            nodes,
            edges: FastMap::default(),
            words: Vocabulary::default(),
            values: Slab::default(),
            len: 0,
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one value; equal values are not recognised.
    pub fn insert(&mut self, filter: &Filter, value: T) {
        self.len += 1;
        if let Some(text) = self.exact_text(filter) {
            match self.exact.get_mut(text.as_str()) {
                Some(values) => values.push(value),
                None => {
                    self.exact.insert(text.into_boxed_str(), Values::One(value));
                }
            }
            return;
        }
        let mut at = ROOT;
        for segment in filter.segments() {
            at = self.child_or_new(at, segment);
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        match self.values.get_mut(node.values) {
            Some(values) => values.push(value),
            None => node.values = self.values.insert(Values::One(value)),
        }
    }

    /// Removes the wanted values of exactly this filter.
    pub fn remove(&mut self, filter: &Filter, wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        if let Some(text) = self.exact_text(filter) {
            if let Some(values) = self.exact.get_mut(text.as_str())
                && values.extract(wanted, &mut removed)
            {
                self.exact.remove(text.as_str());
            }
        } else if let Some(at) = self.find(filter)
            && let Some(node) = self.nodes.get_mut(at)
            && let Some(values) = self.values.get_mut(node.values)
            && values.extract(wanted, &mut removed)
        {
            self.values.remove(node.values);
            node.values = NONE;
            self.prune(at);
        }
        self.len -= removed.len();
        removed
    }

    /// Removes the first wanted value of exactly this filter. Where a filter has very many values this is cheaper than
    /// [`Trie::remove`], which looks at all and keeps their order.
    pub fn remove_one(&mut self, filter: &Filter, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let last = self.get(filter).len() == 1;
        if last {
            return self.remove(filter, wanted).pop();
        }
        let values = match self.exact_text(filter) {
            Some(text) => self.exact.get_mut(text.as_str())?,
            None => self.values.get_mut(self.nodes.get(self.find(filter)?)?.values)?,
        };
        let Values::Many(values) = values else { return None };
        let removed = values.swap_remove(values.iter().position(&mut wanted)?);
        self.len -= 1;
        Some(removed)
    }

    /// The values of exactly this filter.
    #[must_use]
    pub fn get(&self, filter: &Filter) -> &[T] {
        let values = match self.exact_text(filter) {
            Some(text) => self.exact.get(text.as_str()),
            None => self
                .find(filter)
                .and_then(|at| self.nodes.get(at))
                .and_then(|node| self.values.get(node.values)),
        };
        values.map_or(&[], Values::as_slice)
    }

    /// Every value whose filter matches the topic, each once.
    pub fn matches<'t>(&'t self, topic: &str, f: &mut impl FnMut(&'t T)) {
        if let Some(values) = self.exact.get(topic) {
            values.as_slice().iter().for_each(&mut *f);
        }
        if self.values.is_empty() {
            return;
        }
        let wild_start = !(self.dollar_is_apart && topic.starts_with('$'));
        let count = 1 + topic.bytes().filter(|byte| *byte == self.separator).count();
        let ids = topic.split(char::from(self.separator)).map(|word| self.words.find(word));
        if count <= SHORT {
            let mut buffer = [NONE; SHORT];
            buffer.iter_mut().zip(ids).for_each(|(place, id)| *place = id);
            self.walk::<u64, 8>(buffer.get(..count).unwrap_or_default(), wild_start, f);
        } else if count <= FEW {
            let mut buffer = [NONE; FEW];
            buffer.iter_mut().zip(ids).for_each(|(place, id)| *place = id);
            self.walk::<u64, 24>(buffer.get(..count).unwrap_or_default(), wild_start, f);
        } else if count <= MANY {
            let mut buffer = [NONE; MANY];
            buffer.iter_mut().zip(ids).for_each(|(place, id)| *place = id);
            self.walk::<u128, 64>(buffer.get(..count).unwrap_or_default(), wild_start, f);
        } else {
            let buffer: Vec<u32> = ids.collect();
            self.walk::<Unbounded, 1>(&buffer, wild_start, f);
        }
    }

    /// Every filter with each of its values, in no order.
    pub fn for_each(&self, mut f: impl FnMut(&Filter, &T)) {
        for (text, values) in &self.exact {
            let words = text.split(char::from(self.separator));
            let filter = Filter::new(words.map(|word| Segment::Word(word.into())).collect());
            values.as_slice().iter().for_each(|value| f(&filter, value));
        }
        for (_, node) in self.nodes.iter() {
            if let Some(values) = self.values.get(node.values) {
                let filter = self.filter_of(node);
                values.as_slice().iter().for_each(|value| f(&filter, value));
            }
        }
    }

    /// The walk over the wildcard tree; `ids` are the topic's words.
    fn walk<'t, P: Positions, const N: usize>(
        &'t self,
        ids: &[u32],
        wild_start: bool,
        f: &mut impl FnMut(&'t T),
    ) {
        let end = ids.len();
        let mut pending = Pending::<P, N>::new();
        pending.push(ROOT, P::only(0));
        while let Some((at, reached)) = pending.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            if node.values != NONE
                && reached.has(end)
                && let Some(values) = self.values.get(node.values)
            {
                values.as_slice().iter().for_each(&mut *f);
            }
            let wild = wild_start || at != ROOT;
            if node.rest != NONE
                && wild
                && let Some(lowest) = reached.lowest()
            {
                pending.push(node.rest, P::range(lowest, end));
            }
            if node.one != NONE && wild {
                pending.push_some(node.one, reached.advanced(end));
            }
            if node.words > 0 {
                self.step_by_words(at, reached, ids, &mut pending);
            }
        }
    }

    fn step_by_words<P: Positions, const N: usize>(
        &self,
        at: u32,
        mut reached: P,
        ids: &[u32],
        pending: &mut Pending<P, N>,
    ) {
        while let Some(first) = reached.lowest() {
            reached.remove(first);
            let Some(&word) = ids.get(first) else { return };
            let mut next = P::only(first + 1);
            // The same word at several positions is one step, so that the child is visited once.
            let mut others = reached.clone();
            while let Some(other) = others.lowest() {
                others.remove(other);
                if ids.get(other) == Some(&word) {
                    next.add(other + 1);
                    reached.remove(other);
                }
            }
            if word != NONE
                && let Some(&child) = self.edges.get(&Edge { node: at, word })
            {
                pending.push(child, next);
            }
        }
    }

    /// The topic a filter without wildcards names. A word that contains the separator matches nothing and goes to the tree.
    fn exact_text(&self, filter: &Filter) -> Option<String> {
        let mut text = String::new();
        for (at, segment) in filter.segments().iter().enumerate() {
            let Segment::Word(word) = segment else { return None };
            if word.as_bytes().contains(&self.separator) {
                return None;
            }
            if at > 0 {
                text.push(char::from(self.separator));
            }
            text.push_str(word);
        }
        (!filter.segments().is_empty()).then_some(text)
    }

    fn find(&self, filter: &Filter) -> Option<u32> {
        filter.segments().iter().try_fold(ROOT, |at, segment| {
            let child = match segment {
                Segment::One => self.nodes.get(at)?.one,
                Segment::Rest => self.nodes.get(at)?.rest,
                Segment::Word(word) => *self.edges.get(&Edge { node: at, word: self.words.find(word) })?,
            };
            (child != NONE).then_some(child)
        })
    }

    fn child_or_new(&mut self, at: u32, segment: &Segment) -> u32 {
        let (label, old) = match segment {
            Segment::One => (Label::One, self.nodes.get(at).map(|node| node.one)),
            Segment::Rest => (Label::Rest, self.nodes.get(at).map(|node| node.rest)),
            Segment::Word(word) => {
                let word_id = self.words.hold(word);
                let old = self.edges.get(&Edge { node: at, word: word_id }).copied();
                if old.is_some() {
                    self.words.release(word_id);
                }
                (Label::Word(word_id), old)
            }
        };
        if let Some(old) = old.filter(|old| *old != NONE) {
            return old;
        }
        let child = self.nodes.insert(Node::new(label, at));
        let Some(node) = self.nodes.get_mut(at) else { return child };
        match label {
            Label::One => node.one = child,
            Label::Rest => node.rest = child,
            Label::Word(word) => {
                node.words += 1;
                self.edges.insert(Edge { node: at, word }, child);
            }
            Label::Root => {}
        }
        child
    }

    /// Removes nodes that lead nowhere, from a leaf up.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let Some(node) = self.nodes.get(at).filter(|node| node.is_leaf()) else { return };
            let (label, parent) = (node.label, node.parent);
            self.nodes.remove(at);
            if let Some(above) = self.nodes.get_mut(parent) {
                match label {
                    Label::One => above.one = NONE,
                    Label::Rest => above.rest = NONE,
                    Label::Word(word) => {
                        above.words -= 1;
                        self.edges.remove(&Edge { node: parent, word });
                        self.words.release(word);
                    }
                    Label::Root => {}
                }
            }
            at = parent;
        }
    }

    fn filter_of(&self, node: &Node) -> Filter {
        let mut segments = Vec::new();
        let mut node = Some(node);
        while let Some(Node { label, parent, .. }) = node {
            match *label {
                Label::One => segments.push(Segment::One),
                Label::Rest => segments.push(Segment::Rest),
                Label::Word(word) => segments.extend(self.words.text(word).cloned().map(Segment::Word)),
                Label::Root => {}
            }
            node = self.nodes.get(*parent);
        }
        segments.reverse();
        Filter::new(segments)
    }
}

/// Nodes still to visit: on the stack unless the tree is unusually bushy.
struct Pending<P, const N: usize> {
    few: [(u32, P); N],
    len: usize,
    more: Vec<(u32, P)>,
}

impl<P: Positions, const N: usize> Pending<P, N> {
    fn new() -> Self {
        Self { few: std::array::from_fn(|_| (NONE, P::default())), len: 0, more: Vec::new() }
    }

    fn push(&mut self, node: u32, reached: P) {
        match self.few.get_mut(self.len) {
            Some(place) => {
                *place = (node, reached);
                self.len += 1;
            }
            None => self.more.push((node, reached)),
        }
    }

    fn push_some(&mut self, node: u32, reached: P) {
        if !reached.is_empty() {
            self.push(node, reached);
        }
    }

    fn pop(&mut self) -> Option<(u32, P)> {
        if let Some(last) = self.more.pop() {
            return Some(last);
        }
        self.len = self.len.checked_sub(1)?;
        self.few.get(self.len).cloned()
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

    fn found<T: Clone + Ord>(trie: &Trie<T>, topic: &str) -> Vec<T> {
        let mut found = Vec::new();
        trie.matches(topic, &mut |value| found.push(value.clone()));
        found.sort();
        found
    }

    fn check(filters: &[&str], topic: &str, expected: &[&str]) {
        let mut trie = Trie::new();
        filters.iter().for_each(|text| trie.insert(&filter(text), *text));
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found(&trie, topic), expected, "{topic}");
    }

    #[test]
    fn the_standards_examples() {
        // [MQTT 4.7.1.2, 4.7.1.3, 4.7.2]
        let filters =
            ["sport/tennis/player1/#", "sport/#", "#", "sport/tennis/+", "sport/+", "+/+", "/+", "+"];
        check(
            &filters,
            "sport/tennis/player1",
            &["sport/tennis/player1/#", "sport/#", "#", "sport/tennis/+"],
        );
        check(&filters, "sport", &["sport/#", "#", "+"]);
        check(&filters, "sport/", &["sport/#", "#", "sport/+", "+/+"]);
        check(&filters, "/finance", &["#", "+/+", "/+"]);
    }

    #[test]
    fn a_leading_wildcard_does_not_match_dollar() {
        // [MQTT-4.7.2-1]
        let filters = ["#", "+/monitor/x", "$SYS/#", "$SYS/monitor/+", "#/x"];
        check(&filters, "$SYS/monitor/x", &["$SYS/#", "$SYS/monitor/+"]);
        check(&filters, "a/$SYS/x", &["#", "#/x"]);
    }

    #[test]
    fn a_value_is_reported_once_however_often_its_rests_match() {
        check(&["#/a/#", "#/a/#/a/#", "a/#/#"], "a/a/a/a", &["#/a/#", "#/a/#/a/#", "a/#/#"]);
    }

    #[test]
    fn dotted_keys_have_no_dollar_rule() {
        let mut trie = Trie::dotted();
        trie.insert(&filter("#"), 1);
        trie.insert(&filter("$a/+"), 2);
        trie.insert(&filter("$a/b"), 3);
        assert_eq!(found(&trie, "$a.b"), [1, 2, 3]);
        assert_eq!(found(&trie, "$a/b"), [1]);
        assert_eq!(trie.get(&filter("$a/b")), [3]);
    }

    #[test]
    fn many_rests_stay_cheap() {
        let mut trie = Trie::new();
        let text = format!("{}b", "#/a/".repeat(30));
        trie.insert(&filter(&text), ());
        let long = format!("{}c", "a/".repeat(120));
        assert_eq!(found(&trie, &long), []);
        assert_eq!(found(&trie, &long.replace('c', "b")), [()]);
    }

    #[test]
    fn names_deeper_than_the_edges_allow_are_right_too() {
        let deep = vec!["a"; 3_000].join("/");
        let mut trie = Trie::new();
        for text in ["#", "#/b", "a/+/#", &format!("{deep}/+"), &format!("#/{}", vec!["+"; 300].join("/"))] {
            trie.insert(&filter(text), text.len());
        }
        assert_eq!(found(&trie, &vec!["a"; 200].join("/")), [1, 5]);
        assert_eq!(found(&trie, &format!("{}/b", vec!["a"; 400].join("/"))), [1, 3, 5, 601]);
        assert_eq!(found(&trie, &format!("{deep}/x")), [1, 5, 601, 6_001]);
        assert_eq!(trie.remove(&filter(&format!("{deep}/+")), |_| true), [6_001]);
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let mut trie = Trie::new();
        let texts = ["a/b", "a/+/c", "a/+/d", "#", "a/#/b"];
        for text in texts {
            trie.insert(&filter(text), 1);
            trie.insert(&filter(text), 2);
        }
        assert_eq!(trie.remove(&filter("a/+"), |_| true), [0; 0]);
        assert_eq!(trie.remove(&filter("a/+/c"), |value| *value == 3), [0; 0]);
        assert_eq!(trie.remove(&filter("a/+/c"), |value| *value == 1), [1]);
        assert_eq!(trie.get(&filter("a/+/c")), [2]);
        assert_eq!(found(&trie, "a/x/c"), [1, 2, 2]);
        for text in texts {
            trie.remove(&filter(text), |_| true);
        }
        assert!(trie.is_empty() && trie.exact.is_empty() && trie.edges.is_empty());
        assert_eq!(trie.nodes.iter().count(), 1);
        assert_eq!(trie.words.find("a"), NONE);
    }

    #[test]
    fn one_of_many_is_removed() {
        for text in ["a/b", "a/+"] {
            let mut trie = Trie::new();
            (0..4).for_each(|value| trie.insert(&filter(text), value));
            assert_eq!(trie.remove_one(&filter(text), |value| *value > 0), Some(1));
            assert_eq!(trie.remove_one(&filter(text), |value| *value == 1), None);
            assert_eq!((trie.len(), found(&trie, "a/b")), (3, vec![0, 2, 3]));
            for value in [3, 0, 2] {
                assert_eq!(trie.remove_one(&filter(text), |held| *held == value), Some(value));
            }
            assert_eq!(trie.remove_one(&filter(text), |_| true), None);
            assert!(trie.is_empty() && trie.edges.is_empty() && trie.exact.is_empty());
        }
    }

    #[test]
    fn odd_filters() {
        let mut trie = Trie::new();
        trie.insert(&Filter::new(Vec::new()), 1);
        trie.insert(&Filter::new(vec![Segment::Word("a/b".into())]), 2);
        trie.insert(&filter(""), 3);
        assert_eq!(found(&trie, ""), [3]);
        assert_eq!(found(&trie, "a/b"), [0; 0]);
        assert_eq!(trie.get(&Filter::new(Vec::new())), [1]);
    }

    fn words(alphabet: &'static [&'static str], max: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(alphabet), 1..max).prop_map(|words| words.join("/"))
    }

    proptest! {
        #[test]
        fn it_finds_what_the_filters_match_one_by_one(
            filters in prop::collection::vec(words(&["a", "b", "", "$x", "+", "#"], 6), 1..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            topics in prop::collection::vec(words(&["a", "b", "", "$x", "c"], 7), 1..20),
        ) {
            let mut trie = Trie::new();
            let mut all: Vec<(Filter, usize)> = filters.iter().map(|text| filter(text)).zip(0..).collect();
            all.iter().for_each(|(filter, value)| trie.insert(filter, *value));
            for index in removed {
                if !all.is_empty() {
                    let (filter, value) = all.swap_remove(index.index(all.len()));
                    prop_assert_eq!(trie.remove(&filter, |held| *held == value), [value]);
                }
            }
            prop_assert_eq!(trie.len(), all.len());
            let mut listed = Vec::new();
            trie.for_each(|filter, value| listed.push((filter.clone(), *value)));
            listed.sort();
            all.sort();
            prop_assert_eq!(&listed, &all);
            for topic in topics {
                let matching = all.iter().filter(|(filter, _)| filter.matches(&topic));
                let mut expected: Vec<usize> = matching.map(|(_, value)| *value).collect();
                expected.sort_unstable();
                prop_assert_eq!(found(&trie, &topic), expected, "{}", topic);
            }
        }
    }
}
