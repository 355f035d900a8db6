//! The canonical message: immutable, shared, shaped as an AMQP 1.0 message (part 3.2).
//!
//! What the sender's own protocol encoded travels untouched beside it ([`Original`]) and is decoded only when another
//! protocol asks for the properties.
//!
//! Never: facts of one delivery (attempts, tags); those are on [`crate::Delivery`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::address::Address;
use crate::body::Body;
use crate::publish::{ContentRef, PublishRef};
use crate::value::Value;

/// How often a message may reach a receiver. Ordered: the lower of publisher's and subscriber's wish is what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Guarantee {
    #[default]
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// The last known good value of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Retain {
    #[default]
    No,
    /// The publisher asks to keep it as the topic's retained message (an empty body clears).
    Keep,
    /// This copy comes from the retained store, not from a publisher.
    Replayed,
}

/// The facts by which a message is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    pub guarantee: Guarantee,
    pub retain: Retain,
    /// 0 to 255, higher first; absent is not the same in all protocols (AMQP 1.0: 4, 0-9-1: 0).
    pub priority: Option<u8>,
    /// Time to live in milliseconds, from receipt.
    pub ttl_ms: Option<u64>,
    /// The sender declared the body to be text, so that receivers that know the difference get a text message.
    pub text: bool,
}

impl Header {
    /// A message that asked for more than "at most once" is durable.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.guarantee > Guarantee::AtMostOnce
    }
}

/// The properties of a message, decoded. All optional: an absent property stays absent in every protocol.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Properties {
    pub message_id: Option<Value>,
    pub user_id: Option<Bytes>,
    pub to: Option<Box<str>>,
    pub subject: Option<Box<str>>,
    pub reply_to: Option<Address>,
    pub correlation_id: Option<Value>,
    pub content_type: Option<Box<str>>,
    pub content_encoding: Option<Box<str>>,
    /// Milliseconds since the Unix epoch.
    pub absolute_expiry_ms: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub creation_ms: Option<i64>,
    pub group_id: Option<Box<str>>,
    pub group_sequence: Option<u32>,
    pub reply_to_group_id: Option<Box<str>>,
    /// The application's name for the kind of message (0-9-1 `type`).
    pub kind: Option<Box<str>>,
    /// The application that made it (0-9-1 `app-id`).
    pub app_id: Option<Box<str>>,
    /// In the order received; keys may repeat.
    pub application: Vec<(Box<str>, Value)>,
    /// Facts for brokers and client libraries, not for applications (keys `x-...`).
    pub annotations: Vec<(Box<str>, Value)>,
}

/// Names the encoding of an [`Original`]; each protocol crate has one constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format(pub &'static str);

/// Decodes what a protocol crate encoded and has validated before; unreadable parts are left out, never a panic.
pub type Decode = fn(&[u8]) -> Properties;

/// Properties in the sender's own encoding, which stands with the body: see [`Body::encoded`]. They are decoded at most once and only if somebody asks.
#[derive(Debug)]
pub struct Original {
    pub format: Format,
    decode: Decode,
    decoded: OnceLock<Box<Properties>>,
}

impl Original {
    #[must_use]
    pub fn new(format: Format, decode: Decode) -> Self {
        Self { format, decode, decoded: OnceLock::new() }
    }

    fn properties(&self, bytes: &[u8]) -> &Properties {
        self.decoded.get_or_init(|| Box::new((self.decode)(bytes)))
    }

    #[must_use]
    pub fn decoder(&self) -> Decode {
        self.decode
    }
}

/// The properties of a message in whichever form they came.
#[derive(Debug)]
pub enum Content {
    None,
    Decoded(Box<Properties>),
    Encoded(Box<Original>),
}

static NO_PROPERTIES: Properties = Properties {
    message_id: None,
    user_id: None,
    to: None,
    subject: None,
    reply_to: None,
    correlation_id: None,
    content_type: None,
    content_encoding: None,
    absolute_expiry_ms: None,
    creation_ms: None,
    group_id: None,
    group_sequence: None,
    reply_to_group_id: None,
    kind: None,
    app_id: None,
    application: Vec::new(),
    annotations: Vec::new(),
};

pub(crate) fn no_properties() -> &'static Properties {
    &NO_PROPERTIES
}

/// Why a message was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Sent to a queue that does not exist.
    NoQueue,
    QueueLength,
    MessageLength,
    Rejected,
    /// Attempts exhausted.
    ReadCount,
    Expired,
}

impl Cause {
    pub const ALL: [Self; 6] = [
        Self::NoQueue,
        Self::QueueLength,
        Self::MessageLength,
        Self::Rejected,
        Self::ReadCount,
        Self::Expired,
    ];

    /// The name in headers, metrics and the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoQueue => "no-queue",
            Self::QueueLength => "queue-length",
            Self::MessageLength => "message-length",
            Self::Rejected => "rejected",
            Self::ReadCount => "read-count",
            Self::Expired => "expired",
        }
    }
}

