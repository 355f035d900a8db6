//! MQTT 3.1.1 and 5.0 as the load generator speaks it.
//!
//! QoS 0, 1 and 2 in both directions; packet identifiers go round, since at most [`INFLIGHT`] are out at a time.
//! Never: retains, keeps a session, uses topic aliases.

use crate::account::Sink;
use crate::wire::{Fault, Role, Template, Terms, Wire, put_at, u8_at, u16_at, u32_at};

/// Messages one publisher may have unacknowledged: below 65,535, so that a round of identifiers never meets itself.
const INFLIGHT: u64 = 60_000;
/// Identifiers used, 1 to this; a power of two minus nothing the wire cares about.
const IDENTIFIERS: u64 = 65_535;
/// Filters of one SUBSCRIBE packet.
const FILTERS: usize = 100;
/// Seconds; longer than any run, so that no PINGREQ is needed.
const KEEP_ALIVE: u16 = 3_600;

/// One MQTT connection.
#[derive(Debug)]
pub(crate) struct Mqtt {
    v5: bool,
    qos: u8,
    client_id: String,
    user: Option<String>,
    password: String,
    filters: Vec<String>,
    /// SUBSCRIBE packets without their SUBACK.
    subscribing: u16,
    template: Option<Template>,
    id_at: usize,
    inflight_max: u64,
    acked: u64,
    ready: bool,
}

impl Mqtt {
    pub(crate) fn new(v5: bool, terms: &Terms, role: &Role, client_id: String) -> Self {
        let mut wire = Self {
            v5,
            qos: terms.qos,
            client_id,
            user: terms.user.clone(),
            password: terms.password.clone(),
            filters: Vec::new(),
            subscribing: 0,
            template: None,
            id_at: 0,
            inflight_max: INFLIGHT,
            acked: 0,
            ready: false,
        };
        match role {
            Role::Subscriber { source, more, .. } => {
                wire.filters.push(source.clone());
                wire.filters.extend(more.iter().cloned());
            }
            Role::Publisher { id, targets } => {
                let mut id_at = 0;
                let template = Template::new(terms, *id, targets, |_, topic, body, out| {
                    id_at = publish(v5, terms.qos, topic, body, out);
                });
                wire.id_at = id_at;
                wire.template = Some(template);
            }
        }
        wire
    }

    fn on_connack(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let code = u8_at(body, 1).ok_or_else(|| Fault::new("CONNACK is cut short"))?;
        if code != 0 {
            return Err(Fault::new(format!("the broker refused the connection with code {code}")));
        }
        let properties = body.get(2..).filter(|_| self.v5);
        if let Some(receive_maximum) = properties.and_then(receive_maximum) {
            self.inflight_max = INFLIGHT.min(u64::from(receive_maximum));
        }
        for filters in self.filters.chunks(FILTERS) {
            self.subscribing += 1;
            subscribe_all(self.v5, self.qos, self.subscribing, filters, out);
        }
        self.ready = self.subscribing == 0;
        Ok(())
    }

    fn on_suback(&mut self, body: &[u8]) -> Result<(), Fault> {
        let codes = if self.v5 { body.get(3..) } else { body.get(2..) };
        match codes.unwrap_or_default().iter().find(|&&granted| granted != self.qos) {
            _ if codes.is_none_or(<[u8]>::is_empty) => return Err(Fault::new("SUBACK is cut short")),
            Some(granted) => {
                return Err(Fault::new(format!(
                    "asked for QoS {}, the broker granted {granted:#x}",
                    self.qos
                )));
            }
            None => self.subscribing = self.subscribing.saturating_sub(1),
        }
        self.ready = self.subscribing == 0;
        Ok(())
    }

