//! The codec against another implementation, `serde_amqp` and `fe2o3-amqp-types`, on random values.

#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "the lengths of test data are small"
)]

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions as defs;
use fe2o3_amqp_types::messaging as msg;
use fe2o3_amqp_types::performatives as perf;
use mynah_core::{Outcome, Value};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_amqp::Value as Theirs;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use serde_amqp::primitives::{Array, OrderedMap};

use super::performative::{Attach, Begin, Detach, LinkRole, Open, SndSettleMode};
use super::reader::Reader;
use super::section;
use super::terminus::{Terminus, put_outcome, read_outcome};
use super::transfer::{Disposition, Flow, LinkFlow, Transfer, TransferHead};
use super::value::{put_value, read_value};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::U8),
        any::<u16>().prop_map(Value::U16),
        prop_oneof![0..300u32, any::<u32>()].prop_map(Value::U32),
        prop_oneof![0..300u64, any::<u64>()].prop_map(Value::U64),
        any::<i8>().prop_map(Value::I8),
        any::<i16>().prop_map(Value::I16),
        prop_oneof![-200..200i32, any::<i32>()].prop_map(Value::I32),
        prop_oneof![-200..200i64, any::<i64>()].prop_map(Value::I64),
        any::<f32>().prop_filter("equal to itself", |n| !n.is_nan()).prop_map(Value::F32),
        any::<f64>().prop_filter("equal to itself", |n| !n.is_nan()).prop_map(Value::F64),
        any::<[u8; 8]>().prop_map(|n| Value::Decimal(Bytes::copy_from_slice(&n))),
        any::<char>().prop_map(Value::Char),
        any::<i64>().prop_map(Value::Timestamp),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Binary(bytes.into())),
        "\\PC{0,100}".prop_map(Value::from),
        "[ -~]{0,300}".prop_map(|text| Value::Symbol(text.into())),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            vec((scalar(), inner.clone()), 0..4).prop_map(unique).prop_map(Value::Map),
            vec(any::<i32>().prop_map(Value::I32), 1..4).prop_map(Value::Array),
            vec("[ -~]{0,9}".prop_map(|text| Value::Symbol(text.into())), 1..4).prop_map(Value::Array),
            (256..u64::MAX, inner)
                .prop_map(|(code, value)| Value::Described(Box::new((Value::U64(code), value)))),
        ]
    })
}

/// A map has each key once.
fn unique(entries: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    let mut unique: Vec<(Value, Value)> = Vec::new();
    for (key, value) in entries {
        let (mut one, mut two) = (BytesMut::new(), BytesMut::new());
        put_value(&mut one, &key);
        let known = unique.iter().any(|(old, _)| {
            two.clear();
            put_value(&mut two, old);
            one == two
        });
        // 0.0 and -0.0 are one key there.
        if !known && !matches!(key, Value::F32(_) | Value::F64(_)) {
            unique.push((key, value));
        }
    }
    unique
}

fn theirs(value: &Value) -> Theirs {
    match value {
        Value::Null => Theirs::Null,
        Value::Bool(flag) => Theirs::Bool(*flag),
        Value::U8(n) => Theirs::Ubyte(*n),
        Value::U16(n) => Theirs::Ushort(*n),
        Value::U32(n) => Theirs::Uint(*n),
        Value::U64(n) => Theirs::Ulong(*n),
        Value::I8(n) => Theirs::Byte(*n),
        Value::I16(n) => Theirs::Short(*n),
        Value::I32(n) => Theirs::Int(*n),
        Value::I64(n) => Theirs::Long(*n),
        Value::F32(n) => Theirs::Float((*n).into()),
        Value::F64(n) => Theirs::Double((*n).into()),
        Value::Decimal(bytes) => Theirs::Decimal64(<[u8; 8]>::try_from(&bytes[..]).unwrap().into()),
        Value::Char(c) => Theirs::Char(*c),
        Value::Timestamp(ms) => Theirs::Timestamp((*ms).into()),
        Value::Uuid(id) => Theirs::Uuid((*id).into()),
        Value::Binary(bytes) => Theirs::Binary(bytes.to_vec().into()),
        Value::String(text) => Theirs::String(text.to_string()),
        Value::Symbol(text) => Theirs::Symbol(text.to_string().into()),
        Value::List(items) => Theirs::List(items.iter().map(theirs).collect()),
        Value::Map(entries) => {
            Theirs::Map(entries.iter().map(|(k, v)| (theirs(k), theirs(v))).collect::<OrderedMap<_, _>>())
        }
        Value::Array(items) => Theirs::Array(Array(items.iter().map(theirs).collect())),
        Value::Described(inner) => Theirs::Described(Box::new(Described {
            descriptor: Descriptor::Code(inner.0.as_u64().unwrap()),
            value: theirs(&inner.1),
        })),
    }
}