/// One line of a message's dead-letter history: newest first, one line for each (queue, cause).
#[derive(Debug, Clone, PartialEq)]
pub struct Death {
    pub cause: Cause,
    /// The queue it left; for `no-queue` the name that was missing.
    pub queue: Arc<str>,
    /// Where it had been sent when it entered that queue.
    pub address: Address,
    /// Milliseconds since the Unix epoch, of the first time.
    pub time_ms: i64,
    /// How often it left this queue for this cause.
    pub count: u32,
    /// What the consumer or the queue said, if anything.
    pub reason: Option<Box<str>>,
    /// The time to live it had, which is taken off when it is dead-lettered.
    pub original_ttl_ms: Option<u64>,
}

/// The message. Built once, by the broker, when a target needs it; then shared.
#[derive(Debug)]
pub struct Message {
    /// Where the publisher sent it.
    pub address: Address,
    pub header: Header,
    pub content: Content,
    /// Bytes are bytes: of an AMQP 1.0 value the text or binary itself, of several data sections their concatenation.
    pub body: Body,
    /// Newest first; empty for a message that was never dead-lettered.
    pub deaths: Vec<Death>,
    /// When the broker got it.
    pub received: Instant,
}

impl Message {
    /// Copies a borrowed publish into one allocation.
    #[must_use]
    pub fn from_publish(publish: &PublishRef<'_>, received: Instant) -> Self {
        Self::with_address(publish, publish.address.to_owned(), received)
    }

    /// The same, sharing an address that is already owned.
    #[must_use]
    pub fn with_address(publish: &PublishRef<'_>, address: Address, received: Instant) -> Self {
        let (content, body) = match publish.content {
            ContentRef::None => (Content::None, Body::new(publish.body)),
            ContentRef::Decoded(properties) => {
                (Content::Decoded(Box::new(properties.clone())), Body::new(publish.body))
            }
            ContentRef::Encoded { format, bytes, decode } => {
                let original = Original::new(format, decode);
                (Content::Encoded(Box::new(original)), Body::with_encoded(bytes, publish.body))
            }
        };
        Self { address, header: publish.header, content, body, deaths: Vec::new(), received }
    }

    /// Becomes what another publish to the same address says, in the memory that it has. False, and nothing has changed, if it
    /// cannot: one of the two has properties, or a history.
    pub fn renew(&mut self, publish: &PublishRef<'_>, received: Instant) -> bool {
        let plain = matches!((&self.content, &publish.content), (Content::None, ContentRef::None));
        if !plain || !self.deaths.is_empty() {
            return false;
        }
        self.body.renew(publish.body);
        self.header = publish.header;
        self.received = received;
        true
    }

