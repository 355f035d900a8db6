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

    /// Keys and arguments of all bindings to one destination.
    #[must_use]
    pub fn bindings_to(&self, destination: &D) -> Vec<(Arc<str>, Arguments)> {
        let keys = self.by_destination.get(destination).into_iter().flatten();
        keys.filter_map(|key| {
            let all = self.bindings.get(&(Arc::clone(key), destination.clone()))?;
            Some(all.iter().map(move |arguments| (Arc::clone(key), arguments.clone())))
        })
        .flatten()
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(kind: ExchangeKind) -> Exchange<&'static str> {
        Exchange::new(Arc::new(spec(kind)))
    }

    fn spec(kind: ExchangeKind) -> ExchangeSpec {
        ExchangeSpec {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
            arguments: Vec::new(),
        }
    }

    fn arguments(pairs: &[(&str, Value)]) -> Arguments {
        pairs.iter().map(|(name, value)| ((*name).into(), value.clone())).collect()
    }

    fn routed(exchange: &Exchange<&'static str>, key: &str, headers: &[(&str, Value)]) -> Vec<&'static str> {
        let header =
            |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let mut routed = Vec::new();
        exchange.route(key, &header, &mut |destination| routed.push(*destination));
        routed.sort_unstable();
        routed
    }

    fn check(kind: ExchangeKind, bindings: &[(&str, &'static str)], key: &str, expected: &[&str]) {
        let mut exchange = exchange(kind);
        for (key, destination) in bindings {
            assert!(exchange.bind(key, &Vec::new(), destination));
        }
        assert_eq!(routed(&exchange, key, &[]), expected);
    }

    #[test]
    fn by_kind() {
        let bindings = [("a.b", "q1"), ("a.*", "q1"), ("a.b", "q2"), ("#", "q3"), ("*.b.#", "q4")];
        check(ExchangeKind::Direct, &bindings, "a.b", &["q1", "q2"]);
        check(ExchangeKind::Direct, &bindings, "a.*", &["q1"]);
        check(ExchangeKind::Fanout, &bindings, "", &["q1", "q2", "q3", "q4"]);
        check(ExchangeKind::Topic, &bindings, "a.b", &["q1", "q2", "q3", "q4"]);
        check(ExchangeKind::Topic, &bindings, "$.b.c", &["q3", "q4"]);
        check(ExchangeKind::Topic, &bindings, "a/b", &["q3"]);
        check(ExchangeKind::Topic, &bindings, "", &["q3"]);
    }

    #[test]
    fn one_message_for_a_destination_with_many_patterns() {
        let mut exchange = exchange(ExchangeKind::Topic);
        let names: Vec<&'static str> = vec!["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        for name in &names {
            assert!(exchange.bind("#", &Vec::new(), name) && exchange.bind("*", &Vec::new(), name));
        }
        assert_eq!(routed(&exchange, "x", &[]), names);
    }

    #[test]
    fn bindings_are_told_apart_by_key_arguments_and_destination() {
        let mut exchange = exchange(ExchangeKind::Topic);
        let extra = arguments(&[("n", Value::U8(1))]);
        let same_extra = arguments(&[("n", Value::I64(1))]);
        assert!(exchange.bind("k", &Vec::new(), "q") && !exchange.bind("k", &Vec::new(), "q"));
        assert!(exchange.bind("k", &extra, "q") && !exchange.bind("k", &same_extra, "q"));
        assert!(exchange.bind("k", &Vec::new(), "r") && exchange.bind("l", &Vec::new(), "q"));
        assert_eq!((exchange.len(), exchange.bindings().count()), (4, 4));
        assert!(exchange.unbind("k", &same_extra, &"q") && !exchange.unbind("k", &extra, &"q"));
        assert_eq!(routed(&exchange, "k", &[]), ["q", "r"]);
        assert!(exchange.unbind("k", &Vec::new(), &"q") && !exchange.unbind("x", &Vec::new(), &"q"));
        assert_eq!(routed(&exchange, "k", &[]), ["r"]);
        assert_eq!((exchange.remove_destination(&"q"), exchange.remove_destination(&"q")), (1, 0));
        assert_eq!(exchange.remove_destination(&"r"), 1);
        assert!(exchange.is_empty() && exchange.by_key.is_empty() && exchange.by_destination.is_empty());
        assert!(exchange.bindings.is_empty() && exchange.patterns.is_empty());
    }

    fn check_headers(binding: &[(&str, Value)], headers: &[(&str, Value)], expected: bool) {
        let mut exchange = exchange(ExchangeKind::Headers);
        assert!(exchange.bind("", &arguments(binding), "q"));
        assert_eq!(
            routed(&exchange, "ignored", headers).len(),
            usize::from(expected),
            "{binding:?} {headers:?}"
        );
    }

    #[test]
    fn headers_all_and_any() {
        let (one, two) = (("a", Value::U8(1)), ("b", Value::from("x")));
        let rule = |rule| ("x-match", Value::from(rule));
        let both = [one.clone(), two.clone()];
        check_headers(&both, &both, true);
        check_headers(&both, std::slice::from_ref(&one), false);
        check_headers(&[rule("any"), one.clone(), two.clone()], std::slice::from_ref(&one), true);
        check_headers(&[rule("any"), one.clone(), two.clone()], &[("a", Value::U8(2))], false);
        check_headers(&[rule("all")], &[], true);
        check_headers(&[rule("any")], std::slice::from_ref(&one), false);
        // By value: another width, bytes for text; null asks for presence.
        check_headers(&both, &[("a", Value::I64(1)), ("b", Value::Symbol("x".into()))], true);
        check_headers(&[("a", Value::Null)], std::slice::from_ref(&one), true);
        check_headers(&[("a", Value::Null)], std::slice::from_ref(&two), false);
        // Names with x- count only if asked for.
        let x = ("x-y", Value::Bool(true));
        check_headers(&[rule("all"), one.clone(), x.clone()], std::slice::from_ref(&one), true);
        check_headers(&[rule("all-with-x"), one.clone(), x.clone()], std::slice::from_ref(&one), false);
        check_headers(&[rule("any"), x.clone()], std::slice::from_ref(&x), false);
        check_headers(&[rule("any-with-x"), one, x.clone()], std::slice::from_ref(&x), true);
        check_headers(&[rule("some")], &[], false);
        assert!(check_headers_rule(&arguments(&[rule("some")])).is_err_and(|text| text.contains("'some'")));
        assert_eq!(check_headers_rule(&arguments(&[rule("any-with-x")])), Ok(()));
    }

    #[test]
    fn values_are_equal_by_what_they_mean() {
        let map = |pairs: &[(&str, i64)]| {
            Value::Map(pairs.iter().map(|(key, n)| (Value::from(*key), Value::I64(*n))).collect())
        };
        assert!(same_value(&Value::U64(u64::MAX), &Value::U64(u64::MAX)));
        assert!(!same_value(&Value::U64(u64::MAX), &Value::I64(-1)));
        assert!(
            same_value(&Value::F32(0.5), &Value::F64(0.5)) && !same_value(&Value::F32(1.0), &Value::U8(1))
        );
        assert!(same_value(&map(&[("a", 1), ("b", 2)]), &map(&[("b", 2), ("a", 1)])));
        assert!(!same_value(&map(&[("a", 1)]), &map(&[("a", 2)])));
        assert!(same_value(&Value::List(vec![Value::U8(1)]), &Value::Array(vec![Value::I8(1)])));
        assert!(!same_value(&Value::from("1"), &Value::U8(1)));
    }

    #[test]
    fn declared_again() {
        let current = spec(ExchangeKind::Direct);
        assert_eq!(current.same_declaration(&current, "e", "/"), Ok(()));
        let other = ExchangeSpec { kind: ExchangeKind::Topic, ..current.clone() };
        let text =
            "inequivalent arg 'type' for exchange 'e' in vhost '/': received 'topic' but current is 'direct'";
        assert_eq!(current.same_declaration(&other, "e", "/"), Err(text.to_owned()));
        let other = ExchangeSpec { internal: true, ..current.clone() };
        assert!(current.same_declaration(&other, "e", "/").is_err());
    }
}
