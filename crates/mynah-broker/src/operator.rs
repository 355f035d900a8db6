//! What operators see and do: plain data out, few verbs in. Used by the HTTP API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mynah_core::protocol::{Notice, Refusal};
use mynah_core::queue::Peeked;
use mynah_core::{Address, Filter, Message};

use crate::broker::Broker;
use crate::queues::{QueueHandle, QueueKind};
use crate::virtual_host::VirtualHost;

#[derive(Debug, Clone)]
pub struct Overview {
    pub uptime: Duration,
    pub connections: usize,
    pub queues: usize,
    pub clients: usize,
    pub retained: usize,
    pub ready: u64,
    pub unsettled: u64,
    pub protocols: Vec<ProtocolTotals>,
}

#[derive(Debug, Clone)]
pub struct ProtocolTotals {
    pub protocol: String,
    pub received: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub connections: i64,
}

#[derive(Debug, Clone)]
pub struct ConnectionView {
    pub number: u64,
    pub peer: SocketAddr,
    pub listener: Arc<str>,
    pub protocol: &'static str,
    /// `MQTT 5.0`; empty until the client has opened.
    pub version: &'static str,
    pub user: Option<Arc<str>>,
    pub client_id: Option<Arc<str>>,
    pub virtual_host: Option<Arc<str>>,
    pub age: Duration,
    pub received: u64,
    pub delivered: u64,
    pub inbox_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct QueueView {
    pub name: Arc<str>,
    pub virtual_host: Arc<str>,
    pub kind: &'static str,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub ready: u64,
    pub ready_bytes: u64,
    pub unsettled: u64,
    pub consumers: u32,
    pub published: u64,
    pub delivered: u64,
    pub settled: u64,
    pub dead_lettered: u64,
    pub topics: Vec<String>,
    /// The policy that holds for it.
    pub policy: Option<Arc<str>>,
}

/// A definition was not made.
#[derive(Debug)]
pub enum Unmade {
    /// It makes no sense: what to change.
    Invalid(String),
    Refused(Refusal),
}

impl From<Refusal> for Unmade {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A name that operators give.
pub(crate) fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), Unmade> {
    if name.is_empty() || name.len() > bytes_max || name.chars().any(char::is_control) {
        return Err(Unmade::Invalid(format!(
            "the name of a {what} has 1 to {bytes_max} bytes and no control characters"
        )));
    }
    Ok(())
}

#[derive(Debug, Clone)]
pub struct TopicView {
    /// The filter of one or more subscriptions, or a topic with a retained message.
    pub name: String,
    pub subscriptions: usize,
    pub retained_bytes: Option<usize>,
}

impl Broker {
    #[must_use]
    pub fn overview(&self) -> Overview {
        let (mut ready, mut unsettled, mut queues, mut clients, mut retained) = (0, 0, 0, 0, 0);
        for host in &self.hosts {
            queues += host.queues.len();
            clients += host.clients.len();
            retained += host.retained.len();
            for queue in &host.queues {
                let guarded = queue.lock();
                ready += guarded.machine.ready();
                unsettled += guarded.machine.unsettled();
            }
        }
        Overview {
            uptime: self.started.elapsed(),
            connections: self.connections.len(),
            queues,
            clients,
            retained,
            ready,
            unsettled,
            protocols: self.shared.metrics.totals(),
        }
    }

    #[must_use]
    pub fn connection_views(&self) -> Vec<ConnectionView> {
        let mut views: Vec<_> = self
            .connections
            .iter()
            .map(|info| {
                let about = info.about();
                ConnectionView {
                    number: info.number(),
                    peer: info.peer.address,
                    listener: Arc::clone(&info.peer.listener),
                    protocol: info.counters.protocol,
                    version: about.map_or("", |about| about.protocol),
                    user: info.user().cloned(),
                    client_id: about.map(|about| Arc::clone(&about.client_id)),
                    virtual_host: about.map(|about| Arc::clone(&about.virtual_host)),
                    age: info.since.elapsed(),
                    received: info.received.load(Ordering::Relaxed),
                    delivered: info.delivered.load(Ordering::Relaxed),
                    inbox_bytes: info.inbox.level().0,
                }
            })
            .collect();
        views.sort_by_key(|view| view.number);
        views
    }

