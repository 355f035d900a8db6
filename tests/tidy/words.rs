//! Words that must not be written, and where. They are put together here so that this file does not break its own rules.

use std::path::Path;

use crate::sources::{Source, files, product_code};

/// Anywhere in Rust code, tests included; each with what to do instead.
const BANNED: &[(&str, &str)] = &[
    (concat!("unbounded", "_channel"), "everything that queues has a bound"),
    (concat!("TO", "DO"), "finish it, or write an issue"),
    (concat!("FIX", "ME"), "finish it, or write an issue"),
    (concat!("db", "g!("), "a test or a trace! instead"),
    (concat!("to", "do!("), "no stubs"),
    (concat!("unimple", "mented!("), "no stubs"),
    (concat!("#[ig", "nore"), "a test runs or is not there"),
    (concat!("#[should", "_panic"), "assert on the error"),
    (concat!("un", "safe {"), "safe Rust only"),
];

/// Only in code that is shipped.
const CLOCKS: &[&str] = &[concat!("Instant::", "now"), concat!("SystemTime::", "now")];

/// Crates to which time is an argument.
const TIMELESS: &[&str] = &["mynah-core", "mynah-mqtt", "mynah-stomp", "mynah-amqp10", "mynah-amqp091"];

const PROTOCOL_WORDS: &[&str] = &["mqtt", "stomp", "amqp", "puback", "pubrec", "rabbit"];

const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "user/")];

fn lines_with<'a>(source: &'a Source, words: &'a [&str]) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    source.text.lines().enumerate().flat_map(move |(number, line)| {
        words.iter().filter(move |word| line.contains(**word)).map(move |word| (number + 1, *word, line))
    })
}

/// A line without its comment. A `//` inside a text literal ends it too early, which only hides, never accuses.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

pub(crate) fn banned(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for source in files(root, "crates", &[".rs"]).iter().chain(&files(root, "tests", &[".rs"])) {
        for (word, instead) in BANNED {
            for (number, _, _) in lines_with(source, &[*word]) {
                problems.push(format!("{}:{number}: {word}: {instead}", source.path));
            }
        }
    }
    problems
}

pub(crate) fn clocks(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for name in TIMELESS {
        for source in product_code(root, &format!("crates/{name}")) {
            for (number, word, line) in lines_with(&source, CLOCKS) {
                if code_of(line).contains(word) {
                    problems.push(format!("{}:{number}: {word}", source.path));
                }
            }
        }
    }
    problems
}

pub(crate) fn protocols_in_core(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for source in product_code(root, "crates/mynah-core") {
        for (number, line) in source.text.lines().enumerate() {
            let code = code_of(line).to_ascii_lowercase();
            // The names of the exchanges every 0-9-1 library expects are data, not a protocol.
            let code = code.replace("\"amq.", "\"");
            if let Some(word) = PROTOCOL_WORDS.iter().find(|word| code.contains(**word)) {
                problems.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    problems
}

pub(crate) fn allows_without_reason(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for source in files(root, "crates", &[".rs"]) {
        let mut rest = source.text.as_str();
        while let Some(at) = ["allow(", "expect("].iter().filter_map(|word| find_attribute(rest, word)).min()
        {
            let attribute = rest.get(at..).unwrap_or_default();
            let end = attribute.find(")]").unwrap_or(attribute.len());
            if !attribute.get(..end).unwrap_or_default().contains("reason =") {
                let line = source.text.len() - rest.len() + at;
                let number = source.text.get(..line).unwrap_or_default().lines().count() + 1;
                problems.push(format!("{}:{number}", source.path));
            }
            rest = attribute.get(end.max(1)..).unwrap_or_default();
        }
    }
    problems
}

fn find_attribute(text: &str, word: &str) -> Option<usize> {
    let outer = text.find(&format!("#[{word}"));
    let inner = text.find(&format!("#![{word}"));
    outer.into_iter().chain(inner).min()
}

pub(crate) fn machine_paths(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for source in files(root, ".", &[""]) {
        for (number, word, _) in lines_with(&source, MACHINE_PATHS) {
            // Images have a home for root, and commands below it.
            if !source.path.starts_with("docker/") {
                problems.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    problems
}
