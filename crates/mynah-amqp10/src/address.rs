//! Addresses of nodes: from the text of a source, target, `to` or `reply-to` to the core's address space, and back.
//!
//! Spellings of several brokers lead to the same place, so that their clients work unchanged:
//!
//! | text | node |
//! |---|---|
//! | `q`, `/queues/q`, `/queue/q`, `/amq/queue/q`, `queue://q`, capability `queue` | queue `q` |
//! | `/topics/a/b`, `/topic/a.b`, `topic://a.b`, capability `topic` | topic `a/b` |
//! | `/exchanges/e/k`, `/exchange/e/k` | exchange `e`, key `k` |
//! | `p2p/c`, `/p2p/c` | client `c` |
//!
//! Names of queues and exchanges after a slash are percent-encoded. In topics both `.` and `/` separate words; a word that
//! contains a dot is written with `%2E`. Sources may have wildcards: `*` or `+` for a word, `#` or `>` for the rest.

use std::borrow::Cow;
use std::fmt::Write as _;

use mynah_core::limits::TOPIC_WORDS_MAX;
use mynah_core::{Address, AddressRef, Filter, FilterError, words};

/// What a capability of a terminus says about its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hint {
    #[default]
    None,
    Queue,
    Topic,
}

impl Hint {
    pub(crate) fn of(capabilities: &[&str]) -> Self {
        let has = |name: &str, other: &str| capabilities.iter().any(|c| *c == name || *c == other);
        if has("topic", "temporary-topic") {
            Self::Topic
        } else if has("queue", "temporary-queue") {
            Self::Queue
        } else {
            Self::None
        }
    }
}

/// A node as its address names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node<'a> {
    Queue(Cow<'a, str>),
    /// The words as they were written, separators and wildcards included.
    Topic(&'a str),
    /// Without a key: the message's subject is the key.
    Exchange {
        name: Cow<'a, str>,
        key: Option<Cow<'a, str>>,
    },
    Client(Cow<'a, str>),
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "the address is empty; write a queue's name, /queues/<name>, /topics/<a>/<b> or /exchanges/<name>/<key>"
    )]
    Empty,
    #[error("an address that begins with a slash must be /queues/..., /topics/... or /exchanges/...")]
    Unknown,
    #[error("only a source may have wildcards")]
    Wildcard,
    #[error("an address must not contain NUL")]
    Nul,
    #[error("an address may have at most 8192 bytes")]
    TooLong,
    #[error("the topic has too many words")]
    TooManyWords,
}

/// Bytes of an address: links are many and each keeps its own.
const ADDRESS_BYTES_MAX: usize = 8 * 1024;

impl<'a> Node<'a> {
    pub(crate) fn parse(text: &'a str, hint: Hint) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        if text.contains('\0') {
            return Err(AddressError::Nul);
        }
        let node = Self::of(text, hint).ok_or(AddressError::Unknown)?;
        let empty = match &node {
            Self::Queue(name) | Self::Client(name) => name.is_empty(),
            Self::Topic(words) => words.is_empty(),
            Self::Exchange { .. } => false,
        };
        if empty { Err(AddressError::Empty) } else { Ok(node) }
    }

    fn of(text: &'a str, hint: Hint) -> Option<Self> {
        let queue = |name| Some(Self::Queue(percent_decoded(name)));
        for prefix in ["/queues/", "/queue/", "/amq/queue/"] {
            if let Some(name) = text.strip_prefix(prefix) {
                return queue(name);
            }
        }
        for prefix in ["/topics/", "/topic/", "topic://", "temp-topic://"] {
            if let Some(words) = text.strip_prefix(prefix) {
                return Some(Self::Topic(words));
            }
        }
        for prefix in ["/exchanges/", "/exchange/"] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (name, key) = match rest.split_once('/') {
                    Some((name, key)) => (name, Some(percent_decoded(key))),
                    None => (rest, None),
                };
                return Some(Self::Exchange { name: percent_decoded(name), key });
            }
        }
        for prefix in ["queue://", "temp-queue://"] {
            if let Some(name) = text.strip_prefix(prefix) {
                return Some(Self::Queue(name.into()));
            }
        }
        if let Some(id) = text.strip_prefix("p2p/").or_else(|| text.strip_prefix("/p2p/")) {
            return Some(Self::Client(percent_decoded(id)));
        }
        match hint {
            Hint::Topic => Some(Self::Topic(text)),
            Hint::Queue => Some(Self::Queue(text.into())),
            Hint::None if text.starts_with('/') => None,
            Hint::None => Some(Self::Queue(text.into())),
        }
    }

    /// Where a message sent here goes; `subject` is the key of an exchange that was named without one.
    pub(crate) fn address(&self, subject: &str) -> Result<Address, AddressError> {
        Ok(match self {
            Self::Queue(name) => Address::Queue(name.as_ref().into()),
            Self::Topic(words) => Address::Topic(topic(words)?.into()),
            Self::Exchange { name, key } => Address::Exchange {
                name: name.as_ref().into(),
                key: key.as_deref().unwrap_or(subject).into(),
            },
            Self::Client(id) => Address::Client(id.as_ref().into()),
        })
    }
}

