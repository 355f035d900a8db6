//! A broker process of its own: free ports, a folder that goes with it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Broker {
    child: Child,
    lines: Receiver<String>,
    folder: PathBuf,
}

pub(crate) fn command(folder: &PathBuf, vars: &[(&str, &str)]) -> Command {
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

pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mynah-serve-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

impl Broker {
    pub(crate) fn start(folder: PathBuf, vars: &[(&str, &str)]) -> Self {
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
    pub(crate) fn until(&self, end: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            seen.push(line.unwrap_or_else(|_| panic!("no line with {end} after {seen:#?}")));
            if seen.last().is_some_and(|line| line.contains(end)) {
                return seen;
            }
        }
    }

    pub(crate) fn signal(&mut self, name: &str) -> Option<i32> {
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
pub(crate) fn address(lines: &[String], name: &str) -> String {
    let line = lines.iter().find(|line| line.trim_start().starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)).unwrap().to_owned()
}