    /// Closes a connection; false if there is none of that number.
    #[must_use]
    pub fn kick(&self, connection: u64, reason: String) -> bool {
        let Some(inbox) = self.connections.get(&connection).map(|info| Arc::clone(&info.inbox)) else {
            return false;
        };
        if inbox.push_notice(Notice::Kicked { reason: reason.into() }).wake {
            inbox.wake();
        }
        true
    }

    #[must_use]
    pub fn queue_views(&self, host: &VirtualHost) -> Vec<QueueView> {
        let mut views: Vec<_> = host.queues.iter().map(|queue| queue_view(host, &queue)).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// Removes what is ready. Answers how many; `None` if there is no such queue.
    #[must_use]
    pub fn purge(&self, host: &VirtualHost, queue: &str) -> Option<u64> {
        let queue = host.queue(queue)?;
        Some(queue.purge())
    }

    /// Looks at ready messages without touching them.
    #[must_use]
    pub fn peek(&self, host: &VirtualHost, queue: &str, skip: usize, count: usize) -> Option<Vec<Peeked>> {
        let queue = host.queue(queue)?;
        let peeked = queue.lock().machine.peek(skip, count);
        Some(peeked)
    }

    /// Deletes a queue with its messages; with a session's queue ends the session. Answers how many it had.
    #[must_use]
    pub fn delete_queue(&self, host: &VirtualHost, queue: &str) -> Option<u64> {
        let queue = host.queue(queue)?;
        let now = Instant::now();
        let mut batch = self.own_batch();
        let messages = match queue.kind {
            QueueKind::Session => host.delete_session(&mut batch, &queue, now),
            QueueKind::Plain | QueueKind::Durable | QueueKind::Temporary | QueueKind::Shared => {
                host.delete_queue(&mut batch, &queue, now)
            }
        };
        batch.finish(host, now);
        batch.end();
        Some(messages)
    }

    /// Publishes on an operator's behalf. Answers the number of targets.
    #[must_use]
    pub fn publish_as_operator(&self, host: &VirtualHost, message: &Message, address: &Address) -> u32 {
        self.publish(host, message, address)
    }

    /// Filters in use and topics with a retained message, at most `count` of each.
    #[must_use]
    pub fn topic_views(&self, host: &VirtualHost, count: usize) -> Vec<TopicView> {
        let mut views: Vec<TopicView> = Vec::new();
        host.routes.read().topics.for_each(|filter, _| {
            let name = filter.to_string();
            let full = views.len() >= count;
            match views.last_mut().filter(|view| view.name == name) {
                Some(view) => view.subscriptions += 1,
                None if !full => views.push(TopicView { name, subscriptions: 1, retained_bytes: None }),
                None => {}
            }
        });
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                kept.subscriptions += later.subscriptions;
            }
            same
        });
        for filter in ["#", "$SYS/#"].iter().filter_map(|text| Filter::parse(text).ok()) {
            for (topic, message) in host.retained.list(&filter, count) {
                match views.iter_mut().find(|view| view.name == topic) {
                    Some(view) => view.retained_bytes = Some(message.body.len()),
                    None => views.push(TopicView {
                        name: topic,
                        subscriptions: 0,
                        retained_bytes: Some(message.body.len()),
                    }),
                }
            }
        }
        views
    }
}

#[must_use]
pub fn queue_view(host: &VirtualHost, queue: &QueueHandle) -> QueueView {
    let guarded = queue.lock();
    let machine = &guarded.machine;
    let spec = machine.spec();
    QueueView {
        name: Arc::clone(&queue.name),
        virtual_host: Arc::clone(&host.name),
        kind: queue.kind.name(),
        durable: spec.durable,
        exclusive: spec.exclusive,
        auto_delete: spec.auto_delete,
        ready: machine.ready(),
        ready_bytes: machine.ready_bytes(),
        unsettled: machine.unsettled(),
        consumers: machine.consumers(),
        published: queue.published.load(Ordering::Relaxed),
        delivered: queue.delivered.load(Ordering::Relaxed),
        settled: queue.settled.load(Ordering::Relaxed),
        dead_lettered: queue.dead_lettered.load(Ordering::Relaxed),
        topics: queue.filters().iter().map(ToString::to_string).collect(),
        policy: guarded.policy.clone(),
    }
}
