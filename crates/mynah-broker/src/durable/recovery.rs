//! Everything back as it was: exchanges, queues with their messages, bindings, sessions, retained values.
//!
//! What cannot be used any more (a binding to a queue that is gone, a value whose time is over, messages of a queue whose deletion
//! came through but not its last record) is taken out.
//!
//! Never: drops what it does not understand without saying so.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mynah_core::engine::{QueueNumber, Reader, Space, decode_message};
use mynah_core::exchange::Exchange;
use mynah_core::protocol::{Expiry, Will};
use mynah_core::{ConsumerId, Filter};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::clients::{StoredSession, StoredSubscription, StoredWill, client_of};
use super::definitions::{StoredBinding, StoredExchange, StoredQueue, TO_QUEUE, TOPICS, parts};
use crate::broker::Broker;
use crate::policies::PolicySpec;
use crate::queues::{Guarded, Home, QueueHandle, QueueKind};
use crate::routing::BindingTarget;
use crate::rules::Identity;
use crate::sessions::{Session, SessionSubscription};
use crate::users::StoredUser;
use crate::virtual_host::VirtualHost;

type Notes = HashMap<QueueNumber, Vec<(u32, Bytes)>>;

/// Keys that lead nowhere any more.
#[derive(Default)]
struct Void(Vec<(Space, Vec<u8>)>);

impl Broker {
    /// Reads all that is kept. Once, before anybody connects.
    pub(crate) fn recover(&self, now: Instant) -> io::Result<()> {
        let mut void = Void::default();
        self.recover_users()?;
        self.recover_policies()?;
        self.recover_exchanges(&mut void)?;
        let notes = self.recover_queues(now, &mut void)?;
        self.recover_bindings(&mut void)?;
        self.recover_sessions(now, notes, &mut void)?;
        self.recover_retained(now, &mut void)?;
        self.recover_delayed()?;
        self.shared.write(|records| {
            void.0.iter().for_each(|(space, key)| records.delete(*space, key));
        });
        self.drop_abandoned(now);
        self.drop_unclaimed();
        Ok(())
    }

