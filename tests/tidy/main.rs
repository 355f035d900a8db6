//! The rules of the house that a compiler does not check: edges between crates, sizes of files, words, documentation.
//!
//! Every rule answers a list of what breaks it, with file and line, so that one run names everything.
//! Never: looks at generated files or at what is not part of the project.

mod configuration;
mod edges;
mod sources;
mod words;

use std::path::PathBuf;

/// The checkout.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

#[track_caller]
fn check(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn crates_import_only_what_the_design_allows() {
    check("an edge between crates is an edit of tests/tidy/edges.rs", &edges::forbidden_edges());
}

#[test]
fn the_core_and_the_protocols_know_no_executor() {
    check("core and protocols are pure state machines", &edges::forbidden_libraries());
}

#[test]
fn every_listed_crate_exists_and_every_crate_is_listed() {
    check("the list of crates", &edges::unlisted());
}

#[test]
fn files_are_short() {
    check("a file has at most 700 lines", &sources::long_files(&root()));
}

#[test]
fn modules_say_what_they_are() {
    check("a module begins with its documentation (//!)", &sources::undocumented(&root()));
}

#[test]
fn no_banned_words() {
    check("words that must not be in the code", &words::banned(&root()));
}

#[test]
fn time_is_an_argument_in_the_core_and_the_protocols() {
    check("time is an argument there", &words::clocks(&root()));
}

#[test]
fn the_core_knows_no_protocol() {
    check("the core speaks of no protocol outside comments", &words::protocols_in_core(&root()));
}

#[test]
fn an_exception_to_a_lint_has_a_reason() {
    check("#[allow] and #[expect] carry reason = \"...\"", &words::allows_without_reason(&root()));
}

#[test]
fn no_paths_of_one_machine() {
    check("a path that only one machine has", &words::machine_paths(&root()));
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    check("a key of config/mynah.yaml without a line of why", &configuration::undocumented_keys(&root()));
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    check("a link to a file that is not there", &configuration::dead_links(&root()));
}