/// Version 0.18 panics on a timestamp inside a list, map or described value.
fn they_can_write(value: &Value) -> bool {
    fn without(value: &Value) -> bool {
        match value {
            Value::Timestamp(_) => false,
            Value::List(items) | Value::Array(items) => items.iter().all(without),
            Value::Map(entries) => entries.iter().all(|(key, value)| without(key) && without(value)),
            Value::Described(inner) => without(&inner.1),
            _ => true,
        }
    }
    matches!(value, Value::Timestamp(_)) || without(value)
}

fn composite(code: u64, bytes: &[u8]) -> super::reader::Fields<'_> {
    let mut reader = Reader::new(bytes);
    assert_eq!(reader.descriptor(), Ok(code));
    let fields = reader.list().unwrap();
    assert!(reader.is_empty());
    fields
}

fn state() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Accepted),
        Just(Outcome::Released),
        Just(Outcome::Rejected { reason: None }),
        Just(Outcome::Rejected { reason: Some("app:bad: it smells".into()) }),
        any::<(bool, bool)>()
            .prop_map(|(failed, undeliverable_here)| Outcome::Modified { failed, undeliverable_here }),
    ]
}

fn their_state(outcome: &Outcome) -> msg::DeliveryState {
    match outcome {
        Outcome::Accepted => msg::DeliveryState::Accepted(msg::Accepted {}),
        Outcome::Released => msg::DeliveryState::Released(msg::Released {}),
        Outcome::Rejected { reason } => msg::DeliveryState::Rejected(msg::Rejected {
            error: reason.as_ref().map(|_| defs::Error {
                condition: defs::ErrorCondition::Custom("app:bad".into()),
                description: Some("it smells".to_owned()),
                info: None,
            }),
        }),
        Outcome::Modified { failed, undeliverable_here } => msg::DeliveryState::Modified(msg::Modified {
            delivery_failed: Some(*failed),
            undeliverable_here: Some(*undeliverable_here),
            message_annotations: None,
        }),
    }
}

