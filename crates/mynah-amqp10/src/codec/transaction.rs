//! What is said about transactions: declare, discharge, declared and transactional-state (AMQP 1.0 part 4.5).

use bytes::BytesMut;
use mynah_core::{Outcome, TransactionId};

use super::CodecError;
use super::reader::Reader;
use super::section::AMQP_VALUE;
use super::terminus::read_outcome;
use super::writer::{composite, put_binary};

type Result<T> = std::result::Result<T, CodecError>;

const DECLARE: u64 = 0x31;
const DISCHARGE: u64 = 0x32;
const DECLARED: u8 = 0x33;
pub(crate) const TRANSACTIONAL_STATE: u8 = 0x34;

/// What the coordinator is asked for, in the body of a message to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Begin one. `global`: as a branch of a distributed one.
    Declare { global: bool },
    /// End it: all of it happens, or with `fail` nothing.
    Discharge { id: TransactionId, fail: bool },
}

impl Control {
    /// Reads the body section of a message to the coordinator.
    pub(crate) fn read(section: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(section);
        let descriptor = reader.descriptor()?;
        if descriptor != u64::from(AMQP_VALUE) {
            return Err(CodecError::Descriptor(descriptor));
        }
        match reader.descriptor()? {
            DECLARE => Ok(Self::Declare { global: reader.list()?.raw()?.is_some() }),
            DISCHARGE => {
                let mut fields = reader.list()?;
                let id = fields.binary()?.ok_or(CodecError::Missing("txn-id"))?;
                Ok(Self::Discharge { id: id_of(id), fail: fields.boolean()?.unwrap_or(false) })
            }
            other => Err(CodecError::Descriptor(other)),
        }
    }
}

/// The state of a transfer that belongs to a transaction, or of a delivery that is settled in one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TransactionalState {
    pub(crate) id: TransactionId,
    pub(crate) outcome: Option<Outcome>,
}

impl TransactionalState {
    /// `None` for any other state.
    pub(crate) fn read(raw: &[u8]) -> Result<Option<Self>> {
        let mut reader = Reader::new(raw);
        if reader.descriptor()? != u64::from(TRANSACTIONAL_STATE) {
            return Ok(None);
        }
        let mut fields = reader.list()?;
        let id = fields.binary()?.ok_or(CodecError::Missing("txn-id"))?;
        let outcome = match fields.raw()? {
            Some(raw) => read_outcome(raw)?,
            None => None,
        };
        Ok(Some(Self { id: id_of(id), outcome }))
    }
}

pub(crate) fn put_state(buf: &mut BytesMut, id: TransactionId, outcome: impl FnOnce(&mut BytesMut)) {
    composite(buf, TRANSACTIONAL_STATE, |list| {
        list.field(Some(id), put_id);
        list.field(Some(outcome), |buf, outcome| outcome(buf));
    });
}

pub(crate) fn put_declared(buf: &mut BytesMut, id: TransactionId) {
    composite(buf, DECLARED, |list| list.field(Some(id), put_id));
}

fn put_id(buf: &mut BytesMut, id: TransactionId) {
    put_binary(buf, &id.0.to_be_bytes());
}

/// An identifier that the broker did not give out is read as 0, which it never gives out.
fn id_of(bytes: &[u8]) -> TransactionId {
    TransactionId(bytes.try_into().map(u64::from_be_bytes).unwrap_or(0))
}
