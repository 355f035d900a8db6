//! The rare performatives: open, begin, attach, detach, end, close, and the error they may carry (AMQP 1.0 part 2.7, 2.8).
//!
//! What a peer sent is read into borrowed structs; what the broker sends is written straight to the wire.
//!
//! Never: the frames that carry messages; those are in [`super::transfer`].

use bytes::BytesMut;

use super::CodecError;
use super::frame::{self, FrameKind};
use super::reader::{Fields, Reader};
use super::writer::{ListWriter, composite, put_symbols};
use crate::reason::Condition;

type Result<T> = std::result::Result<T, CodecError>;

pub(crate) const OPEN: u8 = 0x10;
pub(crate) const BEGIN: u8 = 0x11;
pub(crate) const ATTACH: u8 = 0x12;
pub(crate) const FLOW: u8 = 0x13;
pub(crate) const TRANSFER: u8 = 0x14;
pub(crate) const DISPOSITION: u8 = 0x15;
pub(crate) const DETACH: u8 = 0x16;
pub(crate) const END: u8 = 0x17;
pub(crate) const CLOSE: u8 = 0x18;
const ERROR: u8 = 0x1d;

/// Which end of a link the sender of the performative is [AMQP 2.8.1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LinkRole {
    Sender,
    Receiver,
}

impl LinkRole {
    fn of(receiver: bool) -> Self {
        if receiver { Self::Receiver } else { Self::Sender }
    }

    pub(crate) fn is_receiver(self) -> bool {
        self == Self::Receiver
    }

    pub(crate) fn other(self) -> Self {
        Self::of(!self.is_receiver())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) hostname: Option<&'a str>,
    pub(crate) max_frame_size: u32,
    pub(crate) channel_max: u16,
    /// Milliseconds.
    pub(crate) idle_time_out: Option<u32>,
}

impl<'a> Open<'a> {
    pub(crate) fn read(mut fields: Fields<'a>) -> Result<Self> {
        Ok(Self {
            container_id: fields.string()?.ok_or(CodecError::Missing("container-id"))?,
            hostname: fields.string()?,
            max_frame_size: fields.uint()?.unwrap_or(u32::MAX),
            channel_max: fields.ushort()?.unwrap_or(u16::MAX),
            idle_time_out: fields.uint()?,
        })
    }

    pub(crate) fn write(&self, buf: &mut BytesMut, capabilities: &[&str], properties: &[(&str, &str)]) {
        composite(buf, OPEN, |list| {
            list.string(Some(self.container_id));
            list.string(self.hostname);
            list.uint(Some(self.max_frame_size));
            list.ushort(Some(self.channel_max));
            list.uint(self.idle_time_out);
            list.null();
            list.null();
            list.field(Some(capabilities), put_symbols);
            list.null();
            list.field(Some(properties), super::terminus::put_symbol_map);
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) remote_channel: Option<u16>,
    pub(crate) next_outgoing_id: u32,
    pub(crate) incoming_window: u32,
    pub(crate) outgoing_window: u32,
    pub(crate) handle_max: u32,
}

impl Begin {
    pub(crate) fn read(mut fields: Fields<'_>) -> Result<Self> {
        Ok(Self {
            remote_channel: fields.ushort()?,
            next_outgoing_id: fields.uint()?.ok_or(CodecError::Missing("next-outgoing-id"))?,
            incoming_window: fields.uint()?.ok_or(CodecError::Missing("incoming-window"))?,
            outgoing_window: fields.uint()?.ok_or(CodecError::Missing("outgoing-window"))?,
            handle_max: fields.uint()?.unwrap_or(u32::MAX),
        })
    }

    pub(crate) fn write(&self, buf: &mut BytesMut) {
        composite(buf, BEGIN, |list| {
            list.ushort(self.remote_channel);
            list.uint(Some(self.next_outgoing_id));
            list.uint(Some(self.incoming_window));
            list.uint(Some(self.outgoing_window));
            list.uint(Some(self.handle_max));
        });
    }
}

/// An attach; termini stay encoded, because one of the two is only echoed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attach<'a> {
    pub(crate) name: &'a str,
    pub(crate) handle: u32,
    pub(crate) role: LinkRole,
    pub(crate) snd_settle_mode: SndSettleMode,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) initial_delivery_count: Option<u32>,
    /// 0 or absent: no limit.
    pub(crate) max_message_size: u64,
    pub(crate) properties: Option<&'a [u8]>,
}

