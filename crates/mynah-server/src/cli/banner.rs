//! What `mynah serve` shows a person: where it listens, who may come in, and three things to try.
//!
//! The commands are complete: pasted as they stand they work against the listeners just opened.
//!
//! Never: goes to the log, shows a password other than the well-known default or one generated a moment ago.

use std::fmt::Write;
use std::net::SocketAddr;

use super::answer;
use super::bootstrap::Generated;
use crate::config::{Anonymous, Config, DOCUMENTED_DEFAULTS, ListenerProtocol};

/// What was really opened (port 0 has become a number).
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) listeners: Vec<(String, ListenerProtocol, SocketAddr)>,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

pub(super) fn print_defaults() -> anyhow::Result<()> {
    answer(DOCUMENTED_DEFAULTS.trim_end());
    Ok(())
}

/// Shows a password made a moment ago. At once, not with the banner: its hash is on disk already, and a start that fails
/// later must not leave a login nobody knows.
pub(crate) fn print_generated(made: &Generated) {
    answer(&generated_text(made));
}

fn generated_text(made: &Generated) -> String {
    format!("User \"{}\" was created, its password is shown only now: {}", made.user, made.password.0)
}

/// Shows [`text`].
pub(crate) fn print(config: &Config, opened: &Opened, generated: Option<&Generated>) {
    answer(text(config, opened, generated).trim_end());
}

fn text(config: &Config, opened: &Opened, generated: Option<&Generated>) -> String {
    let mut text = format!("mynah {} is ready\n\n", env!("CARGO_PKG_VERSION"));
    for (name, protocol, address) in &opened.listeners {
        let _ = writeln!(text, "  {name:<8} {address:<22} {}", speaks(*protocol));
    }
    let _ = writeln!(text, "  {:<8} {:<22} admin API, /livez, /readyz", "admin", opened.admin);
    let _ = writeln!(text, "  {:<8} {:<22} Prometheus /metrics", "metrics", opened.metrics);
    let _ = writeln!(text, "  {:<8} {}", "data", config.data_dir);
    let _ = writeln!(text, "  {:<8} {}", "login", logins(config));
    let tries = tries(config, opened, generated);
    if !tries.is_empty() {
        text.push_str("\nTry, in another terminal:\n");
        text.push_str(&tries);
    }
    text
}

const fn speaks(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Mqtt => "MQTT 3.1, 3.1.1, 5.0",
        ListenerProtocol::Stomp => "STOMP 1.0, 1.1, 1.2",
        ListenerProtocol::Amqp => "AMQP 0-9-1, 1.0",
        ListenerProtocol::Auto => "MQTT, STOMP, AMQP: told apart by the first bytes",
        ListenerProtocol::Websocket => "WebSocket",
    }
}

fn logins(config: &Config) -> String {
    let mut parts: Vec<String> = Vec::new();
    match config.auth.anonymous {
        Anonymous::Never => {}
        Anonymous::Loopback => parts.push("anonymous from this machine".to_owned()),
        Anonymous::Always => parts.push("anonymous from anywhere".to_owned()),
    }
    for user in &config.auth.users {
        parts.push(match (user.is_guest_default(), user.loopback_only) {
            (true, _) => "guest / guest from this machine".to_owned(),
            (false, true) => format!("{} from this machine", user.name.escape_debug()),
            (false, false) => user.name.escape_debug().to_string(),
        });
    }
    if parts.is_empty() { "nobody: auth.users is empty".to_owned() } else { parts.join(", ") }
}

/// How a client on this machine reaches a listener of `protocol`.
fn reach(opened: &Opened, protocol: ListenerProtocol) -> Option<(String, u16)> {
    let fits = |p: ListenerProtocol| p == protocol || p == ListenerProtocol::Auto;
    let (_, _, address) = opened.listeners.iter().find(|(_, p, _)| fits(*p))?;
    Some(host_port(*address))
}

fn host_port(address: SocketAddr) -> (String, u16) {
    let host = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => "localhost".to_owned(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => v6.ip().to_string(),
    };
    (host, address.port())
}