    /// The message as a borrowed publish, for encoders and for publishing it again.
    #[must_use]
    pub fn as_publish(&self) -> PublishRef<'_> {
        let content = match &self.content {
            Content::None => ContentRef::None,
            Content::Decoded(properties) => ContentRef::Decoded(properties),
            Content::Encoded(original) => ContentRef::Encoded {
                format: original.format,
                bytes: self.body.encoded(),
                decode: original.decode,
            },
        };
        PublishRef { header: self.header, content, ..PublishRef::new(self.address.as_ref(), &self.body) }
    }

    #[must_use]
    pub fn properties(&self) -> &Properties {
        match &self.content {
            Content::None => no_properties(),
            Content::Decoded(properties) => properties,
            Content::Encoded(original) => original.properties(self.body.encoded()),
        }
    }

    /// The sender's own encoding, if it is `format`.
    #[must_use]
    pub fn original(&self, format: Format) -> Option<&[u8]> {
        match &self.content {
            Content::Encoded(original) if original.format == format => Some(self.body.encoded()),
            Content::None | Content::Decoded(_) | Content::Encoded(_) => None,
        }
    }

    /// When its own time to live ends.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        self.header.ttl_ms.and_then(|ms| self.received.checked_add(Duration::from_millis(ms)))
    }

    /// What is left of the time to live, in milliseconds; never 0, so that it is not read as "no limit".
    #[must_use]
    pub fn ttl_left_ms(&self, now: Instant) -> Option<u64> {
        let gone = now.saturating_duration_since(self.received).as_millis();
        self.header.ttl_ms.map(|ms| ms.saturating_sub(u64::try_from(gone).unwrap_or(u64::MAX)).max(1))
    }

    /// Bytes it occupies: body and encoded properties. A body inside the encoding is counted once.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.content {
            Content::None | Content::Encoded(_) => self.body.size(),
            Content::Decoded(_) => self.body.size() + size_of::<Properties>(),
        }
    }

    /// A new message like this one, sent on after death: the time to live is gone, the history has one line more.
    #[must_use]
    pub fn dead_lettered(&self, mut death: Death, received: Instant) -> Self {
        let mut deaths = self.deaths.clone();
        if let Some(at) = deaths.iter().position(|old| old.queue == death.queue && old.cause == death.cause) {
            let old = deaths.remove(at);
            death.count = old.count.saturating_add(1);
            death.time_ms = old.time_ms;
        }
        deaths.insert(0, death);
        let content = match &self.content {
            Content::None => Content::None,
            Content::Decoded(properties) => Content::Decoded(properties.clone()),
            Content::Encoded(original) => {
                Content::Encoded(Box::new(Original::new(original.format, original.decode)))
            }
        };
        Self {
            address: self.address.clone(),
            header: Header { ttl_ms: None, ..self.header },
            content,
            body: self.body.clone(),
            deaths,
            received,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::AddressRef;

    fn decode(bytes: &[u8]) -> Properties {
        Properties { user_id: Some(Bytes::copy_from_slice(bytes)), ..Properties::default() }
    }

    #[test]
    fn a_body_inside_the_encoding_is_shared() {
        let encoded = b"head-body-tail".as_slice();
        let body = encoded.get(5..9).unwrap();
        let content = ContentRef::Encoded { format: Format("test"), bytes: encoded, decode };
        let publish = PublishRef { content, ..PublishRef::new(AddressRef::Queue("q"), body) };
        let message = Message::from_publish(&publish, Instant::now());
        assert_eq!(message.body.as_ref(), b"body");
        let original = message.original(Format("test")).unwrap();
        assert_eq!(original, encoded);
        assert_eq!(message.body.as_ptr() as usize - original.as_ptr() as usize, 5);
        // Not twice: a queue's bounds are about what is kept.
        assert_eq!((publish.size(), message.size()), (encoded.len(), encoded.len()));
        assert_eq!(message.properties().user_id.as_deref(), Some(encoded));
    }

    #[test]
    fn a_body_beside_the_encoding_is_copied() {
        let content = ContentRef::Encoded { format: Format("test"), bytes: b"props", decode };
        let publish = PublishRef { content, ..PublishRef::new(AddressRef::Queue("q"), b"body") };
        let message = Message::from_publish(&publish, Instant::now());
        assert_eq!(message.body.as_ref(), b"body");
        assert_eq!(message.original(Format("test")).unwrap(), b"props");
        assert_eq!((publish.size(), message.size()), (9, 9));
    }

    #[test]
    fn a_renewed_message_is_what_was_published_last() {
        let now = Instant::now();
        let publish = |body| PublishRef::new(AddressRef::Topic("t"), body);
        let mut message = Message::from_publish(&publish(b"one"), now);
        let before = message.body.as_ptr();
        let header = Header { ttl_ms: Some(5), ..Header::default() };
        assert!(message.renew(&PublishRef { header, ..publish(b"two") }, now));
        assert_eq!((message.body.as_ref(), message.header.ttl_ms), (b"two".as_slice(), Some(5)));
        assert_eq!(message.body.as_ptr(), before);
        let shared = message.body.clone();
        assert!(message.renew(&publish(b"new"), now) && message.renew(&publish(b"longer"), now));
        assert_eq!((message.body.as_ref(), shared.as_ref()), (b"longer".as_slice(), b"two".as_slice()));
        let content = ContentRef::Encoded { format: Format("test"), bytes: b"props", decode };
        assert!(!message.renew(&PublishRef { content, ..publish(b"x") }, now));
        assert_eq!(message.body.as_ref(), b"longer");
    }

    #[test]
    fn the_same_death_twice_is_counted() {
        let now = Instant::now();
        let message = Message::from_publish(&PublishRef::new(AddressRef::Queue("q"), b"x"), now);
        let death = |cause, time_ms| Death {
            cause,
            queue: "q".into(),
            address: message.address.clone(),
            time_ms,
            count: 1,
            reason: None,
            original_ttl_ms: None,
        };
        let once = message.dead_lettered(death(Cause::Rejected, 1), now);
        let twice =
            once.dead_lettered(death(Cause::Expired, 2), now).dead_lettered(death(Cause::Rejected, 3), now);
        let seen: Vec<_> = twice.deaths.iter().map(|d| (d.cause, d.count, d.time_ms)).collect();
        assert_eq!(seen, [(Cause::Rejected, 2, 1), (Cause::Expired, 1, 2)]);
    }

    #[test]
    fn time_to_live_counts_down_and_never_reaches_none() {
        let now = Instant::now();
        let header = Header { ttl_ms: Some(1000), ..Header::default() };
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), b"x") };
        let message = Message::from_publish(&publish, now);
        assert_eq!(message.ttl_left_ms(now + Duration::from_millis(300)), Some(700));
        assert_eq!(message.ttl_left_ms(now + Duration::from_secs(300)), Some(1));
    }
}
