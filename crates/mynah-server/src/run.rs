//! Starts the broker from a configuration and stops it on SIGTERM or SIGINT.
//!
//! Order: the store, the broker, its listeners, the HTTP ports, then the banner: whoever reads it finds every port open. Stopping goes
//! the other way, with [`GRACE`] for the connections to say good-bye; a second signal does not wait for them.
//!
//! Never: looks at a message.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mynah_admin::{Admin, AdminConfig, Readiness};
use mynah_broker::{AuthConfig, Broker, BrokerConfig, Password, QueueConfig};
use mynah_core::engine::{Engine, Formats};
use mynah_core::protocol::Protocol;
use mynah_net::{ClientCertificate, ListenerSpec, Net, NetConfig, TlsSettings, WebSocketSettings};
use mynah_store::{Store, StoreOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::cli::banner::Opened;
use crate::config::{
    Anonymous, ClientCert, Config, ListenerAnonymous, ListenerProtocol, Rule, RuleAction, Tls, User,
    UserFrom, parse_net,
};
use crate::{memory, open_files, protocols};

/// How long connections may take to say good-bye. Below the ten seconds after which container engines kill.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until a signal comes. `ready` is called once, when every port is open.
pub(crate) fn run(config: &Config, ready: impl FnOnce(&Config, &Opened)) -> anyhow::Result<()> {
    open_files::raise(config.limits.connections_max);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("mynah")
        .build()
        .context("cannot start the worker threads")?;
    let all = protocols::all(config);
    let formats = Formats::new(all.iter().flat_map(|(_, protocol)| protocol.formats()).collect());
    let options = store_options(config);
    let store = Store::open(options.clone(), formats.clone())
        .with_context(|| format!("cannot open the store in {} (data_dir)", options.dir.display()))?;
    let kept = Kept { engine: store.engine(), formats };
    let done = runtime.block_on(serve(config, &all, kept, ready));
    // Password hashing runs on threads that nothing interrupts; it is over in a moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    // Last: whatever was still appended is safe now.
    drop(store);
    done
}

/// What outlives the process, and how it is read.
#[derive(Debug)]
struct Kept {
    engine: Engine,
    formats: Formats,
}

async fn serve(
    config: &Config,
    all: &[(ListenerProtocol, Arc<dyn Protocol>)],
    kept: Kept,
    ready: impl FnOnce(&Config, &Opened),
) -> anyhow::Result<()> {
    // Before the first port is open, so that no signal finds the default action, which loses connections.
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let broker =
        Broker::open(broker_config(config), kept.engine, kept.formats).context("cannot start the broker")?;
    // The text of this error holds its cause already.
    let net = Net::start(&broker, listeners(config, all), net_config(config))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let readiness = Readiness::default();
    let ports = AdminConfig { bind: config.admin.bind.0, metrics_bind: config.metrics.bind.0 };
    let admin = Admin::start(Arc::clone(&broker), ports, readiness.clone())
        .await
        .context("cannot open the HTTP ports")?;
    let opened = Opened {
        listeners: net
            .addresses()
            .iter()
            .zip(&config.listeners)
            .map(|((name, address), listener)| (name.clone(), listener.protocol, *address))
            .collect(),
        admin: admin.address,
        metrics: admin.metrics_address,
    };
    readiness.set(true);
    ready(config, &opened);
    info!(version = env!("CARGO_PKG_VERSION"), "ready");

    // Awaited here and not in the macro, which skips its fields when the level does.
    let name = signals.next().await;
    info!(signal = name, "stopping");
    readiness.set(false);
    tokio::select! {
        () = net.stop(GRACE) => {}
        name = signals.next() => warn!(signal = name, "stopping at once"),
    }
    admin.stop();
    broker.write_down();
    info!("stopped");
    Ok(())
}

/// The two signals that end a service.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listeners(config: &Config, all: &[(ListenerProtocol, Arc<dyn Protocol>)]) -> Vec<ListenerSpec> {
    config
        .listeners
        .iter()
        .map(|listener| ListenerSpec {
            tls: listener.tls.as_ref().map(tls),
            websocket: (listener.protocol == ListenerProtocol::Websocket)
                .then(|| WebSocketSettings { origins: listener.origins.clone() }),
            proxies: (!listener.proxy_protocol.is_empty())
                .then(|| listener.proxy_protocol.iter().filter_map(|net| parse_net(net)).collect()),
            anonymous: listener.anonymous.map(|anonymous| anonymous == ListenerAnonymous::Always),
            ..ListenerSpec::new(listener.name.clone(), listener.bind.0, protocols::of(config, all, listener))
        })
        .collect()
}

