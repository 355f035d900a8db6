//! The separators at the protocols' edges: core topics are words joined by `/`; some protocols join them by `.`.
//!
//! A word that contains the other separator is escaped, and an escape that was there already is escaped once more, so
//! that every text has exactly one other form and comes back as it was:
//!
//! | core | dotted | mixed |
//! |---|---|---|
//! | `/` | `.` | out `.`, in `.` or `/` |
//! | `.` | `%2E` | `%2E` |
//! | `%2E`, `%252E` ... | `%252E`, `%25252E` ... | the same |
//! | `%2F` | `/` | `%2F` |
//! | `%252F`, `%25252F` ... | `%2F`, `%252F` ... | unchanged |
//!
//! Never: wildcards in topics; filters are split into words before.

use std::borrow::Cow;

use crate::filter::{Filter, FilterError, Segment};

/// What stands at one place of a text.
enum Token {
    Slash,
    Dot,
    /// `%`, so many times `25`, `2E`.
    Dots(usize),
    /// `%`, so many times `25`, `2F`.
    Slashes(usize),
}

/// The first token and the texts around it.
fn next_token(text: &str) -> Option<(&str, Token, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find(['/', '.', '%'])?;
        let (before, rest) = text.split_at_checked(at)?;
        if let Some(after) = rest.strip_prefix('/') {
            return Some((before, Token::Slash, after));
        }
        if let Some(after) = rest.strip_prefix('.') {
            return Some((before, Token::Dot, after));
        }
        let mut tail = rest.strip_prefix('%')?;
        let mut depth = 0;
        while let Some(shorter) = tail.strip_prefix("25") {
            depth += 1;
            tail = shorter;
        }
        if let Some(after) = tail.strip_prefix("2E") {
            return Some((before, Token::Dots(depth), after));
        }
        if let Some(after) = tail.strip_prefix("2F") {
            return Some((before, Token::Slashes(depth), after));
        }
        from = at + 1;
    }
}

/// Rewrites every token.
fn rewritten(text: &str, replace: impl Fn(Token, &mut String)) -> Cow<'_, str> {
    let mut rest = text;
    let mut out = String::new();
    while let Some((before, token, after)) = next_token(rest) {
        if out.is_empty() {
            out.reserve(text.len() + 8);
        }
        out.push_str(before);
        replace(token, &mut out);
        rest = after;
    }
    // Every token leaves something behind, so nothing written means none was met.
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn escape(out: &mut String, depth: usize, end: &str) {
    out.push('%');
    for _ in 0..depth {
        out.push_str("25");
    }
    out.push_str(end);
}

/// A core topic as a key with dots.
#[must_use]
pub fn dotted_from_core(core: &str) -> Cow<'_, str> {
    rewritten(core, |token, out| match token {
        Token::Slash => out.push('.'),
        Token::Dot => escape(out, 0, "2E"),
        Token::Dots(depth) => escape(out, depth + 1, "2E"),
        Token::Slashes(0) => out.push('/'),
        Token::Slashes(depth) => escape(out, depth - 1, "2F"),
    })
}

/// A key with dots as a core topic; the inverse of [`dotted_from_core`].
#[must_use]
pub fn core_from_dotted(dotted: &str) -> Cow<'_, str> {
    rewritten(dotted, |token, out| match token {
        Token::Dot => out.push('/'),
        Token::Dots(0) => out.push('.'),
        Token::Dots(depth) => escape(out, depth - 1, "2E"),
        Token::Slash => escape(out, 0, "2F"),
        Token::Slashes(depth) => escape(out, depth + 1, "2F"),
    })
}

/// A core topic for protocols that take both separators: dots, and a slash within a word stays escaped.
#[must_use]
pub fn mixed_from_core(core: &str) -> Cow<'_, str> {
    rewritten(core, |token, out| match token {
        Token::Slash => out.push('.'),
        Token::Dot => escape(out, 0, "2E"),
        Token::Dots(depth) => escape(out, depth + 1, "2E"),
        Token::Slashes(depth) => escape(out, depth, "2F"),
    })
}

/// A topic with either separator as a core topic. Gives back what [`mixed_from_core`] was given.
#[must_use]
pub fn core_from_mixed(mixed: &str) -> Cow<'_, str> {
    if !mixed.contains(['.', '%']) {
        return Cow::Borrowed(mixed);
    }
    rewritten(mixed, |token, out| match token {
        Token::Dot | Token::Slash => out.push('/'),
        Token::Dots(0) => out.push('.'),
        Token::Dots(depth) => escape(out, depth - 1, "2E"),
        Token::Slashes(depth) => escape(out, depth, "2F"),
    })
}

/// A binding key: words by `.`, `*` one word, `#` the rest, which may stand anywhere.
///
/// # Errors
/// `Nul`. An empty key is one empty word.
pub fn filter_from_dotted(key: &str) -> Result<Filter, FilterError> {
    if key.contains('\0') {
        return Err(FilterError::Nul);
    }
    let segments = key.split('.').map(|word| match word {
        "*" => Segment::One,
        "#" => Segment::Rest,
        _ => Segment::Word(core_from_dotted(word).into()),
    });
    Ok(Filter::new(segments.collect()))
}

/// The binding key of a filter. A word that is itself `*` or `#`, which such keys cannot say, looks like a wildcard.
#[must_use]
pub fn filter_to_dotted(filter: &Filter) -> String {
    joined(filter, "*", dotted_from_core)
}

