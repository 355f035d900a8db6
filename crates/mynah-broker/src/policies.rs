//! Policies: what operators say about queues by their names. They are kept, and hold for queues that exist as for those to come.
//!
//! Of the policies whose pattern a queue's name matches, the one of the highest priority holds, alone; of two with the same
//! priority the one whose name comes first. Sessions and shared subscriptions have bounds of their own (`limits.session_...`).
//!
//! Never: changes how a queue was declared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::Space;
use mynah_core::protocol::{Refusal, RefusalKind};
use mynah_core::queue::{Effect, Overflow, QueuePolicy};
use parking_lot::RwLock;
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::broker::Broker;
use crate::durable::definitions::{json, key};
use crate::limits::{DEFINITION_NAME_BYTES_MAX, POLICIES_MAX};
use crate::operator::{Unmade, check_name};
use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::virtual_host::VirtualHost;

/// A policy as operators write it, and as it is kept. The names of the definition are RabbitMQ's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// A regular expression that is looked for in the name.
    pub pattern: String,
    #[serde(default)]
    pub priority: i32,
    pub definition: PolicyDefinition,
}

/// What a policy says; times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PolicyDefinition {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<OverflowName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_exchange: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_routing_key: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverflowName {
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

impl PolicyDefinition {
    fn policy(&self) -> QueuePolicy {
        QueuePolicy {
            expires: self.expires.map(Duration::from_millis),
            message_ttl: self.message_ttl.map(Duration::from_millis),
            max_messages: self.max_length,
            max_bytes: self.max_length_bytes,
            overflow: self.overflow.map(|overflow| match overflow {
                OverflowName::DropHead => Overflow::DropHead,
                OverflowName::RejectPublish => Overflow::RejectPublish,
                OverflowName::RejectPublishDlx => Overflow::DeadLetter,
            }),
            max_message_bytes: self.max_message_bytes,
            delivery_limit: self.delivery_limit,
            dead_letter_exchange: self.dead_letter_exchange.clone(),
            dead_letter_key: self.dead_letter_routing_key.clone(),
        }
    }
}

/// A policy in force.
#[derive(Debug)]
pub struct Policy {
    pub name: Arc<str>,
    pub spec: PolicySpec,
    pattern: Regex,
    bounds: QueuePolicy,
}

impl Policy {
    fn new(name: &str, spec: PolicySpec) -> Result<Self, Unmade> {
        let pattern = Regex::new(&spec.pattern)
            .map_err(|error| Unmade::Invalid(format!("pattern '{}': {error}", spec.pattern)))?;
        if spec.definition == PolicyDefinition::default() {
            return Err(Unmade::Invalid("the definition says nothing: give it a bound".to_owned()));
        }
        if spec.definition.expires == Some(0) {
            return Err(Unmade::Invalid("expires must be at least 1 (millisecond)".to_owned()));
        }
        Ok(Self { name: name.into(), bounds: spec.definition.policy(), pattern, spec })
    }
}

/// The policies of a virtual host, the first that matches holds.
#[derive(Debug, Default)]
pub(crate) struct Policies(RwLock<Vec<Arc<Policy>>>);

impl Policies {
    fn of(&self, queue: &QueueHandle) -> Option<Arc<Policy>> {
        let applies = matches!(queue.kind, QueueKind::Plain | QueueKind::Durable | QueueKind::Temporary);
        let all = self.0.read();
        all.iter().find(|policy| applies && policy.pattern.is_match(&queue.name)).cloned()
    }

    /// `write` is called before anybody else can change one: what is kept is what holds.
    fn put(&self, policy: Policy, write: impl FnOnce()) {
        let mut all = self.0.write();
        all.retain(|known| known.name != policy.name);
        all.push(Arc::new(policy));
        all.sort_by(|one, other| {
            (-i64::from(one.spec.priority), &one.name).cmp(&(-i64::from(other.spec.priority), &other.name))
        });
        write();
    }

    fn remove(&self, name: &str, write: impl FnOnce()) -> bool {
        let mut all = self.0.write();
        let before = all.len();
        all.retain(|known| &*known.name != name);
        let known = all.len() < before;
        if known {
            write();
        }
        known
    }
}

