//! The properties of a message as header lines, in both directions.

use bytes::{Bytes, BytesMut};
use mynah_core::{Address, Properties, Value};

use super::destination::{Destination, Style, text_of};
use crate::codec::{Escape, number, unescape, write_header};

/// What a block of header lines says, for other protocols. Lines that cannot be read are left out.
pub(crate) fn decode(block: &[u8]) -> Properties {
    let mut properties = Properties::default();
    let text = std::str::from_utf8(block).unwrap_or_default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (Some(name), Some(value)) = (unescape(Escape::V1_2, name), unescape(Escape::V1_2, value)) else {
            continue;
        };
        property(&mut properties, &name, &value);
    }
    properties
}

fn property(properties: &mut Properties, name: &str, value: &str) {
    let text = || Some(Box::<str>::from(value));
    match name {
        "content-type" => properties.content_type = text(),
        "content-encoding" => properties.content_encoding = text(),
        "correlation-id" => properties.correlation_id = Some(Value::from(value)),
        "amqp-message-id" => properties.message_id = Some(Value::from(value)),
        "user-id" => properties.user_id = Some(Bytes::copy_from_slice(value.as_bytes())),
        "app-id" => properties.app_id = text(),
        "type" => properties.kind = text(),
        "group-id" | "JMSXGroupID" => properties.group_id = text(),
        "reply-to-group-id" => properties.reply_to_group_id = text(),
        "reply-to" => properties.reply_to = address(value),
        "group-sequence" | "JMSXGroupSeq" if number::<u32>(value).is_some() => {
            properties.group_sequence = number(value);
        }
        "timestamp" if number::<i64>(value).is_some() => properties.creation_ms = number(value),
        "expires" if number::<i64>(value).is_some() => properties.absolute_expiry_ms = number(value),
        _ => properties.application.push((name.into(), Value::from(value))),
    }
}

/// Where a reply goes; `None` if the text names no place.
fn address(text: &str) -> Option<Address> {
    Destination::parse(text, usize::MAX).ok()?.address().ok()?
}

/// Writes properties that came from another protocol.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) escape: Escape,
    pub(crate) style: Style,
    pub(crate) out: &'a mut BytesMut,
}

impl Content<'_> {
    pub(crate) fn write(&mut self, properties: &Properties) {
        self.optional("content-type", properties.content_type.as_deref());
        self.optional("content-encoding", properties.content_encoding.as_deref());
        self.value("correlation-id", properties.correlation_id.as_ref());
        if let Some(reply_to) = &properties.reply_to {
            let text = text_of(reply_to.as_ref(), self.style);
            self.line("reply-to", &text);
        }
        self.value("amqp-message-id", properties.message_id.as_ref());
        self.number("timestamp", properties.creation_ms);
        self.number("expires", properties.absolute_expiry_ms);
        if let Some(user) = &properties.user_id {
            self.line("user-id", &Value::Binary(user.clone()).to_text());
        }
        self.optional("app-id", properties.app_id.as_deref());
        self.optional("type", properties.kind.as_deref());
        self.optional("to", properties.to.as_deref());
        self.optional("subject", properties.subject.as_deref());
        self.optional("group-id", properties.group_id.as_deref());
        self.number("group-sequence", properties.group_sequence.map(i64::from));
        self.optional("reply-to-group-id", properties.reply_to_group_id.as_deref());
        for (name, value) in &properties.application {
            if !name.is_empty() && !is_own(name) {
                self.line(name, &value.to_text());
            }
        }
    }

    fn line(&mut self, name: &str, value: &str) {
        write_header(self.escape, name, value, self.out);
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }

    fn value(&mut self, name: &str, value: Option<&Value>) {
        if let Some(value) = value {
            self.line(name, &value.to_text());
        }
    }

    fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.line(name, &value.to_string());
        }
    }
}

/// Headers with a meaning of their own in a MESSAGE: an application property of that name would be taken for it.
fn is_own(name: &str) -> bool {
    matches!(
        name,
        "subscription"
            | "message-id"
            | "destination"
            | "ack"
            | "content-length"
            | "receipt"
            | "transaction"
            | "redelivered"
            | "delivery-count"
            | "persistent"
            | "priority"
            | "expiration"
            | "retained"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_becomes_properties() {
        let block = b"content-type:text/plain\ncorrelation-id:c\\c1\nreply-to:/queue/r\namqp-message-id:m\n\
                      timestamp:1700000000000\nexpires:12\nuser-id:u\nk\\\\ey:a\\nb\ntimestamp:soon\nno colon\nbad:\\t\n";
        let properties = decode(block);
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.correlation_id, Some(Value::from("c:1")));
        assert_eq!(properties.reply_to, Some(Address::Queue("r".into())));
        assert_eq!(properties.message_id, Some(Value::from("m")));
        assert_eq!(properties.creation_ms, Some(1_700_000_000_000));
        assert_eq!(properties.absolute_expiry_ms, Some(12));
        let expected: Vec<(Box<str>, Value)> =
            vec![("k\\ey".into(), "a\nb".into()), ("timestamp".into(), "soon".into())];
        assert_eq!(properties.application, expected);
    }

    #[test]
    fn properties_become_a_block_and_come_back() {
        let properties = Properties {
            message_id: Some(Value::from("m-1")),
            user_id: Some(Bytes::from_static(b"guest")),
            reply_to: Some(Address::Topic("a/b.c".into())),
            correlation_id: Some(Value::from("x:y\nz")),
            content_type: Some("application/json".into()),
            content_encoding: Some("gzip".into()),
            absolute_expiry_ms: Some(5),
            creation_ms: Some(-5),
            group_id: Some("g".into()),
            group_sequence: Some(7),
            kind: Some("order".into()),
            app_id: Some("shop".into()),
            application: vec![("colour".into(), "red".into()), ("a:b".into(), "c\\d".into())],
            ..Properties::default()
        };
        let mut block = BytesMut::new();
        Content { escape: Escape::V1_2, style: Style::Dots, out: &mut block }.write(&properties);
        let mut expected = properties;
        // A time before 1970 has no form in digits.
        expected.creation_ms = None;
        expected.application.insert(0, ("timestamp".into(), "-5".into()));
        assert_eq!(decode(&block), expected);
    }
}
