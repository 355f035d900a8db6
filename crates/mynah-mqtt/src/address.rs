//! Topic names as addresses and back (DESIGN section 5).
//!
//! `$queue/q`, `$exchange/e/k` and `$P2P/id` are addresses of their own; everything else is a topic as it stands. What
//! cannot stand in a topic name, but in a word of another protocol, is escaped, and an escape that was there already is
//! escaped once more, so that every text has one other form and comes back as it was:
//!
//! | core | MQTT |
//! |---|---|
//! | `+`, `#` | `%2B`, `%23` |
//! | `%2B`, `%252B` ... | `%252B`, `%25252B` ... |
//! | U+0000 | `%00`, one way only |
//!
//! Never: splits a topic into words; the core form has MQTT's own separator.

use std::borrow::Cow;

use mynah_core::AddressRef;

use crate::codec::primitive::{FIELD_BYTES_MAX, has_escapable, has_percent};
use crate::codec::publish::P2P_LITERAL;
use crate::reason::{Fault, Reason};

pub(crate) const QUEUE: &str = "$queue/";
const EXCHANGE: &str = "$exchange/";
const P2P: &str = "$P2P/";
const DELAYED: &str = "$delayed/";
/// Before a client's identifier: where it is answered, and nobody else may subscribe.
pub(crate) const RESPONSE: &str = "$response/";
const SYS: &str = "$SYS";

/// Whether a valid topic is its own address where no mount point is: no `$` address, no escape, and there is one.
#[inline]
pub(crate) fn is_plain(topic: &str) -> bool {
    !matches!(topic.as_bytes().first(), None | Some(b'$' | b'#')) && !has_percent(topic.as_bytes())
}

/// Where a PUBLISH goes. The topic is valid and not empty.
///
/// # Errors
/// 0x90 for a `$` address without a name; 0x87 for `$SYS`, which is the broker's.
#[inline]
pub(crate) fn address_of(topic: &str) -> Result<AddressRef<'_>, Fault> {
    match topic.as_bytes().first() {
        Some(b'$' | b'#') => special_address(topic),
        _ => Ok(AddressRef::Topic(topic)),
    }
}

/// The topic behind `$delayed/<seconds>/`, and the milliseconds to wait before it is published; 0 for any other topic.
///
/// # Errors
/// 0x90 if the seconds are not a number of 32 bits, or no topic follows.
#[inline]
pub(crate) fn delayed(topic: &str) -> Result<(&str, u64), Fault> {
    match topic.strip_prefix(DELAYED) {
        None => Ok((topic, 0)),
        Some(rest) => {
            let (seconds, topic) = rest.split_once('/').unwrap_or((rest, ""));
            let is_number = seconds.bytes().all(|digit| digit.is_ascii_digit());
            match seconds.parse::<u32>() {
                Ok(seconds) if is_number && !topic.is_empty() => Ok((topic, u64::from(seconds) * 1000)),
                _ => Err(Fault::new(Reason::TOPIC_INVALID, "$delayed/<seconds>/<topic> is not well formed")),
            }
        }
    }
}

/// A topic or filter below the listener's mount point; `$` addresses stay where they are.
#[inline]
pub(crate) fn mounted<'a>(mount_point: &str, topic: Cow<'a, str>) -> Cow<'a, str> {
    if mount_point.is_empty() || topic.starts_with('$') {
        return topic;
    }
    Cow::Owned([mount_point, &topic].concat())
}

fn special_address(topic: &str) -> Result<AddressRef<'_>, Fault> {
    if topic.strip_prefix(SYS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(Fault::new(Reason::NOT_AUTHORIZED, "$SYS is published by the broker alone"));
    }
    let named = |name, address| match name {
        "" => Err(Fault::new(Reason::TOPIC_INVALID, "the name after the prefix is missing")),
        _ => Ok(address),
    };
    if let Some(name) = topic.strip_prefix(QUEUE) {
        return named(name, AddressRef::Queue(name));
    }
    if let Some(client) = topic.strip_prefix(P2P).or_else(|| topic.strip_prefix(P2P_LITERAL)) {
        return named(client, AddressRef::Client(client));
    }
    if let Some(rest) = topic.strip_prefix(EXCHANGE) {
        let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
        return named(name, AddressRef::Exchange { name, key });
    }
    Ok(AddressRef::Topic(topic))
}

/// The topic name under which a receiver sees an address; `None` if there is none: empty, or too long.
#[inline]
pub(crate) fn topic_of(address: AddressRef<'_>) -> Option<Cow<'_, str>> {
    let topic = if let AddressRef::Topic(topic) = address
        && !has_escapable(topic.as_bytes())
    {
        Cow::Borrowed(topic)
    } else {
        Cow::Owned(special_topic(address))
    };
    (1..=FIELD_BYTES_MAX).contains(&topic.len()).then_some(topic)
}

#[cold]
fn special_topic(address: AddressRef<'_>) -> String {
    match address {
        AddressRef::Topic(topic) => escaped(topic),
        AddressRef::Queue(name) => [QUEUE, &escaped(name)].concat(),
        AddressRef::Exchange { name, key } => [EXCHANGE, &escaped(name), "/", &escaped(key)].concat(),
        AddressRef::Client(id) => [P2P, &escaped(id)].concat(),
    }
}

/// What stands behind a `%`: so many times `25`, then an escape of ours; its length.
fn escape_at(rest: &str) -> Option<(usize, char, usize)> {
    let mut tail = rest;
    let mut depth = 0;
    while let Some(shorter) = tail.strip_prefix("25") {
        depth += 1;
        tail = shorter;
    }
    let meant = match tail.get(..2)? {
        "2B" => '+',
        "23" => '#',
        _ => return None,
    };
    Some((depth, meant, 2 * depth + 2))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '+' => out.push_str("%2B"),
            '#' => out.push_str("%23"),
            '\0' => out.push_str("%00"),
            '%' if escape_at(rest).is_some() => out.push_str("%25"),
            _ => out.push(c),
        }
    }
    out
}

