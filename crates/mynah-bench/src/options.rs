//! What a run is told: the options of `mynah bench run`, and the [`Spec`] that they become.
//!
//! Never: opens a connection.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

use crate::payload::HEADER;
use crate::wire::{Settle, Terms};

/// A protocol that the generator speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// MQTT 3.1.1
    #[default]
    Mqtt,
    /// MQTT 5.0
    Mqtt5,
    /// STOMP 1.2
    Stomp,
    /// AMQP 0-9-1
    Amqp091,
    /// AMQP 1.0
    Amqp10,
    /// NATS JetStream, for the pattern "store"
    Jetstream,
}

/// A shape of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Each publisher has a topic and a subscriber of its own
    #[default]
    Pairs,
    /// Each publisher goes round the topics of all subscribers
    Scattered,
    /// Many publishers, one subscriber
    FanIn,
    /// Each message goes to all subscribers
    FanOut,
    /// Consumers compete for the messages of queues
    Queue,
    /// Nobody consumes: what counts are confirmed messages, and the queue is deleted at the end (AMQP 0-9-1, JetStream)
    Store,
    /// MQTT subscriptions to many topics, one in ten with a wildcard; publishers go round random ones
    Crowd,
    /// One publisher stores retained messages, again and again (MQTT)
    Retain,
    /// One subscriber is sent all retained messages, again and again (MQTT)
    Replay,
}

/// Options of `mynah bench run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Protocol to speak
    #[arg(long, value_enum, default_value = "mqtt")]
    pub protocol: Protocol,
    /// Broker to measure, HOST:PORT
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub address: String,
    /// Who sends to whom
    #[arg(long, value_enum, default_value = "pairs")]
    pub pattern: Pattern,
    /// Number of publishers [default: 50; fan-out and queue: 1]
    #[arg(long)]
    pub publishers: Option<u32>,
    /// Number of subscribers [default: as publishers; fan-out: 50; crowd: 100]
    #[arg(long)]
    pub subscribers: Option<u32>,
    /// Number of queues in the pattern "queue"
    #[arg(long, default_value_t = 1)]
    pub queues: u32,
    /// Subscriptions of the pattern "crowd", retained messages of "retain" and "replay" [default: 100000; 50000]
    #[arg(long)]
    pub topics: Option<u32>,
    /// Bytes of a payload, at least 24
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// MQTT quality of service
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// How consumers settle: auto, individual, or the number of messages one acknowledgement covers
    #[arg(long, default_value = "auto", value_parser = settle)]
    pub settle: Settle,
    /// Publishers ask for confirms, receipts or dispositions
    #[arg(long)]
    pub confirm: bool,
    /// Persistent messages and durable queues
    #[arg(long)]
    pub durable: bool,
    /// Messages a consumer may hold unsettled, or its link credit [default: the window]
    #[arg(long)]
    pub prefetch: Option<u32>,
    /// Deliveries outstanding end to end, all publishers together [default: 4000; fan-out: 100000]
    #[arg(long)]
    pub window: Option<u64>,
    /// Open loop: this many messages a second, all publishers together
    #[arg(long)]
    pub rate: Option<u64>,
    /// Measured seconds
    #[arg(long, default_value_t = 3.0)]
    pub duration: f64,
    /// Seconds of the same traffic before, which do not count
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// End after this many messages of each publisher; no warm-up then
    #[arg(long)]
    pub count: Option<u64>,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// User name
    #[arg(long)]
    pub user: Option<String>,
    /// Password; used with a user only, but AMQP 0-9-1 always logs in (guest if none is given)
    #[arg(long, default_value = "guest")]
    pub password: String,
    /// Virtual host of AMQP 0-9-1 and STOMP
    #[arg(long, default_value = "/")]
    pub vhost: String,
    /// Written before the names of queues or topics, instead of the protocol's own
    #[arg(long)]
    pub prefix: Option<String>,
    /// Process of the broker: its CPU time and memory are reported, with its children
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// All of one run, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub run: u32,
    pub protocol: Protocol,
    pub address: SocketAddr,
    pub pattern: Pattern,
    pub publishers: u32,
    pub subscribers: u32,
    pub queues: u32,
    /// Subscriptions of a crowd, or retained messages.
    pub topics: u32,
    pub size: usize,
    pub qos: u8,
    pub settle: Settle,
    pub confirm: bool,
    pub durable: bool,
    pub prefetch: Option<u32>,
    /// Deliveries outstanding, all publishers together.
    pub window: u64,
    pub rate: Option<u64>,
    pub duration: Duration,
    pub warm_up: Duration,
    pub count: Option<u64>,
    pub threads: usize,
    pub user: Option<String>,
    pub password: String,
    pub vhost: String,
    pub prefix: Option<String>,
    pub pid: Option<u32>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            run: 0,
            protocol: Protocol::Mqtt,
            address: SocketAddr::from(([127, 0, 0, 1], 1883)),
            pattern: Pattern::Pairs,
            publishers: 50,
            subscribers: 50,
            queues: 1,
            topics: 50_000,
            size: 64,
            qos: 0,
            settle: Settle::Auto,
            confirm: false,
            durable: false,
            prefetch: None,
            window: 4_000,
            rate: None,
            duration: Duration::from_secs(2),
            warm_up: Duration::from_millis(500),
            count: None,
            threads: 1,
            user: None,
            password: String::new(),
            vhost: "/".to_owned(),
            prefix: None,
            pid: None,
        }
    }
}

