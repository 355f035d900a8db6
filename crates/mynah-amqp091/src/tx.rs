//! Class `tx`: publishes and acknowledgements of a channel that happen together at the commit.
//!
//! A channel in transaction mode always has a transaction open; a commit or rollback begins the next one. A rollback undoes
//! acknowledgements, it does not give the messages back (0-9-1 `tx.rollback`).
//! Never: a transaction across channels.

use mynah_core::TransactionId;
use mynah_core::protocol::{Host, Step};

use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::reason::Fault;
use crate::settle::Entry;
use crate::waiting::Asked;

/// The open transaction of a channel.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) id: TransactionId,
    /// What was settled in it, to be undone by a rollback.
    pub(crate) settled: Vec<Entry>,
}

impl Amqp091Connection {
    pub(crate) fn on_tx_select(&mut self, number: u16, host: &mut dyn Host) -> Result<(), Fault> {
        let Some(channel) = self.channels.get(&number) else { return Ok(()) };
        if channel.confirm.is_some() {
            return Err(Fault::precondition("cannot switch from confirm to tx mode"));
        }
        if channel.transaction.is_some() {
            Response::TxSelectOk {}.put(host.wire(), number);
            return Ok(());
        }
        let id = self.next_transaction();
        let ticket = self.ask(number, (90, 10), false, Asked::TxSelect { id });
        host.transact(ticket, Step::Begin(id));
        Ok(())
    }

    pub(crate) fn on_tx_end(&mut self, number: u16, commit: bool, host: &mut dyn Host) -> Result<(), Fault> {
        let transaction = self.channels.get(&number).and_then(|channel| channel.transaction.as_ref());
        let Some(id) = transaction.map(|transaction| transaction.id) else {
            return Err(Fault::precondition("channel is not transactional"));
        };
        if commit {
            let ticket = self.ask(number, (90, 20), false, Asked::TxCommit);
            host.transact(ticket, Step::Commit(id));
        } else {
            let ticket = self.ask(number, (90, 30), false, Asked::TxRollback);
            host.transact(ticket, Step::Rollback(id));
        }
        Ok(())
    }

    pub(crate) fn on_tx_selected(&mut self, number: u16, id: TransactionId, host: &mut dyn Host) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.transaction = Some(Box::new(Transaction { id, settled: Vec::new() }));
        Response::TxSelectOk {}.put(host.wire(), number);
    }

    pub(crate) fn on_tx_ended(&mut self, number: u16, committed: bool, host: &mut dyn Host) {
        let id = self.next_transaction();
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let Some(transaction) = &mut channel.transaction else { return };
        transaction.id = id;
        let mut settled = std::mem::take(&mut transaction.settled);
        if !committed {
            channel.unsettled.put_back(&mut settled);
        }
        let ticket = self.ticket();
        host.transact(ticket, Step::Begin(id));
        if committed {
            Response::TxCommitOk {}.put(host.wire(), number);
        } else {
            Response::TxRollbackOk {}.put(host.wire(), number);
        }
        self.let_go(number, &settled, host);
    }

    /// The channel ends with it.
    pub(crate) fn forget_transaction(&mut self, transaction: &Transaction, host: &mut dyn Host) {
        let ticket = self.ticket();
        host.transact(ticket, Step::Rollback(transaction.id));
    }

    fn next_transaction(&mut self) -> TransactionId {
        self.serials += 1;
        TransactionId(self.serials)
    }
}
