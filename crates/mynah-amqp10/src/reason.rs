//! The only table from refusals and faults to AMQP error conditions (part 2.8.15 to 2.8.18).

use std::borrow::Cow;

use mynah_core::protocol::{Refusal, RefusalKind};

use crate::codec::CodecError;

/// An error as it goes over the wire: a symbol for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) symbol: &'static str,
    pub(crate) text: Cow<'static, str>,
}

impl Condition {
    pub(crate) fn new(symbol: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { symbol, text: text.into() }
    }
}

pub(crate) const DECODE_ERROR: &str = "amqp:decode-error";
pub(crate) const INTERNAL_ERROR: &str = "amqp:internal-error";
pub(crate) const INVALID_FIELD: &str = "amqp:invalid-field";
pub(crate) const NOT_ALLOWED: &str = "amqp:not-allowed";
pub(crate) const NOT_FOUND: &str = "amqp:not-found";
pub(crate) const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
pub(crate) const PRECONDITION_FAILED: &str = "amqp:precondition-failed";
pub(crate) const RESOURCE_DELETED: &str = "amqp:resource-deleted";
pub(crate) const RESOURCE_LIMIT_EXCEEDED: &str = "amqp:resource-limit-exceeded";
pub(crate) const RESOURCE_LOCKED: &str = "amqp:resource-locked";
pub(crate) const UNAUTHORIZED_ACCESS: &str = "amqp:unauthorized-access";
pub(crate) const CONNECTION_FORCED: &str = "amqp:connection:forced";
pub(crate) const FRAMING_ERROR: &str = "amqp:connection:framing-error";
pub(crate) const WINDOW_VIOLATION: &str = "amqp:session:window-violation";
pub(crate) const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
pub(crate) const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
pub(crate) const TRANSFER_LIMIT_EXCEEDED: &str = "amqp:link:transfer-limit-exceeded";
pub(crate) const MESSAGE_SIZE_EXCEEDED: &str = "amqp:link:message-size-exceeded";
pub(crate) const TRANSACTION_ROLLBACK: &str = "amqp:transaction:rollback";
pub(crate) const TRANSACTION_UNKNOWN: &str = "amqp:transaction:unknown-id";
pub(crate) const STOLEN: &str = "amqp:link:stolen";

/// What a refusal of the broker is called on the wire.
pub(crate) fn condition_of(refusal: &Refusal) -> Condition {
    let symbol = match refusal.kind {
        RefusalKind::Unauthenticated | RefusalKind::Forbidden => UNAUTHORIZED_ACCESS,
        RefusalKind::NotFound => NOT_FOUND,
        RefusalKind::Conflict => PRECONDITION_FAILED,
        RefusalKind::Locked => RESOURCE_LOCKED,
        RefusalKind::Full => RESOURCE_LIMIT_EXCEEDED,
        RefusalKind::TooLarge => MESSAGE_SIZE_EXCEEDED,
        RefusalKind::Unavailable => INTERNAL_ERROR,
    };
    Condition { symbol, text: refusal.text.clone() }
}

/// A rule that the peer broke, and how much has to end for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Detach this handle with the error [AMQP 2.6.5].
    Link(u32, Condition),
    /// End the session with the error [AMQP 2.5.7].
    Session(Condition),
    /// Close the connection with the error [AMQP 2.4.3].
    Connection(Condition),
}

impl Fault {
    pub(crate) fn session(symbol: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Session(Condition::new(symbol, text))
    }

    pub(crate) fn connection(symbol: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Connection(Condition::new(symbol, text))
    }
}

impl From<CodecError> for Fault {
    /// A performative that cannot be read says nothing about what comes after it: the connection ends.
    fn from(error: CodecError) -> Self {
        Self::Connection(decode_error(error))
    }
}

pub(crate) fn decode_error(error: CodecError) -> Condition {
    Condition::new(DECODE_ERROR, error.to_string())
}