impl VirtualHost {
    /// The policy that holds for a queue now is in force when this returns.
    fn apply_policy(&self, queue: &Arc<QueueHandle>, now: Instant, batch: &mut Batch) {
        let mut guarded = queue.lock();
        if !queue.is_deleted() {
            let before = guarded.machine.spec().expires;
            self.set_policy(queue, &mut guarded, &mut batch.effects);
            if before != guarded.machine.spec().expires {
                if let Some(timer) = guarded.unused_timer.take() {
                    self.shared.timers.cancel(timer);
                }
                guarded.unused_since = now;
                self.set_unused_timer(queue, &mut guarded, now);
            }
        }
        queue.unlock(guarded);
        batch.collect(queue);
    }

    /// The policy of a queue that was just made, and its time to live without use.
    pub(crate) fn begin_policy(&self, queue: &Arc<QueueHandle>, now: Instant) {
        let mut guarded = queue.lock();
        if !queue.is_deleted() {
            // It is empty, or has been in bounds before: nothing comes of it.
            self.set_policy(queue, &mut guarded, &mut Vec::new());
            if guarded.unused_timer.is_none() {
                self.set_unused_timer(queue, &mut guarded, now);
            }
        }
        queue.unlock(guarded);
    }

    /// Looks it up with the queue locked: of two that do so at once, the later one finds the newer.
    fn set_policy(&self, queue: &QueueHandle, guarded: &mut Guarded, effects: &mut Vec<Effect>) {
        let policy = self.policies.of(queue);
        if policy.is_some() || guarded.policy.is_some() {
            guarded.policy = policy.as_ref().map(|policy| Arc::clone(&policy.name));
            guarded.machine.apply(policy.as_ref().map(|policy| &policy.bounds), effects);
        }
    }

    fn set_unused_timer(&self, queue: &Arc<QueueHandle>, guarded: &mut Guarded, now: Instant) {
        let at = guarded.machine.spec().expires.and_then(|after| now.checked_add(after));
        guarded.unused_timer = at.map(|at| self.shared.timers.queue_unused(at, self, queue));
    }

    /// After recovery, and before anybody connects.
    pub(crate) fn restore_policy(&self, name: &str, spec: PolicySpec) -> bool {
        Policy::new(name, spec).map(|policy| self.policies.put(policy, || ())).is_ok()
    }

    #[must_use]
    pub fn policies(&self) -> Vec<Arc<Policy>> {
        self.policies.0.read().clone()
    }
}

impl Broker {
    /// Sets a policy. Answers whether it is new. It is safe when [`Broker::flush`] has returned.
    ///
    /// # Errors
    /// It makes no sense, there are too many, or nothing can be written.
    pub fn put_policy(&self, host: &VirtualHost, name: &str, spec: PolicySpec) -> Result<bool, Unmade> {
        check_name("policy", name, DEFINITION_NAME_BYTES_MAX)?;
        self.shared.check_writable()?;
        let stored = json(&spec);
        let policy = Policy::new(name, spec)?;
        let known = host.policies.0.read().iter().any(|known| &*known.name == name);
        if !known && host.policies.0.read().len() >= POLICIES_MAX {
            let text = format!("there are {POLICIES_MAX} policies, which is the limit: delete some");
            return Err(Refusal::new(RefusalKind::Full, text).into());
        }
        let key = key(&[&host.name, name]);
        host.policies.put(policy, || {
            self.shared.write_safely(|records| records.put(Space::Policy, &key, &stored));
        });
        self.apply_policies(host);
        Ok(!known)
    }

    /// False if there is none of that name.
    pub fn delete_policy(&self, host: &VirtualHost, name: &str) -> bool {
        let key = key(&[&host.name, name]);
        let known = host.policies.remove(name, || {
            self.shared.write_safely(|records| records.delete(Space::Policy, &key));
        });
        if known {
            self.apply_policies(host);
        }
        known
    }

    fn apply_policies(&self, host: &VirtualHost) {
        let now = Instant::now();
        let queues: Vec<_> = host.queues.iter().map(|queue| Arc::clone(&queue)).collect();
        let mut batch = self.own_batch();
        for queue in queues {
            host.apply_policy(&queue, now, &mut batch);
        }
        batch.finish(host, now);
        batch.end();
    }
}