    #[inline]
    fn on_publish(&self, first: u8, body: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Option<()> {
        let mut at = 2 + usize::from(u16_at(body, 0)?);
        let qos = (first >> 1) & 3;
        if qos > 0 {
            let id = body.get(at..)?.first_chunk::<2>()?;
            at += 2;
            let kind = if qos == 1 { 0x40 } else { 0x50 };
            out.extend_from_slice(&[kind, 2, id[0], id[1]]);
        }
        if self.v5 {
            let (len, bytes) = varint(body.get(at..)?)?;
            at += bytes + len;
        }
        sink.deliver(body.get(at..)?);
        Some(())
    }

    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    fn on_ack(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let id = body.first_chunk::<2>().ok_or_else(|| Fault::new("an acknowledgement is cut short"))?;
        let reason = u8_at(body, 2).unwrap_or(0);
        if reason >= 0x80 {
            return Err(Fault::new(format!("a message was refused with reason {reason:#x}")));
        }
        match kind {
            5 => out.extend_from_slice(&[0x62, 2, id[0], id[1]]),
            6 => out.extend_from_slice(&[0x70, 2, id[0], id[1]]),
            // A subscriber gets PUBREL and never PUBCOMP: what comes here belongs to a publisher.
            _ => self.acked += 1,
        }
        Ok(())
    }
}

impl Wire for Mqtt {
    fn open(&mut self, out: &mut Vec<u8>) {
        connect(self.v5, &self.client_id, self.user.as_deref(), &self.password, out);
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some((first, body, len)) = packet(input.get(at..).unwrap_or_default())? {
            match first >> 4 {
                3 => self
                    .on_publish(first, body, out, sink)
                    .ok_or_else(|| Fault::new("a PUBLISH is cut short"))?,
                4..=7 => self.on_ack(first >> 4, body, out)?,
                2 => self.on_connack(body, out)?,
                9 => self.on_suback(body)?,
                13 => {}
                14 => {
                    let reason = u8_at(body, 0).unwrap_or(0);
                    return Err(Fault::new(format!("the broker disconnected with reason {reason:#x}")));
                }
                kind => return Err(Fault::new(format!("unexpected packet type {kind}"))),
            }
            at += len;
        }
        Ok(at)
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn room(&self) -> u64 {
        if self.qos == 0 {
            return u64::MAX;
        }
        let sent = self.template.as_ref().map_or(0, Template::sent);
        (self.inflight_max + self.acked).saturating_sub(sent)
    }

    fn publish(&mut self, count: usize, sent_ns: u64, out: &mut Vec<u8>) {
        let (qos, id_at) = (self.qos, self.id_at);
        let Some(template) = &mut self.template else { return };
        if qos == 0 {
            template.append(count, sent_ns, out, |_, _| {});
        } else {
            template.append(count, sent_ns, out, |frame, number| {
                let id = u16::try_from(number % IDENTIFIERS + 1).unwrap_or(1);
                put_at(frame, id_at, id.to_be_bytes());
            });
        }
    }

    fn acked(&self) -> u64 {
        if self.qos == 0 { self.template.as_ref().map_or(0, Template::sent) } else { self.acked }
    }

    fn settle(&mut self, _out: &mut Vec<u8>) {}

    fn close(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0xE0, 0]);
    }
}

/// First byte, body and whole length of a packet.
pub(crate) type Packet<'a> = (u8, &'a [u8], usize);

/// The first packet in `input`: its first byte, its body and its whole length; none if it is not complete.
#[inline]
pub(crate) fn packet(input: &[u8]) -> Result<Option<Packet<'_>>, Fault> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let Some((len, bytes)) = varint(rest) else {
        // Four bytes, all with the continuation bit [MQTT-2.2.3].
        return if rest.len() >= 4 { Err(Fault::new("a packet's length is malformed")) } else { Ok(None) };
    };
    Ok(rest.get(bytes..bytes + len).map(|body| (first, body, 1 + bytes + len)))
}

/// A variable byte integer and how many bytes it took.
#[inline]
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn put_varint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_packet(first: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    put_varint(body.len(), out);
    out.extend_from_slice(body);
}

/// CONNECT, clean start.
pub(crate) fn connect(v5: bool, client_id: &str, user: Option<&str>, password: &str, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    put_text("MQTT", &mut body);
    let login = if user.is_some() { 0xC0 } else { 0 };
    body.extend_from_slice(&[if v5 { 5 } else { 4 }, 2 | login]);
    body.extend_from_slice(&KEEP_ALIVE.to_be_bytes());
    if v5 {
        body.push(0);
    }
    put_text(client_id, &mut body);
    if let Some(user) = user {
        put_text(user, &mut body);
        put_text(password, &mut body);
    }
    put_packet(0x10, &body, out);
}

pub(crate) fn subscribe(v5: bool, qos: u8, filter: &str, out: &mut Vec<u8>) {
    subscribe_all(v5, qos, 1, &[filter.to_owned()], out);
}

fn subscribe_all(v5: bool, qos: u8, id: u16, filters: &[String], out: &mut Vec<u8>) {
    let mut body = id.to_be_bytes().to_vec();
    if v5 {
        body.push(0);
    }
    for filter in filters {
        put_text(filter, &mut body);
        body.push(qos);
    }
    put_packet(0x82, &body, out);
}

