//! Topics as STOMP writes them: words separated by `.` or by `/`, as the client likes.
//!
//! A dot that belongs to a word is written `%2E`, and a word that would be read as a wildcard is escaped as well, so that
//! every topic of every protocol has a spelling here.

use std::borrow::Cow;

use mynah_core::{Filter, FilterError, Segment};

/// The characters that can be escaped, and their escapes.
const ESCAPES: [(char, &str); 6] =
    [('.', "%2E"), ('%', "%25"), ('*', "%2A"), ('+', "%2B"), ('#', "%23"), ('>', "%3E")];

/// The core's topic; words by `.` or `/`.
pub(crate) fn core_from_mixed(mixed: &str) -> Cow<'_, str> {
    if !mixed.contains(['.', '%']) {
        return Cow::Borrowed(mixed);
    }
    let words: Vec<Cow<'_, str>> = mixed.split(['.', '/']).map(word_from).collect();
    Cow::Owned(words.join("/"))
}

/// The core's topic with `.` between words.
pub(crate) fn mixed_from_core(core: &str) -> Cow<'_, str> {
    if !core.contains(['/', '.', '%', '*', '+', '#', '>']) {
        return Cow::Borrowed(core);
    }
    let words: Vec<Cow<'_, str>> = core.split('/').map(word_to).collect();
    Cow::Owned(words.join("."))
}

/// A filter: `*` and `+` are one word, `#` and `>` any number of them, anywhere.
pub(crate) fn filter_from_mixed(mixed: &str) -> Result<Filter, FilterError> {
    if mixed.is_empty() {
        return Err(FilterError::Empty);
    }
    if mixed.contains('\0') {
        return Err(FilterError::Nul);
    }
    let segments = mixed.split(['.', '/']).map(|word| match word {
        "*" | "+" => Segment::One,
        "#" | ">" => Segment::Rest,
        _ => Segment::Word(word_from(word).into()),
    });
    Ok(Filter::new(segments.collect()))
}

fn word_from(word: &str) -> Cow<'_, str> {
    if !word.contains('%') {
        return Cow::Borrowed(word);
    }
    let mut text = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = rest.split_at(at);
        text.push_str(before);
        let known = ESCAPES.iter().find(|(_, code)| {
            escaped.get(..code.len()).is_some_and(|found| found.eq_ignore_ascii_case(code))
        });
        let (plain, used) = known.map_or(('%', 1), |(plain, code)| (*plain, code.len()));
        text.push(plain);
        rest = escaped.get(used..).unwrap_or_default();
    }
    text.push_str(rest);
    Cow::Owned(text)
}

fn word_to(word: &str) -> Cow<'_, str> {
    let wildcard = matches!(word, "*" | "+" | "#" | ">");
    if !wildcard && !word.contains(['.', '%']) {
        return Cow::Borrowed(word);
    }
    let mut text = String::with_capacity(word.len() + 4);
    for c in word.chars() {
        match ESCAPES.iter().find(|(plain, _)| *plain == c && (wildcard || matches!(c, '.' | '%'))) {
            Some((_, code)) => text.push_str(code),
            None => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_one() {
        assert_eq!(core_from_mixed("a.b/c"), "a/b/c");
        assert_eq!(core_from_mixed("a/b"), "a/b");
        assert_eq!(core_from_mixed("room%2E2.x"), "room.2/x");
        assert_eq!(core_from_mixed("100%"), "100%");
    }

    #[test]
    fn every_topic_has_a_spelling_and_comes_back() {
        for core in ["a/b", "room.2/x", "a//b", "/a", "100%/x", "%2E", "*/>", "a*", "$SYS/x"] {
            let mixed = mixed_from_core(core);
            assert_eq!(core_from_mixed(&mixed), core, "{mixed}");
            assert_eq!(filter_from_mixed(&mixed).unwrap().as_topic().as_deref(), Some(core), "{mixed}");
        }
        assert_eq!(mixed_from_core("room.2/x"), "room%2E2.x");
    }

    #[test]
    fn wildcards_of_all_habits() {
        let check = |mixed: &str, core: &str| assert_eq!(filter_from_mixed(mixed).unwrap().to_string(), core);
        check("a.*.c", "a/+/c");
        check("a/+/c", "a/+/c");
        check("a.>", "a/#");
        check("a.#", "a/#");
        check("#.b", "#/b");
    }
}
