//! From the first byte to the open, and the end of connections and sessions.

use fe2o3_amqp_types::sasl::SaslInit;
use mynah_core::protocol::{Detect, Farewell, Input, Notice, Refusal, RefusalKind, Reply, ViolationKind};

use super::*;

fn sasl_init(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let init = SaslInit {
        mechanism: mechanism.into(),
        initial_response: Some(response.to_vec().into()),
        hostname: None,
    };
    let body = serde_amqp::to_vec(&init).unwrap();
    let mut bytes = Vec::new();
    bytes.put_u32(8 + body.len() as u32);
    bytes.put_slice(&[2, 1, 0, 0]);
    bytes.put_slice(&body);
    bytes
}

const SASL: &[u8] = b"AMQP\x03\x01\x00\x00";
const AMQP: &[u8] = b"AMQP\x00\x01\x00\x00";

#[test]
fn everything_in_one_packet() {
    // [AMQP 2.4.1, 5.3.1] A frame behind the SASL header must not be lost.
    let mut client = Client::new(Amqp10Config::default());
    let all = [
        SASL,
        &sasl_init("PLAIN", b"\0guest\0secret"),
        AMQP,
        &frame(0, &open("me", 1000), b""),
        &frame(3, &begin(10), b""),
    ]
    .concat();
    for byte in all {
        client.raw(&[byte]);
    }
    client.asked(&["authenticate guest secret"]);
    client.reply(vec![(
        Ticket((1 << 63) | 1),
        Reply::Authenticated { user: "guest".into(), proof: bytes::Bytes::new() },
    )]);
    assert_eq!(client.host.calls[0].text, "open me AMQP 1.0 None None");
    client.agree();
    let wire = client.host.wire.clone();
    assert!(wire.starts_with(SASL));
    assert!(wire.windows(8).any(|bytes| bytes == AMQP));
    let tail = wire.windows(8).position(|bytes| bytes == AMQP).unwrap() + 8;
    client.host.wire.advance(tail);
    client.expect(&["open", "[3] begin Some(3)"]);
    assert!(client.violation.is_none());
}

#[test]
fn mechanisms_are_offered() {
    let mut client = Client::new(Amqp10Config::default());
    client.raw(SASL);
    let mut wire = client.host.take_wire();
    wire.advance(16);
    let offered: fe2o3_amqp_types::sasl::SaslMechanisms = serde_amqp::from_slice(&wire).unwrap();
    let names: Vec<&str> = offered.sasl_server_mechanisms.iter().map(|symbol| symbol.as_str()).collect();
    assert_eq!(names, ["PLAIN", "ANONYMOUS"]);
    client.raw(&sasl_init("ANONYMOUS", b"x@y"));
    client.asked(&["authenticate anonymous"]);
}

#[test]
fn a_wrong_password_is_told() {
    // [AMQP 5.3.3.6] outcome with code auth, then the connection closes.
    let mut client = Client::new(Amqp10Config::default());
    client.raw(&[SASL, &sasl_init("PLAIN", b"\0guest\0wrong")].concat());
    let ticket = client.ticket();
    client.host.take_wire();
    let refusal = Refusal::new(RefusalKind::Unauthenticated, "wrong user or password");
    client.reply(vec![(ticket, Reply::Refused(refusal))]);
    let mut wire = client.host.take_wire();
    wire.advance(8);
    let outcome: fe2o3_amqp_types::sasl::SaslOutcome = serde_amqp::from_slice(&wire).unwrap();
    assert_eq!(outcome.code, fe2o3_amqp_types::sasl::SaslCode::Auth);
    assert_eq!(client.violation.unwrap().kind, ViolationKind::Unauthenticated);
}

#[test]
fn a_mechanism_that_was_not_offered_is_refused() {
    let mut client = Client::new(Amqp10Config::default());
    client.raw(&[SASL, &sasl_init("EXTERNAL", b"")].concat());
    assert_eq!(client.violation.as_ref().unwrap().kind, ViolationKind::Unauthenticated);
    client.asked(&[]);
}

#[test]
fn a_bare_header_is_anonymous() {
    let mut client = Client::new(Amqp10Config::default());
    client.raw(AMQP);
    let ticket = client.ticket();
    let refusal = Refusal::new(RefusalKind::Unauthenticated, "log in");
    client.reply(vec![(ticket, Reply::Refused(refusal))]);
    client.expect(&["open", "close amqp:unauthorized-access"]);
    assert_eq!(client.violation.unwrap().kind, ViolationKind::Unauthenticated);
}

#[test]
fn a_wrong_header_is_answered_with_the_right_one() {
    // [AMQP 2.2]
    let mut client = Client::new(Amqp10Config::default());
    client.raw(b"GET / HT");
    assert_eq!(client.host.take_wire(), SASL);
    assert!(client.violation.is_some());
    assert_eq!(Amqp10::default().detect(b"AMQP\x00\x00\x09\x01"), Detect::No);
    assert_eq!(Amqp10::default().refuse_unknown(), SASL);
}

