//! Local transactions: the coordinator, and what is published and settled in them (AMQP 1.0 part 4).
//!
//! Transactions belong to the link they were declared on: they are rolled back when it ends [AMQP 4.2]. Within the connection
//! they may be used from every session. What is settled in one is out of the peer's hands until the discharge; a rollback
//! gives it back as it was, or to the queue if the peer has settled it or its link is gone [AMQP 4.4.2].
//!
//! Never: acquires messages in a transaction (`txn-id` in a flow); a global transaction.

use std::collections::HashSet;

use mynah_core::protocol::{Host, Reply, Step};
use mynah_core::{ConsumerId, DeliveryTag, Outcome, TransactionId};

use crate::codec::performative::LinkRole;
use crate::codec::section::Body;
use crate::codec::transaction::{Control, TransactionalState};
use crate::codec::transfer::{Disposition, Verdict, serial_distance, write_disposition};
use crate::connection::{Amqp10Connection, refusal_of};
use crate::context::{Asker, Context, LinkAt, Request};
use crate::inbound::Target;
use crate::link::Link;
use crate::reason::{self, Condition, Fault, condition_of};
use crate::session::{Session, default_outcome};
use crate::unsettled::Entry;

/// The transactions of a connection. Few at a time, so a list is searched.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    all: Vec<Transaction>,
    /// Of the deliveries that they settle, those that the peer still knows: life of the session and delivery-id.
    known: HashSet<(u64, u32)>,
    last: u64,
}

#[derive(Debug)]
struct Transaction {
    id: TransactionId,
    /// The link it was declared on.
    control: LinkAt,
    phase: Phase,
    retired: Vec<Retired>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Committing,
    RollingBack,
}

/// A delivery that is settled by the transaction, if that is committed.
#[derive(Debug)]
struct Retired {
    channel: u16,
    /// The life of the session.
    life: u64,
    entry: Entry,
    outcome: Outcome,
}

impl Retired {
    fn id(&self) -> (u64, u32) {
        (self.life, self.entry.id)
    }
}

impl Transactions {
    fn find(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        self.all.iter_mut().find(|transaction| transaction.id == id && transaction.phase == Phase::Open)
    }

    pub(crate) fn is_open(&mut self, id: TransactionId) -> bool {
        self.find(id).is_some()
    }

    /// Whether some transaction has settled deliveries of this consumer.
    pub(crate) fn hold(&self, consumer: ConsumerId) -> bool {
        self.all.iter().flat_map(|transaction| &transaction.retired).any(|one| one.entry.consumer == consumer)
    }

    /// The peer has forgotten deliveries of a session.
    pub(crate) fn forget(&mut self, life: u64, (first, last): (u32, u32)) {
        let span = usize::try_from(last.wrapping_sub(first)).unwrap_or(usize::MAX);
        if span < self.known.len() {
            for ahead in 0..=last.wrapping_sub(first) {
                self.known.remove(&(life, first.wrapping_add(ahead)));
            }
            return;
        }
        let inside = |id: u32| serial_distance(first, id) >= 0 && serial_distance(id, last) >= 0;
        self.known.retain(|(of, id)| *of != life || !inside(*id));
    }

    /// What it would settle, and whether the peer still knows it.
    fn close(&mut self, id: TransactionId) -> Option<(Phase, Vec<(Retired, bool)>)> {
        let at = self.all.iter().position(|transaction| transaction.id == id)?;
        let Transaction { phase, retired, .. } = self.all.swap_remove(at);
        let known = |one: Retired| {
            let known = self.known.remove(&one.id());
            (one, known)
        };
        Some((phase, retired.into_iter().map(known).collect()))
    }
}

