//! The broker: virtual hosts, connections, and what is done when nobody is connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use mynah_core::engine::memory::Memory;
use mynah_core::engine::{Engine, Formats, QueueNumber};
use mynah_core::protocol::Peer;
use mynah_core::{Address, DeliveryTag, Message};

use crate::access::Access;
use crate::batch::Batch;
use crate::config::BrokerConfig;
use crate::connections::ConnectionInfo;
use crate::durable::pager::Pager;
use crate::metrics::{Metrics, ProtocolCounters};
use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::sys::Sys;
use crate::timers::{Due, Timers};
use crate::virtual_host::VirtualHost;

/// What all virtual hosts share.
#[derive(Debug)]
pub struct Shared {
    pub config: BrokerConfig,
    pub access: Access,
    pub metrics: Metrics,
    pub timers: Timers,
    /// What outlives the process.
    pub engine: Engine,
    /// What the protocols can read of it.
    pub formats: Formats,
    pub pager: Pager,
    queue_numbers: AtomicU64,
    /// Counters of what nobody's connection causes.
    pub own_counters: Arc<ProtocolCounters>,
}

impl Shared {
    /// A number for a new queue: the lives of the log make it unique.
    pub(crate) fn next_queue(&self) -> QueueNumber {
        QueueNumber(self.queue_numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Tags of queues begin behind this one in this life of the log.
    pub(crate) fn first_tag(&self) -> DeliveryTag {
        DeliveryTag(u64::from(self.engine.log.generation().saturating_sub(1)) << 40)
    }
}

/// The broker cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("what is kept cannot be read: {0}")]
    State(#[from] std::io::Error),
}

#[derive(Debug)]
pub struct Broker {
    pub shared: Arc<Shared>,
    pub hosts: DashMap<Arc<str>, Arc<VirtualHost>>,
    pub connections: DashMap<u64, Arc<ConnectionInfo>>,
    pub started: Instant,
    default_host: Arc<VirtualHost>,
    pub(crate) sys: Sys,
    numbers: AtomicU64,
}

impl Broker {
    /// A broker that forgets everything with the process. As [`Broker::open`] otherwise.
    ///
    /// # Errors
    /// As [`Broker::open`].
    pub fn start(config: BrokerConfig) -> Result<Arc<Self>, StartError> {
        let formats = Formats::default();
        Self::open(config, Memory::new(formats.clone(), Instant::now()).engine(), formats)
    }

    /// With all that the engine has kept. Must be called within a tokio runtime: it starts the timer task, which ends with
    /// the broker.
    ///
    /// # Errors
    /// The metrics cannot be registered, or what is kept cannot be read.
    pub fn open(config: BrokerConfig, engine: Engine, formats: Formats) -> Result<Arc<Self>, StartError> {
        let metrics = Metrics::new()?;
        let own_counters = metrics.protocol("broker");
        let access = Access::new(&config.auth);
        let names = config.virtual_hosts.clone();
        let first_queue = (u64::from(engine.log.generation()) << 32) | 1;
        let shared = Arc::new(Shared {
            pager: Pager::new(&config),
            config,
            access,
            metrics,
            timers: Timers::default(),
            engine,
            formats,
            queue_numbers: AtomicU64::new(first_queue),
            own_counters,
        });
        let default_host = VirtualHost::new("/", Arc::clone(&shared));
        let hosts = DashMap::new();
        hosts.insert(Arc::clone(&default_host.name), Arc::clone(&default_host));
        for name in names.iter().filter(|name| *name != "/") {
            let host = VirtualHost::new(name, Arc::clone(&shared));
            hosts.insert(Arc::clone(&host.name), host);
        }
        let broker = Arc::new(Self {
            shared,
            hosts,
            connections: DashMap::new(),
            started: Instant::now(),
            default_host,
            sys: Sys::default(),
            numbers: AtomicU64::new(1),
        });
        broker.recover(Instant::now())?;
        Pager::start(&broker);
        broker.start_sys();
        tokio::spawn(Timers::run(Arc::downgrade(&broker)));
        Ok(broker)
    }

    #[must_use]
    pub fn default_host(&self) -> &Arc<VirtualHost> {
        &self.default_host
    }

    #[must_use]
    pub fn host(&self, name: &str) -> Option<Arc<VirtualHost>> {
        self.hosts.get(name).map(|host| Arc::clone(&host))
    }

    /// Gives the engine what waits for a better moment; before the process ends.
    pub fn write_down(&self) {
        for host in &self.hosts {
            while host.write_retained() {}
        }
    }

    /// A number for a new connection.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection has begun to speak a protocol.
    pub(crate) fn register(&self, peer: &Peer, info: &Arc<ConnectionInfo>) {
        self.connections.insert(peer.connection, Arc::clone(info));
        info.counters.connections.inc();
        info.counters.connections_opened.inc();
    }

    pub(crate) fn unregister(&self, info: &ConnectionInfo) {
        if self.connections.remove(&info.number()).is_some() {
            info.counters.connections.dec();
        }
    }

    /// Publishes in the broker's own name: wills, operators' messages. Answers the number of targets.
    pub fn publish(&self, host: &VirtualHost, message: &Message, address: &Address) -> u32 {
        let now = Instant::now();
        let mut batch = self.own_batch();
        let targets = batch.publish_message(host, now, message, address);
        batch.finish(host, now);
        batch.end();
        targets
    }

    pub(crate) fn own_batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.shared.own_counters))
    }

    /// Does everything that is due at `now`. The broker's own task does this by itself as time goes by.
    pub fn run_due(&self, now: Instant) {
        loop {
            let (due, _) = self.shared.timers.take_due(now);
            if due.is_empty() {
                return;
            }
            self.on_due(due, now);
        }
    }

    pub(crate) fn on_due(&self, due: Vec<Due>, now: Instant) {
        for entry in due {
            match entry {
                Due::Messages(host, queue) => {
                    if let (Some(host), Some(queue)) = (self.host(&host), queue.upgrade()) {
                        self.expire_messages(&host, &queue, now);
                    }
                }
                Due::Unused(host, queue) => {
                    if let (Some(host), Some(queue)) = (self.host(&host), queue.upgrade()) {
                        self.expire_queue(&host, &queue, now);
                    }
                }
                Due::Retained { host } => {
                    if let Some(host) = self.host(&host) {
                        host.write_some_retained(now);
                    }
                }
                Due::System => self.renew_sys(now),
                Due::Delayed { host, number } => {
                    if let Some(host) = self.host(&host) {
                        let mut batch = self.own_batch();
                        host.send_delayed(&mut batch, number, now);
                        batch.finish(&host, now);
                        batch.end();
                    }
                }
                Due::Client { host, client } => {
                    if let (Some(host), Some(client)) = (self.host(&host), client.upgrade()) {
                        let mut batch = self.own_batch();
                        host.on_client_due(&mut batch, &client, now);
                        batch.finish(&host, now);
                        batch.end();
                    }
                }
            }
        }
    }

    fn expire_messages(&self, host: &VirtualHost, queue: &Arc<QueueHandle>, now: Instant) {
        let mut batch = self.own_batch();
        let mut guarded = queue.lock();
        guarded.armed = None;
        guarded.machine.expire(now, &mut batch.effects);
        queue.unlock(guarded);
        batch.collect(queue);
        batch.finish(host, now);
        batch.end();
    }

    fn expire_queue(&self, host: &VirtualHost, queue: &Arc<QueueHandle>, now: Instant) {
        let mut guarded = queue.lock();
        guarded.unused_timer = None;
        let Some(after) = guarded.machine.spec().expires else { return };
        let used = guarded.machine.consumers() > 0;
        let due = if used { now } else { guarded.unused_since }.checked_add(after);
        if queue.is_deleted() {
            return;
        }
        let Some(due) = due else { return };
        if used || due > now {
            guarded.unused_timer = Some(self.shared.timers.queue_unused(due, host, queue));
            return;
        }
        drop(guarded);
        let mut batch = self.own_batch();
        let still_unused = |guarded: &Guarded| {
            guarded.machine.consumers() == 0
                && guarded.unused_since.checked_add(after).is_some_and(|at| at <= now)
        };
        if host.delete_queue_if(&mut batch, queue, now, still_unused).is_none() && !queue.is_deleted() {
            // Somebody used it in between.
            let at = now + after;
            queue.lock().unused_timer = Some(self.shared.timers.queue_unused(at, host, queue));
        }
        batch.finish(host, now);
        batch.end();
    }
}

