//! Banner, ready, first login of a container, signals, a port that is taken.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::process::{Broker, address, command, folder};

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
