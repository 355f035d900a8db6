//! Whatever bytes come and however they are split: no panic, bounded output, and always the same result.

use mynah_core::testing::Call;
use proptest::prelude::*;

use super::{NONE, Pair, basic_publish, body, header, method, publish};
use crate::codec::method::{Request, Response};

/// A session of a client, after the login.
fn script() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut say = |part: &[u8]| bytes.extend_from_slice(part);
    say(&method(2, Request::ChannelOpen { out_of_band: "" }));
    say(&method(1, Request::ConfirmSelect { no_wait: false }));
    say(&publish(1, "", "q", b"hello"));
    say(&publish(1, "amq.topic", "a.b", b""));
    say(&method(1, basic_publish("e", "k", true)));
    say(&method(2, basic_publish("", "r", false)));
    say(&header(1, 6, &[0x10, 0, 2]));
    say(&header(2, 3, &[0x80, 0, 1, b'a']));
    say(&body(1, b"abc"));
    say(&body(2, b"xyz"));
    say(&body(1, b"def"));
    say(b"\x08\0\0\0\0\0\0\xce");
    say(&method(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 5, global: true }));
    say(&method(
        2,
        Request::QueueDeclare {
            ticket: 0,
            queue: "q",
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: NONE,
        },
    ));
    say(&method(
        2,
        Request::BasicConsume {
            ticket: 0,
            queue: "",
            tag: "c",
            no_local: false,
            no_ack: false,
            exclusive: false,
            no_wait: false,
            arguments: NONE,
        },
    ));
    say(&method(2, Request::BasicCancel { tag: "c", no_wait: false }));
    say(&method(1, Request::BasicAck { tag: 5, multiple: false }));
    say(&publish(1, "", "q", b"discarded"));
    say(&method(1, Request::ChannelCloseOk {}));
    say(&method(1, Request::ChannelOpen { out_of_band: "" }));
    say(&method(1, Request::TxSelect {}));
    say(&publish(1, "", "q", b"in the transaction"));
    say(&method(1, Request::TxCommit {}));
    say(&method(0, Request::ConnectionClose { code: 200, text: "", class: 0, method: 0 }));
    bytes
}

/// What comes of bytes: what the broker was asked, what the client got, how it ended.
fn outcome(parts: &[&[u8]]) -> (Vec<Call>, Vec<u8>, String) {
    let mut pair = Pair::open();
    let mut calls = Vec::new();
    for part in parts {
        pair.bytes(part);
        while !pair.host.calls.is_empty() {
            calls.extend(pair.host.calls.iter().cloned());
            pair.agree();
        }
    }
    let end = format!("{:?} {:?}", pair.violation, pair.host.closed);
    (calls, pair.host.take_wire().to_vec(), end)
}

/// Acks of one batch are one frame, so the wire depends on how bytes are split; what it says does not.
fn acks_apart(wire: &[u8]) -> Vec<String> {
    let mut acked = 0;
    let mut all = Vec::new();
    for line in super::shown(wire) {
        let ack = line.strip_prefix("1 BasicAck { tag: ").and_then(|rest| rest.split(',').next());
        match ack.and_then(|tag| tag.parse::<u64>().ok()) {
            Some(tag) => {
                all.extend((acked + 1..=tag).map(|tag| format!("ack {tag}")));
                acked = tag;
            }
            None => all.push(line),
        }
    }
    all.sort();
    all
}

#[test]
fn the_session_says_what_it_should() {
    let script = script();
    let (calls, wire, end) = outcome(&[&script]);
    assert!(end.contains("Clean"), "{end}");
    assert_eq!(calls.iter().filter(|call| call.text.starts_with("publish")).count(), 5);
    let wire = super::shown(&wire);
    assert!(wire.iter().any(|line| line.contains("unknown delivery tag 5")), "{wire:?}");
    assert_eq!(wire.last().map(String::as_str), Some("0 ConnectionCloseOk"));
}

#[test]
fn every_split_in_two_gives_the_same() {
    let script = script();
    let (calls, wire, end) = outcome(&[&script]);
    for at in 0..script.len() {
        let (first, second) = script.split_at(at);
        let split = outcome(&[first, second]);
        let texts = |calls: &[Call]| {
            let mut texts: Vec<_> = calls.iter().map(|call| (call.text.clone(), call.body.clone())).collect();
            texts.sort();
            texts
        };
        assert_eq!(texts(&split.0), texts(&calls), "at {at}");
        assert_eq!(acks_apart(&split.1), acks_apart(&wire), "at {at}");
        assert_eq!(split.2, end, "at {at}");
    }
}

