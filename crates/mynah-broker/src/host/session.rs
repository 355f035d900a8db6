//! Opening, taking over, leaving and coming back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mynah_core::protocol::{
    CreditMode, Expiry, Farewell, Notice, Opened, Refusal, RefusalKind, Reply, Role, SessionSpec,
    SessionTerms, Ticket, Will,
};
use mynah_core::queue::{ConsumerKey, ConsumerTerms, QueueSpec};
use mynah_core::{ConsumerId, PublishRef};
use tracing::warn;

use super::Turn;
use super::consume::Consumer;
use crate::access::ANONYMOUS;
use crate::batch::Batch;
use crate::connections::About;
use crate::inbox::Inbox;
use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::rules::{Action, Identity};
use crate::sessions::{Client, ClientState, PendingOpen, Session};
use crate::timers::Due;
use crate::virtual_host::VirtualHost;

/// Before the client's identifier in the name of its session's queue.
pub(crate) const SESSION_PREFIX: &str = "$session/";

impl Turn<'_> {
    pub(super) fn open_session(&mut self, ticket: Ticket, spec: SessionSpec<'_>) {
        if let Some(name) = spec.virtual_host {
            let Some(host) = self.host.broker.host(name) else {
                let text = format!("vhost '{name}' not found");
                self.reply(ticket, Reply::Refused(Refusal::new(RefusalKind::NotFound, text)));
                return;
            };
            self.host.host = host;
        }
        let host = Arc::clone(&self.host.host);
        let assign = spec.client_id.is_empty() && spec.session.is_some();
        let client_id: Arc<str> =
            if assign { host.generated_name("auto-").into() } else { spec.client_id.into() };
        self.host.info.set_about(About {
            protocol: spec.protocol,
            client_id: Arc::clone(&client_id),
            virtual_host: Arc::clone(&host.name),
        });
        if let Err(refusal) = self.may_open(&client_id, spec.will.as_ref()) {
            self.reply(ticket, Reply::Refused(refusal));
            return;
        }
        self.host.broker.client_event(&self.host.info, "connected", self.now);
        self.host.will = spec.will.map(Box::new);
        let Some(terms) = spec.session else {
            let opened = Opened {
                present: false,
                client_id,
                parked: None,
                notes: Vec::new(),
                memos: Vec::new(),
                expiry: Expiry::AtEnd,
            };
            self.reply(ticket, Reply::Opened(Box::new(opened)));
            return;
        };
        let terms =
            SessionTerms { expiry: capped(terms.expiry, host.shared.config.session_expiry_max), ..terms };
        self.host.expiry = Some(terms.expiry);
        loop {
            let client = host.client(&client_id);
            let mut state = client.lock();
            if state.gone {
                // It went away between looking it up and locking it.
                continue;
            }
            self.host.client = Some(Arc::clone(&client));
            if state.online.is_some() || state.pending.is_some() {
                let will = self.host.will.clone();
                let pending = PendingOpen { inbox: Arc::clone(&self.host.info.inbox), ticket, terms, will };
                let mut wake = state.wait_for_turn(pending);
                self.batch.touched.append(&mut wake);
                return;
            }
            let inbox = Arc::clone(&self.host.info.inbox);
            let (opened, will) = host.enter(self.batch, &client, &mut state, &inbox, terms, self.now);
            host.keep_session(&client.id, &state, self.host.will.as_deref());
            // The reply is handled in this turn, before the inbox is looked at.
            host.resume(self.batch, &state, &inbox, terms, self.now);
            drop(state);
            host.send_wills(self.batch, will, self.now);
            self.reply(ticket, Reply::Opened(Box::new(opened)));
            return;
        }
    }

    /// What the rules say to a client of this name and its will; they know it from now on.
    fn may_open(&self, client_id: &Arc<str>, will: Option<&Will>) -> Result<(), Refusal> {
        let access = &self.host.broker.shared.access;
        if !access.rules.is_empty() {
            let who = self.who();
            if !access.rules.allow_connect(who) {
                let text =
                    format!("user '{}' may not connect as client '{}' (auth.rules)", who.user, who.client);
                return Err(Refusal::new(RefusalKind::Forbidden, text));
            }
            let user = self.host.info.user().cloned().unwrap_or_else(|| ANONYMOUS.into());
            self.host.info.inbox.set_reader(Arc::new(Identity { user, client: Arc::clone(client_id) }));
        }
        match will {
            Some(will) => access.authorise(self.who(), Action::Publish, will.message.address.as_ref()),
            None => Ok(()),
        }
    }

    /// The connection is gone: its consumers end, its will is sent, its session waits. Call it once, last.
    pub fn leave(&mut self) {
        if std::mem::replace(&mut self.host.finished, true) {
            return;
        }
        self.flush_settlements();
        self.keep_replays();
        let broker = Arc::clone(&self.host.broker);
        broker.unregister(&self.host.info);
        broker.client_event(&self.host.info, "disconnected", self.now);
        let failed = !matches!(self.host.closing.as_deref(), Some(Farewell::Clean { .. }));
        for (id, consumer) in std::mem::take(&mut self.host.consumers) {
            self.end_consumer(id, consumer, failed);
        }
        let rare = self.host.rare.take().map(|rare| *rare).unwrap_or_default();
        for (id, consumer) in rare.lingering {
            self.detach_from_queue(id, &consumer, false, failed);
        }
        for name in rare.exclusive {
            let host = Arc::clone(&self.host.host);
            let mine =
                host.queue(&name).filter(|queue| queue.owner == Some(self.host.info.inbox.connection()));
            if let Some(queue) = mine {
                host.delete_queue(self.batch, &queue, self.now);
            }
        }
        self.leave_session(rare.parked);
        let wake = self.host.info.inbox.close();
        wake.iter().for_each(|publisher| publisher.nudge());
    }

    fn end_consumer(&mut self, id: ConsumerId, consumer: Consumer, failed: bool) {
        match consumer {
            Consumer::Direct { filter } => {
                self.host.host.unsubscribe_direct(&self.host.info.inbox, id, &filter.filter());
            }
            // The session goes on without the connection.
            Consumer::Session => {}
            Consumer::Queue(from) => self.detach_from_queue(id, &from, false, failed),
        }
    }

    fn leave_session(&mut self, parked: Option<bytes::Bytes>) {
        let host = Arc::clone(&self.host.host);
        let will = self.host.will.take();
        let (will, expiry) = match self.host.closing.as_deref() {
            Some(Farewell::Clean { expiry }) => (None, *expiry),
            Some(Farewell::Abrupt { expiry }) => (will, *expiry),
            None => (will, None),
        };
        let (Some(client), Some(agreed)) = (self.host.client.take(), self.host.expiry) else {
            host.send_wills(self.batch, will, self.now);
            return;
        };
        let expiry = capped(expiry.unwrap_or(agreed), host.shared.config.session_expiry_max);
        let mut state = client.lock();
        let online = state.online.as_ref().is_some_and(|inbox| Arc::ptr_eq(inbox, &self.host.info.inbox));
        if !online {
            // It never got its turn.
            state.pending =
                state.pending.take().filter(|pending| !Arc::ptr_eq(&pending.inbox, &self.host.info.inbox));
            return;
        }
        state.online = None;
        if let Some(session) = state.session.as_deref_mut() {
            // Nothing was parked if the connection died before it knew that it had the session.
            session.parked = parked.or(session.parked.take());
            if session.parked.is_some() {
                (session.notes, session.memos) = (Vec::new(), Vec::new());
            }
            session.expiry = expiry;
        }
        host.session_left(self.batch, &mut state, &self.host.info.inbox, self.now);
        let ends_now = expiry == Expiry::AtEnd || state.session.is_none();
        if ends_now {
            host.end_session(self.batch, &mut state, self.now);
        }
        // Wills are sent when the client is unlocked: one may be addressed to this very client.
        let mut wills = Vec::new();
        match will {
            Some(will) if will.delay.is_zero() || ends_now => wills.push(will),
            Some(will) => {
                state.set_times(|times| times.will_at = self.now.checked_add(will.delay));
                state.will = Some(will);
            }
            None => {}
        }
        if let (Expiry::After(after), false) = (expiry, ends_now) {
            state.set_times(|times| times.ends_at = self.now.checked_add(after));
        }
        host.arm_client(&client, &mut state);
        host.keep_session(&client.id, &state, None);
        wills.extend(host.admit_pending(self.batch, &client, &mut state, self.now));
        host.forget_if_idle(&client, &mut state);
        drop(state);
        host.send_wills(self.batch, wills, self.now);
    }
}

