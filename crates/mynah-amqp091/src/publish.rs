//! `basic.publish` and its content: from three frames to one borrowed publish.
//!
//! The usual publish is there whole, in one read: method, header and one body frame are taken together and nothing is copied.
//! Otherwise its parts wait in the channel, in buffers that are used again; a body that comes in one frame is still borrowed.
//! Never: allocates by the announced body size.

use mynah_core::protocol::{Host, Ticket};
use mynah_core::{Address, AddressRef, ContentRef, Guarantee, Header, PublishRef};

use bytes::BytesMut;

use crate::codec::Reader;
use crate::codec::frame::{self, Frame};
use crate::codec::property::PropertyList;
use crate::confirm::Published;
use crate::connection::{Amqp091Connection, PUBLISH_TICKET};
use crate::reason::{Code, Fault};
use crate::translate::{
    CLIENT_EXCHANGE, FORMAT, REPLY_TO, TOPIC_EXCHANGE, decode, queue_of_key, spelled_address, topic_of_key,
};

/// Class and method of `basic.publish` as they begin its frame.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];

/// Buffers of this size are kept for the next publish; larger ones are given back.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What comes next on a channel (0-9-1 section 4.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expected {
    #[default]
    Method,
    Header,
    /// So many bytes of the body are still to come.
    Body {
        left: u64,
    },
}

/// A publish whose content is still coming.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    expected: Expected,
    exchange: String,
    key: String,
    mandatory: bool,
    properties: Vec<u8>,
    body: Vec<u8>,
}

impl Incoming {
    pub(crate) fn expects_method(&self) -> bool {
        self.expected == Expected::Method
    }

    /// Bytes of a body that is not complete.
    pub(crate) fn assembled(&self) -> usize {
        self.body.len()
    }

    /// Gives back the buffers if nothing is in them.
    pub(crate) fn shrink(&mut self) {
        if self.expects_method() {
            *self = Self::default();
        }
    }

    fn tidy(&mut self) {
        self.expected = Expected::Method;
        self.body.clear();
        self.body.shrink_to(KEPT_BYTES_MAX);
        self.properties.shrink_to(KEPT_BYTES_MAX);
    }

    /// What a client does wrong that sends something else in between.
    pub(crate) fn instead_of_content(&self) -> Fault {
        match self.expected {
            Expected::Method => Fault::unexpected("expected method frame, got non method frame instead"),
            Expected::Header => Fault::unexpected(
                "expected content header for class 60, got non content header frame instead",
            ),
            Expected::Body { .. } => {
                Fault::unexpected("expected content body, got non content body frame instead")
            }
        }
    }
}

/// A publish with everything it has.
#[derive(Debug, Clone, Copy)]
struct Whole<'a> {
    exchange: &'a str,
    key: &'a str,
    mandatory: bool,
    properties: &'a [u8],
    body: &'a [u8],
}

/// The content header: how long the body is, and the property list.
fn content_header(payload: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut reader = Reader::new(payload);
    let class = reader.u16()?;
    if class != 60 {
        let text = format!("expected content header for class 60, got one for class {class} instead");
        return Err(Fault::unexpected(text));
    }
    let _weight = reader.u16()?;
    Ok((reader.u64()?, reader.rest()))
}

