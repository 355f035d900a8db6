//! Packets of all three versions as borrowed values, with the version as an argument.
//!
//! # Layout
//!
//! - [`primitive`], [`property`]: what packets are made of
//! - [`connect`], [`publish`], [`ack`], [`subscribe`], [`control`]: decoding and encoding, side by side
//!
//! Both directions are here, also what only clients send: the tests speak to the machine with it, and `decode(encode(x)) == x`
//! is checked for all of it. Never: allocates by a declared length; keeps anything.

pub mod ack;
pub mod connect;
pub mod control;
pub mod primitive;
pub mod property;
pub mod publish;
pub mod subscribe;

use bytes::{BufMut, BytesMut};

use crate::reason::{Fault, Reason};
use crate::version::Version;
use ack::{Ack, AckKind};
use connect::{ConnAck, Connect};
use control::{Auth, Disconnect};
use primitive::put_varint;
use publish::Publish;
use subscribe::{SubAck, Subscribe, UnsubAck, Unsubscribe};

/// Packet types: the upper four bits of the first byte [MQTT 5.0 table 2-1].
pub mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// One packet, cut off the stream but not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub first: u8,
    pub body: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
}

/// Cuts the first packet off; `None` if it is not complete yet.
///
/// # Errors
/// Malformed remaining length; a packet above `bytes_max` (its whole length), as soon as its length is known.
#[inline]
pub fn split_frame(bytes: &[u8], bytes_max: u32) -> Result<Option<Frame<'_>>, Fault> {
    // The usual case first: packets of less than 130 bytes.
    if let [first, len @ 2..0x80, rest @ ..] = bytes
        && u32::from(*len) + 2 <= bytes_max
    {
        let split = rest.split_at_checked(usize::from(*len));
        return Ok(split.map(|(body, rest)| Frame { first: *first, body, rest }));
    }
    split_long_frame(bytes, bytes_max)
}

fn split_long_frame(bytes: &[u8], bytes_max: u32) -> Result<Option<Frame<'_>>, Fault> {
    let Some((&first, after)) = bytes.split_first() else { return Ok(None) };
    let Some((len, len_bytes)) = primitive::varint(after)? else { return Ok(None) };
    if len as usize + len_bytes + 1 > bytes_max as usize {
        return Err(Fault::new(
            Reason::PACKET_TOO_LARGE,
            "the packet is larger than the maximum packet size",
        ));
    }
    let split = after.get(len_bytes..).and_then(|rest| rest.split_at_checked(len as usize));
    Ok(split.map(|(body, rest)| Frame { first, body, rest }))
}

/// Any packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes a frame. CONNECT brings its own version; the others are read as `version`.
    ///
    /// # Errors
    /// Everything the standard calls a malformed packet, and those protocol errors that show in one packet alone.
    pub fn decode(first: u8, body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let kind = first >> 4;
        check_flags(first, version)?;
        match kind {
            kind::CONNECT => Connect::decode(body).map(Self::Connect).map_err(|(_, fault)| fault),
            kind::CONNACK => ConnAck::decode(body, version).map(Self::ConnAck),
            kind::PUBLISH => Publish::decode(first, body, version).map(Self::Publish),
            kind::PUBACK => Ack::decode(AckKind::PubAck, body, version).map(Self::Ack),
            kind::PUBREC => Ack::decode(AckKind::PubRec, body, version).map(Self::Ack),
            kind::PUBREL => Ack::decode(AckKind::PubRel, body, version).map(Self::Ack),
            kind::PUBCOMP => Ack::decode(AckKind::PubComp, body, version).map(Self::Ack),
            kind::SUBSCRIBE => Subscribe::decode(body, version).map(Self::Subscribe),
            kind::SUBACK => SubAck::decode(body, version).map(Self::SubAck),
            kind::UNSUBSCRIBE => Unsubscribe::decode(body, version).map(Self::Unsubscribe),
            kind::UNSUBACK => UnsubAck::decode(body, version).map(Self::UnsubAck),
            kind::PINGREQ => empty(body).map(|()| Self::PingReq),
            kind::PINGRESP => empty(body).map(|()| Self::PingResp),
            kind::DISCONNECT => Disconnect::decode(body, version).map(Self::Disconnect),
            kind::AUTH if version.has_properties() => Auth::decode(body).map(Self::Auth),
            _ => Err(Fault::malformed("there is no packet of this type")),
        }
    }

    /// Appends the packet. CONNECT has its own version.
    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        match self {
            Self::Connect(packet) => packet.encode(out),
            Self::ConnAck(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::Ack(packet) => packet.encode(version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::SubAck(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::UnsubAck(packet) => packet.encode(version, out),
            Self::PingReq => out.put_slice(&[kind::PINGREQ << 4, 0]),
            Self::PingResp => out.put_slice(&[kind::PINGRESP << 4, 0]),
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(out),
        }
    }
}

/// The lower four bits of the first byte are fixed except for PUBLISH [MQTT-2.1.3-1].
pub(crate) fn check_flags(first: u8, version: Version) -> Result<(), Fault> {
    if !version.checks_reserved_bits() {
        return Ok(());
    }
    let expected = match first >> 4 {
        kind::PUBLISH => return Ok(()),
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => 2,
        _ => 0,
    };
    if first & 0x0f == expected {
        Ok(())
    } else {
        Err(Fault::malformed("reserved flags are not as prescribed"))
    }
}

fn empty(body: &[u8]) -> Result<(), Fault> {
    if body.is_empty() { Ok(()) } else { Err(Fault::malformed("the packet has bytes it must not have")) }
}

/// Writes the fixed header of a packet whose body has `len` bytes.
fn put_header(out: &mut BytesMut, first: u8, len: usize) {
    out.reserve(5 + len);
    out.put_u8(first);
    put_varint(out, len);
}

/// A packet identifier, which is never 0 [MQTT-2.2.1-3].
fn packet_id(reader: &mut primitive::Reader<'_>) -> Result<u16, Fault> {
    match reader.u16()? {
        0 => Err(Fault::protocol("packet identifier is 0")),
        id => Ok(id),
    }
}

#[cfg(test)]
mod tests;
