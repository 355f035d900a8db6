//! Destinations: the words other brokers taught STOMP's clients, for the one address space of DESIGN section 5.
//!
//! | destination | what it is |
//! |---|---|
//! | `/topic/a.b`, `/topic/a/b` | a topic; `*` `+` one word, `#` `>` the rest |
//! | `/queue/q`, and a bare name | a queue, made on first use; `%2F` is a `/` |
//! | `/amq/queue/q` | a queue that must exist |
//! | `/reply-queue/q` | a queue replies go to; it does not matter if it is gone |
//! | `/temp-queue/x` | a queue of this connection |
//! | `/exchange/e`, `/exchange/e/k` | an exchange and the key |
//! | `/p2p/c` | one client, by client identifier |

use std::borrow::Cow;

use mynah_core::limits::TOPIC_WORDS_MAX;
use mynah_core::{Address, AddressRef, Filter, words};

use crate::reason::Fault;

const FORMS: &str = "/topic/<words>, /queue/<name>, /amq/queue/<name>, /reply-queue/<name>, /temp-queue/<name>, \
                     /exchange/<name>[/<key>], /p2p/<client id>, or a bare name for a queue";

/// A destination, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination<'a> {
    /// As it was written.
    Topic(&'a str),
    Queue(Cow<'a, str>),
    ExistingQueue(Cow<'a, str>),
    ReplyQueue(Cow<'a, str>),
    TempQueue(&'a str),
    Exchange {
        name: Cow<'a, str>,
        key: Cow<'a, str>,
    },
    Client(&'a str),
}

/// How a subscriber separates words, for destinations it did not write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Dots,
    Slashes,
}

impl Style {
    /// As in this topic.
    pub(crate) fn of(topic: &str) -> Self {
        if topic.contains('/') && !topic.contains('.') { Self::Slashes } else { Self::Dots }
    }
}

impl<'a> Destination<'a> {
    /// # Errors
    /// It has none of the known forms, or no name.
    pub(crate) fn parse(text: &'a str, name_bytes_max: usize) -> Result<Self, Fault> {
        let bad = |expected: &str| Err(Fault::bad_value("destination", text, expected));
        if text.len() > name_bytes_max {
            let expected = format!("at most {name_bytes_max} bytes");
            return bad(&expected);
        }
        if text.contains('\0') {
            return bad("a name without NUL");
        }
        if text.starts_with(' ') {
            return bad("no blank after the colon: since STOMP 1.1 it belongs to the value");
        }
        let destination = if let Some(words) = text.strip_prefix("/topic/") {
            if words.split(['.', '/']).count() > TOPIC_WORDS_MAX {
                let expected = format!("at most {TOPIC_WORDS_MAX} words in a topic");
                return bad(&expected);
            }
            Self::Topic(words)
        } else if let Some(name) = text.strip_prefix("/queue/") {
            Self::Queue(unescaped(name))
        } else if let Some(name) = text.strip_prefix("/amq/queue/") {
            Self::ExistingQueue(unescaped(name))
        } else if let Some(name) = text.strip_prefix("/reply-queue/") {
            Self::ReplyQueue(unescaped(name))
        } else if let Some(name) = text.strip_prefix("/temp-queue/") {
            Self::TempQueue(name)
        } else if let Some(rest) = text.strip_prefix("/exchange/") {
            let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
            Self::Exchange { name: unescaped(name), key: unescaped(key) }
        } else if let Some(id) = text.strip_prefix("/p2p/") {
            Self::Client(id)
        } else if text.starts_with('/') {
            return bad(FORMS);
        } else {
            Self::Queue(Cow::Borrowed(text))
        };
        if destination.name().is_empty() {
            return bad("a name behind the prefix");
        }
        Ok(destination)
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Topic(name) | Self::TempQueue(name) | Self::Client(name) => name,
            Self::Queue(name) | Self::ExistingQueue(name) | Self::ReplyQueue(name) => name,
            Self::Exchange { name, .. } => name,
        }
    }

    /// Where a SEND goes; `None` for a temporary queue, which its connection must resolve.
    ///
    /// # Errors
    /// A topic with wildcards names no place to send to.
    pub(crate) fn address(&self) -> Result<Option<Address>, Fault> {
        Ok(Some(match self {
            Self::Topic(words) => Address::Topic(topic(words)?.as_ref().into()),
            Self::Queue(name) | Self::ExistingQueue(name) | Self::ReplyQueue(name) => {
                Address::Queue(name.as_ref().into())
            }
            Self::Exchange { name, key } => {
                Address::Exchange { name: name.as_ref().into(), key: key.as_ref().into() }
            }
            Self::Client(id) => Address::Client((*id).into()),
            Self::TempQueue(_) => return Ok(None),
        }))
    }
}

/// A topic without wildcards in the core's form.
fn topic(words: &str) -> Result<Cow<'_, str>, Fault> {
    let wildcard = |word| matches!(word, "*" | "+" | "#" | ">");
    if words.split(['.', '/']).any(wildcard) {
        let expected = "a topic without wildcards, as a message is sent to one topic; they are for SUBSCRIBE";
        return Err(Fault::bad_value("destination", words, expected));
    }
    Ok(words::core_from_mixed(words))
}

/// A topic filter in the core's form.
///
/// # Errors
/// It cannot be a filter.
pub(crate) fn filter(words: &str) -> Result<Filter, Fault> {
    words::filter_from_mixed(words)
        .map_err(|error| Fault::bad_value("destination", words, &error.to_string()))
}

/// The destination that leads to an address.
pub(crate) fn text_of(address: AddressRef<'_>, style: Style) -> String {
    match address {
        AddressRef::Topic(topic) => {
            let words = words::mixed_from_core(topic);
            match style {
                Style::Dots => format!("/topic/{words}"),
                Style::Slashes => format!("/topic/{}", words.replace('.', "/")),
            }
        }
        // Names the broker made up belong to somebody who waits for replies: sending there must not create a queue.
        AddressRef::Queue(name) if name.starts_with("amq.") => reply_queue(name),
        AddressRef::Queue(name) => format!("/queue/{}", escaped(name)),
        AddressRef::Exchange { name, key: "" } => format!("/exchange/{}", escaped(name)),
        AddressRef::Exchange { name, key } => format!("/exchange/{}/{}", escaped(name), escaped(key)),
        AddressRef::Client(id) => format!("/p2p/{id}"),
    }
}

/// The destination for replies to a queue that may be gone when they come.
pub(crate) fn reply_queue(name: &str) -> String {
    format!("/reply-queue/{}", escaped(name))
}

/// `%2F` and the like; a percent sign that begins no escape stays.
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    // Escapes that are no UTF-8 are no names.
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
}

fn escaped(name: &str) -> Cow<'_, str> {
    if !name.contains(['/', '%']) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replace('%', "%25").replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, address: &str) {
        let destination = Destination::parse(text, 1000).unwrap();
        assert_eq!(destination.address().unwrap().unwrap().to_string(), address, "{text}");
    }

    #[test]
    fn where_a_destination_leads() {
        check("/topic/a.b", "topic:a/b");
        check("/topic/a/b", "topic:a/b");
        check("/queue/q", "queue:q");
        check("/queue/a%2Fb", "queue:a/b");
        check("/queue/100%", "queue:100%");
        check("/amq/queue/q", "queue:q");
        check("/reply-queue/amq.gen-1", "queue:amq.gen-1");
        check("/exchange/e", "exchange:e:");
        check("/exchange/e/k.l", "exchange:e:k.l");
        check("/exchange/e/a/b", "exchange:e:a/b");
        check("/p2p/device-7", "client:device-7");
        check("jobs", "queue:jobs");
    }

    #[test]
    fn what_is_no_destination() {
        let check = |text: &str| assert!(Destination::parse(text, 20).is_err(), "{text}");
        check("");
        check("/queue/");
        check("/topic/");
        check("/exchange/");
        check("/exchange//k");
        check("/quue/a");
        check(" /queue/a");
        check("/queue/0123456789abcdef");
        let deep = |words: usize| format!("/topic/{}", vec!["w"; words].join("."));
        assert!(Destination::parse(&deep(128), 1000).is_ok());
        assert!(Destination::parse(&deep(129), 1000).is_err());
        for text in ["/topic/a.*", "/topic/a.#", "/topic/a/+/b", "/topic/>"] {
            assert!(Destination::parse(text, 20).unwrap().address().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_come_back() {
        let check = |address, text: &str| {
            assert_eq!(text_of(address, Style::Dots), text);
            let destination = Destination::parse(text, 1000).unwrap();
            assert_eq!(destination.address().unwrap().unwrap().as_ref(), address, "{text}");
        };
        check(AddressRef::Topic("a/b.c"), "/topic/a.b%2Ec");
        check(AddressRef::Queue("a/b%"), "/queue/a%2Fb%25");
        check(AddressRef::Queue("amq.gen-x"), "/reply-queue/amq.gen-x");
        check(AddressRef::Exchange { name: "e", key: "k/l" }, "/exchange/e/k%2Fl");
        check(AddressRef::Exchange { name: "e", key: "" }, "/exchange/e");
        check(AddressRef::Client("c"), "/p2p/c");
        assert_eq!(text_of(AddressRef::Topic("a/b.c"), Style::Slashes), "/topic/a/b%2Ec");
    }
}