proptest! {
    #[test]
    fn values_are_written_as_they_read_and_read_as_they_write(value in value()) {
        let mut ours = BytesMut::new();
        put_value(&mut ours, &value);
        prop_assert_eq!(&read_value(&ours).unwrap(), &value);
        let mut reader = Reader::new(&ours);
        prop_assert_eq!(reader.raw().unwrap(), &ours[..]);
        let read: Theirs = serde_amqp::from_slice(&ours).unwrap();
        prop_assert_eq!(&read, &theirs(&value));
        if they_can_write(&value) {
            let written = serde_amqp::to_vec(&theirs(&value)).unwrap();
            prop_assert_eq!(&read_value(&written).unwrap(), &value);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_value(bytes in vec(any::<u8>(), 0..400)) {
        let _ = read_value(&bytes);
        let _ = Reader::new(&bytes).raw();
        let _ = section::scan(&bytes);
        let _ = Terminus::read(&bytes);
        let _ = read_outcome(&bytes);
        let _ = crate::translate::decode(&bytes);
        for wrapped in [[&[0xd0, 0, 0, 1, 0, 0, 0, 0, 9][..], &bytes].concat(), [&[0xc0, 200, 12][..], &bytes].concat()] {
            let Ok(fields) = Reader::new(&wrapped).list() else { continue };
            let _ = (Open::read(fields), Begin::read(fields), Attach::read(fields), Detach::read(fields));
            let _ = (Transfer::read(fields), Flow::read(fields), Disposition::read(fields));
        }
    }

    #[test]
    fn transfers(
        handle: u32, id in option::of(any::<u32>()), tag in option::of(vec(any::<u8>(), 0..32)),
        settled in option::of(any::<bool>()), more: bool, aborted: bool, outcome in option::of(state()),
    ) {
        let written = perf::Transfer {
            handle: defs::Handle(handle),
            delivery_id: id,
            delivery_tag: tag.clone().map(Into::into),
            message_format: Some(0),
            settled,
            more,
            rcv_settle_mode: None,
            state: outcome.as_ref().map(their_state),
            resume: false,
            aborted,
            batchable: true,
        };
        let bytes = serde_amqp::to_vec(&written).unwrap();
        let read = Transfer::read(composite(0x14, &bytes)).unwrap();
        let expected = Transfer {
            handle, delivery_id: id, delivery_tag: tag.as_deref(), message_format: 0, settled, more, aborted,
            state: read.state,
        };
        prop_assert_eq!(read, expected);
        let state = read.state.map(|raw| serde_amqp::from_slice::<msg::DeliveryState>(raw).unwrap());
        prop_assert_eq!(state, written.state);
    }

    #[test]
    fn transfers_that_are_sent(channel: u16, handle: u32, id: u32, first: bool, settled: bool, more: bool) {
        let head = TransferHead { channel, handle, delivery_id: id, first, settled, more };
        let mut wire = BytesMut::new();
        head.write(&mut wire, 3);
        prop_assert!(wire.len() <= super::transfer::TRANSFER_HEAD_MAX);
        prop_assert_eq!(&wire[..4], &(wire.len() as u32 + 3).to_be_bytes());
        prop_assert_eq!(&wire[6..8], &channel.to_be_bytes());
        let read: perf::Transfer = serde_amqp::from_slice(&wire[8..]).unwrap();
        prop_assert_eq!(read.handle.0, handle);
        prop_assert_eq!(read.delivery_id, first.then_some(id));
        prop_assert_eq!(read.delivery_tag.map(|tag| tag.to_vec()), first.then_some(id.to_be_bytes().to_vec()));
        prop_assert_eq!((read.settled, read.more), (Some(settled), more));
    }

    #[test]
    fn flows(
        numbers in (option::of(any::<u32>()), any::<u32>(), any::<u32>(), any::<u32>()),
        link in option::of((any::<u32>(), option::of(any::<u32>()), option::of(any::<u32>()), any::<bool>())),
        echo: bool,
    ) {
        let (next_incoming_id, incoming_window, next_outgoing_id, outgoing_window) = numbers;
        let link = link.map(|(handle, delivery_count, link_credit, drain)| LinkFlow {
            handle, delivery_count, link_credit, available: None, drain,
        });
        let echo = echo && link.is_some();
        let flow = Flow {
            next_incoming_id, incoming_window, next_outgoing_id, outgoing_window, link, echo, acquires: false,
        };
        let mut wire = BytesMut::new();
        flow.write(&mut wire, 1);
        let read: perf::Flow = serde_amqp::from_slice(&wire[8..]).unwrap();
        prop_assert_eq!(read.handle.as_ref().map(|h| h.0), link.map(|link| link.handle));
        prop_assert_eq!(read.link_credit, link.and_then(|link| link.link_credit));
        prop_assert_eq!(read.incoming_window, incoming_window);
        let bytes = serde_amqp::to_vec(&read).unwrap();
        prop_assert_eq!(Flow::read(composite(0x13, &bytes)).unwrap(), flow);
    }

    #[test]
    fn dispositions_and_outcomes(first: u32, last in option::of(any::<u32>()), settled: bool, outcome in state()) {
        let written = perf::Disposition {
            role: defs::Role::Receiver, first, last, settled, state: Some(their_state(&outcome)), batchable: false,
        };
        let bytes = serde_amqp::to_vec(&written).unwrap();
        let read = Disposition::read(composite(0x15, &bytes)).unwrap();
        prop_assert_eq!((read.role, read.first, read.last), (LinkRole::Receiver, first, last.unwrap_or(first)));
        prop_assert_eq!(read_outcome(read.state.unwrap()).unwrap(), Some(outcome.clone()));
        let mut ours = BytesMut::new();
        put_outcome(&mut ours, &outcome);
        let theirs: msg::DeliveryState = serde_amqp::from_slice(&ours).unwrap();
        prop_assert_eq!(theirs, their_state(&outcome));
    }

    #[test]
    fn opens_and_begins(name in "\\PC{0,300}", sizes: (u32, u16), idle in option::of(any::<u32>()), ids: (u32, u32, u32)) {
        let open = Open {
            container_id: &name, hostname: None, max_frame_size: sizes.0, channel_max: sizes.1, idle_time_out: idle,
        };
        let mut ours = BytesMut::new();
        open.write(&mut ours, &["A", "B"], &[("product", "x")]);
        let read: perf::Open = serde_amqp::from_slice(&ours).unwrap();
        prop_assert_eq!(&read.container_id, &name);
        prop_assert_eq!(read.offered_capabilities.as_ref().map(|list| list.0.len()), Some(2));
        let bytes = serde_amqp::to_vec(&read).unwrap();
        prop_assert_eq!(Open::read(composite(0x10, &bytes)).unwrap(), open);
        let begin = Begin {
            remote_channel: Some(sizes.1), next_outgoing_id: ids.0, incoming_window: ids.1, outgoing_window: ids.2,
            handle_max: sizes.0,
        };
        let mut ours = BytesMut::new();
        begin.write(&mut ours);
        let read: perf::Begin = serde_amqp::from_slice(&ours).unwrap();
        let bytes = serde_amqp::to_vec(&read).unwrap();
        prop_assert_eq!(Begin::read(composite(0x11, &bytes)).unwrap(), begin);
    }

    #[test]
    fn attaches(name in "\\PC{0,40}", handle: u32, address in option::of("\\PC{0,40}"), dynamic: bool, copy: bool) {
        let terminus = Terminus {
            address: address.as_deref(),
            durable: 2,
            expiry_policy: Some("never"),
            timeout: 9,
            dynamic,
            copy,
            default_outcome: Some(Outcome::Released),
            capabilities: vec!["queue", "unheard-of"],
            ..Terminus::default()
        };
        let (mut source, mut target) = (BytesMut::new(), BytesMut::new());
        terminus.write_source(&mut source, &[]);
        terminus.write_target(&mut target);
        let attach = Attach {
            name: &name, handle, role: LinkRole::Sender, snd_settle_mode: SndSettleMode::Settled,
            source: Some(&source), target: Some(&target), initial_delivery_count: Some(1), max_message_size: 77,
            properties: None,
        };
        let mut ours = BytesMut::new();
        attach.write(&mut ours);
        let read: perf::Attach = serde_amqp::from_slice(&ours).unwrap();
        prop_assert_eq!(&read.source.as_ref().unwrap().address, &address);
        let bytes = serde_amqp::to_vec(&read).unwrap();
        let back = Attach::read(composite(0x12, &bytes)).unwrap();
        prop_assert_eq!((back.name, back.handle, back.role), (&name[..], handle, LinkRole::Sender));
        // Only capabilities that are understood are in force.
        let source = Terminus::read(back.source.unwrap()).unwrap();
        let outcomes = source.outcomes.clone();
        prop_assert_eq!(outcomes.len(), 4);
        let expected = Terminus { capabilities: vec!["queue"], outcomes, ..terminus };
        prop_assert_eq!(source, expected);
    }
}

#[test]
fn an_array_of_nothing_does_not_become_many_values() {
    // Four thousand million nulls in twelve bytes.
    let bomb = [0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40];
    assert_eq!(read_value(&bomb), Err(super::CodecError::Count));
    let deep = [0xc0, 3, 1];
    assert!(read_value(&deep).is_err());
    let described = vec![0x00; 10_000];
    assert_eq!(read_value(&described), Err(super::CodecError::Depth));
    assert_eq!(Reader::new(&described).skip(), Err(super::CodecError::Depth));
}
