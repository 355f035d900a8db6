//! The files of the project, and the rules about their shape.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 700;

/// Folders that are made, not written.
const MADE: &[&str] = &[".git", ".venv", "node_modules", "target", "data", "__pycache__", ".pytest_cache"];

/// One text file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files below `folder` with one of these endings ("" = any), in order.
pub(crate) fn files(root: &Path, folder: &str, endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut pending = vec![root.join(folder)];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !MADE.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push(Source { path: shown(root, &path), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Rust sources of a crate (or of all: "crates") without what only tests compile: modules behind `#[cfg(test)]` or the
/// `testing` feature, and the inline test module at a file's end.
pub(crate) fn product_code(root: &Path, folder: &str) -> Vec<Source> {
    let all: Vec<Source> =
        files(root, folder, &[".rs"]).into_iter().filter(|source| source.path.contains("/src/")).collect();
    let testing: Vec<PathBuf> = all.iter().flat_map(test_modules).collect();
    all.into_iter()
        .filter(|source| {
            let path = Path::new(&source.path);
            !testing.iter().any(|module| path.starts_with(module) || path == module.with_extension("rs"))
        })
        .map(|source| Source { text: without_inline_tests(&source.text), ..source })
        .collect()
}

/// The modules (without ending) that a file declares for tests only.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let path = Path::new(&source.path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folder = match stem {
        "lib" | "main" | "mod" => path.parent().unwrap_or(path).to_owned(),
        _ => path.with_extension(""),
    };
    let mut modules = Vec::new();
    let mut behind = false;
    for line in source.text.lines() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]")
            || line.starts_with("#[cfg(feature = \"testing\")]")
            || line.starts_with("#[cfg(any(test")
        {
            behind = true;
        } else if !line.starts_with("#[") {
            let declared = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            if behind
                && let Some(name) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                modules.push(folder.join(name));
            }
            behind = false;
        }
    }
    modules
}

fn without_inline_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

pub(crate) fn long_files(root: &Path) -> Vec<String> {
    let written = files(root, "crates", &[".rs"]).into_iter().chain(files(root, "tests", &[".rs", ".py"]));
    written
        .filter_map(|source| {
            let lines = source.text.lines().count();
            (lines > LINES_MAX)
                .then(|| format!("{}: {lines} lines; split it by direction or verb", source.path))
        })
        .collect()
}

/// Parts of a test module are documented by their `mod.rs`.
pub(crate) fn undocumented(root: &Path) -> Vec<String> {
    let written = files(root, "crates", &[".rs"]).into_iter().chain(files(root, "tests", &[".rs"]));
    written
        .filter(|source| !source.path.contains("/src/tests/") && !source.path.contains("/queue/tests/"))
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect()
}

#[test]
fn inline_tests_and_test_modules_are_left_out() {
    let text = "code();\n#[cfg(test)]\nmod tests {\n    x\n}\n";
    assert_eq!(without_inline_tests(text), "code();\n");
    let source = Source {
        path: "crates/x/src/queue/mod.rs".to_owned(),
        text: "#[cfg(test)]\nmod model;\nmod ready;\n#[cfg(feature = \"testing\")]\npub mod testing;\n"
            .to_owned(),
    };
    let expected = ["crates/x/src/queue/model", "crates/x/src/queue/testing"];
    assert_eq!(test_modules(&source), expected.map(PathBuf::from));
}