/// How the sender settles [AMQP 2.8.2].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SndSettleMode {
    Unsettled,
    Settled,
    Mixed,
}

impl SndSettleMode {
    fn of(code: Option<u8>) -> Self {
        match code {
            Some(0) => Self::Unsettled,
            Some(1) => Self::Settled,
            _ => Self::Mixed,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Unsettled => 0,
            Self::Settled => 1,
            Self::Mixed => 2,
        }
    }
}

impl<'a> Attach<'a> {
    pub(crate) fn read(mut fields: Fields<'a>) -> Result<Self> {
        let name = fields.string()?.ok_or(CodecError::Missing("name"))?;
        let handle = fields.uint()?.ok_or(CodecError::Missing("handle"))?;
        let role = LinkRole::of(fields.boolean()?.ok_or(CodecError::Missing("role"))?);
        let snd_settle_mode = SndSettleMode::of(fields.ubyte()?);
        let _rcv_settle_mode = fields.ubyte()?;
        let source = fields.raw()?;
        let target = fields.raw()?;
        let _unsettled = fields.raw()?;
        let _incomplete_unsettled = fields.boolean()?;
        let initial_delivery_count = fields.uint()?;
        let max_message_size = fields.ulong()?.unwrap_or(0);
        let _offered = fields.raw()?;
        let _desired = fields.raw()?;
        let properties = fields.raw()?;
        Ok(Self {
            name,
            handle,
            role,
            snd_settle_mode,
            source,
            target,
            initial_delivery_count,
            max_message_size,
            properties,
        })
    }

    /// rcv-settle-mode is always `first`: what the peer asks for is a wish, the answer says what is in force [AMQP 2.7.3].
    pub(crate) fn write(&self, buf: &mut BytesMut) {
        composite(buf, ATTACH, |list| {
            list.string(Some(self.name));
            list.uint(Some(self.handle));
            list.boolean(Some(self.role.is_receiver()));
            list.ubyte(Some(self.snd_settle_mode.code()));
            list.ubyte(Some(0));
            list.raw(self.source);
            list.raw(self.target);
            list.null();
            list.null();
            list.uint(self.initial_delivery_count);
            list.field(Some(self.max_message_size).filter(|max| *max > 0), super::writer::put_ulong);
            list.null();
            list.null();
            list.raw(self.properties);
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Detach {
    pub(crate) handle: u32,
    pub(crate) closed: bool,
}

impl Detach {
    pub(crate) fn read(mut fields: Fields<'_>) -> Result<Self> {
        let handle = fields.uint()?.ok_or(CodecError::Missing("handle"))?;
        Ok(Self { handle, closed: fields.boolean()?.unwrap_or(false) })
    }

    pub(crate) fn write(self, wire: &mut BytesMut, channel: u16, error: Option<&Condition>) {
        frame::write(wire, FrameKind::Amqp, channel, |buf| {
            composite(buf, DETACH, |list| {
                list.uint(Some(self.handle));
                list.boolean(Some(self.closed));
                put_error(list, error);
            });
        });
    }
}

pub(crate) fn write_end(wire: &mut BytesMut, channel: u16, error: Option<&Condition>) {
    frame::write(wire, FrameKind::Amqp, channel, |buf| {
        composite(buf, END, |list| put_error(list, error));
    });
}

pub(crate) fn write_close(wire: &mut BytesMut, error: Option<&Condition>) {
    frame::write(wire, FrameKind::Amqp, 0, |buf| {
        composite(buf, CLOSE, |list| put_error(list, error));
    });
}

pub(crate) fn put_error(list: &mut ListWriter<'_>, error: Option<&Condition>) {
    list.field(error, |buf, error| {
        composite(buf, ERROR, |list| {
            list.symbol(Some(error.symbol));
            list.string(Some(&error.text));
        });
    });
}

/// The words of an error that a peer sent: `condition: description`.
pub(crate) fn read_error(raw: &[u8]) -> Option<Box<str>> {
    let mut reader = Reader::new(raw);
    if reader.descriptor().ok()? != u64::from(ERROR) {
        return None;
    }
    let mut fields = reader.list().ok()?;
    let condition = fields.symbol().ok()??;
    Some(match fields.string().ok()? {
        Some(text) => format!("{condition}: {text}").into_boxed_str(),
        None => condition.into(),
    })
}