/// Appends a PUBLISH and answers where its packet identifier lies, counted from its first byte.
fn publish(v5: bool, qos: u8, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
    let mut body = Vec::new();
    put_text(topic, &mut body);
    let id_in_body = body.len();
    if qos > 0 {
        body.extend_from_slice(&[0, 1]);
    }
    if v5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    let from = out.len();
    put_packet(0x30 | qos << 1, &body, out);
    out.len() - from - body.len() + id_in_body
}

/// Receive Maximum among the properties of a CONNACK [MQTT-3.2.2.3.3].
fn receive_maximum(properties: &[u8]) -> Option<u16> {
    let (len, bytes) = varint(properties)?;
    let mut rest = properties.get(bytes..bytes + len)?;
    while let Some((&kind, value)) = rest.split_first() {
        let taken = match kind {
            0x21 => return u16_at(value, 0),
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x22 => 2,
            0x11 | 0x27 => {
                u32_at(value, 0)?;
                4
            }
            0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => 2 + usize::from(u16_at(value, 0)?),
            0x26 => {
                let key = 2 + usize::from(u16_at(value, 0)?);
                key + 2 + usize::from(u16_at(value, key)?)
            }
            _ => return None,
        };
        rest = value.get(taken..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{feed, terms};

    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

    fn subscriber(v5: bool, qos: u8) -> Box<dyn Wire> {
        let role = Role::Subscriber { source: "a/b".into(), more: Vec::new(), index: 0 };
        Box::new(Mqtt::new(v5, &Terms { qos, ..terms() }, &role, "c".into()))
    }

    fn publisher(v5: bool, qos: u8) -> Mqtt {
        let role = Role::Publisher { id: 0, targets: vec!["a/b".into(), "a/c".into()] };
        Mqtt::new(v5, &Terms { qos, ..terms() }, &role, "c".into())
    }

    #[test]
    fn what_is_published_is_delivered_at_every_qos_and_split() {
        for v5 in [false, true] {
            for qos in 0..=2 {
                let mut frames = Vec::new();
                publisher(v5, qos).publish(1, 3, &mut frames);
                let (delivered, answers) = feed(|| subscriber(v5, qos), &frames);
                assert_eq!(delivered, 1);
                let expected: &[u8] = match qos {
                    0 => &[],
                    1 => &[0x40, 2, 0, 1],
                    _ => &[0x50, 2, 0, 1],
                };
                assert_eq!(answers, expected);
            }
        }
    }

    #[test]
    fn subscribes_after_connack_and_is_ready_after_suback() {
        let (_, answers) = feed(|| subscriber(false, 1), &CONNACK);
        assert_eq!(answers, [0x82, 8, 0, 1, 0, 3, b'a', b'/', b'b', 1]);
        let (_, answers) = feed(|| subscriber(true, 0), &[0x20, 3, 0, 0, 0]);
        assert_eq!(answers, [0x82, 9, 0, 1, 0, 0, 3, b'a', b'/', b'b', 0]);
    }

    #[test]
    fn acknowledgements_give_room_back() {
        let mut wire = publisher(false, 2);
        let mut out = Vec::new();
        wire.publish(3, 0, &mut out);
        assert_eq!(wire.room(), INFLIGHT - 3);
        wire.on_ack(5, &[0, 1], &mut out).unwrap();
        assert!(out.ends_with(&[0x62, 2, 0, 1]));
        wire.on_ack(7, &[0, 1], &mut out).unwrap();
        assert_eq!((wire.room(), wire.acked()), (INFLIGHT - 2, 1));
        assert!(wire.on_ack(4, &[0, 1, 0x97], &mut out).is_err());
    }

    #[test]
    fn obeys_the_receive_maximum_of_the_broker() {
        assert_eq!(receive_maximum(&[8, 0x25, 1, 0x12, 0, 1, b'x', 0x21]), None);
        assert_eq!(receive_maximum(&[9, 0x25, 1, 0x12, 0, 1, b'x', 0x21, 0, 20]), Some(20));
        assert_eq!(receive_maximum(&[8, 0x12, 0, 2, b'x', b'y', 0x21, 0, 20]), Some(20));
    }

    #[test]
    fn a_downgrade_or_refusal_is_a_fault() {
        let mut wire = publisher(false, 0);
        assert!(wire.on_connack(&[0, 5], &mut Vec::new()).is_err());
        wire.qos = 2;
        assert!(wire.on_suback(&[0, 1, 1]).is_err());
        assert!(packet(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    }
}