/// A login the examples can show: the well-known one, or the one made a moment ago.
fn example_login(config: &Config, generated: Option<&Generated>) -> Option<(String, String)> {
    if let Some(made) = generated {
        return Some((made.user.to_owned(), made.password.0.clone()));
    }
    let guest = config.auth.users.iter().any(crate::config::User::is_guest_default);
    guest.then(|| ("guest".to_owned(), "guest".to_owned()))
}

fn tries(config: &Config, opened: &Opened, generated: Option<&Generated>) -> String {
    let (user, password) =
        example_login(config, generated).unwrap_or_else(|| ("NAME".to_owned(), "PASSWORD".to_owned()));
    let open = config.auth.anonymous != Anonymous::Never;
    let mut text = String::new();
    if let Some((host, port)) = reach(opened, ListenerProtocol::Mqtt) {
        let login = if open { String::new() } else { format!(" -u {user} -P {password}") };
        let _ = writeln!(text, "  mosquitto_sub -h {host} -p {port}{login} -t 'sensors/#' -v &");
        let _ = writeln!(
            text,
            "  mosquitto_pub -h {host} -p {port}{login} -t sensors/room1/temp -m 21.5 -q 1 -r"
        );
    }
    if let Some((host, port)) = reach(opened, ListenerProtocol::Amqp) {
        let url = format!("amqp://{user}:{password}@{}:{port}/%2F", bracketed(&host));
        let _ = writeln!(
            text,
            "  python3 -c \"import pika; c = pika.BlockingConnection(pika.URLParameters('{url}')).channel(); \
             c.queue_declare('hello'); c.basic_publish('', 'hello', 'hi from AMQP'); \
             print(c.basic_get('hello', auto_ack=True)[2])\""
        );
    }
    if let Some((host, port)) = reach(opened, ListenerProtocol::Stomp) {
        let login = if open { String::new() } else { format!(", login:{user}, passcode:{password}") };
        let _ = writeln!(
            text,
            "  telnet {host} {port}      then type CONNECT{login}, an empty line and Ctrl-@; SUBSCRIBE, id:1, \
             destination:/topic/sensors.#, an empty line and Ctrl-@"
        );
    }
    let (host, port) = host_port(opened.admin);
    let _ =
        writeln!(text, "  curl -s -u {user}:{password} http://{}:{port}/api/v1/overview", bracketed(&host));
    text
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn opened() -> Opened {
        let at = |text: &str| text.parse().unwrap();
        Opened {
            listeners: vec![
                ("mqtt".into(), ListenerProtocol::Mqtt, at("127.0.0.1:1883")),
                ("stomp".into(), ListenerProtocol::Stomp, at("127.0.0.1:61613")),
                ("amqp".into(), ListenerProtocol::Amqp, at("0.0.0.0:5672")),
            ],
            admin: at("127.0.0.1:15672"),
            metrics: at("[::1]:15692"),
        }
    }

    #[test]
    fn shows_listeners_logins_and_commands() {
        let shown = text(&Config::default(), &opened(), None);
        for part in [
            "127.0.0.1:1883",
            "MQTT 3.1, 3.1.1, 5.0",
            "anonymous from this machine, guest / guest from this machine",
            "mosquitto_sub -h 127.0.0.1 -p 1883 -t 'sensors/#' -v &",
            "telnet 127.0.0.1 61613",
            "amqp://guest:guest@127.0.0.1:5672/%2F",
            "curl -s -u guest:guest http://127.0.0.1:15672/api/v1/overview",
        ] {
            assert!(shown.contains(part), "{part} is missing in:\n{shown}");
        }
    }

    #[test]
    fn shows_a_generated_password_and_uses_it_in_the_commands() {
        let mut config = Config::default();
        config.auth.anonymous = Anonymous::Never;
        config.auth.users.clear();
        let made = Generated { user: "admin", password: Secret("pw123".into()) };
        let shown = text(&config, &opened(), Some(&made));
        assert!(generated_text(&made).ends_with("shown only now: pw123"));
        assert!(shown.contains("-u admin -P pw123"), "{shown}");
    }

    #[test]
    fn never_shows_a_configured_password() {
        let mut config = Config::default();
        config.auth.users = vec![crate::config::User {
            name: "app".into(),
            password: Some(Secret("hush".into())),
            password_hash: None,
            loopback_only: false,
            admin: true,
        }];
        let shown = text(&config, &opened(), None);
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("NAME:PASSWORD"), "{shown}");
    }
}
