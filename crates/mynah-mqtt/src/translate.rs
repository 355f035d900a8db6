//! Messages as PUBLISH and back: the only file that knows both worlds (DESIGN section 6).
//!
//! The wire encoder runs on the publisher's task for every class of subscribers; for QoS 0 and 1 without properties it is one
//! reserve and a few copies. Never: allocates for a message that has no properties of another protocol.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use mynah_core::{
    AddressRef, ContentRef, Death, Format, Guarantee, Mark, Properties, PublishRef, Retain, Run, Value, Wire,
};

use crate::address::{address_of, topic_of, unescaped};
use crate::codec::primitive::{FIELD_BYTES_MAX, VARINT_MAX, put_varint, varint_len};
use crate::codec::property::{self, id, put_field, put_flag, put_four, put_two, put_user_property};
use crate::codec::publish::first_byte;

/// The format of wire classes of this protocol.
pub const WIRE: Format = Format("mqtt");

/// The format of properties as 5.0 encodes them, without their length.
pub const PROPERTIES: Format = Format("mqtt5");

/// Subscription identifiers have 28 bits [MQTT 5.0 3.8.2.1.2]. A number with this bit in a wire class is the receiver's
/// maximum packet size, which every copy for it must keep to [MQTT-3.1.2-24].
pub(crate) const SIZE_LIMIT: u32 = 1 << 31;

/// A number with this bit is how many bytes of each topic are the receiver's mount point, which it does not see.
pub(crate) const MOUNT: u32 = 1 << 30;

const MESSAGE_ID: &str = "message-id";
const GROUP_ID: &str = "group-id";

/// Facts of one copy that are not in the publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy<'a> {
    /// 3.x or 5.0.
    pub has_properties: bool,
    pub guarantee: Guarantee,
    pub keep_retain: bool,
    pub dup: bool,
    pub packet_id: u16,
    /// What is left of the time to live.
    pub ttl_ms: Option<u64>,
    pub alias: Alias,
    /// As in [`Wire::identifiers`].
    pub identifiers: &'a [u32],
    pub deaths: &'a [Death],
}

/// The topic alias of one copy [MQTT 5.0 3.3.2.3.4].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    None,
    /// The receiver learns it.
    New(u16),
    /// It stands for the topic.
    Known(u16),
}

/// Why a copy cannot be sent to this receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsendable {
    /// Above its maximum packet size, or what MQTT can express at all.
    TooLarge,
    /// The address is empty, or too long for a topic name.
    NoTopic,
}

/// The encoder of wire classes: appends one PUBLISH with its packet identifier left open.
pub(crate) fn encode(wire: &Wire, publish: &PublishRef<'_>, run: &mut Run) {
    let guarantee = wire.effective(publish.header.guarantee);
    if guarantee > wire.direct_max {
        return;
    }
    let copy = Copy {
        has_properties: wire.version == 5,
        guarantee,
        keep_retain: wire.keep_retain,
        dup: false,
        packet_id: 0,
        ttl_ms: publish.header.ttl_ms,
        alias: Alias::None,
        identifiers: &wire.identifiers,
        deaths: &[],
    };
    let frame = run.bytes.len();
    let Ok(patch) = put_publish(&mut run.bytes, publish, &copy) else { return };
    run.frames += 1;
    if guarantee > Guarantee::AtMostOnce {
        run.marks.push(Mark { frame: offset(frame), patch: offset(patch), guarantee });
    }
}

/// Runs are at most some tens of kilobytes and one packet, so this never cuts.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Appends a PUBLISH and answers where its packet identifier stands.
///
/// # Errors
/// See [`Unsendable`]; nothing was appended.
#[inline]
pub(crate) fn put_publish(
    out: &mut BytesMut,
    publish: &PublishRef<'_>,
    copy: &Copy<'_>,
) -> Result<usize, Unsendable> {
    let topic = topic_of(publish.address).ok_or(Unsendable::NoTopic)?;
    let topic = unmounted(&topic, publish.address, copy.identifiers);
    let topic = if matches!(copy.alias, Alias::Known(_)) { "" } else { topic };
    let topic_len = u16::try_from(topic.len()).map_err(|_| Unsendable::NoTopic)?;
    let retain = match publish.header.retain {
        Retain::No => false,
        Retain::Keep => copy.keep_retain,
        Retain::Replayed => true,
    };
    let first = first_byte(copy.guarantee, retain, copy.dup);
    let id_len = if copy.guarantee == Guarantee::AtMostOnce { 0 } else { 2 };
    let outgoing = if copy.has_properties { Outgoing::of(publish, copy) } else { Outgoing::default() };
    let properties_len = if copy.has_properties { varint_len(outgoing.len) + outgoing.len } else { 0 };
    let len = 2 + topic.len() + id_len + properties_len + publish.body.len();
    check_size(len, copy.identifiers)?;

    out.reserve(5 + len);
    let [topic_high, topic_low] = topic_len.to_be_bytes();
    match u8::try_from(len) {
        Ok(short @ 0..0x80) => out.extend_from_slice(&[first, short, topic_high, topic_low]),
        _ => {
            out.put_u8(first);
            put_varint(out, len);
            out.put_u16(topic_len);
        }
    }
    out.extend_from_slice(topic.as_bytes());
    let patch = out.len();
    if id_len > 0 {
        out.put_u16(copy.packet_id);
    }
    if copy.has_properties {
        outgoing.write(out, copy);
    }
    out.extend_from_slice(publish.body);
    Ok(patch)
}

