//! `decode(encode(x)) == x` for every packet and version.

use proptest::collection::vec;
use proptest::prelude::*;

use mynah_core::Guarantee;

use super::connect::WillFields;
use super::primitive::put_binary;
use super::property::{Properties, id, put_field, put_flag, put_four, put_two, put_user_property};
use super::subscribe::{Options, RetainHandling, put_filter};
use super::*;

fn round_trip(packet: Packet<'_>, version: Version) -> Result<(), TestCaseError> {
    let mut bytes = BytesMut::new();
    packet.encode(version, &mut bytes);
    let frame = split_frame(&bytes, u32::MAX).unwrap().unwrap();
    prop_assert!(frame.rest.is_empty());
    prop_assert_eq!(Packet::decode(frame.first, frame.body, version), Ok(packet));
    for cut in 0..bytes.len() {
        prop_assert_eq!(split_frame(&bytes[..cut], u32::MAX), Ok(None));
    }
    Ok(())
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9/$ äß\u{feff}€\u{1f426}]{0,20}"
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z0-9/$ ä€]{1,200}".prop_filter("levels", |topic| topic.split('/').count() <= 128)
}

fn guarantees() -> impl Strategy<Value = Guarantee> {
    prop_oneof![Just(Guarantee::AtMostOnce), Just(Guarantee::AtLeastOnce), Just(Guarantee::ExactlyOnce)]
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

/// Properties of a message, in any order.
fn message_properties() -> impl Strategy<Value = Vec<u8>> {
    (
        proptest::option::of(any::<bool>()),
        proptest::option::of(any::<u32>()),
        proptest::option::of(vec(any::<u8>(), 0..30)),
        vec((text(), text()), 0..5),
    )
        .prop_map(|(format, expiry, correlation, users)| {
            let mut out = Vec::new();
            for (key, value) in &users {
                put_user_property(&mut out, key, value);
            }
            if let Some(format) = format {
                put_flag(&mut out, id::PAYLOAD_FORMAT, format);
            }
            if let Some(expiry) = expiry {
                put_four(&mut out, id::MESSAGE_EXPIRY, expiry);
            }
            if let Some(data) = correlation {
                put_field(&mut out, id::CORRELATION_DATA, &data);
            }
            out
        })
}

fn described() -> impl Strategy<Value = Vec<u8>> {
    (proptest::option::of(text()), vec((text(), text()), 0..3)).prop_map(|(reason, users)| {
        let mut out = Vec::new();
        if let Some(reason) = reason {
            put_field(&mut out, id::REASON_STRING, reason.as_bytes());
        }
        for (key, value) in &users {
            put_user_property(&mut out, key, value);
        }
        out
    })
}

/// Only 5.0 has properties.
fn of(version: Version, properties: &[u8]) -> Properties<'_> {
    if version.has_properties() { Properties::trusted(properties) } else { Properties::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn connect(
        version in versions(), flags in any::<[bool; 3]>(), keep_alive in any::<u16>(), client_id in text(),
        properties in vec((text(), text()), 0..3), will in proptest::option::of((guarantees(), any::<bool>(), topic(),
        message_properties(), vec(any::<u8>(), 0..40))), user in proptest::option::of(text()), password in vec(any::<u8>(), 0..20),
    ) {
        let mut own = Vec::new();
        put_two(&mut own, id::RECEIVE_MAX, 5);
        for (key, value) in &properties {
            put_user_property(&mut own, key, value);
        }
        let will = will.as_ref().map(|(guarantee, retain, topic, properties, payload)| WillFields {
            guarantee: *guarantee, retain: *retain, properties: of(version, properties), topic, payload,
        });
        let password = (flags[1] && (user.is_some() || version == Version::V5)).then_some(&password[..]);
        round_trip(Packet::Connect(Connect {
            version, bridge: flags[2], clean: flags[0], keep_alive, properties: of(version, &own), client_id: &client_id,
            will, user: user.as_deref(), password,
        }), version)?;
    }

    #[test]
    fn connack(version in versions(), session_present in any::<bool>(), code in any::<u8>(), properties in described()) {
        round_trip(Packet::ConnAck(ConnAck { session_present, code, properties: of(version, &properties) }), version)?;
    }

    #[test]
    fn publish(
        version in versions(), guarantee in guarantees(), flags in any::<[bool; 2]>(), topic in topic(), id in 1..=u16::MAX,
        properties in message_properties(), payload in vec(any::<u8>(), 0..300),
    ) {
        let confirmed = guarantee != Guarantee::AtMostOnce;
        round_trip(Packet::Publish(Publish {
            dup: confirmed && flags[0], guarantee, retain: flags[1], topic: &topic, id: if confirmed { id } else { 0 },
            properties: of(version, &properties), payload: &payload,
        }), version)?;
    }

    #[test]
    fn ack(version in versions(), kind in 0..4usize, id in 1..=u16::MAX, failed in any::<bool>(), properties in described()) {
        let kind = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp][kind];
        let code = if matches!(kind, AckKind::PubAck | AckKind::PubRec) { 0x97 } else { 0x92 };
        let reason = if failed && version.has_properties() { Reason(code) } else { Reason::SUCCESS };
        round_trip(Packet::Ack(Ack { kind, id, reason, properties: of(version, &properties) }), version)?;
    }

    #[test]
    fn subscribe(
        version in versions(), id in 1..=u16::MAX,
        filters in vec((text(), guarantees(), any::<[bool; 2]>(), 0..3usize), 1..6), number in 1..1000u32,
    ) {
        let mut list = Vec::new();
        let mut expected = Vec::new();
        for (filter, guarantee, flags, handling) in &filters {
            let five = version.has_properties();
            let handling = [RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never][*handling];
            let options = Options {
                guarantee: *guarantee, no_local: five && flags[0], retain_as_published: five && flags[1],
                retain_handling: if five { handling } else { RetainHandling::Always },
            };
            put_filter(&mut list, filter, options);
            expected.push((filter.as_str(), options));
        }
        let mut properties = vec![id::SUBSCRIPTION_ID];
        put_varint(&mut properties, number as usize);
        let packet = Subscribe::new(id, of(version, &properties), &list);
        prop_assert_eq!(packet.filters(version).collect::<Vec<_>>(), expected);
        round_trip(Packet::Subscribe(packet), version)?;
    }

    #[test]
    fn unsubscribe(version in versions(), id in 1..=u16::MAX, filters in vec(text(), 1..6)) {
        let mut list = Vec::new();
        for filter in &filters {
            put_binary(&mut list, filter.as_bytes());
        }
        let packet = Unsubscribe::new(id, Properties::default(), &list);
        prop_assert_eq!(packet.filters().collect::<Vec<_>>(), filters);
        round_trip(Packet::Unsubscribe(packet), version)?;
    }

    #[test]
    fn suback_and_unsuback(version in versions(), id in 1..=u16::MAX, codes in vec(any::<u8>(), 0..200), text in described()) {
        let properties = of(version, &text);
        round_trip(Packet::SubAck(SubAck { id, properties, codes: &codes }), version)?;
        let codes = if version.has_properties() { &codes[..] } else { &[] };
        round_trip(Packet::UnsubAck(UnsubAck { id, properties, codes }), version)?;
    }

    #[test]
    fn control(version in versions(), properties in described(), with_will in any::<bool>()) {
        round_trip(Packet::PingReq, version)?;
        round_trip(Packet::PingResp, version)?;
        let five = version.has_properties();
        let reason = if five && with_will { Reason::DISCONNECT_WITH_WILL } else { Reason::SUCCESS };
        round_trip(Packet::Disconnect(Disconnect { reason, properties: of(version, &properties) }), version)?;
        if five {
            round_trip(Packet::Auth(Auth { reason: Reason(0x18), properties: Properties::trusted(&properties) }), version)?;
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(first in any::<u8>(), body in vec(any::<u8>(), 0..200)) {
        for version in Version::ALL {
            // What is accepted means the same when it is written again.
            if let Ok(packet) = Packet::decode(first, &body, version) {
                let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
                let mut bytes = BytesMut::new();
                packet.encode(version, &mut bytes);
                let frame = split_frame(&bytes, u32::MAX).unwrap().unwrap();
                prop_assert_eq!(Packet::decode(frame.first, frame.body, version), Ok(packet));
            }
        }
    }
}
