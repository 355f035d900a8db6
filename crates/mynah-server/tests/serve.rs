//! `mynah serve` as an operator meets it: banner, ready, first login of a container, signals, a port that is taken.
//!
//! Never: tests what the broker does with messages (the black-box suites under `tests/` do).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test of its own crate: clippy knows only #[test] functions as tests"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

struct Broker {
    child: Child,
    lines: Receiver<String>,
    folder: PathBuf,
}

fn command(folder: &PathBuf, vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MYNAH_") {
            command.env_remove(name);
        }
    }
    // Ports of their own, so that tests and brokers do not meet.
    for name in
        ["LISTENERS__MQTT", "LISTENERS__WEBSOCKET", "LISTENERS__STOMP", "LISTENERS__AMQP", "ADMIN", "METRICS"]
    {
        command.env(format!("MYNAH_{name}__BIND"), "127.0.0.1:0");
    }
    command.envs(vars.iter().copied()).current_dir(folder).arg("serve").stdin(Stdio::null());
    command
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mynah-serve-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

impl Broker {
    fn start(folder: PathBuf, vars: &[(&str, &str)]) -> Self {
        let mut child = command(&folder, vars).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, folder }
    }

    /// Lines of standard output up to the first that contains `end`.
    fn until(&self, end: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            seen.push(line.unwrap_or_else(|_| panic!("no line with {end} after {seen:#?}")));
            if seen.last().is_some_and(|line| line.contains(end)) {
                return seen;
            }
        }
    }

    fn signal(&mut self, name: &str) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The address in the banner's line that starts with `name`.
fn address(lines: &[String], name: &str) -> String {
    let line = lines.iter().find(|line| line.trim_start().starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)).unwrap().to_owned()
}

#[test]
fn the_banner_names_open_ports_and_a_signal_ends_it_with_0() {
    for name in ["-TERM", "-INT"] {
        let mut broker = Broker::start(folder(name), &[]);
        let lines = broker.until("/api/v1/overview");
        assert!(lines.first().is_some_and(|line| line.ends_with("is ready")), "{lines:#?}");
        for port in ["mqtt", "stomp", "amqp", "admin", "metrics"] {
            let address = address(&lines, port);
            assert!(!address.ends_with(":0"), "{address}");
            std::net::TcpStream::connect(&address).unwrap();
        }
        let admin = address(&lines, "admin");
        for tool in ["health", "status"] {
            let output = Command::new(env!("CARGO_BIN_EXE_mynah")).args([tool, "--address", &admin]).output();
            assert!(output.unwrap().status.success(), "mynah {tool}");
        }
        assert_eq!(broker.signal(name), Some(0));
    }
}

#[test]
fn the_first_boot_of_a_container_shows_a_password_once() {
    let first = folder("container");
    let vars =
        [("MYNAH_CONTAINER", "1"), ("MYNAH_LISTENERS__MQTT__BIND", "0.0.0.0:0"), ("MYNAH_DATA_DIR", "data")];
    let mut broker = Broker::start(first.clone(), &vars);
    let lines = broker.until("/api/v1/overview");
    let shown: Vec<&String> =
        lines.iter().filter(|line| line.contains("password is shown only now: ")).collect();
    assert_eq!(shown.len(), 1, "{lines:#?}");
    let password = shown.first().unwrap().rsplit(' ').next().unwrap().to_owned();
    // The HTTP port asks the same list of users.
    let admin = address(&lines, "admin");
    let status = |login: &str| {
        let mut status = Command::new(env!("CARGO_BIN_EXE_mynah"));
        status.args(["status", "--address", &admin, "--user", login]).output().unwrap().status.success()
    };
    assert!(status(&format!("admin:{password}")));
    assert!(!status("admin:wrong"));
    assert_eq!(broker.signal("-TERM"), Some(0));

    let second = folder("container-again");
    std::fs::rename(first.join("data"), second.join("data")).unwrap();
    let broker = Broker::start(second, &vars);
    let lines = broker.until("/api/v1/overview");
    assert!(!lines.iter().any(|line| line.contains("password is shown")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("admin")), "{lines:#?}");
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap().to_string();
    for (variable, name) in [("MYNAH_LISTENERS__STOMP__BIND", "stomp"), ("MYNAH_METRICS__BIND", "metrics")] {
        let folder = folder(name);
        let mut child = command(&folder, &[(variable, &bind)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains(name) && last.contains(&bind) && last.contains("in use"), "{text}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