    fn read(&self, space: Space) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        self.shared
            .engine
            .state
            .scan(space, &[], &mut |key, value| all.push((key.to_vec(), value.to_vec())))?;
        Ok(all)
    }

    /// A virtual host that is not in the configuration any more is not thrown away with all that is in it.
    fn host_for(&self, name: &str) -> Arc<VirtualHost> {
        if let Some(host) = self.host(name) {
            return host;
        }
        warn!(vhost = name, "not in the configuration, but something of it is kept: it goes on");
        let host = VirtualHost::new(name, Arc::clone(&self.shared));
        self.hosts.insert(Arc::clone(&host.name), Arc::clone(&host));
        host
    }

    fn recover_users(&self) -> io::Result<()> {
        for (key, value) in self.read(Space::User)? {
            let Some(stored) = parsed::<StoredUser>(Space::User, &value) else { continue };
            match names(&key).as_deref() {
                Some([name]) if self.shared.access.is_configured(name) => {
                    warn!(user = name, "kept, but also in the configuration, which comes first");
                }
                Some([name]) => self.shared.restore_user(name, stored),
                _ => warn!("a user cannot be read: left alone"),
            }
        }
        Ok(())
    }

    fn recover_policies(&self) -> io::Result<()> {
        for (key, value) in self.read(Space::Policy)? {
            let Some(spec) = parsed::<PolicySpec>(Space::Policy, &value) else { continue };
            let restored = names(&key).is_some_and(|names| match names.as_slice() {
                [host, name] => self.host_for(host).restore_policy(name, spec),
                _ => false,
            });
            if !restored {
                warn!("a policy cannot be read: left alone");
            }
        }
        Ok(())
    }

    fn recover_exchanges(&self, void: &mut Void) -> io::Result<()> {
        for (key, value) in self.read(Space::Exchange)? {
            let Some(spec) =
                parsed::<StoredExchange>(Space::Exchange, &value).and_then(|stored| stored.spec())
            else {
                continue;
            };
            match names(&key).as_deref() {
                Some([host, name]) => {
                    let host = self.host_for(host);
                    let exchange = Exchange::new(Arc::new(spec));
                    host.routes.write().exchanges.insert(name.as_str().into(), exchange);
                }
                _ => void.0.push((Space::Exchange, key)),
            }
        }
        Ok(())
    }

    fn recover_queues(&self, now: Instant, void: &mut Void) -> io::Result<Notes> {
        let mut notes = Notes::new();
        let (mut queues, mut messages) = (0_u64, 0_u64);
        for (key, value) in self.read(Space::Queue)? {
            let Some(stored) = parsed::<StoredQueue>(Space::Queue, &value) else { continue };
            let (Some(names), Some(kind)) = (names(&key), stored.kind()) else {
                void.0.push((Space::Queue, key));
                continue;
            };
            let [host, name] = names.as_slice() else { continue };
            let host = self.host_for(host);
            let (queue, noted) = host.restore_queue(name, kind, &stored, now);
            messages += queue.lock().machine.ready();
            queues += 1;
            notes.insert(queue.number, noted);
        }
        if queues > 0 {
            info!(queues, messages, "recovered");
        }
        Ok(notes)
    }

    fn recover_bindings(&self, void: &mut Void) -> io::Result<()> {
        for (key, value) in self.read(Space::Binding)? {
            let Some(stored) = parsed::<StoredBinding>(Space::Binding, &value) else { continue };
            let there = names(&key).is_some_and(|names| match names.as_slice() {
                [host, source, kind, name, routing_key, ..] => {
                    let host = self.host_for(host);
                    host.restore_binding(source, kind, name, routing_key, &stored)
                }
                _ => false,
            });
            if !there {
                void.0.push((Space::Binding, key));
            }
        }
        Ok(())
    }

    fn recover_sessions(&self, now: Instant, mut notes: Notes, void: &mut Void) -> io::Result<()> {
        let mut subscriptions: HashMap<(String, String), Vec<(ConsumerId, StoredSubscription)>> =
            HashMap::new();
        for (key, value) in self.read(Space::Subscription)? {
            let Some(stored) = parsed::<StoredSubscription>(Space::Subscription, &value) else { continue };
            match names(&key).as_deref() {
                Some([host, client, number]) => {
                    let Ok(number) = number.parse() else { continue };
                    let of = (host.clone(), client.clone());
                    subscriptions.entry(of).or_default().push((ConsumerId(number), stored));
                }
                _ => void.0.push((Space::Subscription, key)),
            }
        }
        for (key, value) in self.read(Space::Session)? {
            let Some(stored) = parsed::<StoredSession>(Space::Session, &value) else { continue };
            let restored = names(&key).is_some_and(|names| match names.as_slice() {
                [host, id] => {
                    let of = (host.clone(), id.clone());
                    let own = subscriptions.remove(&of).unwrap_or_default();
                    self.host_for(host).restore_session(id, &stored, own, &mut notes, now)
                }
                _ => false,
            });
            if !restored {
                void.0.push((Space::Session, key));
            }
        }
        for ((host, client), lost) in subscriptions {
            for (consumer, _) in lost {
                let key = super::definitions::key(&[&host, &client, &consumer.0.to_string()]);
                void.0.push((Space::Subscription, key));
            }
        }
        Ok(())
    }

    fn recover_retained(&self, now: Instant, void: &mut Void) -> io::Result<()> {
        let engine = &self.shared.engine;
        engine.state.scan(Space::Retained, &[], &mut |key, value| {
            let decoded = decode_message(&mut Reader::new(value), &engine.clock, &self.shared.formats, None);
            let (Some(names), Ok(message)) = (names(key), decoded) else {
                warn!("a retained value cannot be read: left alone");
                return;
            };
            let [host, topic] = names.as_slice() else { return };
            if message.expires().is_some_and(|at| at <= now) {
                void.0.push((Space::Retained, key.to_vec()));
            } else {
                self.host_for(host).retained.set(topic, &Arc::new(message), false);
            }
        })
    }

    fn recover_delayed(&self) -> io::Result<()> {
        for (key, value) in self.read(Space::Delayed)? {
            let restored = names(&key).is_some_and(|names| match names.as_slice() {
                [host, number] => self.host_for(host).restore_delayed(number, &value),
                _ => false,
            });
            if !restored {
                warn!("a delayed message cannot be read: left alone");
            }
        }
        Ok(())
    }

    /// Groups whose last durable member has gone.
    fn drop_abandoned(&self, now: Instant) {
        let hosts: Vec<_> = self.hosts.iter().map(|host| Arc::clone(&host)).collect();
        for host in hosts {
            let groups: Vec<_> = host
                .queues
                .iter()
                .filter(|queue| queue.kind == QueueKind::Shared)
                .map(|queue| Arc::clone(&queue))
                .collect();
            let mut batch = self.own_batch();
            for group in groups {
                host.delete_queue_if(&mut batch, &group, now, Guarded::is_abandoned);
            }
            batch.finish(&host, now);
            batch.end();
        }
    }

    /// Messages of queues that are not there any more, and of sessions that have ended.
    fn drop_unclaimed(&self) {
        let log = &self.shared.engine.log;
        for number in log.recovered() {
            let found = log.take_recovered(number);
            self.shared.write(|records| {
                found.entries.iter().for_each(|(_, extent)| records.release(*extent, 1));
                records.queue_dropped(number);
            });
        }
    }
}