impl VirtualHost {
    /// The queue of a client's durable session.
    pub(crate) fn session_queue(&self, id: &str) -> Option<Arc<QueueHandle>> {
        self.queue(&format!("{SESSION_PREFIX}{id}"))
    }

    /// The client of that name, registered now if there was none.
    pub(crate) fn client(&self, id: &Arc<str>) -> Arc<Client> {
        if let Some(client) = self.clients.get(id) {
            return Arc::clone(&client);
        }
        Arc::clone(&self.clients.entry(Arc::clone(id)).or_insert_with(|| Client::new(Arc::clone(id))))
    }

    /// A connection takes its place: the session it left is there again, or begins. Answers also a will to be sent when
    /// the client is unlocked.
    fn enter(
        &self,
        batch: &mut Batch,
        client: &Arc<Client>,
        state: &mut ClientState,
        inbox: &Arc<Inbox>,
        terms: SessionTerms,
        now: Instant,
    ) -> (Opened, Option<Box<Will>>) {
        let mut due = None;
        // A timer may be late; what its time has brought about is so all the same.
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let times = state.times();
        if terms.fresh || over(times.ends_at) {
            self.end_session(batch, state, now);
            // The session of the will has ended [MQTT-3.1.3-9].
            due = state.will.take();
        } else if over(times.will_at) {
            due = state.will.take();
        }
        state.will = None;
        state.set_times(|times| (times.will_at, times.ends_at) = (None, None));
        self.arm_client(client, state);
        state.online = Some(Arc::clone(inbox));
        let present = state.session.is_some();
        if state.session.is_none() && terms.expiry != Expiry::AtEnd {
            let name = format!("{SESSION_PREFIX}{}", client.id);
            let spec = QueueSpec { delivery_limit: Some(0), ..QueueSpec::default() };
            let (queue, _) = self.queue_or_create(&name, QueueKind::Session, None, &spec, now);
            let session = Session {
                queue,
                subscriptions: HashMap::new(),
                groups: Vec::new(),
                parked: None,
                notes: Vec::new(),
                memos: Vec::new(),
                kept: HashSet::new(),
                expiry: terms.expiry,
            };
            state.session = Some(Box::new(session));
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        let (mut parked, mut notes, mut memos) = (None, Vec::new(), Vec::new());
        if let Some(session) = state.session.as_deref_mut() {
            if inbox.reader().is_some_and(|reader| session.queue.set_reader(&reader)) {
                self.routes.invalidate();
            }
            session.expiry = terms.expiry;
            parked.clone_from(&session.parked);
            if parked.is_none() {
                (notes, memos) = (session.notes.clone(), session.memos.clone());
            }
        }
        let client_id = Arc::clone(&client.id);
        (Opened { present, client_id, parked, notes, memos, expiry: terms.expiry }, due)
    }

    /// Puts the session's subscriptions in force. Only after its reply is on the way: nothing may be delivered before the
    /// client knows that it is connected.
    fn resume(
        &self,
        batch: &mut Batch,
        state: &ClientState,
        inbox: &Arc<Inbox>,
        terms: SessionTerms,
        now: Instant,
    ) {
        let Some(session) = state.session.as_deref() else { return };
        self.sessions_connected.fetch_add(1, Ordering::Relaxed);
        self.resume_subscriptions(session, inbox);
        let key = ConsumerKey { connection: inbox.connection(), consumer: ConsumerId::SESSION };
        let terms = ConsumerTerms {
            settled: false,
            credit: CreditMode::Window(terms.credit),
            exclusive: false,
            priority: 0,
            role: Role::Consumer,
            no_local: None,
        };
        // A session's queue has one consumer, so this cannot be refused.
        let attached = session.queue.attach(now, key, inbox, terms, &mut batch.touched, &mut batch.effects);
        debug_assert!(matches!(attached, Ok(true)));
        batch.collect(&session.queue);
    }

    /// The connection is gone, the session stays: what goes directly has nowhere to go.
    fn session_left(&self, batch: &mut Batch, state: &mut ClientState, inbox: &Arc<Inbox>, now: Instant) {
        let Some(session) = state.session.as_deref() else { return };
        self.sessions_connected.fetch_sub(1, Ordering::Relaxed);
        self.suspend_subscriptions(session, inbox);
        let key = ConsumerKey { connection: inbox.connection(), consumer: ConsumerId::SESSION };
        session.queue.detach(now, key, false, true, &mut batch.touched, &mut batch.effects);
        batch.collect(&session.queue);
    }

    fn end_session(&self, batch: &mut Batch, state: &mut ClientState, now: Instant) {
        let Some(session) = state.session.take() else { return };
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.drop_session(&session);
        self.delete_queue(batch, &session.queue, now);
        for (_, group) in &session.groups {
            self.leave_group(batch, group, now);
        }
    }

    /// A durable session is not a member any more.
    pub(super) fn leave_group(&self, batch: &mut Batch, group: &Arc<QueueHandle>, now: Instant) {
        {
            let mut guarded = group.lock();
            guarded.members = guarded.members.saturating_sub(1);
        }
        self.delete_queue_if(batch, group, now, Guarded::is_abandoned);
    }

    /// An operator ends a session; whoever is connected to it is told to go. Answers how many messages waited.
    pub(crate) fn delete_session(&self, batch: &mut Batch, queue: &Arc<QueueHandle>, now: Instant) -> u64 {
        let id = queue.name.strip_prefix(SESSION_PREFIX).unwrap_or_default();
        let Some(client) = self.clients.get(id).map(|client| Arc::clone(&client)) else {
            return self.delete_queue(batch, queue, now);
        };
        let messages = queue.lock().machine.ready();
        let mut state = client.lock();
        if !state.session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.queue, queue)) {
            return 0;
        }
        if let Some(online) = state.online.clone() {
            self.session_left(batch, &mut state, &online, now);
            let reason = "an operator has deleted the session".into();
            if online.push_notice(Notice::Kicked { reason }).wake {
                batch.touched.push(online);
            }
        }
        self.end_session(batch, &mut state, now);
        // Its will is due with its session [MQTT-3.1.3-9].
        state.set_times(|times| (times.will_at, times.ends_at) = (None, None));
        let will = state.will.take();
        self.arm_client(&client, &mut state);
        self.forget_if_idle(&client, &mut state);
        drop(state);
        self.send_wills(batch, will, now);
        messages
    }

    fn send_wills(&self, batch: &mut Batch, wills: impl IntoIterator<Item = Box<Will>>, now: Instant) {
        for will in wills {
            if will.held_back.is_zero() {
                batch.publish_message(self, now, &will.message, &will.message.address);
                continue;
            }
            let delay_ms = u64::try_from(will.held_back.as_millis()).unwrap_or(u64::MAX);
            let publish = PublishRef { delay_ms, ..will.message.as_publish() };
            if let Err(refusal) = self.delay(batch, &publish, now) {
                warn!(will = %publish.address, why = %refusal.text, "a will cannot be held back");
            }
        }
    }

    /// Sets the client's timer for what comes next, in place of the one that was set.
    pub(crate) fn arm_client(&self, client: &Arc<Client>, state: &mut ClientState) {
        let timers = &self.shared.timers;
        let known = state.times();
        if let Some(old) = known.timer {
            timers.cancel(old);
        }
        let next = [known.will_at, known.ends_at].into_iter().flatten().min();
        let due = || Due::Client { host: Arc::clone(&self.name), client: Arc::downgrade(client) };
        state.set_times(|times| times.timer = next.map(|at| timers.add(at, due())));
    }

    /// Lets in whoever waited for the identifier.
    fn admit_pending(
        &self,
        batch: &mut Batch,
        client: &Arc<Client>,
        state: &mut ClientState,
        now: Instant,
    ) -> Option<Box<Will>> {
        let pending = state.pending.take().filter(|pending| !pending.inbox.is_closed())?;
        let (opened, will) = self.enter(batch, client, state, &pending.inbox, pending.terms, now);
        self.keep_session(&client.id, state, pending.will.as_deref());
        if pending.inbox.push_reply(pending.ticket, Reply::Opened(Box::new(opened))).wake {
            batch.touched.push(Arc::clone(&pending.inbox));
        }
        self.resume(batch, state, &pending.inbox, pending.terms, now);
        will
    }

    /// Nobody is there and nothing is kept: no entry is needed.
    fn forget_if_idle(&self, client: &Arc<Client>, state: &mut ClientState) {
        let idle = state.online.is_none()
            && state.pending.is_none()
            && state.session.is_none()
            && state.will.is_none();
        if idle && !state.gone {
            state.gone = true;
            self.clients.remove_if(&client.id, |_, known| Arc::ptr_eq(known, client));
        }
    }

    /// A will's delay or a session's time is over.
    pub(crate) fn on_client_due(&self, batch: &mut Batch, client: &Arc<Client>, now: Instant) {
        let mut state = client.lock();
        if state.online.is_some() {
            return;
        }
        let times = state.times();
        let ends = times.ends_at.is_some_and(|at| at <= now);
        let mut will = None;
        if ends || times.will_at.is_some_and(|at| at <= now) {
            state.set_times(|times| times.will_at = None);
            will = state.will.take();
        }
        if ends {
            state.set_times(|times| times.ends_at = None);
            self.end_session(batch, &mut state, now);
        }
        self.arm_client(client, &mut state);
        self.keep_session(&client.id, &state, None);
        self.forget_if_idle(client, &mut state);
        drop(state);
        self.send_wills(batch, will, now);
    }
}

fn capped(expiry: Expiry, max: Duration) -> Expiry {
    match expiry {
        Expiry::AtEnd => Expiry::AtEnd,
        Expiry::After(wish) if wish.is_zero() => Expiry::AtEnd,
        Expiry::After(wish) => Expiry::After(wish.min(max)),
        Expiry::Never if max == Duration::MAX => Expiry::Never,
        Expiry::Never => Expiry::After(max),
    }
}
