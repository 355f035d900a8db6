//! The documents: every key of the configuration has its line of why, every link leads somewhere.

use std::path::{Path, PathBuf};

use crate::sources::files;

/// A key is documented by a comment above it, with nothing but other keys between: neighbours may share one.
pub(crate) fn undocumented_keys(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join("config/mynah.yaml")).unwrap_or_default();
    let mut problems = Vec::new();
    if text.is_empty() {
        problems.push("config/mynah.yaml is not there".to_owned());
    }
    let mut documented = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            documented = false;
        } else if line.starts_with('#') {
            documented = true;
        } else if line.ends_with(':') {
            // A section: documented as a whole, or key by key.
            continue;
        } else if !documented {
            problems.push(format!("config/mynah.yaml:{}: {line}", number + 1));
        }
    }
    problems
}

/// Relative links of Markdown files.
pub(crate) fn dead_links(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for source in files(root, ".", &[".md"]) {
        let folder = root.join(&source.path).parent().map(PathBuf::from).unwrap_or_default();
        for (number, line) in source.text.lines().enumerate() {
            for link in links(line) {
                let path = link.split('#').next().unwrap_or_default();
                let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
                if !elsewhere && !folder.join(path).exists() {
                    problems.push(format!("{}:{}: {link}", source.path, number + 1));
                }
            }
        }
    }
    problems
}

/// The targets of `[text](target)`.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("](") {
        let Some((target, tail)) = after.split_once(')') else { break };
        found.push(target);
        rest = tail;
    }
    found
}

#[test]
fn links_of_a_line() {
    assert_eq!(links("see [a](b.md) and [c](d/e.md#f), not (g)"), ["b.md", "d/e.md#f"]);
}
