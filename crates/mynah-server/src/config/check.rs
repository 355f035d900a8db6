//! What serde cannot see: values that are each well formed but wrong together, or that the broker cannot honour.
//!
//! Never: changes the configuration, stops at the first problem.

use std::collections::HashMap;
use std::net::SocketAddr;

use argon2::password_hash::PasswordHash;
use mynah_broker::scram;

use super::problem::{Origin, Problem};
use super::settings::{Anonymous, Bind, ClientCert, Config, Listener, ListenerProtocol, UserFrom};
use super::tree::{Node, Step, dotted};

/// Errors and warnings of one configuration, with their places in `tree`.
pub(crate) struct Judge<'a> {
    tree: &'a Node,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

impl<'a> Judge<'a> {
    pub(crate) fn new(tree: &'a Node) -> Self {
        Self { tree, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(crate) fn config(mut self, config: &Config) -> Self {
        self.listeners(config);
        self.binds(config);
        self.users(config);
        self.rules(config);
        self.virtual_hosts(config);
        self.limits(config);
        if config.data_dir.trim().is_empty() {
            self.error(vec![key("data_dir")], "is empty; name a directory such as ./data");
        }
        self
    }

    fn error(&mut self, path: Vec<Step>, text: impl Into<String>) {
        let problem = self.problem(&path, text.into());
        self.errors.push(problem);
    }

    fn warning(&mut self, path: Vec<Step>, text: impl Into<String>) {
        let problem = self.problem(&path, text.into());
        self.warnings.push(problem);
    }

    fn problem(&self, path: &[Step], text: String) -> Problem {
        let origin = if self.is_written(path) { self.tree.origin_at(path) } else { Origin::Default };
        Problem::new(origin, dotted(path), text)
    }

    fn is_written(&self, path: &[Step]) -> bool {
        path.first().is_some_and(|step| match step {
            Step::Key(name) => self.tree.get(name).is_some(),
            Step::Index(_) => false,
        })
    }

    fn listeners(&mut self, config: &Config) {
        if config.listeners.is_empty() {
            self.error(
                vec![key("listeners")],
                "is empty; a broker needs at least one, such as { name: mqtt, protocol: mqtt, bind: \"127.0.0.1:1883\" }",
            );
        }
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let at = |name: &str| vec![key("listeners"), Step::Index(index), key(name)];
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if listener.name.is_empty() || !listener.name.chars().all(plain) {
                self.error(at("name"), "use letters, digits, - and _ only");
            }
            if let Some(first) = seen.insert(&listener.name, index) {
                let text = format!("\"{}\" is the name of listeners[{first}] already", listener.name);
                self.error(at("name"), text);
            }
            self.listener(index, listener);
        }
    }

    fn listener(&mut self, index: usize, listener: &Listener) {
        let at = |name: &str| vec![key("listeners"), Step::Index(index), key(name)];
        for net in &listener.proxy_protocol {
            if parse_net(net).is_none() {
                let text = format!("\"{}\" is neither an address nor a network", net.escape_debug());
                self.error(at("proxy_protocol"), text);
            }
        }
        if !listener.origins.is_empty() && listener.protocol != ListenerProtocol::Websocket {
            self.error(at("origins"), "is for listeners of protocol websocket");
        }
        if let Some(tls) = &listener.tls {
            if tls.client_cert != ClientCert::None && tls.client_ca.is_none() {
                self.error(at("tls"), "client_cert needs client_ca, which says whose certificates are good");
            }
            if tls.user_from != UserFrom::None && tls.client_cert == ClientCert::None {
                self.error(at("tls"), "user_from needs client_cert: optional or required");
            }
        }
        if let Some(mqtt) = &listener.mqtt {
            if mqtt.versions.is_empty() {
                self.error(at("mqtt"), "versions is empty: nobody could connect");
            }
            if mqtt.qos_max > 2 {
                self.error(at("mqtt"), "qos_max is 0, 1 or 2");
            }
            if mqtt.receive_max == 0 {
                self.error(at("mqtt"), "receive_max must be above 0");
            }
            if mqtt.mount_point.contains(['+', '#']) {
                self.error(at("mqtt"), "mount_point is a topic: no + and no #");
            }
        }
    }

    fn binds(&mut self, config: &Config) {
        let mut places: Vec<(Vec<Step>, Bind)> = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            places.push((vec![key("listeners"), Step::Index(index), key("bind")], listener.bind));
        }
        places.push((vec![key("admin"), key("bind")], config.admin.bind));
        places.push((vec![key("metrics"), key("bind")], config.metrics.bind));
        let mut seen: HashMap<SocketAddr, Vec<Step>> = HashMap::new();
        for (path, bind) in places {
            // Port 0 takes a free port each time it is asked.
            if bind.0.port() == 0 {
                continue;
            }
            let Some(first) = seen.get(&bind.0) else {
                seen.insert(bind.0, path);
                continue;
            };
            // The place to correct is the one somebody wrote, not a default.
            let (at, other) = if self.is_written(&path) { (&path, first) } else { (first, &path) };
            let text = format!("{} is taken by {} already", bind.0, dotted(other));
            self.error(at.clone(), text);
        }
        if config.auth.anonymous == Anonymous::Always
            && config.listeners.iter().any(|l| !l.bind.is_loopback())
        {
            let text = "anyone who reaches the port may publish and read; use loopback or never unless that is meant";
            self.warning(vec![key("auth"), key("anonymous")], text);
        }
    }

