//! Exchanges: from a key (and headers) to the bindings that want the message.
//!
//! Bindings are indexed by key and by destination, so that routing, listing, and removing a destination from an exchange
//! with a hundred thousand others cost what they concern and no more.
//!
//! Never: follows a binding to another exchange; the broker does, and bounds it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::filter::{Filter, Segment};
use crate::hash::{FastMap, FastSet};
use crate::trie::Trie;
use crate::value::Value;

mod arguments;

pub use arguments::{Arguments, check_headers_rule, same_value};
pub(crate) use arguments::{difference, same};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// The key equals the binding's.
    Direct,
    /// Everything.
    Fanout,
    /// The key's words (by `.`) match the binding's, where `*` is one word and `#` the rest.
    Topic,
    /// The headers match the binding's arguments.
    Headers,
}

impl ExchangeKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// How an exchange was declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSpec {
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    /// Clients cannot publish to it; only other exchanges lead there.
    pub internal: bool,
    /// Where messages go that no binding wants.
    pub alternate: Option<Box<str>>,
    pub arguments: Arguments,
}

impl ExchangeSpec {
    /// Whether declaring it again as `other` is the same.
    ///
    /// # Errors
    /// The text for the client: what differs, how it was asked for, and how it is.
    pub fn same_declaration(&self, other: &Self, name: &str, virtual_host: &str) -> Result<(), String> {
        let subject = format!("exchange '{name}' in vhost '{virtual_host}'");
        same("type", &subject, self.kind.name(), other.kind.name())?;
        same("durable", &subject, self.durable, other.durable)?;
        same("auto_delete", &subject, self.auto_delete, other.auto_delete)?;
        same("internal", &subject, self.internal, other.internal)?;
        difference(&self.arguments, &other.arguments, &subject)
    }
}

/// A binding, for listings.
#[derive(Debug, Clone, Copy)]
pub struct BindingRef<'a, D> {
    pub key: &'a str,
    pub arguments: &'a Arguments,
    pub destination: &'a D,
}

/// The bindings of one exchange. `D` is the broker's handle of a queue or another exchange.
#[derive(Debug)]
pub struct Exchange<D> {
    spec: Arc<ExchangeSpec>,
    /// Everything there is. Bindings may differ in arguments only.
    bindings: FastMap<(Arc<str>, D), Vec<Arguments>>,
    by_destination: FastMap<D, FastSet<Arc<str>>>,
    by_key: FastMap<Arc<str>, FastSet<D>>,
    /// Topic: the keys as patterns.
    patterns: Trie<D>,
    len: usize,
}

impl<D: Clone + Eq + Hash> Exchange<D> {
    #[must_use]
    pub fn new(spec: Arc<ExchangeSpec>) -> Self {
        Self {
            spec,
            bindings: FastMap::default(),
            by_destination: FastMap::default(),
            by_key: FastMap::default(),
            patterns: Trie::dotted(),
            len: 0,
        }
    }

    #[must_use]
    pub fn spec(&self) -> &Arc<ExchangeSpec> {
        &self.spec
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bindings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All bindings, in no order.
    pub fn bindings(&self) -> impl Iterator<Item = BindingRef<'_, D>> {
        self.bindings.iter().flat_map(|((key, destination), all)| {
            all.iter().map(move |arguments| BindingRef { key, arguments, destination })
        })
    }

    /// False if the same binding (key, arguments, destination) was there.
    pub fn bind(&mut self, key: &str, arguments: &Arguments, destination: D) -> bool {
        let key: Arc<str> = key.into();
        let all = self.bindings.entry((Arc::clone(&key), destination.clone())).or_default();
        if all.iter().any(|old| arguments::same_arguments(old, arguments)) {
            return false;
        }
        all.push(arguments.clone());
        self.len += 1;
        if all.len() == 1 {
            if self.spec.kind == ExchangeKind::Topic {
                self.patterns.insert(&pattern(&key), destination.clone());
            }
            self.by_key.entry(Arc::clone(&key)).or_default().insert(destination.clone());
            self.by_destination.entry(destination).or_default().insert(key);
        }
        true
    }

    /// False if there was no such binding.
    pub fn unbind(&mut self, key: &str, arguments: &Arguments, destination: &D) -> bool {
        let binding = (Arc::from(key), destination.clone());
        let Some(all) = self.bindings.get_mut(&binding) else { return false };
        let Some(at) = all.iter().position(|old| arguments::same_arguments(old, arguments)) else {
            return false;
        };
        all.remove(at);
        self.len -= 1;
        if all.is_empty() {
            self.bindings.remove(&binding);
            self.forget_key(key, destination);
            if let Some(keys) = self.by_destination.get_mut(destination) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_destination.remove(destination);
                }
            }
        }
        true
    }

    /// Removes all bindings to a destination; answers how many there were.
    pub fn remove_destination(&mut self, destination: &D) -> usize {
        let before = self.len;
        for key in self.by_destination.remove(destination).unwrap_or_default() {
            self.forget_key(&key, destination);
            if let Some(all) = self.bindings.remove(&(key, destination.clone())) {
                self.len -= all.len();
            }
        }
        before - self.len
    }

    fn forget_key(&mut self, key: &str, destination: &D) {
        if let Some(destinations) = self.by_key.get_mut(key) {
            destinations.remove(destination);
            if destinations.is_empty() {
                self.by_key.remove(key);
            }
        }
        if self.spec.kind == ExchangeKind::Topic {
            self.patterns.remove(&pattern(key), |bound| bound == destination);
        }
    }

    /// The destinations of a message, each once. `headers` is asked for a header by name, by exchanges of that kind only.
    pub fn route<'e>(
        &'e self,
        key: &str,
        headers: &dyn Fn(&str) -> Option<Value>,
        f: &mut impl FnMut(&'e D),
    ) {
        match self.spec.kind {
            ExchangeKind::Direct => {
                if let Some(destinations) = self.by_key.get(key) {
                    destinations.iter().for_each(f);
                }
            }
            ExchangeKind::Fanout => self.by_destination.keys().for_each(f),
            ExchangeKind::Topic => {
                let mut once = Once::default();
                self.patterns.matches(key, &mut |destination| once.pass(destination, f));
            }
            ExchangeKind::Headers => {
                let mut once = Once::default();
                for ((_, destination), all) in &self.bindings {
                    if all.iter().any(|arguments| arguments::headers_match(arguments, headers)) {
                        once.pass(destination, f);
                    }
                }
            }
        }
    }
}

/// The key of a topic exchange's binding in its own spelling: nothing is unescaped, so keys meet keys.
fn pattern(key: &str) -> Filter {
    let segments = key.split('.').map(|word| match word {
        "*" => Segment::One,
        "#" => Segment::Rest,
        _ => Segment::Word(word.into()),
    });
    Filter::new(segments.collect())
}

/// Lets each destination pass once; up to a few without allocating.
struct Once<'e, D> {
    few: [Option<&'e D>; 8],
    many: HashSet<&'e D>,
}

impl<D> Default for Once<'_, D> {
    fn default() -> Self {
        Self { few: [None; 8], many: HashSet::new() }
    }
}

impl<'e, D: Eq + Hash> Once<'e, D> {
    fn pass(&mut self, destination: &'e D, f: &mut impl FnMut(&'e D)) {
        for place in &mut self.few {
            match place {
                Some(seen) if *seen == destination => return,
                Some(_) => {}
                None => {
                    *place = Some(destination);
                    return f(destination);
                }
            }
        }
        if self.many.insert(destination) {
            f(destination);
        }
    }
}
