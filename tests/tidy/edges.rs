//! DESIGN section 2 as a test: which crate may import which. It reads `cargo metadata`.

use std::process::Command;

use serde_json::Value;

/// Crate, and which of ours it may import; arrows only point down.
const ALLOWED: &[(&str, &[&str])] = &[
    ("mynah-core", &[]),
    ("mynah-mqtt", &["mynah-core"]),
    ("mynah-stomp", &["mynah-core"]),
    ("mynah-amqp10", &["mynah-core"]),
    ("mynah-amqp091", &["mynah-core"]),
    ("mynah-broker", &["mynah-core"]),
    ("mynah-store", &["mynah-core"]),
    ("mynah-net", &["mynah-core", "mynah-broker"]),
    ("mynah-admin", &["mynah-core", "mynah-broker"]),
    ("mynah-bench", &["mynah-core"]),
    (
        "mynah-server",
        &[
            "mynah-core",
            "mynah-mqtt",
            "mynah-stomp",
            "mynah-amqp10",
            "mynah-amqp091",
            "mynah-broker",
            "mynah-net",
            "mynah-admin",
            "mynah-bench",
            "mynah-store",
        ],
    ),
    ("mynah-tests", &[]),
];

/// Crates that read no socket, and what would let them.
const PURE: &[&str] = &["mynah-core", "mynah-mqtt", "mynah-stomp", "mynah-amqp10", "mynah-amqp091"];
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "axum", "prometheus", "argon2", "futures"];

/// The HTTP library belongs to one crate, so that no other grows a port.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("axum", &["mynah-admin"]),
    ("clap", &["mynah-server", "mynah-bench"]),
    ("anyhow", &["mynah-server", "mynah-bench"]),
];

/// Name of each crate of the workspace, and its dependencies: (name, only for tests or building).
fn packages() -> Vec<(String, Vec<(String, bool)>)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    let metadata: Value = serde_json::from_slice(&output).unwrap_or_default();
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list(&metadata, "packages")
        .iter()
        .map(|package| {
            let dependencies = list(package, "dependencies")
                .iter()
                .map(|edge| (text(edge, "name"), !text(edge, "kind").is_empty()))
                .collect();
            (text(package, "name"), dependencies)
        })
        .collect()
}

fn allowed(name: &str) -> &'static [&'static str] {
    ALLOWED.iter().find(|(own, _)| *own == name).map_or(&[], |(_, may)| may)
}

pub(crate) fn forbidden_edges() -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in packages() {
        for (other, _) in dependencies.iter().filter(|(other, _)| other.starts_with("mynah-")) {
            if !allowed(&name).contains(&other.as_str()) {
                problems.push(format!("{name} imports {other}"));
            }
        }
        for (library, homes) in ONLY_IN {
            let imported = dependencies.iter().any(|(other, testing)| other == library && !testing);
            if imported && !homes.contains(&name.as_str()) {
                problems.push(format!("{name} imports {library}, which belongs to {}", homes.join(", ")));
            }
        }
    }
    problems
}

pub(crate) fn forbidden_libraries() -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in packages().into_iter().filter(|(name, _)| PURE.contains(&name.as_str())) {
        for (library, _) in dependencies.iter().filter(|(library, _)| IMPURE.contains(&library.as_str())) {
            problems.push(format!("{name} imports {library}"));
        }
    }
    problems
}

pub(crate) fn unlisted() -> Vec<String> {
    let packages = packages();
    let listed = ALLOWED.iter().map(|(name, _)| (*name).to_owned());
    let missing = listed.clone().filter(|name| !packages.iter().any(|(own, _)| own == name));
    let unknown =
        packages.iter().map(|(name, _)| name.clone()).filter(|name| !listed.clone().any(|own| own == *name));
    missing
        .map(|name| format!("{name} is in the list and not in the workspace"))
        .chain(unknown.map(|name| format!("{name} is in the workspace and not in the list")))
        .collect()
}