impl VirtualHost {
    /// A queue with its messages. Answers also what a protocol had noted with it.
    fn restore_queue(
        self: &Arc<Self>,
        name: &str,
        kind: QueueKind,
        stored: &StoredQueue,
        now: Instant,
    ) -> (Arc<QueueHandle>, Vec<(u32, Bytes)>) {
        let name: Arc<str> = name.into();
        let home = Home { host: Arc::clone(&self.name), shared: Arc::clone(&self.shared) };
        let spec = Arc::new(stored.spec());
        let number = QueueNumber(stored.number);
        let defaults = self.queue_defaults(kind);
        let queue =
            QueueHandle::with_number(number, Arc::clone(&name), kind, None, home, spec, defaults, now);
        let mut guarded = queue.lock();
        queue.keep(&mut guarded);
        let mut found = self.shared.engine.log.take_recovered(number);
        let notes = std::mem::take(&mut found.notes);
        guarded.machine.restore(found);
        queue.unlock(guarded);
        self.queues.insert(name, Arc::clone(&queue));
        self.begin_policy(&queue, now);
        self.routes.invalidate();
        (queue, notes)
    }

    /// False if one of its ends is not there any more.
    fn restore_binding(
        &self,
        source: &str,
        kind: &str,
        name: &str,
        routing_key: &str,
        stored: &StoredBinding,
    ) -> bool {
        let queue = match kind {
            TO_QUEUE => {
                let queue = self.queue(name).filter(|queue| stored.queue == Some(queue.number.0));
                let Some(queue) = queue else { return false };
                Some(queue)
            }
            _ => None,
        };
        if source == TOPICS {
            let Ok(filter) = Filter::parse(routing_key) else { return false };
            return match queue {
                Some(queue) => {
                    self.restore_topic(&queue, &filter);
                    true
                }
                None => self.restore_topic_to_exchange(&filter, name),
            };
        }
        let target = match queue {
            Some(queue) => {
                queue.note_exchange();
                BindingTarget::Queue(Arc::clone(&queue.name))
            }
            None => BindingTarget::Exchange(name.into()),
        };
        let mut tables = self.routes.write();
        let Some(exchange) = tables.exchanges.get_mut(source) else { return false };
        exchange.bind(routing_key, &stored.arguments(), target);
        true
    }

