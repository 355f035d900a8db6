//! The frames that carry messages: transfer, flow, disposition, and serial numbers (AMQP 1.0 part 2.5, 2.6, 2.7).
//!
//! Read from and written to slices without an allocation: this is where the time of a busy connection goes.

use bytes::{BufMut, BytesMut};
use mynah_core::{Outcome, TransactionId};

use super::CodecError;
use super::frame::{self, FrameKind};
use super::performative::{DISPOSITION, FLOW, LinkRole, TRANSFER};
use super::reader::{Fields, Reader};
use super::terminus::put_outcome;
use super::transaction::{put_declared, put_state};
use super::writer::composite;

type Result<T> = std::result::Result<T, CodecError>;

/// The distance from `from` to `to` in serial arithmetic: positive if `to` is later [AMQP 2.8.10, RFC 1982].
pub(crate) fn serial_distance(from: u32, to: u32) -> i32 {
    i32::from_ne_bytes(to.wrapping_sub(from).to_ne_bytes())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer<'a> {
    pub(crate) handle: u32,
    pub(crate) delivery_id: Option<u32>,
    pub(crate) delivery_tag: Option<&'a [u8]>,
    pub(crate) message_format: u32,
    pub(crate) settled: Option<bool>,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
    /// Encoded.
    pub(crate) state: Option<&'a [u8]>,
}

impl<'a> Transfer<'a> {
    #[inline]
    pub(crate) fn read(mut fields: Fields<'a>) -> Result<Self> {
        let handle = fields.uint()?.ok_or(CodecError::Missing("handle"))?;
        let delivery_id = fields.uint()?;
        let delivery_tag = fields.binary()?;
        let message_format = fields.uint()?.unwrap_or(0);
        let settled = fields.boolean()?;
        let more = fields.boolean()?.unwrap_or(false);
        let (aborted, state) = if fields.left() == 0 {
            (false, None)
        } else {
            let _rcv_settle_mode = fields.ubyte()?;
            let state = fields.raw()?;
            let _resume = fields.boolean()?;
            (fields.boolean()?.unwrap_or(false), state)
        };
        Ok(Self { handle, delivery_id, delivery_tag, message_format, settled, more, aborted, state })
    }
}

/// The most that [`TransferHead::write`] puts before the payload.
pub(crate) const TRANSFER_HEAD_MAX: usize = 48;

/// A transfer frame's beginning; the payload follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransferHead {
    pub(crate) channel: u16,
    pub(crate) handle: u32,
    pub(crate) delivery_id: u32,
    /// First frame of its delivery: only that one names it [AMQP 2.7.5].
    pub(crate) first: bool,
    pub(crate) settled: bool,
    pub(crate) more: bool,
}

impl TransferHead {
    /// Writes frame header and performative for a payload of `payload_len` bytes.
    #[inline]
    pub(crate) fn write(self, wire: &mut BytesMut, payload_len: usize) {
        let mut head = [0u8; TRANSFER_HEAD_MAX];
        let mut fields = [0u8; 32];
        let room = fields.len();
        let mut buf = fields.as_mut_slice();
        put_uint_into(&mut buf, self.handle);
        if self.first {
            put_uint_into(&mut buf, self.delivery_id);
            // The tag is the delivery-id: unique among the link's unsettled deliveries [AMQP 2.6.12].
            buf.put_slice(&[0xa0, 4]);
            buf.put_u32(self.delivery_id);
            buf.put_u8(0x43);
        } else {
            buf.put_slice(&[0x40, 0x40, 0x40]);
        }
        buf.put_u8(if self.settled { 0x41 } else { 0x42 });
        buf.put_u8(if self.more { 0x41 } else { 0x42 });
        let len = room - buf.remaining_mut();
        let total = head.len();
        let mut buf = head.as_mut_slice();
        let size = 8 + 3 + 3 + len + payload_len;
        buf.put_u32(super::writer::len32(size));
        buf.put_slice(&[2, 0]);
        buf.put_u16(self.channel);
        let list_len = u8::try_from(len + 1).unwrap_or(u8::MAX);
        buf.put_slice(&[0x00, 0x53, TRANSFER, 0xc0, list_len, 6]);
        buf.put_slice(fields.get(..len).unwrap_or_default());
        let head_len = total - buf.remaining_mut();
        wire.put_slice(head.get(..head_len).unwrap_or_default());
    }
}

