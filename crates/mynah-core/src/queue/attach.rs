//! Consumers come and go, and their credit changes.
//!
//! Every change ends in `refresh`, which keeps the sum of usable credit and the ring: the only two things that pushing and
//! dispatching look at.

use super::consumer::Consumer;
use super::dispatch::may_take;
use super::{ConsumerKey, ConsumerTerms, Queue};
use crate::protocol::{CreditMode, Refusal, RefusalKind, Role};

impl<S> Queue<S> {
    /// Adds a consumer. One that is there already under this key gets new terms, without credit granted before; what
    /// it has unsettled stays with it.
    ///
    /// # Errors
    /// `Forbidden`: somebody consumes exclusively, or the consumer wants to and is not alone.
    pub fn attach(&mut self, key: ConsumerKey, sink: S, terms: ConsumerTerms) -> Result<(), Refusal> {
        if terms.role == Role::Consumer {
            self.check_exclusive(key, terms.exclusive)?;
        }
        self.last_serial += 1;
        let mut consumer = Consumer::new(key, sink, self.last_serial, terms, self.defaults.socket_window);
        if terms.role == Role::Browser {
            consumer.cursors = vec![0; self.ready.levels()].into();
        }
        let slot = match self.keys.get(&key).copied() {
            Some(slot) => {
                self.retire(slot);
                if let Some(old) = self.consumers.get_mut(slot) {
                    consumer.take_over(old);
                    *old = consumer;
                }
                slot
            }
            None => {
                let slot = self.consumers.insert(consumer);
                self.keys.insert(key, slot);
                slot
            }
        };
        match terms.role {
            Role::Consumer => {
                self.attached += 1;
                if self.spec.single_active_consumer && self.active.is_none() {
                    self.active = Some(slot);
                }
            }
            Role::Browser => self.browsers.push(slot),
            Role::Getter => {}
        }
        self.refresh(slot);
        Ok(())
    }

    fn check_exclusive(&self, key: ConsumerKey, exclusive: bool) -> Result<(), Refusal> {
        if self.attached == 0 {
            return Ok(());
        }
        let mut others =
            self.consumers.iter().map(|(_, other)| other).filter(|other| {
                other.key != key && other.sink.is_some() && other.terms.role == Role::Consumer
            });
        // An exclusive consumer is alone, so the first one tells it all.
        match others.next() {
            Some(other) if other.terms.exclusive => Err(Refusal::new(
                RefusalKind::Forbidden,
                "the queue has an exclusive consumer: wait until it ends, or consume from another queue",
            )),
            Some(_) if exclusive => Err(Refusal::new(
                RefusalKind::Forbidden,
                "the queue has other consumers: exclusive consuming needs it to have none",
            )),
            _ => Ok(()),
        }
    }

    /// Takes a consumer out of everything that leads to deliveries.
    pub(super) fn retire(&mut self, slot: u32) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        if consumer.sink.is_none() {
            return;
        }
        self.usable_credit -= std::mem::take(&mut consumer.counted);
        if std::mem::take(&mut consumer.in_ring) {
            self.ring.leave(slot);
        }
        self.draining.retain(|member| *member != slot);
        self.seekers.retain(|member| *member != slot);
        match consumer.terms.role {
            Role::Consumer => {
                self.attached -= 1;
                if self.active == Some(slot) {
                    self.activate_next(slot);
                }
            }
            Role::Browser => self.browsers.retain(|member| *member != slot),
            Role::Getter => {}
        }
    }

    /// With a single active consumer: the highest priority, and then the longest here, is next.
    fn activate_next(&mut self, leaving: u32) {
        let candidates = self.consumers.iter().filter(|(slot, consumer)| {
            *slot != leaving && consumer.sink.is_some() && consumer.terms.role == Role::Consumer
        });
        let best = candidates
            .max_by_key(|(_, consumer)| (consumer.terms.priority, std::cmp::Reverse(consumer.serial)));
        self.active = best.map(|(slot, _)| slot);
        if let Some(slot) = self.active {
            self.refresh(slot);
        }
    }

    /// Grants credit: so many deliveries from now, not a sum. With `drain`, what the next dispatch does not use is
    /// discarded, and [`Effect::Drained`] follows. Only with [`CreditMode::Granted`].
    pub fn flow(&mut self, key: ConsumerKey, credit: u32, drain: bool) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        if consumer.terms.credit != CreditMode::Granted || consumer.sink.is_none() {
            return;
        }
        consumer.granted = credit;
        if drain && !consumer.draining {
            self.draining.push_back(slot);
        } else if !drain && consumer.draining {
            self.draining.retain(|member| *member != slot);
        }
        consumer.draining = drain;
        self.refresh(slot);
    }

    /// So many deliveries have left for the socket. Only with [`CreditMode::Socket`].
    pub fn replenish(&mut self, key: ConsumerKey, sent: u32) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        consumer.on_the_way = consumer.on_the_way.saturating_sub(sent);
        self.refresh(slot);
    }

    /// Changes the window of [`CreditMode::Window`] or [`CreditMode::Socket`].
    pub fn set_window(&mut self, key: ConsumerKey, window: u32) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        consumer.window = window;
        self.refresh(slot);
    }

    /// After every change of a consumer's credit: keeps the sum and the ring, and recalls what it may take.
    pub(super) fn refresh(&mut self, slot: u32) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let waits = match consumer.terms.role {
            Role::Consumer => self.spec.single_active_consumer && self.active != Some(slot),
            Role::Getter => false,
            Role::Browser => true,
        };
        let usable = if waits { 0 } else { u64::from(consumer.credit()) };
        self.usable_credit = self.usable_credit - consumer.counted + usable;
        let before = std::mem::replace(&mut consumer.counted, usable);
        if usable == 0 {
            return;
        }
        if consumer.in_ring {
            // Who was in the ring all the time has refused what was set aside meanwhile.
            if consumer.seeks && usable > before {
                self.seek(slot, usable - before);
            }
            return;
        }
        consumer.in_ring = true;
        match consumer.terms.role {
            Role::Getter => self.ring.join_getters(slot),
            Role::Consumer | Role::Browser => self.ring.join(consumer.terms.priority, slot),
        }
        self.seek(slot, usable);
    }

    /// Recalls for a consumer what was set aside: so that in delivery order the next messages that it may take, as many as
    /// it has credit, are not aside.
    pub(super) fn seek(&mut self, slot: u32, most: u64) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let mut examined = consumer.examined;
        let all = self.ready.recall(&mut examined, most, |entry| may_take(consumer, entry, &self.avoiding));
        consumer.examined = examined;
        consumer.seeks = !all;
        if !all && !self.seekers.contains(&slot) {
            self.seekers.push(slot);
        }
    }
}
