//! The binary's small commands, run as a user runs them.
//!
//! Never: starts the broker (the black-box suites under `tests/` do).

#![allow(
    clippy::unwrap_used,
    reason = "a test of its own crate: clippy knows only #[test] functions as tests"
)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn mynah(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MYNAH_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn file(name: &str, yaml: &str) -> String {
    let path = std::env::temp_dir().join(format!("mynah-cli-{}-{name}.yaml", std::process::id()));
    std::fs::write(&path, yaml).unwrap();
    path.display().to_string()
}

#[test]
fn version_and_help() {
    let (code, out, _) = output(&mut mynah(&["--version"]));
    assert_eq!((code, out.trim()), (0, concat!("mynah ", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = output(&mut mynah(&["--help"]));
    assert_eq!(code, 0);
    for command in ["serve", "check", "hash-password", "bench", "status", "health"] {
        assert!(out.contains(command), "{command} is missing in:\n{out}");
    }
}

#[test]
fn check_names_file_line_and_column_and_exits_1() {
    let bad = file("bad", "log:\n  level: debgu\nlistner: []\n");
    let (code, out, err) = output(&mut mynah(&["check", &bad]));
    assert_eq!(code, 1);
    assert_eq!(out, "");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(
        lines[0]
            .starts_with(&format!("{bad}:2:10: log.level: unknown value \"debgu\"; did you mean \"debug\"?"))
    );
    assert!(lines[1].starts_with(&format!("{bad}:3:1: listner: unknown key; did you mean \"listeners\"?")));
    std::fs::remove_file(bad).unwrap();
}

#[test]
fn check_of_a_good_file_prints_one_line_and_exits_0() {
    let good = file("good", "log:\n  level: debug\n");
    let (code, out, err) = output(&mut mynah(&["check", &good]));
    assert_eq!((code, out, err.as_str()), (0, format!("{good}: good (4 listeners, 1 users)\n"), ""));
    let (code, _, err) = output(mynah(&["check", &good]).env("MYNAH_LOG__LEVLE", "x"));
    assert_eq!(code, 1);
    assert!(err.starts_with("MYNAH_LOG__LEVLE: "), "{err}");
    std::fs::remove_file(good).unwrap();
}

#[test]
fn the_printed_defaults_are_a_good_file() {
    let (code, defaults, _) = output(&mut mynah(&["serve", "--print-defaults"]));
    assert_eq!(code, 0);
    let path = file("defaults", &defaults);
    let (code, _, err) = output(&mut mynah(&["check", &path]));
    assert_eq!((code, err.as_str()), (0, ""));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn serve_refuses_a_bad_configuration() {
    let bad = file("serve", "auth: { anonymous: sometimes }\n");
    let (code, out, err) = output(&mut mynah(&["serve", "-c", &bad]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains(":1:20: auth.anonymous: unknown value \"sometimes\""), "{err}");
    assert!(err.contains("mynah: not started: the configuration has 1 problem(s)"), "{err}");
    std::fs::remove_file(bad).unwrap();
}

#[test]
fn hash_password_reads_standard_input() {
    let mut child = mynah(&["hash-password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"s3cret\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let hash = String::from_utf8(output.stdout).unwrap();
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
    let yaml = format!("auth: {{ users: [ {{ name: app, password_hash: \"{}\" }} ] }}\n", hash.trim());
    let path = file("hash", &yaml);
    let status = mynah(&["check", &path]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn hash_password_of_nothing_is_an_error() {
    let (code, out, err) = output(&mut mynah(&["hash-password"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no password on standard input"), "{err}");
}

#[test]
fn health_and_status_without_a_broker_exit_1() {
    // Bound but never accepted elsewhere: closed again, the port is free and nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for command in ["health", "status"] {
        let (code, out, err) = output(&mut mynah(&[command, "--address", &port.to_string()]));
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("is the broker running?"), "{err}");
    }
    // Without --address, the configuration in force names the admin port.
    let (code, _, err) = output(mynah(&["health"]).env("MYNAH_ADMIN__BIND", port.to_string()));
    assert_eq!(code, 1);
    assert!(err.contains(&port.to_string()), "{err}");
}
