//! What a subscription matches: words, one-word wildcards, and "the rest".
//!
//! Separators and wildcard characters end at the edge of each protocol; here a filter is split already. `Rest` may stand
//! anywhere, because 0-9-1 allows it; it matches zero or more words, so `a/#` matches `a` [MQTT 4.7.1.2].
//! A leading wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].

use std::sync::Arc;

/// One part of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    Word(Arc<str>),
    /// Exactly one word, which may be empty.
    One,
    /// Zero or more words.
    Rest,
}

/// A filter in core form; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Arc<[Segment]>);

/// Why a text is no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("a filter must not be empty")]
    Empty,
    #[error("a filter must not contain NUL")]
    Nul,
    #[error("'+' and '#' must stand alone between separators")]
    WildcardInWord,
    #[error("'#' must be the last word")]
    RestNotLast,
}

impl Filter {
    #[must_use]
    pub fn new(segments: Vec<Segment>) -> Self {
        Self(segments.into())
    }

    /// Splits a topic in core form; no wildcards are recognised.
    #[must_use]
    pub fn exact(topic: &str) -> Self {
        Self(topic.split('/').map(|word| Segment::Word(word.into())).collect())
    }

    /// The common form: words by `/`, `+` one word, `#` the rest, last [MQTT 4.7.1].
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.contains('\0') {
            return Err(FilterError::Nul);
        }
        let mut segments = Vec::new();
        for word in text.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(FilterError::RestNotLast);
            }
            segments.push(match word {
                "+" => Segment::One,
                "#" => Segment::Rest,
                _ if word.contains(['+', '#']) => return Err(FilterError::WildcardInWord),
                _ => Segment::Word(word.into()),
            });
        }
        Ok(Self(segments.into()))
    }

    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.iter().any(|segment| !matches!(segment, Segment::Word(_)))
    }

    /// The topic it names, if it has no wildcard.
    #[must_use]
    pub fn as_topic(&self) -> Option<String> {
        let mut topic = String::new();
        for (at, segment) in self.0.iter().enumerate() {
            let Segment::Word(word) = segment else { return None };
            if at > 0 {
                topic.push('/');
            }
            topic.push_str(word);
        }
        Some(topic)
    }

    /// Whether a topic in core form matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let leading_wildcard = !matches!(self.0.first(), Some(Segment::Word(_)));
        if leading_wildcard && topic.starts_with('$') {
            return false;
        }
        let words: Vec<&str> = topic.split('/').collect();
        matches_words(&self.0, &words)
    }
}

fn matches_words(segments: &[Segment], words: &[&str]) -> bool {
    match (segments.split_first(), words.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((Segment::Rest, [])), _) => true,
        (Some((Segment::Rest, rest)), _) => {
            (0..=words.len()).any(|skip| words.get(skip..).is_some_and(|words| matches_words(rest, words)))
        }
        (Some(_), None) => false,
        (Some((Segment::One, rest)), Some((_, words))) => matches_words(rest, words),
        (Some((Segment::Word(want), rest)), Some((word, words))) => {
            &**want == *word && matches_words(rest, words)
        }
    }
}

impl std::fmt::Display for Filter {
    /// The core form with `/`, `+` and `#`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            f.write_str(match segment {
                Segment::Word(word) => word,
                Segment::One => "+",
                Segment::Rest => "#",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, topic: &str, expected: bool) {
        let parsed = Filter::parse(filter).unwrap();
        assert_eq!(parsed.matches(topic), expected, "{filter} on {topic}");
        assert_eq!(parsed.to_string(), filter);
    }

    #[test]
    fn the_standards_examples() {
        // [MQTT 4.7.1.2, 4.7.1.3, 4.7.2]
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/ranking", true);
        check("sport/#", "sport", true);
        check("#", "sport/x", true);
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("#", "$SYS/x", false);
        check("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check("$SYS/#", "$SYS/x", true);
    }

    #[test]
    fn rest_may_stand_anywhere() {
        let filter = Filter::new(vec![Segment::Rest, Segment::Word("b".into()), Segment::Rest]);
        assert!(filter.matches("b") && filter.matches("a/b") && filter.matches("a/a/b/c"));
        assert!(!filter.matches("a/c"));
    }

    #[test]
    fn what_is_no_filter() {
        assert_eq!(Filter::parse(""), Err(FilterError::Empty));
        assert_eq!(Filter::parse("a+/b"), Err(FilterError::WildcardInWord));
        assert_eq!(Filter::parse("a/#/b"), Err(FilterError::RestNotLast));
        assert_eq!(Filter::parse("a\0"), Err(FilterError::Nul));
    }
}