/// The core form of a topic that is sent to.
fn topic(written: &str) -> Result<String, AddressError> {
    let mut words = written.split(['/', '.']);
    if words.clone().any(|word| matches!(word, "+" | "#")) {
        return Err(AddressError::Wildcard);
    }
    if words.nth(TOPIC_WORDS_MAX).is_some() {
        return Err(AddressError::TooManyWords);
    }
    Ok(words::core_from_mixed(written).into_owned())
}

/// What a source's words match.
pub(crate) fn filter(written: &str) -> Result<Filter, AddressError> {
    if written.split(['/', '.']).nth(TOPIC_WORDS_MAX).is_some() {
        return Err(AddressError::TooManyWords);
    }
    words::filter_from_mixed(written).map_err(|error| match error {
        FilterError::Empty => AddressError::Empty,
        FilterError::Nul => AddressError::Nul,
        FilterError::WildcardInWord | FilterError::RestNotLast => AddressError::Wildcard,
    })
}

/// The text by which any client of this broker reaches an address.
pub(crate) fn text_of(address: AddressRef<'_>) -> String {
    let mut text = String::new();
    match address {
        AddressRef::Queue(name) => {
            text.push_str("/queues/");
            percent_encode(&mut text, name);
        }
        AddressRef::Topic(topic) => {
            text.push_str("/topics");
            for word in topic.split('/') {
                text.push('/');
                text.push_str(&words::mixed_from_core(word));
            }
        }
        AddressRef::Exchange { name, key } => {
            text.push_str("/exchanges/");
            percent_encode(&mut text, name);
            text.push('/');
            percent_encode(&mut text, key);
        }
        AddressRef::Client(id) => {
            text.push_str("p2p/");
            percent_encode(&mut text, id);
        }
    }
    text
}

/// Everything but the unreserved characters [RFC 3986 2.3].
fn percent_encode(text: &mut String, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// Decodes `%XX`; what is not one, or does not make UTF-8, stays as it is.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let decoded = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|pair| (pair, after)),
            _ => None,
        };
        match decoded {
            Some(((high, low), after)) => {
                bytes.push(high * 16 + low);
                rest = after;
            }
            None => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, hint: Hint, expected: &str) {
        let found = Node::parse(text, hint).and_then(|node| node.address("subject"));
        let found = found.map_or_else(|error| format!("{error:?}"), |address| address.to_string());
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_spellings() {
        check("q", Hint::None, "queue:q");
        check("/queues/a%2Fb", Hint::None, "queue:a/b");
        check("/queue/q", Hint::None, "queue:q");
        check("/amq/queue/q", Hint::None, "queue:q");
        check("queue://q.x", Hint::None, "queue:q.x");
        check("a.b", Hint::Queue, "queue:a.b");
        check("a.b", Hint::Topic, "topic:a/b");
        check("/topics/a/b.c", Hint::None, "topic:a/b/c");
        check("/topics/room%2E2/t", Hint::None, "topic:room.2/t");
        check("topic://a.b", Hint::None, "topic:a/b");
        check("/topic/a.b", Hint::None, "topic:a/b");
        check("/exchanges/e/k%2F1", Hint::None, "exchange:e:k/1");
        check("/exchanges/e", Hint::None, "exchange:e:subject");
        check("/exchange/e/k.2", Hint::None, "exchange:e:k.2");
        check("p2p/client-7", Hint::None, "client:client-7");
    }

    #[test]
    fn what_is_no_address() {
        check("", Hint::None, "Empty");
        check("/queues/", Hint::None, "Empty");
        check("/topcis/a", Hint::None, "Unknown");
        check("/topics/a/#", Hint::None, "Wildcard");
        check("a\0b", Hint::None, "Nul");
    }

    #[test]
    fn what_is_written_reads_back() {
        let check = |address: AddressRef<'_>| {
            let text = text_of(address);
            let back = Node::parse(&text, Hint::None).unwrap().address("").unwrap();
            assert_eq!(back.as_ref(), address, "{text}");
        };
        check(AddressRef::Queue("a b/ü%2F"));
        check(AddressRef::Topic("room.2//x%2Fy/*/>"));
        check(AddressRef::Exchange { name: "", key: "q/1" });
        check(AddressRef::Exchange { name: "e/2", key: "" });
        check(AddressRef::Client("c 1"));
    }

    #[test]
    fn wildcards_of_sources() {
        assert_eq!(filter("a/*/+.#").unwrap().to_string(), "a/+/+/#");
        assert_eq!(filter("a.>").unwrap().to_string(), "a/#");
        assert_eq!(filter("").unwrap_err(), AddressError::Empty);
    }
}