fn tls(tls: &Tls) -> TlsSettings {
    TlsSettings {
        certificates: (&tls.cert).into(),
        key: (&tls.key).into(),
        client_authorities: tls.client_ca.as_ref().map(Into::into),
        client_certificate: match tls.client_cert {
            ClientCert::None => ClientCertificate::None,
            ClientCert::Optional => ClientCertificate::Optional,
            ClientCert::Required => ClientCertificate::Required,
        },
        user_from: match tls.user_from {
            UserFrom::None => mynah_net::UserFrom::None,
            UserFrom::CommonName => mynah_net::UserFrom::CommonName,
            UserFrom::Subject => mynah_net::UserFrom::Subject,
        },
    }
}

fn net_config(config: &Config) -> NetConfig {
    NetConfig { connections_max: usize::try_from(config.limits.connections_max).unwrap_or(usize::MAX) }
}

fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        journal_bytes_max: config.store.journal_bytes_max.0,
        free_bytes_min: config.store.free_bytes_min.0,
        ..StoreOptions::new(Path::new(&config.data_dir))
    }
}

fn broker_config(config: &Config) -> BrokerConfig {
    let (limits, queues) = (&config.limits, &config.queues);
    BrokerConfig {
        auth: AuthConfig {
            anonymous: match config.auth.anonymous {
                Anonymous::Never => mynah_broker::Anonymous::Never,
                Anonymous::Loopback => mynah_broker::Anonymous::Loopback,
                Anonymous::Always => mynah_broker::Anonymous::Always,
            },
            users: config.auth.users.iter().filter_map(user).collect(),
            failures_max: config.auth.failures_max,
            rules: config.auth.rules.iter().map(rule).collect(),
        },
        virtual_hosts: config.virtual_hosts.clone(),
        inbox_bytes_max: limits.inbox_bytes_max.as_usize(),
        message_bytes_max: limits.message_bytes_max.as_usize(),
        retained_messages_max: usize::try_from(limits.retained_messages_max).unwrap_or(usize::MAX),
        session_expiry_max: limits.session_expiry_max.0,
        session_messages_max: limits.session_messages_max,
        session_bytes_max: limits.session_bytes_max.0,
        sys_interval: config.sys.interval.0,
        memory_max: memory::budget(config.store.memory_max.0),
        queues: QueueConfig {
            auto_create: queues.auto_create,
            delivery_limit: queues.delivery_limit,
            messages_max: queues.max_length_messages,
            bytes_max: queues.max_length_bytes.0,
            socket_window: queues.consumer_window,
            no_queue_dead_letters: queues.no_queue_dead_letters.clone(),
        },
    }
}

fn rule(rule: &Rule) -> mynah_broker::Rule {
    use mynah_broker::Action;
    let actions = rule.allow.iter().chain(&rule.deny).flat_map(|action| match action {
        RuleAction::Connect => [Action::Connect].as_slice(),
        RuleAction::Publish => &[Action::Publish],
        RuleAction::Subscribe => &[Action::Subscribe],
        RuleAction::Deliver => &[Action::Deliver],
        RuleAction::Read => &[Action::Subscribe, Action::Deliver],
        RuleAction::All => &[Action::Publish, Action::Subscribe, Action::Deliver],
    });
    mynah_broker::Rule {
        allow: !rule.allow.is_empty(),
        actions: actions.copied().collect(),
        users: rule.users.clone(),
        to: rule.to.clone(),
    }
}

/// A user without a password cannot come this far: `check.rs` refuses the file.
fn user(user: &User) -> Option<mynah_broker::User> {
    let password = match (&user.password_hash, &user.password) {
        (Some(hash), _) => Password::Hash(hash.0.clone()),
        (None, Some(clear)) => Password::Clear(clear.0.clone()),
        (None, None) => return None,
    };
    Some(mynah_broker::User {
        name: user.name.clone(),
        password,
        loopback_only: user.loopback_only,
        admin: user.admin,
    })
}
