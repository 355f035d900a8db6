//! Where a message is sent: one address space for all protocols (DESIGN section 5).
//!
//! A topic is kept in its core form: words joined by `/`. What a protocol's own separator does to it is [`crate::words`].

use std::sync::Arc;

/// An owned address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Words joined by `/`, no wildcards: every matching subscription and binding gets a copy.
    Topic(Arc<str>),
    /// A queue by name: one copy.
    Queue(Arc<str>),
    /// An exchange by name, and the key in the exchange's own spelling.
    Exchange { name: Arc<str>, key: Arc<str> },
    /// One connected client, or its durable session, by client identifier.
    Client(Arc<str>),
}

/// A borrowed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressRef<'a> {
    Topic(&'a str),
    Queue(&'a str),
    Exchange { name: &'a str, key: &'a str },
    Client(&'a str),
}

impl Address {
    #[must_use]
    pub fn as_ref(&self) -> AddressRef<'_> {
        match self {
            Self::Topic(topic) => AddressRef::Topic(topic),
            Self::Queue(name) => AddressRef::Queue(name),
            Self::Exchange { name, key } => AddressRef::Exchange { name, key },
            Self::Client(id) => AddressRef::Client(id),
        }
    }
}

impl AddressRef<'_> {
    #[must_use]
    pub fn to_owned(self) -> Address {
        match self {
            Self::Topic(topic) => Address::Topic(topic.into()),
            Self::Queue(name) => Address::Queue(name.into()),
            Self::Exchange { name, key } => Address::Exchange { name: name.into(), key: key.into() },
            Self::Client(id) => Address::Client(id.into()),
        }
    }
}

impl std::fmt::Display for AddressRef<'_> {
    /// The form used in logs, dead-letter records and the admin API: `topic:a/b`, `queue:q`, `exchange:e:k`, `client:c`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(topic) => write!(f, "topic:{topic}"),
            Self::Queue(name) => write!(f, "queue:{name}"),
            Self::Exchange { name, key } => write!(f, "exchange:{name}:{key}"),
            Self::Client(id) => write!(f, "client:{id}"),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_ref().fmt(f)
    }
}