/// A pattern with either separator: `*` or `+` one word, `#` or `>` the rest, which may stand anywhere.
///
/// # Errors
/// `Empty`, `Nul`.
pub fn filter_from_mixed(text: &str) -> Result<Filter, FilterError> {
    if text.is_empty() {
        return Err(FilterError::Empty);
    }
    if text.contains('\0') {
        return Err(FilterError::Nul);
    }
    let segments = text.split(['.', '/']).map(|word| match word {
        "*" | "+" => Segment::One,
        "#" | ">" => Segment::Rest,
        _ => Segment::Word(core_from_mixed(word).into()),
    });
    Ok(Filter::new(segments.collect()))
}

/// The pattern of a filter, with dots, `*` and `#`.
#[must_use]
pub fn filter_to_mixed(filter: &Filter) -> String {
    joined(filter, "*", mixed_from_core)
}

fn joined(filter: &Filter, one: &str, from_core: fn(&str) -> Cow<'_, str>) -> String {
    let mut text = String::new();
    for (at, segment) in filter.segments().iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        match segment {
            Segment::Word(word) => text.push_str(&from_core(word)),
            Segment::One => text.push_str(one),
            Segment::Rest => text.push('#'),
        }
    }
    text
}

/// A core topic for receivers in whose topics `+` and `#` are not allowed [MQTT-3.3.2-2]: they become `%2B` and `%23`.
/// Other protocols may publish such words; this is one way, so that nobody's `%2B` is taken for a plus.
#[must_use]
pub fn without_wildcards(topic: &str) -> Cow<'_, str> {
    if topic.contains(['+', '#']) {
        Cow::Owned(topic.replace('+', "%2B").replace('#', "%23"))
    } else {
        Cow::Borrowed(topic)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(core: &str, dotted: &str, mixed: &str) {
        assert_eq!(dotted_from_core(core), dotted);
        assert_eq!(core_from_dotted(dotted), core);
        assert_eq!(mixed_from_core(core), mixed);
        assert_eq!(core_from_mixed(mixed), core);
    }

    #[test]
    fn the_table() {
        check("a/b", "a.b", "a.b");
        check("room.2/t", "room%2E2.t", "room%2E2.t");
        check("a%2Eb", "a%252Eb", "a%252Eb");
        check("a%252Eb", "a%25252Eb", "a%25252Eb");
        check("a%2Fb", "a/b", "a%2Fb");
        check("a%252Fb", "a%2Fb", "a%252Fb");
        check("100%/%25/%2e", "100%.%25.%2e", "100%.%25.%2e");
        check("/", ".", ".");
        check("", "", "");
        assert_eq!(core_from_mixed("a/b.c"), "a/b/c");
        assert_eq!(core_from_mixed("a/b/c%2F"), "a/b/c%2F");
    }

    #[test]
    fn nothing_is_copied_when_nothing_changes() {
        assert!(matches!(dotted_from_core("temperature%"), Cow::Borrowed(_)));
        assert!(matches!(core_from_dotted("temperature%25"), Cow::Borrowed(_)));
        assert!(matches!(core_from_mixed("a/b/c"), Cow::Borrowed(_)));
        assert!(matches!(without_wildcards("a/b"), Cow::Borrowed(_)));
    }

    #[test]
    fn binding_keys() {
        let filter = filter_from_dotted("a.*.#.x/y.room%2E2").unwrap();
        assert_eq!(filter.to_string(), "a/+/#/x%2Fy/room.2");
        assert_eq!(filter_to_dotted(&filter), "a.*.#.x/y.room%2E2");
        assert_eq!(filter_from_dotted("").unwrap(), Filter::exact(""));
        assert_eq!(filter_from_dotted("a\0"), Err(FilterError::Nul));
        assert!(filter_from_dotted("#.b").unwrap().matches(&core_from_dotted("x.a.b")));
    }

    #[test]
    fn patterns_with_either_separator() {
        let filter = filter_from_mixed("a/*.+.b%2E/>").unwrap();
        assert_eq!(filter.to_string(), "a/+/+/b./#");
        assert_eq!(filter_to_mixed(&filter), "a.*.*.b%2E.#");
        assert_eq!(filter_from_mixed(""), Err(FilterError::Empty));
        assert_eq!(filter_from_mixed("\0"), Err(FilterError::Nul));
    }

    #[test]
    fn wildcards_are_taken_out_of_topics() {
        assert_eq!(without_wildcards("c++/#1"), "c%2B%2B/%231");
    }

    /// Texts made of the pieces that matter, and arbitrary ones.
    fn texts() -> impl Strategy<Value = String> {
        let pieces =
            prop::sample::select(&["/", ".", "%", "25", "2E", "2F", "2", "5", "E", "F", "x", "é"][..]);
        prop_oneof![prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat()), any::<String>()]
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in texts()) {
            let (dotted, core) = (dotted_from_core(&text), core_from_dotted(&text));
            prop_assert_eq!(core_from_dotted(&dotted), text.as_str());
            prop_assert_eq!(dotted_from_core(&core), text.as_str());
            let mixed = mixed_from_core(&text);
            prop_assert_eq!(core_from_mixed(&mixed), text.as_str());
        }

        #[test]
        fn words_stay_words(text in texts()) {
            let dotted = dotted_from_core(&text);
            prop_assert_eq!(dotted.split('.').count(), text.split('/').count());
            for (core, dotted) in text.split('/').zip(dotted.split('.')) {
                prop_assert_eq!(dotted_from_core(core), dotted);
            }
        }
    }
}
