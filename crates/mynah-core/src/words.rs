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