impl Amqp091Connection {
    /// Takes a publish that is there whole. Answers how many bytes follow `first` that belong to it; `None` if it has to be
    /// taken frame by frame, be it for its size or for what is wrong with it.
    pub(crate) fn on_whole_publish(
        &mut self,
        first: &Frame<'_>,
        rest: &[u8],
        host: &mut dyn Host,
    ) -> Option<(usize, Result<(), Fault>)> {
        if first.kind != frame::METHOD || !first.payload.starts_with(&PUBLISH) {
            return None;
        }
        let channel = self.channels.get(&first.channel)?;
        if channel.closing || !channel.incoming.expects_method() {
            return None;
        }
        let next = |bytes, kind| {
            frame::parse(bytes, self.frame_max)
                .ok()
                .flatten()
                .filter(|next: &Frame<'_>| next.kind == kind && next.channel == first.channel)
        };
        let header = next(rest, frame::HEADER)?;
        let (size, properties) = content_header(header.payload).ok()?;
        let mut len = header.len();
        let body = if size == 0 {
            &[]
        } else {
            let body = next(rest.get(len..)?, frame::BODY)?;
            len += body.len();
            body.payload
        };
        if body.len() as u64 != size || size > self.config.message_bytes_max {
            return None;
        }
        let mut arguments = Reader::new(first.payload.get(PUBLISH.len()..)?);
        let _ticket = arguments.u16().ok()?;
        let (exchange, key) = (arguments.short().ok()?, arguments.short().ok()?);
        let mandatory = match arguments.u8().ok()? {
            bits if bits & 0b10 == 0 && arguments.is_empty() => bits & 1 == 1,
            _ => return None,
        };
        let whole = Whole { exchange, key, mandatory, properties, body };
        Some((len, self.publish(first.channel, whole, host)))
    }

    pub(crate) fn on_publish(
        &mut self,
        number: u16,
        exchange: &str,
        key: &str,
        mandatory: bool,
        immediate: bool,
    ) -> Result<(), Fault> {
        if immediate {
            return Err(Fault::new(Code::NotImplemented, "immediate=true"));
        }
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let incoming = &mut channel.incoming;
        incoming.exchange.clear();
        incoming.exchange.push_str(exchange);
        incoming.key.clear();
        incoming.key.push_str(key);
        incoming.mandatory = mandatory;
        incoming.expected = Expected::Header;
        Ok(())
    }

    pub(crate) fn on_header_frame(
        &mut self,
        number: u16,
        payload: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let incoming = &mut channel.incoming;
        if incoming.expected != Expected::Header {
            return Err(incoming.instead_of_content());
        }
        let (size, properties) = content_header(payload)?;
        PropertyList::parse(properties)?;
        if size > self.config.message_bytes_max {
            let max = self.config.message_bytes_max;
            let text = format!("message size {size} is larger than configured max size {max}");
            return Err(Fault::precondition(text));
        }
        incoming.properties.clear();
        incoming.properties.extend_from_slice(properties);
        if size > 0 {
            incoming.expected = Expected::Body { left: size };
            return Ok(());
        }
        self.publish_incoming(number, &[], host)
    }

    pub(crate) fn on_body_frame(
        &mut self,
        number: u16,
        payload: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let assembling_max = self.assembling_max();
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let incoming = &mut channel.incoming;
        let Expected::Body { left } = incoming.expected else { return Err(incoming.instead_of_content()) };
        let Some(left) = left.checked_sub(payload.len() as u64) else {
            return Err(Fault::unexpected("the body is longer than its header said"));
        };
        if left == 0 && incoming.body.is_empty() {
            return self.publish_incoming(number, payload, host);
        }
        self.assembling += payload.len();
        if self.assembling > assembling_max {
            return Err(Fault::new(
                Code::ResourceError,
                "too many incomplete messages on different channels",
            ));
        }
        incoming.body.extend_from_slice(payload);
        if left > 0 {
            incoming.expected = Expected::Body { left };
            return Ok(());
        }
        let body = std::mem::take(&mut incoming.body);
        self.assembling -= body.len();
        self.publish_incoming(number, &body, host)
    }

    /// Incomplete bodies of all channels together.
    fn assembling_max(&self) -> usize {
        usize::try_from(self.config.message_bytes_max).unwrap_or(usize::MAX).saturating_mul(4)
    }

    fn publish_incoming(&mut self, number: u16, body: &[u8], host: &mut dyn Host) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let mut incoming = std::mem::take(&mut channel.incoming);
        let whole = Whole {
            exchange: &incoming.exchange,
            key: &incoming.key,
            mandatory: incoming.mandatory,
            properties: &incoming.properties,
            body,
        };
        let result = self.publish(number, whole, host);
        incoming.tidy();
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.incoming = incoming;
        }
        result.map_err(|fault| fault.by((60, 40)))
    }

    fn publish(&mut self, number: u16, whole: Whole<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let mut list = PropertyList::default();
        list.read(whole.properties)?;
        let header = header_of(&list)?;
        if let Some(user) = list.user_id
            && user != self.user.as_bytes()
        {
            return Err(Fault::precondition(format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(user),
                self.user
            )));
        }
        if list.reply_to == Some(REPLY_TO.as_bytes()) {
            return self.publish_with_reply_queue(number, &list, header, whole, host);
        }
        self.send(number, header, whole, host)
    }

    /// `amq.rabbitmq.reply-to` becomes the name of the channel's private queue.
    fn publish_with_reply_queue(
        &mut self,
        number: u16,
        list: &PropertyList<'_>,
        header: Header,
        whole: Whole<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let replies = self.channels.get(&number).and_then(|channel| channel.replies.as_ref());
        let Some(replies) = replies else {
            return Err(Fault::precondition("fast reply consumer does not exist"));
        };
        let mut properties = BytesMut::with_capacity(whole.properties.len() + replies.reply_to.len());
        PropertyList { reply_to: Some(replies.reply_to.as_bytes()), ..*list }.write(&mut properties);
        self.send(number, header, Whole { properties: &properties, ..whole }, host)
    }

    fn send(
        &mut self,
        number: u16,
        header: Header,
        whole: Whole<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let spelled: Address;
        let address = match whole.exchange {
            "" => match spelled_address(whole.key) {
                Some(found) => {
                    spelled = found;
                    spelled.as_ref()
                }
                None => AddressRef::Exchange { name: "", key: queue_of_key(whole.key) },
            },
            TOPIC_EXCHANGE => {
                // The same key again is the usual case.
                if self.topic.is_empty() || self.topic_key != whole.key {
                    topic_of_key(whole.key, &mut self.topic)?;
                    self.topic_key.clear();
                    self.topic_key.push_str(whole.key);
                }
                AddressRef::Topic(&self.topic)
            }
            CLIENT_EXCHANGE => AddressRef::Client(whole.key),
            name => AddressRef::Exchange { name, key: whole.key },
        };
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        self.tickets += 1;
        let ticket = Ticket(self.tickets | PUBLISH_TICKET);
        let confirmed = channel.confirm.as_mut().map_or(0, |confirm| {
            confirm.published += 1;
            confirm.published
        });
        self.publishes.push_back(Published {
            ticket,
            channel: number,
            serial: channel.serial,
            number: confirmed,
            to_queue: whole.exchange.is_empty(),
        });
        let publish = PublishRef {
            address,
            header,
            content: ContentRef::Encoded { format: FORMAT, bytes: whole.properties, decode },
            body: whole.body,
            mandatory: whole.mandatory,
            transaction: channel.transaction.as_ref().map(|transaction| transaction.id),
            note: None,
            delay_ms: 0,
        };
        host.publish(Some(ticket), &publish);
        Ok(())
    }
}

/// What the core wants to know of the properties.
fn header_of(list: &PropertyList<'_>) -> Result<Header, Fault> {
    let guarantee =
        if list.delivery_mode == Some(2) { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce };
    let ttl_ms = match list.expiration {
        None => None,
        Some(text) => Some(milliseconds(text).ok_or_else(|| {
            let text = String::from_utf8_lossy(text);
            Fault::precondition(format!("invalid expiration '{text}': not a number of milliseconds"))
        })?),
    };
    Ok(Header { guarantee, priority: list.priority, ttl_ms, ..Header::default() })
}

fn milliseconds(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    // `parse` would take a sign.
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