#[test]
fn byte_by_byte_gives_the_same() {
    let script = script();
    let (_, wire, end) = outcome(&[&script]);
    let parts: Vec<&[u8]> = script.chunks(1).collect();
    let split = outcome(&parts);
    assert_eq!(acks_apart(&split.1), acks_apart(&wire));
    assert_eq!(split.2, end);
}

/// What a machine that is not the script's author might send.
fn survive(bytes: &[u8], at: usize) {
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let whole = outcome(&[bytes]);
    let split = outcome(&[first, second]);
    assert_eq!(whole.2, split.2);
    // Whether a channel closes before or after the broker has answered its publishes is a matter of time.
    let said = |wire: &[u8]| {
        let mut said = acks_apart(wire);
        said.retain(|line| !line.starts_with("ack "));
        said
    };
    assert_eq!(said(&whole.1), said(&split.1));
    assert!(whole.1.len() <= bytes.len() * 64 + 4096, "{} bytes for {}", whole.1.len(), bytes.len());
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize) {
        survive(&bytes, at);
        let mut pair = Pair::with(crate::Amqp091Config::default());
        pair.bytes(&bytes);
    }

    #[test]
    fn arbitrary_frames(
        frames in proptest::collection::vec(
            (prop_oneof![4 => Just(1_u8), 1 => Just(2), 1 => Just(3), 1 => Just(8)], 0..3_u16,
             prop_oneof![Just(10_u16), Just(20), Just(40), Just(50), Just(60), Just(85), Just(90)], 0..130_u16,
             proptest::collection::vec(any::<u8>(), 0..24)),
            1..12,
        ),
        at in 0..400_usize,
    ) {
        let mut bytes = bytes::BytesMut::new();
        for (kind, channel, class, id, arguments) in frames {
            crate::codec::frame::put(&mut bytes, kind, channel, |buf| {
                use bytes::BufMut;
                buf.put_u16(class);
                buf.put_u16(id);
                buf.put_slice(&arguments);
            });
        }
        survive(&bytes, at);
    }

    #[test]
    fn mutated_sessions(
        changes in proptest::collection::vec((0..2000_usize, any::<u8>()), 1..6),
        cut in 0..2000_usize,
        at in 0..2000_usize,
    ) {
        let mut bytes = script();
        for (place, value) in changes {
            let len = bytes.len();
            bytes[place % len] = value;
        }
        if cut < bytes.len() {
            bytes.remove(cut);
        }
        survive(&bytes, at);
    }

    #[test]
    fn methods_come_back(class in 0..100_u16, id in 0..130_u16, arguments in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = vec![];
        bytes.extend_from_slice(&class.to_be_bytes());
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&arguments);
        let mut again = bytes::BytesMut::new();
        if let Ok(request) = Request::read(&bytes) {
            request.write(&mut again);
            prop_assert_eq!(Request::read(&again), Ok(request));
        }
        again.clear();
        if let Ok(response) = Response::read(&bytes) {
            response.write(&mut again);
            prop_assert_eq!(Response::read(&again), Ok(response));
        }
    }

    #[test]
    fn declarations_come_back(
        name in ".{0,60}",
        kind in "[a-z]{0,12}",
        bits in any::<[bool; 5]>(),
        ticket in any::<u16>(),
    ) {
        let [passive, durable, exclusive, auto_delete, no_wait] = bits;
        let mut bytes = bytes::BytesMut::new();
        let queue = Request::QueueDeclare {
            ticket, queue: &name, passive, durable, exclusive, auto_delete, no_wait, arguments: NONE,
        };
        queue.write(&mut bytes);
        prop_assert_eq!(Request::read(&bytes), Ok(queue));
        bytes.clear();
        let exchange = Request::ExchangeDeclare {
            ticket, exchange: &name, kind: &kind, passive, durable, auto_delete, internal: exclusive, no_wait,
            arguments: NONE,
        };
        exchange.write(&mut bytes);
        prop_assert_eq!(Request::read(&bytes), Ok(exchange));
        bytes.clear();
        let deliver = Response::BasicDeliver {
            consumer: &kind, tag: u64::from(ticket) << 40, redelivered: passive, exchange: &name, key: &kind,
        };
        deliver.write(&mut bytes);
        prop_assert_eq!(Response::read(&bytes), Ok(deliver));
    }
}
