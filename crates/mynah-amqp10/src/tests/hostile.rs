//! Bytes that no honest client sends: cut, mutated, out of order. No panic, and never more out than what came in explains.

use fe2o3_amqp_types::messaging::Accepted;
use mynah_core::protocol::ViolationKind;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A whole life of a connection, frame by frame.
fn script() -> Vec<Vec<u8>> {
    let plain = |performative: Performative| frame(0, &performative, b"");
    let carry = |transfer: Transfer, payload: &[u8]| frame(0, &Performative::Transfer(transfer), payload);
    let body = data(b"hello");
    vec![
        b"AMQP\x00\x01\x00\x00".to_vec(),
        plain(open("me", 1024)),
        plain(begin(50)),
        plain(attach_sender("s", 0, Some("q"))),
        plain(attach_receiver("r", 1, "/topics/a/#")),
        plain(attach_sender("t", 2, None)),
        plain(link_flow(1, Some(0), 10, false)),
        carry(transfer(0, Some(0), false, false), &body),
        carry(transfer(0, Some(1), false, true), &body[..4]),
        carry(transfer(0, None, false, false), &body[4..]),
        carry(transfer(2, Some(2), true, false), &body),
        plain(disposition(0, Some(3), false, DeliveryState::Accepted(Accepted {}))),
        plain(link_flow(1, Some(2), 5, true)),
        vec![0, 0, 0, 8, 2, 0, 0, 0],
        plain(detach(1, false)),
        plain(detach(0, true)),
        plain(Performative::End(fe2o3_amqp_types::performatives::End { error: None })),
        plain(begin(1)),
        plain(close()),
    ]
}

/// Feeds bytes at the given cuts; the broker agrees to everything and sends messages now and then.
fn feed(bytes: &[u8], cuts: &[usize], deliver: bool) -> (Client, Vec<String>) {
    let mut client = Client::new(Amqp10Config::default());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let mut calls = Vec::new();
    for pair in cuts.windows(2) {
        client.raw(&bytes[pair[0]..pair[1]]);
        for _ in 0..4 {
            calls.extend(client.host.calls.iter().map(|call| call.text.clone()));
            let replies = client.host.agree();
            client.reply(replies);
        }
        if deliver {
            client.deliver(vec![delivery(1, 1, &[0; 3000]), delivery(2, 2, b"x")]);
            client.notice(Notice::Drained { consumer: ConsumerId(1) });
        }
        if client.violation.is_some() {
            break;
        }
    }
    (client, calls)
}

#[test]
fn every_split_gives_the_same() {
    let bytes = script().concat();
    // Nobody sends before the attach is answered.
    let attached = script()[..6].concat().len();
    let (mut whole, calls) = feed(&bytes, &[attached], false);
    let wire = whole.host.take_wire();
    assert!(whole.violation.is_none());
    assert!(whole.host.closed.is_some());
    assert!(calls.iter().any(|call| call.starts_with("publish queue:q")), "{calls:?}");
    for cut in 0..bytes.len() {
        let (mut client, cut_calls) = feed(&bytes, &[cut, attached], false);
        assert_eq!(cut_calls, calls, "cut at {cut}");
        // Only how outcomes are gathered into ranges depends on what came together.
        assert!(client.host.take_wire().len().abs_diff(wire.len()) < 64, "cut at {cut}");
        assert!(client.violation.is_none());
    }
}

#[test]
fn every_truncation_waits() {
    let bytes = script().concat();
    for len in 0..bytes.len() {
        let (client, _) = feed(&bytes[..len], &[], true);
        assert!(client.violation.is_none(), "cut off at {len}");
    }
}

proptest! {
    #[test]
    fn mutated_scripts(
        cuts in vec(any::<usize>(), 0..6),
        changes in vec((any::<usize>(), any::<u8>()), 1..6),
        deliver: bool,
    ) {
        let mut bytes = script().concat();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let (client, _) = feed(&bytes, &cuts, deliver);
        // Each frame has at most a few answers, each delivery its own size.
        prop_assert!(client.host.wire.len() < 64 * 1024 + 64 * bytes.len());
    }

    #[test]
    fn shuffled_scripts(order in vec(0..19usize, 1..40), deliver: bool) {
        let script = script();
        let mut bytes = script[..3].concat();
        for at in order {
            bytes.extend_from_slice(&script[at]);
        }
        let (client, _) = feed(&bytes, &[bytes.len() / 2], deliver);
        prop_assert!(client.host.wire.len() < 64 * 1024 + 64 * bytes.len());
    }

    #[test]
    fn arbitrary_bodies(bodies in vec(vec(any::<u8>(), 0..60), 1..8), deliver: bool) {
        let mut bytes = script()[..6].concat();
        for body in bodies {
            bytes.put_u32(8 + body.len() as u32);
            bytes.put_slice(&[2, 0, 0, 0]);
            bytes.put_slice(&body);
        }
        feed(&bytes, &[], deliver);
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200), sasl: bool) {
        let header: &[u8] = if sasl { b"AMQP\x03\x01\x00\x00" } else { b"" };
        feed(&[header, &bytes].concat(), &[3], false);
    }
}

#[test]
fn what_is_no_frame_closes_with_an_error() {
    // [AMQP 2.3.1, 2.8.16]
    let check = |bytes: &[u8], expected: &str, kind: ViolationKind| {
        let mut client = Client::begun();
        client.raw(bytes);
        client.expect(&[expected]);
        assert_eq!(client.violation.as_ref().unwrap().kind, kind);
    };
    let framing = "close amqp:connection:framing-error";
    check(&[0, 0, 0, 8, 1, 0, 0, 0], framing, ViolationKind::Malformed);
    check(&[0, 0, 0, 8, 2, 1, 0, 0], framing, ViolationKind::Malformed);
    check(&[0x7f, 0, 0, 0], framing, ViolationKind::Malformed);
    check(&[0, 0, 0, 9, 2, 0, 0, 0, 9], "close amqp:decode-error", ViolationKind::Malformed);
    check(&[0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x99, 0x45], "close amqp:not-allowed", ViolationKind::Protocol);
}

#[test]
fn a_declared_length_is_not_believed() {
    let mut client = Client::begun();
    client.sender(0, "q");
    // A data section that claims four gigabytes.
    client.transfer(transfer(0, Some(0), false, false), b"\x00\x53\x75\xb0\xff\xff\xff\xffx");
    client.expect(&["disposition Receiver 0..None rejected amqp:decode-error"]);
}

#[test]
fn unfinished_messages_of_many_links_are_bounded_together() {
    let config = Amqp10Config { message_bytes_max: 1000, ..Amqp10Config::default() };
    let mut client = Client::begun_with(config, 1024, 10);
    for handle in 0..4 {
        client.sender(handle, "/topics/t");
    }
    for handle in 0..3 {
        client.transfer(transfer(handle, Some(handle), true, true), &[0; 900]);
    }
    client.expect(&["detach 2 closed amqp:resource-limit-exceeded"]);
    client.send(0, detach(0, true));
    client.host.take_wire();
    client.transfer(transfer(3, Some(3), true, true), &[0; 900]);
    client.expect(&[]);
}