impl Spec {
    /// The options, checked.
    ///
    /// # Errors
    ///
    /// An address that does not resolve, or numbers that make no run.
    pub(crate) fn from_args(args: &RunArgs) -> anyhow::Result<Self> {
        let address = resolve(&args.address)?;
        let (publishers, subscribers) = counts(args.pattern, args.publishers, args.subscribers);
        ensure!(publishers > 0 && subscribers > 0, "--publishers and --subscribers must be at least 1");
        ensure!(args.size >= HEADER, "--size must be at least {HEADER}");
        ensure!(args.threads > 0 && args.threads <= 64, "--threads must be 1 to 64");
        ensure!(args.rate != Some(0), "--rate must be at least 1");
        let seconds = |value: f64, name: &str| {
            Duration::try_from_secs_f64(value).with_context(|| format!("--{name} is no number of seconds"))
        };
        let fan_out = args.pattern == Pattern::FanOut;
        let store = args.pattern == Pattern::Store;
        let stores = matches!(args.protocol, Protocol::Amqp091 | Protocol::Jetstream);
        ensure!(!store || stores, "--pattern store is there for amqp091 and jetstream only");
        ensure!(store || args.protocol != Protocol::Jetstream, "jetstream is there for --pattern store only");
        let mqtt = matches!(args.protocol, Protocol::Mqtt | Protocol::Mqtt5);
        let topics = matches!(args.pattern, Pattern::Crowd | Pattern::Retain | Pattern::Replay);
        ensure!(mqtt || !topics, "--pattern crowd, retain and replay are there for mqtt only");
        let topics = args.topics.unwrap_or(if args.pattern == Pattern::Crowd { 100_000 } else { 50_000 });
        ensure!((1..=9_999_999).contains(&topics), "--topics must be 1 to 9999999");
        Ok(Self {
            run: fresh_run(),
            protocol: args.protocol,
            address,
            pattern: args.pattern,
            publishers,
            subscribers,
            queues: args.queues,
            topics,
            size: args.size,
            qos: args.qos,
            settle: args.settle,
            confirm: args.confirm || store,
            durable: args.durable,
            prefetch: args.prefetch,
            window: args.window.unwrap_or(if fan_out { 100_000 } else { 4_000 }).max(1),
            rate: args.rate,
            duration: seconds(args.duration, "duration")?,
            warm_up: if args.count.is_some() { Duration::ZERO } else { seconds(args.warm_up, "warm-up")? },
            count: args.count,
            threads: args.threads,
            user: args.user.clone(),
            password: args.password.clone(),
            vhost: args.vhost.clone(),
            prefix: args.prefix.clone(),
            pid: args.pid,
        })
    }

    /// The same as the connections need it.
    pub(crate) fn terms(&self) -> Terms {
        let window = u32::try_from(self.window).unwrap_or(u32::MAX).clamp(10, 30_000);
        Terms {
            run: self.run,
            user: self.user.clone(),
            password: self.password.clone(),
            vhost: self.vhost.clone(),
            size: self.size,
            qos: self.qos,
            settle: self.settle,
            confirm: self.confirm,
            durable: self.durable,
            prefetch: self.prefetch.unwrap_or(window).max(1),
            queues: matches!(self.pattern, Pattern::Queue | Pattern::Store),
            store: self.pattern == Pattern::Store,
            numbered_through: self.pattern == Pattern::Crowd,
        }
    }
}

/// A number for a run that no other run of this machine has at the same time.
pub(crate) fn fresh_run() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mixed = now.as_nanos() ^ (u128::from(std::process::id()) << 20);
    u32::try_from(mixed & 0xFFFF_FFFF).unwrap_or(1)
}

/// The first address that a name stands for.
///
/// # Errors
///
/// The name does not resolve.
pub(crate) fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found =
        address.to_socket_addrs().with_context(|| format!("cannot resolve {address}, expected HOST:PORT"))?;
    found.next().with_context(|| format!("{address} has no address"))
}

fn counts(pattern: Pattern, publishers: Option<u32>, subscribers: Option<u32>) -> (u32, u32) {
    match pattern {
        Pattern::Pairs => {
            let pairs = publishers.or(subscribers).unwrap_or(50);
            (pairs, pairs)
        }
        Pattern::Scattered => {
            let publishers = publishers.unwrap_or(50);
            (publishers, subscribers.unwrap_or(publishers))
        }
        Pattern::FanIn => (publishers.unwrap_or(50), 1),
        Pattern::FanOut => (publishers.unwrap_or(1), subscribers.unwrap_or(50)),
        Pattern::Queue => (publishers.unwrap_or(1), subscribers.unwrap_or(1)),
        Pattern::Store | Pattern::Retain | Pattern::Replay => (publishers.unwrap_or(1), 1),
        Pattern::Crowd => (publishers.unwrap_or(50), subscribers.unwrap_or(100)),
    }
}

fn settle(text: &str) -> anyhow::Result<Settle> {
    match text {
        "auto" => Ok(Settle::Auto),
        "individual" => Ok(Settle::Every(1)),
        _ => match text.parse() {
            Ok(every) if every > 0 => Ok(Settle::Every(every)),
            _ => bail!("expected auto, individual or a number of messages"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlements_are_read() {
        assert_eq!(settle("auto").unwrap(), Settle::Auto);
        assert_eq!(settle("individual").unwrap(), Settle::Every(1));
        assert_eq!(settle("50").unwrap(), Settle::Every(50));
        assert!(settle("0").is_err());
        assert!(settle("never").is_err());
    }

    #[test]
    fn counts_follow_the_pattern() {
        assert_eq!(counts(Pattern::Pairs, Some(3), None), (3, 3));
        assert_eq!(counts(Pattern::FanIn, Some(1000), Some(9)), (1000, 1));
        assert_eq!(counts(Pattern::FanOut, None, Some(1000)), (1, 1000));
        assert_eq!(counts(Pattern::Queue, None, None), (1, 1));
        assert_eq!(counts(Pattern::Store, Some(16), Some(4)), (16, 1));
    }
}