impl Drop for Broker {
    /// The timer task holds on to what the virtual hosts share; it ends when it finds that the broker is gone.
    fn drop(&mut self) {
        self.shared.timers.nudge();
        self.shared.pager.stop();
    }
}

impl VirtualHost {
    /// Takes a queue off the register; its consumers are told, its messages are forgotten. Answers how many.
    pub fn delete_queue(&self, batch: &mut Batch, queue: &Arc<QueueHandle>, now: Instant) -> u64 {
        self.delete_queue_if(batch, queue, now, |_| true).unwrap_or_default()
    }

    /// Deletes the queue if `allowed` says so while it is locked: nothing can be attached or pushed in between.
    /// `None` if it was not deleted by this call.
    pub fn delete_queue_if(
        &self,
        batch: &mut Batch,
        queue: &Arc<QueueHandle>,
        now: Instant,
        allowed: impl FnOnce(&Guarded) -> bool,
    ) -> Option<u64> {
        use mynah_core::protocol::Notice;
        let mut guarded = queue.lock();
        if queue.is_deleted() || !allowed(&guarded) || !queue.mark_deleted() {
            return None;
        }
        // Still locked: who finds the queue deleted finds its old routes void as well.
        self.routes.invalidate();
        let messages = guarded.machine.ready();
        guarded.machine.drain_all();
        let consumers: Vec<_> =
            guarded.machine.sinks().map(|(key, inbox)| (key.consumer, Arc::clone(inbox))).collect();
        let mut void = Vec::new();
        for (key, ..) in guarded.machine.consumer_stats() {
            // Whatever detaching has to say about messages is void: they are gone with the queue.
            guarded.machine.detach(now, key, false, false, &mut void);
        }
        let timer = guarded.unused_timer.take();
        self.drop_definition(queue, &mut guarded);
        queue.unlock(guarded);
        if let Some(timer) = timer {
            self.shared.timers.cancel(timer);
        }
        self.forget_bindings(queue);
        self.queues.remove_if(&queue.name, |_, known| Arc::ptr_eq(known, queue));
        if queue.kind != QueueKind::Session {
            for (consumer, inbox) in consumers {
                if inbox.push_notice(Notice::Cancelled { consumer }).wake {
                    batch.touched.push(inbox);
                }
            }
        }
        Some(messages)
    }
}