/// What the receiver sees of a topic.
#[inline]
fn unmounted<'a>(topic: &'a str, address: AddressRef<'_>, identifiers: &[u32]) -> &'a str {
    let mount = identifiers.iter().find(|&&number| number & (SIZE_LIMIT | MOUNT) == MOUNT);
    match (mount, address) {
        (Some(mount), AddressRef::Topic(_)) if !topic.starts_with('$') => {
            topic.get((mount & !MOUNT) as usize..).unwrap_or(topic)
        }
        _ => topic,
    }
}

#[inline]
fn check_size(len: usize, identifiers: &[u32]) -> Result<(), Unsendable> {
    if len > VARINT_MAX as usize {
        return Err(Unsendable::TooLarge);
    }
    let whole = 1 + varint_len(len) + len;
    // The size has bit 30 in it, too.
    let above = |id: &u32| id & SIZE_LIMIT != 0 && whole > (id & !SIZE_LIMIT) as usize;
    if identifiers.iter().any(above) { Err(Unsendable::TooLarge) } else { Ok(()) }
}

/// The properties of one copy in 5.0, measured before they are written.
#[derive(Debug, Default)]
struct Outgoing<'a> {
    /// Without their length field.
    len: usize,
    expiry: Option<u32>,
    /// As the publisher encoded them; what is hop-local is left out on writing.
    original: property::Properties<'a>,
    /// Translated from another protocol, and the history of dead letters.
    built: Vec<u8>,
}

impl<'a> Outgoing<'a> {
    #[inline]
    fn of(publish: &PublishRef<'a>, copy: &Copy<'_>) -> Self {
        let plain = matches!(publish.content, ContentRef::None)
            && copy.ttl_ms.is_none()
            && copy.identifiers.is_empty()
            && copy.deaths.is_empty()
            && copy.alias == Alias::None
            && !publish.header.text;
        if plain { Self::default() } else { Self::measured(publish, copy) }
    }

    fn measured(publish: &PublishRef<'a>, copy: &Copy<'_>) -> Self {
        let mut outgoing = Self {
            // Rounded up: a message is not to expire on the way because of a fraction.
            expiry: copy.ttl_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
            ..Self::default()
        };
        match publish.original(PROPERTIES) {
            Some(bytes) => outgoing.original = property::Properties::trusted(bytes),
            None => put_translated(&mut outgoing.built, publish),
        }
        put_deaths(&mut outgoing.built, copy.deaths);
        let original: usize = outgoing.end_to_end().map(<[u8]>::len).sum();
        let identifiers: usize = subscription_ids(copy.identifiers).map(|id| 1 + varint_len(id)).sum();
        let alias = if copy.alias == Alias::None { 0 } else { 3 };
        let expiry = outgoing.expiry.map_or(0, |_| 5);
        outgoing.len = expiry + original + alias + identifiers + outgoing.built.len();
        outgoing
    }

    /// The publisher's own properties without those that concern one hop or are written anew.
    fn end_to_end(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.original.parts().filter_map(|(id, part)| match id {
            id::MESSAGE_EXPIRY | id::TOPIC_ALIAS | id::SUBSCRIPTION_ID | id::WILL_DELAY => None,
            _ => Some(part),
        })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut, copy: &Copy<'_>) {
        put_varint(out, self.len);
        if self.len == 0 {
            return;
        }
        if let Some(seconds) = self.expiry {
            put_four(out, id::MESSAGE_EXPIRY, seconds);
        }
        for part in self.end_to_end() {
            out.extend_from_slice(part);
        }
        if let Alias::New(alias) | Alias::Known(alias) = copy.alias {
            put_two(out, id::TOPIC_ALIAS, alias);
        }
        for number in subscription_ids(copy.identifiers) {
            out.put_u8(id::SUBSCRIPTION_ID);
            put_varint(out, number);
        }
        out.extend_from_slice(&self.built);
    }
}

fn subscription_ids(identifiers: &[u32]) -> impl Iterator<Item = usize> {
    identifiers.iter().filter(|&&number| number & (SIZE_LIMIT | MOUNT) == 0).map(|&number| number as usize)
}