#[test]
fn a_virtual_host_is_asked_for_by_its_prefix() {
    let mut client = Client::new(Amqp10Config::default());
    client.raw(AMQP);
    client.agree();
    let Performative::Open(mut open) = open("me", 512) else { unreachable!() };
    open.hostname = Some("vhost:tenant".to_owned());
    client.send(0, Performative::Open(open));
    client.asked(&["open me AMQP 1.0 Some(\"tenant\") None"]);
}

#[test]
fn a_frame_size_below_the_minimum_is_refused() {
    // [AMQP 2.4.1]
    let mut client = Client::new(Amqp10Config::default());
    client.raw(AMQP);
    client.agree();
    client.host.take_wire();
    client.send(0, open("me", 511));
    client.expect(&["open", "close amqp:invalid-field"]);
}

#[test]
fn close_is_answered() {
    let mut client = Client::begun();
    client.send(0, close());
    client.expect(&["close"]);
    assert_eq!(client.host.closed, Some(Farewell::Clean { expiry: None }));
    client.raw(b"whatever");
    assert!(client.violation.is_none());
}

#[test]
fn sessions_are_many_and_end_each_alone() {
    let mut client = Client::begun();
    client.send(5, begin(10));
    client.send(0, Performative::End(fe2o3_amqp_types::performatives::End { error: None }));
    client.send(0, begin(10));
    client.expect(&["[5] begin Some(5)", "end", "begin Some(0)"]);
}

#[test]
fn limits_of_channels_and_handles() {
    // [AMQP 2.7.1, 2.7.2] both are the connection's end.
    let config = || Amqp10Config { channel_max: 1, handle_max: 1, ..Amqp10Config::default() };
    let mut client = Client::begun_with(config(), 512, 10);
    client.send(2, begin(10));
    client.expect(&["close amqp:connection:framing-error"]);
    let mut client = Client::begun_with(config(), 512, 10);
    client.send(0, attach_sender("s", 2, Some("q")));
    client.expect(&["close amqp:connection:framing-error"]);
    let mut client = Client::begun();
    client.send(9, detach(0, true));
    client.expect(&["close amqp:not-allowed"]);
}

#[test]
fn session_errors_end_the_session_only() {
    // [AMQP 2.8.17]
    let mut client = Client::begun();
    client.send(1, begin(10));
    client.host.take_wire();
    client.send(0, link_flow(4, None, 1, false));
    client.expect(&["end amqp:session:unattached-handle"]);
    // What was on its way is dropped until the peer's own end.
    client.send(0, link_flow(4, None, 1, false));
    client.send(0, Performative::End(fe2o3_amqp_types::performatives::End { error: None }));
    client.send(1, attach_sender("s", 0, None));
    client.send(1, attach_sender("t", 0, None));
    let texts = client.texts();
    assert_eq!(texts.last().unwrap(), "[1] end amqp:session:handle-in-use");
    assert!(client.violation.is_none());
}

#[test]
fn silence_ends_the_connection_and_the_broker_speaks_in_time() {
    // [AMQP 2.4.5]
    let config = Amqp10Config { idle_time_out: Some(Duration::from_secs(4)), ..Amqp10Config::default() };
    let mut client = Client::new(config);
    client.raw(AMQP);
    client.agree();
    let Performative::Open(mut open) = open("me", 512) else { unreachable!() };
    open.idle_time_out = Some(2000);
    client.send(0, Performative::Open(open));
    client.agree();
    let got = client.got();
    let Some(Performative::Open(answer)) = &got[0].performative else { unreachable!() };
    assert_eq!(answer.idle_time_out, Some(2000));
    for _ in 0..3 {
        client.wait(1000);
        client.expect(&["empty"]);
    }
    client.raw(&[0, 0, 0, 8, 2, 0, 0, 0]);
    for _ in 0..3 {
        client.wait(1000);
        client.expect(&["empty"]);
    }
    client.wait(1000);
    client.expect(&["close amqp:resource-limit-exceeded"]);
    assert_eq!(client.violation.as_ref().unwrap().kind, ViolationKind::Timeout);
    assert_eq!(client.conn.deadline(), None);
}

#[test]
fn a_login_has_its_time() {
    let mut client = Client::new(Amqp10Config::default());
    client.raw(SASL);
    client.wait(9_999);
    assert!(client.violation.is_none());
    client.wait(1);
    assert_eq!(client.violation.unwrap().kind, ViolationKind::Timeout);
}

#[test]
fn the_broker_says_good_bye() {
    let mut client = Client::begun();
    client.input(Input::Shutdown);
    client.expect(&["close amqp:connection:forced"]);
    assert!(client.host.closed.is_some());
    let mut client = Client::begun();
    client.notice(Notice::Kicked { reason: "maintenance".into() });
    client.expect(&["close amqp:connection:forced"]);
}