    /// False if its queue is not there any more.
    fn restore_session(
        self: &Arc<Self>,
        id: &str,
        stored: &StoredSession,
        subscriptions: Vec<(ConsumerId, StoredSubscription)>,
        notes: &mut Notes,
        now: Instant,
    ) -> bool {
        let of_client =
            |queue: &Arc<QueueHandle>| queue.kind == QueueKind::Session && client_of(&queue.name) == Some(id);
        let Some(queue) = self.session_queue(id).filter(of_client) else { return false };
        let client = self.client(&id.into());
        let mut state = client.lock();
        let mut session = Session {
            notes: notes.remove(&queue.number).unwrap_or_default(),
            queue,
            subscriptions: HashMap::new(),
            groups: Vec::new(),
            parked: None,
            memos: Vec::new(),
            kept: std::collections::HashSet::new(),
            expiry: stored.expiry(),
        };
        if let Some(user) = stored.user.as_deref().filter(|_| !self.shared.access.rules.is_empty()) {
            let reader = Identity { user: user.into(), client: Arc::clone(&client.id) };
            // Nobody has routes yet.
            let _first = session.queue.set_reader(&Arc::new(reader));
        }
        for (consumer, subscription) in subscriptions {
            self.restore_subscription(&mut session, consumer, &subscription);
        }
        session.memos.sort_by_key(|(consumer, _)| *consumer);
        self.restore_subscriptions(&session);
        let clock = &self.shared.engine.clock;
        let ends_at = match (stored.ends_at_ms, session.expiry) {
            (Some(ms), _) => Some(clock.instant(ms)),
            // It was connected when the process ended.
            (None, Expiry::After(after)) => now.checked_add(after),
            (None, _) => None,
        };
        state.set_times(|times| times.ends_at = ends_at);
        if let Some(will) = stored.will.as_ref().and_then(|will| self.restore_will(will)) {
            let at = stored.will.as_ref().and_then(|will| will.at_ms).map(|ms| clock.instant(ms));
            state.set_times(|times| times.will_at = at.or_else(|| now.checked_add(will.delay)));
            state.will = Some(Box::new(will));
        }
        state.session = Some(Box::new(session));
        self.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.arm_client(&client, &mut state);
        self.keep_session(id, &state, None);
        true
    }

    fn restore_subscription(&self, session: &mut Session, id: ConsumerId, stored: &StoredSubscription) {
        session.kept.insert(id);
        if let Some(memo) = stored.memo().filter(|memo| !memo.is_empty()) {
            session.memos.push((id, memo.into()));
        }
        if let Some(group) = stored.group.as_deref().and_then(|name| self.queue(name)) {
            group.lock().members += 1;
            session.groups.push((id, group));
        }
        let filter = stored.filter.as_deref().and_then(|text| Filter::parse(text).ok());
        if let (Some(filter), Some(wire)) = (filter, stored.wire(&self.shared.formats)) {
            let no_local = stored.no_local;
            session.subscriptions.insert(id, SessionSubscription { filter, wire, no_local });
        } else if stored.filter.is_some() {
            warn!(session = %session.queue.name, "a subscription's wire format is not known any more: it waits for its client");
        }
    }

    fn restore_will(&self, stored: &StoredWill) -> Option<Will> {
        let bytes = stored.message()?;
        let engine = &self.shared.engine;
        let message = decode_message(&mut Reader::new(&bytes), &engine.clock, &self.shared.formats, None);
        Some(Will { message: Arc::new(message.ok()?), delay: stored.delay(), held_back: stored.held_back() })
    }
}

/// `None` for a value that this version cannot read; it is left alone.
fn parsed<T: DeserializeOwned>(space: Space, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .map_err(|err| warn!(space = space.name(), %err, "an entry cannot be read: left alone"))
        .ok()
}

fn names(key: &[u8]) -> Option<Vec<String>> {
    parts(key)
}
