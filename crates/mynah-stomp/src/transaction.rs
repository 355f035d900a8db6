//! The open transactions of a connection, by the names the client gave them.

use mynah_core::TransactionId;

use crate::reason::{Fault, clipped};

/// Few at a time, so a list is searched.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    open: Vec<(Box<str>, TransactionId)>,
    last: u64,
}

impl Transactions {
    /// # Errors
    /// The name is in use [STOMP 1.2, BEGIN], or too many are open.
    pub(crate) fn begin(&mut self, name: &str, max: usize) -> Result<TransactionId, Fault> {
        if self.find(name).is_some() {
            let text = format!(
                "The transaction '{}' is open already. COMMIT or ABORT it first, or use another name",
                clipped(name)
            );
            return Err(Fault::protocol("transaction open already", text));
        }
        if self.open.len() >= max {
            let text = format!("{max} transactions are open, which is the limit. COMMIT or ABORT one first");
            return Err(Fault::limit("too many transactions", text));
        }
        self.last += 1;
        let id = TransactionId(self.last);
        self.open.push((name.into(), id));
        Ok(id)
    }

    /// # Errors
    /// No BEGIN was seen for that name.
    pub(crate) fn get(&self, name: &str) -> Result<TransactionId, Fault> {
        self.find(name).ok_or_else(|| {
            let text =
                format!("There is no open transaction '{}'. Send BEGIN with that name first", clipped(name));
            Fault::protocol("no such transaction", text)
        })
    }

    /// It was committed or aborted: the name is free again.
    pub(crate) fn end(&mut self, id: TransactionId) {
        self.open.retain(|(_, open)| *open != id);
    }

    fn find(&self, name: &str) -> Option<TransactionId> {
        self.open.iter().find(|(open, _)| &**open == name).map(|(_, id)| *id)
    }
}
