//! Every ERROR a client can get: the short `message` header, and the body that says what to change.
//!
//! The only table from the broker's refusals to STOMP's words.
//! Never: decides whether something is an error; closes anything.

use std::borrow::Cow;

use mynah_core::protocol::{Refusal, RefusalKind, Violation, ViolationKind};

/// Sent to a peer whose first bytes are no STOMP.
pub(crate) const NOT_STOMP: &[u8] =
    b"ERROR\nversion:1.0,1.1,1.2\nmessage:not STOMP\ncontent-type:text/plain\n\n\
The first frame must be CONNECT or STOMP, ended by an empty line and a NUL byte.\n\0\n";

/// Why a connection ends with an ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `None`: the client did nothing wrong, the broker says no.
    pub(crate) kind: Option<ViolationKind>,
    /// The `message` header: a few words.
    pub(crate) message: Cow<'static, str>,
    /// The body: what was wrong and what to change.
    pub(crate) text: Cow<'static, str>,
    /// Adds the `version` header, when nothing was in common.
    pub(crate) versions: bool,
}

impl Fault {
    fn new(
        kind: ViolationKind,
        message: impl Into<Cow<'static, str>>,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind: Some(kind), message: message.into(), text: text.into(), versions: false }
    }

    /// Bytes that are no frame.
    pub(crate) fn malformed(message: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ViolationKind::Malformed, message, text)
    }

    /// A frame that is not allowed here, or lacks something.
    pub(crate) fn protocol(
        message: impl Into<Cow<'static, str>>,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ViolationKind::Protocol, message, text)
    }

    pub(crate) fn limit(message: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ViolationKind::Limit, message, text)
    }

    pub(crate) fn timeout(message: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ViolationKind::Timeout, message, text)
    }

    pub(crate) fn no_common_version(accept: &str) -> Self {
        let text = format!(
            "accept-version:{} names no version this server speaks. Offer at least one of 1.0, 1.1 and 1.2, \
             for example accept-version:1.2",
            clipped(accept)
        );
        Self { versions: true, ..Self::protocol("no common version", text) }
    }

    /// A required header is not there.
    pub(crate) fn missing(command: &str, header: &str, hint: &str) -> Self {
        Self::protocol(
            format!("{command} without {header}"),
            format!("{command} needs the header {header}: {hint}"),
        )
    }

    /// A header's value cannot be used.
    pub(crate) fn bad_value(header: &str, value: &str, expected: &str) -> Self {
        Self::protocol(
            format!("bad header {header}"),
            format!("{header}:{} cannot be used. Expected: {expected}", clipped(value)),
        )
    }

    /// The broker said no. `what` is the frame and its subject, e.g. `SEND to /queue/a`.
    pub(crate) fn refused(what: &str, refusal: &Refusal) -> Self {
        let (kind, message) = match refusal.kind {
            RefusalKind::Unauthenticated => (Some(ViolationKind::Unauthenticated), "login refused"),
            RefusalKind::Forbidden => (None, "not permitted"),
            RefusalKind::NotFound => (None, "not found"),
            RefusalKind::Conflict => (None, "conflict"),
            RefusalKind::Locked => (None, "in use by another connection"),
            RefusalKind::Full => (None, "full"),
            RefusalKind::TooLarge => (None, "too large"),
            RefusalKind::Unavailable => (None, "not available now"),
        };
        Self {
            kind,
            message: message.into(),
            text: format!("{}: {}", clipped(what), refusal.text).into(),
            versions: false,
        }
    }

    /// The broker has something to say that nobody asked for.
    pub(crate) fn notice(message: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: None, message: message.into(), text: text.into(), versions: false }
    }

    /// A SEND to a queue that has to exist.
    pub(crate) fn no_queue(name: &str) -> Self {
        Self::notice(
            "no such queue",
            format!(
                "There is no queue '{0}', and destinations that begin with /amq/queue/ never create one. Declare it \
                 first, or send to /queue/{0}, which creates it",
                clipped(name)
            ),
        )
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.kind.map(|kind| Violation::new(kind, format!("{}: {}", self.message, self.text)))
    }
}

/// A client's own words in an answer are cut, so that it stays readable and small.
pub(crate) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(256);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
