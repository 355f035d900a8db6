//! Brokers as child processes: found, configured without logging and limits, started on free ports, ended by pid.
//!
//! Everything listens on 127.0.0.1 and keeps its files in a folder of the run. Each is ended with SIGTERM through
//! kill(1) (safe Rust has no kill), then with SIGKILL.
//! Never: touches a process that it did not start, or a broker's system-wide files.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::files;
use crate::options::{Pattern, Protocol, Spec};
use crate::process;
use crate::rows::Kind;

/// From start to listening.
const START: Duration = Duration::from_secs(60);
/// From SIGTERM to SIGKILL.
const END: Duration = Duration::from_secs(5);
/// Where Debian keeps what a user's PATH leaves out.
const PLACES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin"];

/// A broker that runs.
#[derive(Debug)]
pub(crate) struct Broker {
    pub kind: Kind,
    pub version: String,
    /// From start to the moment when all ports accepted.
    pub started_in: Duration,
    /// Resident bytes before the first connection.
    pub rss_idle: u64,
    /// The file that was started.
    pub program: PathBuf,
    ports: Ports,
    children: Vec<Child>,
}

/// Ports on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
struct Ports {
    mqtt: u16,
    stomp: u16,
    amqp: u16,
    other: [u16; 2],
}

/// What to start, before it runs.
struct Recipe {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// Ports that must accept.
    wanted: Vec<u16>,
}

/// The program of a peer, if the machine has it; `extra` is looked at first.
pub(crate) fn find(kind: Kind, extra: &[PathBuf]) -> Option<PathBuf> {
    let name = match kind {
        Kind::Mynah => "mynah",
        Kind::Mosquitto => "mosquitto",
        // The wrapper in /usr/sbin would change to another user; the script behind it does not.
        Kind::Rabbitmq => return existing(&Path::new("/usr/lib/rabbitmq/bin").join("rabbitmq-server")),
        Kind::Nats => "nats-server",
        Kind::Rumqttd => "rumqttd",
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let mut places = extra.to_vec();
    places.extend(env::split_paths(&path));
    places.extend(cargo);
    places.extend(PLACES.map(PathBuf::from));
    places
        .iter()
        .flat_map(|place| [place.join(name), place.join("bin").join(name)])
        .find_map(|file| existing(&file))
}

fn existing(file: &Path) -> Option<PathBuf> {
    // Absolute, because brokers start in a folder of their own.
    file.is_file().then(|| file.canonicalize().ok()).flatten()
}

impl Broker {
    /// Starts `program` with its files in `folder` and waits until it listens.
    ///
    /// # Errors
    ///
    /// It does not start, ends at once, or does not listen in time; the end of its log is in the text.
    pub(crate) fn start(kind: Kind, program: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let ports = Ports::free()?;
        let log = folder.join("log.txt");
        let recipe = recipe(kind, program, folder, ports)?;
        let version = version(kind, program);
        let mut children = Vec::new();
        if kind == Kind::Rabbitmq {
            let mut epmd = Command::new("epmd");
            epmd.args(["-address", "127.0.0.1", "-port", &ports.other[1].to_string()]);
            children.push(spawn(epmd, &folder.join("epmd.txt"))?);
        }
        let mut command = Command::new(&recipe.program);
        command.args(&recipe.arguments).envs(recipe.variables).current_dir(folder);
        let started = Instant::now();
        children.push(spawn(command, &log)?);
        let mut broker = Self {
            kind,
            version,
            started_in: Duration::ZERO,
            rss_idle: 0,
            program: program.to_owned(),
            ports,
            children,
        };
        for port in recipe.wanted {
            broker.wait_for(port, started, &log)?;
        }
        broker.started_in = started.elapsed();
        thread::sleep(Duration::from_millis(500));
        broker.rss_idle = process::tree(broker.pid()).rss;
        Ok(broker)
    }

    fn wait_for(&mut self, port: u16, started: Instant, log: &Path) -> anyhow::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            let ended = self.children.last_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || started.elapsed() > START {
                let text = fs::read_to_string(log).unwrap_or_default();
                let skip = text.lines().count().saturating_sub(5);
                let tail: Vec<_> = text.lines().skip(skip).collect();
                bail!("{} does not listen: {}", self.kind.name(), tail.join(" | "));
            }
            thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// The main process.
    pub(crate) fn pid(&self) -> u32 {
        self.children.last().map_or(0, Child::id)
    }

    pub(crate) fn mqtt(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.mqtt))
    }

    /// Completes a row's run for this broker: address, login, names, process.
    pub(crate) fn aim(&self, spec: &Spec) -> Spec {
        // The same row in the language of the peer.
        let protocol = match self.kind {
            Kind::Nats if spec.pattern == Pattern::Store => Protocol::Jetstream,
            Kind::Mynah | Kind::Rumqttd | Kind::Nats | Kind::Mosquitto | Kind::Rabbitmq => spec.protocol,
        };
        let (port, login) = match protocol {
            Protocol::Mqtt | Protocol::Mqtt5 => (self.ports.mqtt, None),
            Protocol::Stomp => (self.ports.stomp, Some("guest")),
            Protocol::Amqp091 | Protocol::Amqp10 => (self.ports.amqp, Some("guest")),
            Protocol::Jetstream => (self.ports.other[0], None),
        };
        // The 1.0 plugin of RabbitMQ 3 declares a queue only for this form of address.
        let prefixed = self.kind == Kind::Rabbitmq && spec.protocol == Protocol::Amqp10;
        Spec {
            run: crate::options::fresh_run(),
            protocol,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            user: login.map(str::to_owned),
            password: login.unwrap_or_default().to_owned(),
            prefix: prefixed.then(|| "/queue/".to_owned()),
            pid: Some(self.pid()),
            ..spec.clone()
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Who has ended and was reaped has no pid any more.
        let running = self.children.iter_mut().filter_map(|child| match child.try_wait() {
            Ok(None) => Some(child.id()),
            _ => None,
        });
        let family: Vec<u32> = running.flat_map(process::family).collect();
        signal("-TERM", &family);
        let patience = Instant::now() + END;
        for child in self.children.iter_mut().rev() {
            while Instant::now() < patience && !matches!(child.try_wait(), Ok(Some(_))) {
                thread::sleep(Duration::from_millis(10));
            }
            if !matches!(child.try_wait(), Ok(Some(_))) {
                signal("-KILL", &process::family(child.id()));
            }
            // Reaped here, so that the pid stays ours until nothing is sent to it any more.
            let _gone = child.wait();
        }
    }
}

fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut kill = Command::new("kill");
    kill.arg(name).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    // A process that is gone already is what was wanted.
    let _status = kill.status();
}

fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let file = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let copy = file.try_clone().context("log file")?;
    let program = command.get_program().to_owned();
    command.env_remove(files::MARK).stdin(Stdio::null()).stdout(file).stderr(copy);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

impl Ports {
    /// Five ports that are free now; all are held until the last is known, so that they differ.
    fn free() -> anyhow::Result<Self> {
        let mut held = Vec::new();
        let mut ports = [0; 5];
        for port in &mut ports {
            let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
            *port = listener.local_addr().context("no free port")?.port();
            held.push(listener);
        }
        let [mqtt, stomp, amqp, first, second] = ports;
        Ok(Self { mqtt, stomp, amqp, other: [first, second] })
    }
}

fn version(kind: Kind, program: &Path) -> String {
    let arguments: &[&str] = match kind {
        Kind::Mosquitto => &["-h"],
        Kind::Rabbitmq => {
            // The script has no such option; the folder of its release has the number in its name.
            let found = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
            let names = found.filter_map(|entry| entry.file_name().into_string().ok());
            return names
                .filter_map(|name| name.strip_prefix("rabbitmq_server-").map(str::to_owned))
                .next()
                .unwrap_or_default();
        }
        Kind::Mynah | Kind::Nats | Kind::Rumqttd => &["--version"],
    };
    let Ok(output) = Command::new(program).args(arguments).stdin(Stdio::null()).output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default();
    let number = first.split_ascii_whitespace().find(|word| word.contains('.'));
    number.unwrap_or_default().trim_start_matches('v').to_owned()
}