#[inline]
fn put_uint_into(buf: &mut &mut [u8], n: u32) {
    match u8::try_from(n) {
        Ok(0) => buf.put_u8(0x43),
        Ok(small) => buf.put_slice(&[0x52, small]),
        Err(_) => {
            buf.put_u8(0x70);
            buf.put_u32(n);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flow {
    /// Null if the peer has not seen our begin yet [AMQP 2.7.4].
    pub(crate) next_incoming_id: Option<u32>,
    pub(crate) incoming_window: u32,
    pub(crate) next_outgoing_id: u32,
    pub(crate) outgoing_window: u32,
    pub(crate) link: Option<LinkFlow>,
    pub(crate) echo: bool,
    /// Its credit belongs to a transaction: what it lets come is acquired in that [AMQP 4.4.3].
    pub(crate) acquires: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkFlow {
    pub(crate) handle: u32,
    /// Null from a receiver that has not seen the attach yet [AMQP 2.7.4].
    pub(crate) delivery_count: Option<u32>,
    pub(crate) link_credit: Option<u32>,
    pub(crate) available: Option<u32>,
    pub(crate) drain: bool,
}

impl Flow {
    pub(crate) fn read(mut fields: Fields<'_>) -> Result<Self> {
        let next_incoming_id = fields.uint()?;
        let incoming_window = fields.uint()?.ok_or(CodecError::Missing("incoming-window"))?;
        let next_outgoing_id = fields.uint()?.ok_or(CodecError::Missing("next-outgoing-id"))?;
        let outgoing_window = fields.uint()?.ok_or(CodecError::Missing("outgoing-window"))?;
        let handle = fields.uint()?;
        let delivery_count = fields.uint()?;
        let link_credit = fields.uint()?;
        let available = fields.uint()?;
        let drain = fields.boolean()?.unwrap_or(false);
        let echo = fields.boolean()?.unwrap_or(false);
        let link = handle.map(|handle| LinkFlow { handle, delivery_count, link_credit, available, drain });
        let acquires = fields.left() > 0 && acquires(fields)?;
        Ok(Self {
            next_incoming_id,
            incoming_window,
            next_outgoing_id,
            outgoing_window,
            link,
            echo,
            acquires,
        })
    }

    pub(crate) fn write(&self, wire: &mut BytesMut, channel: u16) {
        frame::write(wire, FrameKind::Amqp, channel, |buf| {
            composite(buf, FLOW, |list| {
                list.uint(self.next_incoming_id);
                list.uint(Some(self.incoming_window));
                list.uint(Some(self.next_outgoing_id));
                list.uint(Some(self.outgoing_window));
                let Some(link) = &self.link else { return };
                list.uint(Some(link.handle));
                list.uint(link.delivery_count);
                list.uint(link.link_credit);
                list.uint(link.available);
                list.boolean(Some(link.drain));
                list.boolean(Some(self.echo));
            });
        });
    }
}

/// Looks for `txn-id` in the properties of a flow.
fn acquires(mut fields: Fields<'_>) -> Result<bool> {
    let Some(mut entries) = fields.raw()?.map(|raw| Reader::new(raw).map()).transpose()? else {
        return Ok(false);
    };
    while entries.left() > 1 {
        let (key, _) = (entries.symbol()?, entries.raw()?);
        if key == Some("txn-id") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A disposition; the state stays encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disposition<'a> {
    pub(crate) role: LinkRole,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) settled: bool,
    pub(crate) state: Option<&'a [u8]>,
}

impl<'a> Disposition<'a> {
    #[inline]
    pub(crate) fn read(mut fields: Fields<'a>) -> Result<Self> {
        let receiver = fields.boolean()?.ok_or(CodecError::Missing("role"))?;
        let first = fields.uint()?.ok_or(CodecError::Missing("first"))?;
        let last = fields.uint()?.unwrap_or(first);
        let settled = fields.boolean()?.unwrap_or(false);
        let state = fields.raw()?;
        let role = if receiver { LinkRole::Receiver } else { LinkRole::Sender };
        Ok(Self { role, first, last, settled, state })
    }
}

/// Writes a settled disposition for a range of deliveries.
pub(crate) fn write_disposition(
    wire: &mut BytesMut,
    channel: u16,
    role: LinkRole,
    (first, last): (u32, u32),
    state: Verdict<'_>,
) {
    frame::write(wire, FrameKind::Amqp, channel, |buf| {
        composite(buf, DISPOSITION, |list| {
            list.boolean(Some(role.is_receiver()));
            list.uint(Some(first));
            list.uint(Some(last).filter(|last| *last != first));
            list.boolean(Some(true));
            list.field(Some(state), put_verdict);
        });
    });
}

fn put_verdict(buf: &mut BytesMut, verdict: Verdict<'_>) {
    match verdict {
        Verdict::Accepted => buf.put_slice(&[0x00, 0x53, 0x24, 0x45]),
        Verdict::Released => buf.put_slice(&[0x00, 0x53, 0x26, 0x45]),
        Verdict::Echo(state) => buf.put_slice(state),
        Verdict::Rejected(error) => composite(buf, 0x25, |list| {
            super::performative::put_error(list, Some(error));
        }),
        Verdict::Applied(outcome) => put_outcome(buf, outcome),
        Verdict::Declared(id) => put_declared(buf, id),
        Verdict::Staged(id) => put_state(buf, id, |buf| put_verdict(buf, Verdict::Accepted)),
        Verdict::NotStaged(id, error) => put_state(buf, id, |buf| put_verdict(buf, Verdict::Rejected(error))),
    }
}

/// What is said of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Accepted,
    Released,
    /// As the peer encoded it.
    Echo(&'a [u8]),
    Rejected(&'a crate::reason::Condition),
    /// What the peer asked for in a transaction has come true.
    Applied(&'a Outcome),
    /// A transaction has begun [AMQP 4.5.6].
    Declared(TransactionId),
    /// Accepted, if its transaction is.
    Staged(TransactionId),
    NotStaged(TransactionId, &'a crate::reason::Condition),
}