/// Properties of another protocol as properties of 5.0.
fn put_translated(out: &mut Vec<u8>, publish: &PublishRef<'_>) {
    if publish.header.text && std::str::from_utf8(publish.body).is_ok() {
        put_flag(out, id::PAYLOAD_FORMAT, true);
    }
    if matches!(publish.content, ContentRef::None) {
        return;
    }
    publish.with_properties(|properties| put_properties(out, properties));
}

fn put_properties(out: &mut Vec<u8>, properties: &Properties) {
    if let Some(content_type) = properties.content_type.as_deref().and_then(sendable) {
        put_field(out, id::CONTENT_TYPE, content_type.as_bytes());
    }
    if let Some(topic) = properties.reply_to.as_ref().and_then(|address| topic_of(address.as_ref())) {
        put_field(out, id::RESPONSE_TOPIC, topic.as_bytes());
    }
    if let Some(value) = &properties.correlation_id {
        let bytes =
            if let Value::Binary(bytes) = value { bytes.clone() } else { Bytes::from(value.to_text()) };
        if bytes.len() <= FIELD_BYTES_MAX {
            put_field(out, id::CORRELATION_DATA, &bytes);
        }
    }
    for (key, value) in &properties.application {
        put_user(out, key, &value.to_text());
    }
    let named = [
        (MESSAGE_ID, properties.message_id.as_ref().map(Value::to_text)),
        ("user-id", properties.user_id.as_ref().map(|id| Value::Binary(id.clone()).to_text())),
        ("to", properties.to.as_deref().map(str::to_owned)),
        ("subject", properties.subject.as_deref().map(str::to_owned)),
        ("content-encoding", properties.content_encoding.as_deref().map(str::to_owned)),
        ("absolute-expiry-time", properties.absolute_expiry_ms.map(|ms| ms.to_string())),
        ("creation-time", properties.creation_ms.map(|ms| ms.to_string())),
        (GROUP_ID, properties.group_id.as_deref().map(str::to_owned)),
        ("group-sequence", properties.group_sequence.map(|number| number.to_string())),
        ("reply-to-group-id", properties.reply_to_group_id.as_deref().map(str::to_owned)),
        ("type", properties.kind.as_deref().map(str::to_owned)),
        ("app-id", properties.app_id.as_deref().map(str::to_owned)),
    ];
    for (key, value) in named {
        if let Some(value) = value {
            put_user(out, key, &value);
        }
    }
}

/// The dead-letter history, newest first; four properties a line, and the reason if there is one.
fn put_deaths(out: &mut Vec<u8>, deaths: &[Death]) {
    for death in deaths {
        put_user(out, "x-death-cause", death.cause.name());
        put_user(out, "x-death-queue", &death.queue);
        put_user(out, "x-death-count", &death.count.to_string());
        put_user(out, "x-death-time", &death.time_ms.to_string());
        if let Some(reason) = &death.reason {
            put_user(out, "x-death-reason", reason);
        }
    }
}

/// Leaves out what does not fit into a string of MQTT.
fn put_user(out: &mut Vec<u8>, key: &str, value: &str) {
    if let (Some(key), Some(value)) = (sendable(key), sendable(value)) {
        put_user_property(out, &key, &value);
    }
}

/// A string as MQTT allows it: no U+0000 [MQTT-1.5.4-2], at most 65,535 bytes.
fn sendable(text: &str) -> Option<Cow<'_, str>> {
    if text.len() > FIELD_BYTES_MAX / 3 && text.len() + 2 * text.matches('\0').count() > FIELD_BYTES_MAX {
        return None;
    }
    Some(if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) })
}

/// Properties of 5.0, validated when they were received, for receivers of other protocols.
pub(crate) fn decode(bytes: &[u8]) -> Properties {
    let mut properties = Properties::default();
    for (id, value) in property::Properties::trusted(bytes).iter() {
        match (id, value) {
            (id::CONTENT_TYPE, property::Value::Text(text)) => properties.content_type = Some(text.into()),
            (id::RESPONSE_TOPIC, property::Value::Text(topic)) if !topic.is_empty() => {
                let topic = unescaped(topic);
                let address = address_of(&topic).unwrap_or(AddressRef::Topic(&topic));
                properties.reply_to = Some(address.to_owned());
            }
            (id::CORRELATION_DATA, property::Value::Binary(data)) => {
                properties.correlation_id = Some(Value::Binary(Bytes::copy_from_slice(data)));
            }
            (id::USER_PROPERTY, property::Value::Pair(MESSAGE_ID, value)) => {
                properties.message_id = Some(value.into());
            }
            (id::USER_PROPERTY, property::Value::Pair(GROUP_ID, value)) => {
                properties.group_id = Some(value.into());
            }
            (id::USER_PROPERTY, property::Value::Pair(key, value)) => {
                properties.application.push((key.into(), value.into()));
            }
            _ => {}
        }
    }
    properties
}