fn recipe(kind: Kind, program: &Path, folder: &Path, ports: Ports) -> anyhow::Result<Recipe> {
    let Ports { mqtt, stomp, amqp, other: [first, second] } = ports;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    };
    let plain = |arguments: Vec<String>, wanted| Recipe {
        program: program.to_owned(),
        arguments,
        variables: Vec::new(),
        wanted,
    };
    Ok(match kind {
        Kind::Mynah => {
            let config = file("mynah.yaml", &mynah_config(folder, ports))?;
            plain(vec!["serve".to_owned(), "-c".to_owned(), config], vec![mqtt, stomp, amqp])
        }
        Kind::Mosquitto => {
            let text = format!(
                "listener {mqtt} 127.0.0.1\nallow_anonymous true\nlog_type none\npersistence false\n\
                 max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
            );
            plain(vec!["-c".to_owned(), file("mosquitto.conf", &text)?], vec![mqtt])
        }
        Kind::Rumqttd => {
            let text = format!(
                "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
                 max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\n\
                 listen = \"127.0.0.1:{mqtt}\"\nnext_connection_delay_ms = 0\n[v4.1.connections]\n\
                 connection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 10000\n\
                 dynamic_filters = true\n"
            );
            plain(vec!["-q".to_owned(), "-c".to_owned(), file("rumqttd.toml", &text)?], vec![mqtt])
        }
        Kind::Nats => {
            let store = folder.join("jetstream").display().to_string();
            let sync = if syncs(&version(kind, program)) { ", sync_interval: always" } else { "" };
            let text = format!(
                "server_name: bench\nlisten: \"127.0.0.1:{first}\"\njetstream {{ store_dir: \"{store}\"{sync} }}\n\
                 mqtt {{ listen: \"127.0.0.1:{mqtt}\"\n  max_ack_pending: 65535 }}\nmax_connections: 100000\n"
            );
            plain(vec!["-c".to_owned(), file("nats.conf", &text)?], vec![mqtt])
        }
        Kind::Rabbitmq => {
            let text = format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}\n\
                 mqtt.allow_anonymous = true\nmqtt.prefetch = 10000\nstomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n\
                 log.console = false\nlog.file = false\ndisk_free_limit.absolute = 50MB\n"
            );
            let config = file("rabbitmq.conf", &text)?;
            let plugins = file("enabled_plugins", "[rabbitmq_mqtt,rabbitmq_stomp,rabbitmq_amqp1_0].\n")?;
            let place = |name: &str| folder.join(name).display().to_string();
            let variables = vec![
                ("HOME", folder.display().to_string()),
                ("ERL_EPMD_PORT", second.to_string()),
                ("RABBITMQ_NODENAME", "bench@localhost".to_owned()),
                ("RABBITMQ_DIST_PORT", first.to_string()),
                ("RABBITMQ_CONFIG_FILE", config),
                ("RABBITMQ_ENABLED_PLUGINS_FILE", plugins),
                ("RABBITMQ_MNESIA_BASE", place("mnesia")),
                ("RABBITMQ_LOG_BASE", place("log")),
                ("RABBITMQ_LOGS", "-".to_owned()),
            ];
            Recipe { variables, ..plain(Vec::new(), vec![amqp, stomp, mqtt]) }
        }
    })
}

/// Whether a nats-server can sync before it answers; before 2.10 none could, and its answers promise less.
pub(crate) fn syncs(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0u32));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 10)
}

/// Mynah runs with its default limits: what it drops there, it would drop for users.
fn mynah_config(folder: &Path, ports: Ports) -> String {
    let Ports { mqtt, stomp, amqp, other: [admin, metrics] } = ports;
    let data = folder.join("data").display().to_string();
    format!(
        "data_dir: \"{data}\"\nlisteners:\n\
         \x20 - {{ name: mqtt, protocol: mqtt, bind: \"127.0.0.1:{mqtt}\" }}\n\
         \x20 - {{ name: stomp, protocol: stomp, bind: \"127.0.0.1:{stomp}\" }}\n\
         \x20 - {{ name: amqp, protocol: amqp, bind: \"127.0.0.1:{amqp}\" }}\n\
         admin: {{ bind: \"127.0.0.1:{admin}\" }}\nmetrics: {{ bind: \"127.0.0.1:{metrics}\" }}\n\
         auth:\n  anonymous: loopback\n  users:\n    - {{ name: guest, password: guest }}\n\
         log:\n  level: error\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_listen_on_loopback_only() {
        let folder = env::temp_dir().join(format!("mynah-bench-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ports = Ports { mqtt: 1, stomp: 2, amqp: 3, other: [4, 5] };
        for kind in [Kind::Mynah, Kind::Mosquitto, Kind::Rumqttd, Kind::Nats, Kind::Rabbitmq] {
            let recipe = recipe(kind, Path::new("/bin/true"), &folder, ports).unwrap();
            assert!(recipe.wanted.contains(&1), "{kind:?}");
        }
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(!text.contains("0.0.0.0"), "{:?}", entry.path());
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_nats_server_that_cannot_sync_is_told_apart() {
        assert!(syncs("2.10.0") && syncs("2.14.5") && syncs("3.0"));
        assert!(!syncs("2.9.10") && !syncs(""));
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error() {
        let folder = env::temp_dir().join(format!("mynah-bench-start-{}", std::process::id()));
        let error = Broker::start(Kind::Mosquitto, Path::new("/bin/true"), &folder).unwrap_err();
        assert!(error.to_string().contains("does not listen"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn free_ports_differ() {
        let Ports { mqtt, stomp, amqp, other: [a, b] } = Ports::free().unwrap();
        let mut all = vec![mqtt, stomp, amqp, a, b];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}