/// A message to the coordinator.
///
/// # Errors
/// What is asked for cannot be.
pub(crate) fn control(
    asker: Asker,
    body: Body<'_>,
    ctx: &mut Context,
    host: &mut dyn Host,
) -> Result<(), Condition> {
    let section = if let Body::Encoded(section) = body { section } else { &[] };
    let asked = Control::read(section).map_err(|error| {
        let text = format!("the coordinator takes 'declare' and 'discharge' as an amqp-value ({error})");
        Condition::new(reason::DECODE_ERROR, text)
    })?;
    let transactions = &mut ctx.transactions;
    match asked {
        Control::Declare { global: true } => {
            let text = "only local transactions are offered; declare without global-id";
            Err(Condition::new(reason::NOT_IMPLEMENTED, text))
        }
        Control::Declare { global: false } => {
            transactions.last += 1;
            let id = TransactionId(transactions.last);
            let (control, phase) = (asker.at, Phase::Open);
            transactions.all.push(Transaction { id, control, phase, retired: Vec::new() });
            let ticket = ctx.ask(Request::Declare(asker, id));
            host.transact(ticket, Step::Begin(id));
            Ok(())
        }
        Control::Discharge { id, fail } => {
            let transaction = transactions.find(id).ok_or_else(unknown)?;
            let (phase, step) = if fail {
                (Phase::RollingBack, Step::Rollback(id))
            } else {
                (Phase::Committing, Step::Commit(id))
            };
            transaction.phase = phase;
            let ticket = ctx.ask(Request::Discharge(Some(asker), id));
            host.transact(ticket, step);
            Ok(())
        }
    }
}

pub(crate) fn unknown() -> Condition {
    Condition::new(reason::TRANSACTION_UNKNOWN, "there is no such transaction; declare one first")
}

/// A coordinator's link ends: so do its transactions.
pub(crate) fn roll_back_all(control: LinkAt, ctx: &mut Context, host: &mut dyn Host) {
    let open = |one: &&mut Transaction| one.control == control && one.phase == Phase::Open;
    let mut ended = Vec::new();
    for transaction in ctx.transactions.all.iter_mut().filter(open) {
        transaction.phase = Phase::RollingBack;
        ended.push(transaction.id);
    }
    for id in ended {
        let ticket = ctx.ask(Request::Discharge(None, id));
        host.transact(ticket, Step::Rollback(id));
    }
}

impl Session {
    /// The peer settles deliveries in a transaction [AMQP 4.4.2].
    pub(crate) fn on_retire(
        &mut self,
        disposition: &Disposition<'_>,
        state: TransactionalState,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let range = (disposition.first, disposition.last);
        let Some(handle) = self.sending.unsettled.handle_of(range) else { return Ok(()) };
        let Some(transaction) = ctx.transactions.find(state.id) else {
            return Err(Fault::Link(handle, unknown()));
        };
        let settled = disposition.settled;
        let outcome = match state.outcome {
            Some(outcome) => outcome,
            None if settled => default_outcome(&self.links, handle).clone(),
            None => return Ok(()),
        };
        let entries = self.sending.unsettled.take_out(range);
        for run in entries.chunk_by(|one, next| one.consumer == next.consumer) {
            let tags: Vec<DeliveryTag> = run.iter().map(|entry| entry.tag).collect();
            let consumer = run.first().map_or(ConsumerId::SESSION, |entry| entry.consumer);
            host.settle(consumer, &tags, &outcome, Some(state.id));
        }
        let (channel, life) = (self.channel, self.life);
        let retire = |entry| Retired { channel, life, entry, outcome: outcome.clone() };
        transaction.retired.extend(entries.iter().copied().map(retire));
        if !settled {
            ctx.transactions.known.extend(entries.iter().map(|entry| (life, entry.id)));
        }
        Ok(())
    }

    /// A consumer ends while a transaction has deliveries of it: all the others go back to the queue.
    pub(crate) fn release_untransacted(
        &mut self,
        handle: u32,
        consumer: ConsumerId,
        held: &[DeliveryTag],
        host: &mut dyn Host,
    ) {
        let out = self.sending.unsettled.tags_of(handle).chain(held.iter().copied());
        host.settle(consumer, &out.collect::<Vec<_>>(), &Outcome::Released, None);
    }

    /// What a transaction would have settled is as it was before.
    fn take_back(&mut self, one: &Retired) -> bool {
        let consumer = match self.link(one.entry.handle) {
            Some(Link::Outbound(link)) => link.consumer,
            Some(Link::Inbound(_) | Link::Detached) | None => None,
        };
        let live = self.life == one.life && consumer == Some(one.entry.consumer);
        if live {
            self.sending.unsettled.put_back(one.entry);
        }
        live
    }

