//! What is wrong with a configuration, in the one shape people read: `file:line:column: key: text; did you mean ...?`
//!
//! A value may come from a file or from a `MYNAH_...` variable, so every value carries its [`Origin`] and every
//! [`Problem`] names it: a person corrects a place, not a program.
//!
//! Never: prints, exits, or quotes a secret.

use std::fmt;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the configuration file, 1-based.
    File { line: u64, column: u64 },
    /// In the environment variable of this name.
    Env(String),
    /// In the defaults built into the binary.
    Default,
}

/// One thing to correct (or, as a warning, to know).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) origin: Origin,
    /// Dotted path of the key, `listeners[0].bind`; empty for the document as a whole.
    pub(crate) key: String,
    /// A sentence without a full stop that says what to change.
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(origin: Origin, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin, key: key.into(), text: text.into() }
    }

    /// The line to print, `file` being the name the user gave.
    pub(crate) fn line<'a>(&'a self, file: &'a str) -> Line<'a> {
        Line { problem: self, file }
    }
}

/// A [`Problem`] on its way to a person.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    problem: &'a Problem,
    file: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem.origin {
            Origin::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Origin::Env(name) => write!(f, "{name}: ")?,
            Origin::Default => write!(f, "{}: ", self.file)?,
        }
        if !self.problem.key.is_empty() {
            write!(f, "{}: ", self.problem.key)?;
        }
        f.write_str(&self.problem.text)
    }
}

/// The entry of `allowed` a person most likely meant by `given`, if any is near enough.
pub(crate) fn nearest<'a>(given: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    allowed
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&given, &candidate.replace('-', "_")), candidate))
        // 0.8 keeps transpositions, a dropped or doubled letter and a wrong ending, and drops unrelated words.
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "x"?`, or the list of what is allowed when nothing is near.
pub(crate) fn hint(given: &str, allowed: &[&str]) -> String {
    match nearest(given, allowed.iter().copied()) {
        Some(candidate) => format!("; did you mean \"{candidate}\"? (allowed: {})", allowed.join(", ")),
        None => format!(" (allowed: {})", allowed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_file_place_and_key() {
        let problem = Problem::new(Origin::File { line: 3, column: 9 }, "log.level", "unknown value");
        assert_eq!(problem.line("a.yaml").to_string(), "a.yaml:3:9: log.level: unknown value");
        let problem = Problem::new(Origin::Env("MYNAH_X".into()), "", "unknown");
        assert_eq!(problem.line("a.yaml").to_string(), "MYNAH_X: unknown");
    }

    #[test]
    fn nearest_finds_typos_and_refuses_strangers() {
        let allowed = ["listeners", "limits", "log"];
        assert_eq!(nearest("listner", allowed), Some("listeners"));
        assert_eq!(nearest("limtis", allowed), Some("limits"));
        assert_eq!(nearest("LOG", allowed), Some("log"));
        assert_eq!(nearest("zzz", allowed), None);
    }
}
