//! The wire class of a subscription: how a publisher's task turns a borrowed publish into the subscriber's bytes.
//!
//! All subscribers of one class get the same bytes, so a publish is encoded once per class, not once per subscriber.
//! What differs from receiver to receiver (a packet identifier) is left open and marked.

use bytes::BytesMut;

use crate::message::{Format, Guarantee};
use crate::publish::PublishRef;

/// One wire class. Equal classes produce equal bytes.
#[derive(Debug, Clone)]
pub struct Wire {
    pub format: Format,
    /// The protocol's version or variant, in its own numbering.
    pub version: u8,
    /// The most the subscriber asked for; what is sent is the lower of this and the publisher's.
    pub guarantee: Guarantee,
    /// The least it takes: what a durable session keeps in its queue is left out of the direct way.
    /// A publish whose resulting guarantee is above `direct_max` is not encoded.
    pub direct_max: Guarantee,
    /// Forward the publisher's retain flag instead of clearing it.
    pub keep_retain: bool,
    /// Numbers the subscriber gave its subscriptions; all of those that matched.
    pub identifiers: Vec<u32>,
    /// Its copies are its own, whatever other subscriptions of the receiver match.
    pub apart: bool,
    /// The receiver encodes for itself: it gets the message, and this class with it.
    pub as_message: bool,
    /// Appends one publish to the run; may append nothing.
    pub encode: fn(&Self, &PublishRef<'_>, &mut Run),
}

impl Wire {
    /// The guarantee of one publish on this subscription.
    #[must_use]
    pub fn effective(&self, publish: Guarantee) -> Guarantee {
        self.guarantee.min(publish)
    }

    /// Whether such frames are what this class encodes their publishes to: there is nothing in them that depends on the
    /// subscriber.
    #[must_use]
    pub fn passes(&self, frames: &Frames<'_>) -> bool {
        self.format == frames.format && self.version == frames.version && self.identifiers.is_empty()
    }

    /// Two overlapping subscriptions of one receiver as one, if neither is [`apart`](Self::apart): it gets one copy, with the higher
    /// guarantee and all numbers.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.guarantee = self.guarantee.max(other.guarantee);
        merged.direct_max = self.direct_max.min(other.direct_max);
        merged.keep_retain |= other.keep_retain;
        merged.identifiers.extend(other.identifiers.iter().filter(|id| !self.identifiers.contains(id)));
        merged
    }
}

impl PartialEq for Wire {
    /// The encoder is a function of format and version, so it is not compared.
    fn eq(&self, other: &Self) -> bool {
        self.format == other.format
            && self.version == other.version
            && self.guarantee == other.guarantee
            && self.direct_max == other.direct_max
            && self.keep_retain == other.keep_retain
            && self.identifiers == other.identifiers
            && self.apart == other.apart
            && self.as_message == other.as_message
    }
}

impl Eq for Wire {}

/// Publishes to one address as they came: they promise nothing, are not to be retained and have no properties.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// As in [`Wire::format`].
    pub format: Format,
    /// As in [`Wire::version`].
    pub version: u8,
    pub bytes: &'a [u8],
    /// Frames in `bytes`.
    pub count: u32,
}

/// Where a receiver patches one frame of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Offset of the frame's first byte in the run.
    pub frame: u32,
    /// Offset of the two bytes to patch.
    pub patch: u32,
    /// What the frame's delivery promises.
    pub guarantee: Guarantee,
}

/// Encoded frames, one after the other, with the marks of those that need an identifier.
#[derive(Debug, Default)]
pub struct Run {
    pub bytes: BytesMut,
    pub marks: Vec<Mark>,
    /// Frames in `bytes`, marked or not.
    pub frames: u32,
}

impl Run {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.marks.clear();
        self.frames = 0;
    }
}
