//! What is being read, and publishes in it that can be passed on in the bytes they came in.
//!
//! A publisher sends to one topic again and again. With QoS 0, no properties and no retain flag, what its subscribers get is what it
//! sent, byte for byte, if they speak its version: then nothing is decoded but the frames, nothing is encoded, and all of
//! them are one copy.

use mynah_core::protocol::Host;
use mynah_core::{AddressRef, Frames};

use crate::codec::{kind, split_frame};
use crate::translate;
use crate::version::Version;

/// Fewer are encoded anew at the same price.
const ALIKE_MIN: u32 = 2;

/// A place in the bytes of one read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading<'a> {
    /// The packet at hand, and what follows it.
    pub packet: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
    /// The last topic: it is not looked at again when it comes again.
    pub topic: &'a str,
    /// That topic is its own address.
    pub plain: bool,
    /// Somebody gets what is sent to that topic in other bytes.
    pub differs: bool,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, ..Self::default() }
    }

    /// The topic of the packet at hand.
    pub(crate) fn set_topic(&mut self, topic: &'a str, plain: bool) {
        (self.topic, self.plain, self.differs) = (topic, plain, false);
    }

    /// Passes the packet at hand on with those behind it that are like it but for their payloads. False: nothing has happened.
    ///
    /// The packet is a PUBLISH to the last topic, without properties, and good.
    #[inline]
    pub(crate) fn pass_on(&mut self, version: Version, bytes_max: u32, host: &mut dyn Host) -> bool {
        if self.differs || self.rest.first() != Some(&PLAIN) || self.packet.first() != Some(&PLAIN) {
            return false;
        }
        self.pass_alike_on(version, bytes_max, host)
    }

    fn pass_alike_on(&mut self, version: Version, bytes_max: u32, host: &mut dyn Host) -> bool {
        let head_len = 2 + self.topic.len() + usize::from(version.has_properties());
        let Ok(Some(first)) = split_frame(self.packet, bytes_max) else { return false };
        let Some(head) = first.body.get(..head_len) else { return false };
        let (mut rest, mut count) = (first.rest, 1);
        while let Ok(Some(next)) = split_frame(rest, bytes_max)
            && next.first == PLAIN
            && next.body.starts_with(head)
        {
            (rest, count) = (next.rest, count + 1);
        }
        if count < ALIKE_MIN {
            return false;
        }
        let bytes = self.packet.get(..self.packet.len() - rest.len()).unwrap_or_default();
        let frames = Frames { format: translate::WIRE, version: version.wire(), bytes, count };
        let passed = host.pass_on(AddressRef::Topic(self.topic), &frames);
        if passed {
            self.rest = rest;
        }
        self.differs = !passed;
        passed
    }
}

/// The first byte of a PUBLISH with QoS 0 and no flag.
const PLAIN: u8 = kind::PUBLISH << 4;