    /// The link on which somebody waits for the outcome; whether that can be `rejected`.
    fn is_control(&mut self, at: LinkAt) -> Option<bool> {
        match self.link(at.handle) {
            Some(Link::Inbound(link)) if link.at.life == at.life => match link.target {
                Target::Coordinator { rejects } => Some(rejects),
                Target::Fixed(_) | Target::BySubject(_) | Target::Anonymous(_) => None,
            },
            Some(Link::Inbound(_) | Link::Outbound(_) | Link::Detached) | None => None,
        }
    }
}

impl Amqp10Connection {
    pub(crate) fn on_declared(&mut self, asker: Asker, id: TransactionId, reply: Reply, host: &mut dyn Host) {
        if let Reply::Done = reply {
            self.answer_control(asker, Ok(Verdict::Declared(id)), host);
            return;
        }
        self.ctx.transactions.all.retain(|transaction| transaction.id != id);
        self.answer_control(asker, Err(condition_of(&refusal_of(reply))), host);
    }

    pub(crate) fn on_discharged(
        &mut self,
        asker: Option<Asker>,
        id: TransactionId,
        reply: Reply,
        host: &mut dyn Host,
    ) {
        let Some((phase, retired)) = self.ctx.transactions.close(id) else { return };
        let done = matches!(reply, Reply::Done);
        if done && phase == Phase::Committing {
            self.say_applied(&retired, host);
        } else {
            self.give_back(&retired, host);
        }
        let Some(asker) = asker else { return };
        if done {
            self.answer_control(asker, Ok(Verdict::Accepted), host);
            return;
        }
        let text = refusal_of(reply).text;
        self.answer_control(asker, Err(Condition::new(reason::TRANSACTION_ROLLBACK, text)), host);
    }

    fn answer_control(&mut self, asker: Asker, answer: Result<Verdict<'_>, Condition>, host: &mut dyn Host) {
        let Asker { at, delivery_id } = asker;
        let Some((session, ctx)) = self.session(at.channel) else { return };
        let Some(rejects) = session.is_control(at) else { return };
        let range = (delivery_id, delivery_id);
        match answer {
            Ok(verdict) => write_disposition(host.wire(), at.channel, LinkRole::Receiver, range, verdict),
            Err(why) if rejects => {
                write_disposition(
                    host.wire(),
                    at.channel,
                    LinkRole::Receiver,
                    range,
                    Verdict::Rejected(&why),
                );
            }
            Err(why) => session.fail_link(at.handle, &why, ctx, host),
        }
    }

    /// The broker settles what the peer has not settled itself.
    fn say_applied(&mut self, retired: &[(Retired, bool)], host: &mut dyn Host) {
        let neighbours = |(one, known): &(Retired, bool), (next, next_known): &(Retired, bool)| {
            one.life == next.life
                && one.entry.id.wrapping_add(1) == next.entry.id
                && known == next_known
                && one.outcome == next.outcome
        };
        for run in retired.chunk_by(neighbours) {
            let (Some((first, known)), Some((last, _))) = (run.first(), run.last()) else { continue };
            let live = self.session(first.channel).is_some_and(|(s, _)| s.life == first.life && !s.ended);
            if live && *known {
                let (range, verdict) = ((first.entry.id, last.entry.id), Verdict::Applied(&first.outcome));
                write_disposition(host.wire(), first.channel, LinkRole::Sender, range, verdict);
            }
        }
    }

    /// Nothing of it has happened: what the peer still knows it has again, the rest goes back to the queue.
    fn give_back(&mut self, retired: &[(Retired, bool)], host: &mut dyn Host) {
        let failed = Outcome::Modified { failed: true, undeliverable_here: false };
        for (one, known) in retired {
            let taken =
                *known && self.session(one.channel).is_some_and(|(session, _)| session.take_back(one));
            if !taken {
                host.settle(one.entry.consumer, &[one.entry.tag], &failed, None);
            }
        }
    }
}