/// A topic, name or word of MQTT in core form.
#[inline]
pub(crate) fn unescaped(text: &str) -> Cow<'_, str> {
    if has_percent(text.as_bytes()) { unescaped_slowly(text) } else { Cow::Borrowed(text) }
}

#[cold]
fn unescaped_slowly(text: &str) -> Cow<'_, str> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        match escape_at(after) {
            Some((0, meant, len)) => {
                out.push(meant);
                rest = after.get(len..).unwrap_or_default();
            }
            Some((_, _, len)) => {
                out.push('%');
                // One `25` less.
                out.push_str(after.get(2..len).unwrap_or_default());
                rest = after.get(len..).unwrap_or_default();
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (topic, address) in [
            ("a/b", AddressRef::Topic("a/b")),
            ("/", AddressRef::Topic("/")),
            ("$queue/q", AddressRef::Queue("q")),
            ("$queue/a/b", AddressRef::Queue("a/b")),
            ("$exchange/e/a.b.c", AddressRef::Exchange { name: "e", key: "a.b.c" }),
            ("$exchange/e/a/b", AddressRef::Exchange { name: "e", key: "a/b" }),
            ("$P2P/client", AddressRef::Client("client")),
            ("$SYSTEM/x", AddressRef::Topic("$SYSTEM/x")),
        ] {
            assert_eq!(address_of(topic).unwrap(), address);
            assert_eq!(topic_of(address).unwrap(), topic);
        }
        assert_eq!(address_of("#P2P/client").unwrap(), AddressRef::Client("client"));
        assert_eq!(address_of("$SYS/x").unwrap_err().reason, Reason::NOT_AUTHORIZED);
        assert_eq!(address_of("$queue/").unwrap_err().reason, Reason::TOPIC_INVALID);
        assert_eq!(address_of("$exchange//k").unwrap_err().reason, Reason::TOPIC_INVALID);
    }

    #[test]
    fn topics_with_a_delay() {
        assert_eq!(delayed("a/b").unwrap(), ("a/b", 0));
        assert_eq!(delayed("$delayed").unwrap(), ("$delayed", 0));
        assert_eq!(delayed("$delayed/0/a").unwrap(), ("a", 0));
        assert_eq!(delayed("$delayed/15/a/b").unwrap(), ("a/b", 15_000));
        assert_eq!(delayed("$delayed/4294967295/$queue/q").unwrap(), ("$queue/q", 4_294_967_295_000));
        for topic in ["", "5", "5/", "/a", "x/a", "+5/a", "-1/a", "1.5/a", "4294967296/a"] {
            assert_eq!(delayed(&[DELAYED, topic].concat()).unwrap_err().reason, Reason::TOPIC_INVALID);
        }
    }

    #[test]
    fn words_that_cannot_stand_in_a_topic() {
        assert_eq!(topic_of(AddressRef::Topic("a/c++/#1")).unwrap(), "a/c%2B%2B/%231");
        for (core, mqtt) in [
            ("50%", "50%"),
            ("a%2Fb%25", "a%2Fb%25"),
            ("c++", "c%2B%2B"),
            ("c%2B+", "c%252B%2B"),
            ("%252B%23", "%25252B%2523"),
            ("%2b", "%2b"),
            ("ä%€%2", "ä%€%2"),
        ] {
            assert_eq!(topic_of(AddressRef::Topic(core)).unwrap(), mqtt);
            assert_eq!(unescaped(mqtt), core);
        }
        assert_eq!(topic_of(AddressRef::Queue("a+b")).unwrap(), "$queue/a%2Bb");
        assert_eq!(address_of(&unescaped("$queue/a%2Bb")).unwrap(), AddressRef::Queue("a+b"));
        assert_eq!(topic_of(AddressRef::Topic("")), None);
        assert_eq!(topic_of(AddressRef::Topic(&"x".repeat(65_536))), None);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_text_has_one_other_form(text in "[%2350Bb+#aé/]{1,12}") {
            let escape = escaped(&text);
            prop_assert!(!escape.contains(['+', '#']));
            prop_assert_eq!(unescaped(&escape), text);
        }

        #[test]
        fn mqtt_to_mqtt_is_identical(text in "[%2350Bbaé/]{1,12}") {
            let core = unescaped(&text);
            let back = topic_of(AddressRef::Topic(&core)).map(|topic| topic.into_owned());
            prop_assert_eq!(back.as_deref(), Some(text.as_str()));
        }
    }
}