    fn rules(&mut self, config: &Config) {
        for (index, rule) in config.auth.rules.iter().enumerate() {
            let rule_at = vec![key("auth"), key("rules"), Step::Index(index)];
            let at = |name: &str| [rule_at.clone(), vec![key(name)]].concat();
            if rule.allow.is_empty() == rule.deny.is_empty() {
                self.error(
                    rule_at.clone(),
                    "needs either allow or deny, such as { allow: [publish], to: [\"a/#\"] }",
                );
            }
            if rule.to.is_empty() {
                self.error(at("to"), "is empty: the rule would never match; \"#\" is everything");
            }
            for pattern in &rule.to {
                let inner_rest = pattern.split('/').rev().skip(1).any(|level| level == "#");
                let mixed = pattern.split('/').any(|level| level.len() > 1 && level.contains(['+', '#']));
                if pattern.is_empty() || inner_rest || mixed {
                    let text = format!(
                        "\"{}\": + and # stand for whole levels, # is the last",
                        pattern.escape_debug()
                    );
                    self.error(at("to"), text);
                }
            }
            for user in &rule.users {
                let known = user == "anonymous" || config.auth.users.iter().any(|known| known.name == *user);
                if !known {
                    let text = format!("there is no user \"{}\"", user.escape_debug());
                    self.warning(at("users"), text);
                }
            }
        }
    }

    fn users(&mut self, config: &Config) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, user) in config.auth.users.iter().enumerate() {
            let item = vec![key("auth"), key("users"), Step::Index(index)];
            let at = |name: &str| [item.as_slice(), &[key(name)]].concat();
            if user.name.is_empty() {
                self.error(at("name"), "is empty");
            }
            if let Some(first) = seen.insert(&user.name, index) {
                let text =
                    format!("\"{}\" is the name of auth.users[{first}] already", user.name.escape_debug());
                self.error(at("name"), text);
            }
            match (&user.password, &user.password_hash) {
                (None, None) => self.error(
                    item.clone(),
                    "needs a password_hash (mynah hash-password prints one) or a password",
                ),
                (Some(_), Some(_)) => {
                    self.error(at("password"), "password_hash is set as well; keep one of the two");
                }
                (Some(password), None) => {
                    if password.0.is_empty() {
                        self.error(at("password"), "is empty");
                    } else if !user.is_guest_default() {
                        let text = "is in the clear; mynah hash-password makes a password_hash of it";
                        self.warning(at("password"), text);
                    }
                }
                (None, Some(hash)) => {
                    if let Err(text) = judge_hash(&hash.0) {
                        self.error(at("password_hash"), text);
                    }
                }
            }
        }
    }

    fn virtual_hosts(&mut self, config: &Config) {
        if config.virtual_hosts.is_empty() {
            self.error(vec![key("virtual_hosts")], "is empty; name at least \"/\"");
        }
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, name) in config.virtual_hosts.iter().enumerate() {
            let at = vec![key("virtual_hosts"), Step::Index(index)];
            if name.is_empty() {
                self.error(at.clone(), "is empty");
            }
            if seen.insert(name, index).is_some() {
                self.error(at, format!("\"{}\" is in the list already", name.escape_debug()));
            }
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        let at = |name: &str| vec![key("limits"), key(name)];
        // The largest MQTT packet is 256 MiB - 1; a message above it could never reach an MQTT client.
        let message = limits.message_bytes_max.0;
        if !(1024..=268_435_455).contains(&message) {
            self.error(at("message_bytes_max"), "must be between 1KiB and 255MiB");
        }
        if limits.login_bytes_max.0 < 1024 {
            self.error(at("login_bytes_max"), "is below 1KiB, too little for a login");
        }
        for (name, zero) in [
            ("connections_max", limits.connections_max == 0),
            ("login_timeout", limits.login_timeout.0.is_zero()),
            ("login_timeout_stomp", limits.login_timeout_stomp.0.is_zero()),
            ("subscriptions_per_connection_max", limits.subscriptions_per_connection_max == 0),
        ] {
            if zero {
                self.error(at(name), "must be above 0, or nobody can connect");
            }
        }
        let queues = &config.queues;
        let at = |name: &str| vec![key("queues"), key(name)];
        for (name, zero) in [
            ("max_length_messages", queues.max_length_messages == 0),
            ("max_length_bytes", queues.max_length_bytes.0 == 0),
            ("consumer_window", queues.consumer_window == 0),
        ] {
            if zero {
                self.error(at(name), "must be above 0");
            }
        }
    }
}

/// An argon2id hash in PHC form, or why it is none. The hash itself is never part of the text.
fn judge_hash(text: &str) -> Result<(), String> {
    if text.starts_with(scram::MECHANISM) {
        return match scram::Secret::parse(text) {
            Some(_) => Ok(()),
            None => Err("is not well formed; mynah hash-password --scram prints one that is".to_owned()),
        };
    }
    let hash = PasswordHash::new(text)
        .map_err(|error| format!("is not a password hash ({error}); mynah hash-password prints one"))?;
    if hash.algorithm.as_str() != "argon2id" {
        return Err(format!(
            "is made with {}; argon2id is wanted, as mynah hash-password makes it",
            hash.algorithm
        ));
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(
            "is cut short: salt or hash is missing; mynah hash-password prints a whole one".to_owned()
        );
    }
    Ok(())
}

/// An address, or a network such as `10.0.0.0/8`.
pub(crate) fn parse_net(text: &str) -> Option<mynah_net::IpNet> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(Into::into))
}
