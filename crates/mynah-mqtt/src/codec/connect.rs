//! CONNECT and CONNACK [MQTT 5.0 3.1, 3.2].

use bytes::{BufMut, BytesMut};

use mynah_core::Guarantee;

use super::primitive::{Reader, put_binary};
use super::property::{Allowed, Properties};
use super::publish::{check_topic, guarantee, qos};
use super::{kind, put_header};
use crate::reason::{Fault, Reason};
use crate::version::Version;

const FLAG_RESERVED: u8 = 0x01;
const FLAG_CLEAN: u8 = 0x02;
const FLAG_WILL: u8 = 0x04;
const FLAG_WILL_RETAIN: u8 = 0x20;
const FLAG_PASSWORD: u8 = 0x40;
const FLAG_USER: u8 = 0x80;
/// Set in the protocol level by mosquitto's bridges: "do not send back what I sent, keep the retain flag".
const LEVEL_BRIDGE: u8 = 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    pub version: Version,
    pub bridge: bool,
    /// Clean session, in 5.0 clean start.
    pub clean: bool,
    /// Seconds; 0 = none.
    pub keep_alive: u16,
    pub properties: Properties<'a>,
    pub client_id: &'a str,
    pub will: Option<WillFields<'a>>,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillFields<'a> {
    pub guarantee: Guarantee,
    pub retain: bool,
    pub properties: Properties<'a>,
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl<'a> Connect<'a> {
    /// # Errors
    /// The fault, with the version in whose words it can be answered as far as that was read.
    pub fn decode(body: &'a [u8]) -> Result<Self, (Option<Version>, Fault)> {
        let mut reader = Reader::new(body);
        let (version, bridge) = read_version(&mut reader)?;
        Self::decode_rest(&mut reader, version, bridge).map_err(|fault| (Some(version), fault))
    }

    fn decode_rest(reader: &mut Reader<'a>, version: Version, bridge: bool) -> Result<Self, Fault> {
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive = reader.u16()?;
        let properties = read_properties(reader, version, Allowed::CONNECT)?;
        let client_id = reader.text()?;
        let will = if flags & FLAG_WILL == 0 { None } else { Some(read_will(reader, flags, version)?) };
        // In 3.1 the length takes precedence over the flags, for clients of MQTT 3 [MQTT 3.1 3.1].
        let absent = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
        let user = if flags & FLAG_USER == 0 || absent(reader) { None } else { Some(reader.text()?) };
        let password =
            if flags & FLAG_PASSWORD == 0 || absent(reader) { None } else { Some(reader.binary()?) };
        if !reader.is_empty() {
            return Err(Fault::malformed("CONNECT has bytes after its last field"));
        }
        Ok(Self {
            version,
            bridge,
            clean: flags & FLAG_CLEAN != 0,
            keep_alive,
            properties,
            client_id,
            will,
            user,
            password,
        })
    }

    pub fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        put_binary(&mut body, self.version.protocol_name().as_bytes());
        body.put_u8(self.version.level() | if self.bridge { LEVEL_BRIDGE } else { 0 });
        let mut flags = 0;
        for (set, flag) in [
            (self.clean, FLAG_CLEAN),
            (self.user.is_some(), FLAG_USER),
            (self.password.is_some(), FLAG_PASSWORD),
        ] {
            flags |= if set { flag } else { 0 };
        }
        if let Some(will) = &self.will {
            flags |= FLAG_WILL | qos(will.guarantee) << 3 | if will.retain { FLAG_WILL_RETAIN } else { 0 };
        }
        body.put_u8(flags);
        body.put_u16(self.keep_alive);
        if self.version.has_properties() {
            self.properties.write(&mut body);
        }
        put_binary(&mut body, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if self.version.has_properties() {
                will.properties.write(&mut body);
            }
            put_binary(&mut body, will.topic.as_bytes());
            put_binary(&mut body, will.payload);
        }
        if let Some(user) = self.user {
            put_binary(&mut body, user.as_bytes());
        }
        if let Some(password) = self.password {
            put_binary(&mut body, password);
        }
        put_header(out, kind::CONNECT << 4, body.len());
        out.put_slice(&body);
    }
}

/// Protocol name and level [MQTT-3.1.2-1, MQTT-3.1.2-2].
fn read_version(reader: &mut Reader<'_>) -> Result<(Version, bool), (Option<Version>, Fault)> {
    let read = |reader: &mut Reader<'_>| Ok((reader.text()?.to_owned(), reader.u8()?));
    let (name, level) = read(reader).map_err(|fault| (None, fault))?;
    let bridge = level & LEVEL_BRIDGE != 0;
    let unsupported =
        |answer| (answer, Fault::new(Reason::UNSUPPORTED_VERSION, "this protocol version is not supported"));
    match (name.as_str(), level & !LEVEL_BRIDGE) {
        ("MQIsdp", 3) => Ok((Version::V31, bridge)),
        ("MQTT", 4) => Ok((Version::V311, bridge)),
        ("MQTT", 5) => Ok((Version::V5, bridge)),
        // Answered in the form of the version nearest to what was asked for.
        ("MQTT", 0..4) | ("MQIsdp", _) => Err(unsupported(Some(Version::V311))),
        ("MQTT", _) => Err(unsupported(Some(Version::V5))),
        _ => Err(unsupported(None)),
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), Fault> {
    if version == Version::V31 {
        return Ok(());
    }
    if flags & FLAG_RESERVED != 0 {
        return Err(Fault::malformed("the reserved connect flag is set [MQTT-3.1.2-3]"));
    }
    if flags & FLAG_WILL == 0 && flags & 0x38 != 0 {
        return Err(Fault::malformed(
            "will QoS or will retain without a will [MQTT-3.1.2-11, MQTT-3.1.2-13]",
        ));
    }
    if version == Version::V311 && flags & FLAG_PASSWORD != 0 && flags & FLAG_USER == 0 {
        return Err(Fault::malformed("a password without a user name [MQTT 3.1.1, MQTT-3.1.2-22]"));
    }
    Ok(())
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    allowed: Allowed,
) -> Result<Properties<'a>, Fault> {
    if version.has_properties() { Properties::read(reader, allowed) } else { Ok(Properties::default()) }
}

fn read_will<'a>(reader: &mut Reader<'a>, flags: u8, version: Version) -> Result<WillFields<'a>, Fault> {
    let properties = read_properties(reader, version, Allowed::WILL)?;
    let topic = reader.text()?;
    let payload = reader.binary()?;
    if topic.is_empty() {
        return Err(Fault::new(Reason::TOPIC_INVALID, "the will topic is empty [MQTT-4.7.3-1]"));
    }
    check_topic(topic)?;
    Ok(WillFields {
        guarantee: guarantee(flags >> 3 & 3)?,
        retain: flags & FLAG_WILL_RETAIN != 0,
        properties,
        topic,
        payload,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    pub session_present: bool,
    /// In 3.x a return code.
    pub code: u8,
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    /// # Errors
    /// Malformed.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let properties = read_properties(&mut reader, version, Allowed::CONNACK)?;
        if flags > 1 || !reader.is_empty() {
            return Err(Fault::malformed("CONNACK has reserved flags or bytes after its last field"));
        }
        Ok(Self { session_present: flags == 1, code, properties })
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        let properties = if version.has_properties() { self.properties.encoded_len() } else { 0 };
        put_header(out, kind::CONNACK << 4, 2 + properties);
        out.put_u8(u8::from(self.session_present));
        out.put_u8(self.code);
        if version.has_properties() {
            self.properties.write(out);
        }
    }
}
