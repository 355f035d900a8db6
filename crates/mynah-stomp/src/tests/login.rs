//! CONNECT, CONNECTED and the time before.

use std::time::Duration;

use mynah_core::protocol::{Refusal, RefusalKind, Reply, ViolationKind};

use super::Client;

const CONNECTED: &str = "server:mynah/0.1.0\n";

fn check(connect: &str, calls: &[&str], wire: &str) {
    let mut client = Client::new();
    client.play(connect);
    assert_eq!(client.take_calls(), calls, "{connect}");
    assert_eq!(client.wire().replace(CONNECTED, ""), wire, "{connect}");
}

#[test]
fn versions_are_negotiated() {
    // [STOMP 1.2, Protocol Negotiation]
    let anonymous = "authenticate anonymous";
    check(
        "CONNECT\n\n^",
        &[anonymous, "open  STOMP 1.0 None None"],
        "CONNECTED\nversion:1.0\nsession:mynah-7\nheart-beat:0,0\n\n^\n",
    );
    check(
        "STOMP\naccept-version:1.0,1.1,2.0\nhost:stomp.github.org\n\n^",
        &[anonymous, "open  STOMP 1.1 None None"],
        "CONNECTED\nversion:1.1\nsession:mynah-7\nheart-beat:0,0\n\n^\n",
    );
    check(
        "CONNECT\naccept-version:1.2,1.1\nclient-id:c\nhost:/\nheart-beat:1000,100\n\n^",
        &[anonymous, "open c STOMP 1.2 Some(\"/\") None"],
        "CONNECTED\nversion:1.2\nsession:c\nheart-beat:500,1000\n\n^\n",
    );
    check(
        "CONNECT\naccept-version:2.1\n\n^",
        &[],
        "ERROR\nversion:1.0,1.1,1.2\nmessage:no common version\ncontent-type:text/plain\ncontent-length:127\n\n\
         accept-version:2.1 names no version this server speaks. Offer at least one of 1.0, 1.1 and 1.2, for \
         example accept-version:1.2\n^\n",
    );
}

#[test]
fn credentials_are_never_unescaped() {
    check(
        "CONNECT\naccept-version:1.2\nlogin:a\\cb\npasscode:p:q\n\n^",
        &["authenticate a\\cb p:q", "open  STOMP 1.2 None None"],
        "CONNECTED\nversion:1.2\nsession:mynah-7\nheart-beat:0,0\n\n^\n",
    );
    // Unless they were refused as they are: some clients escape them.
    let mut client = Client::new();
    client.feed("CONNECT\naccept-version:1.2\nlogin:a\\cb\npasscode:p\n\n^");
    let no = || Reply::Refused(Refusal::new(RefusalKind::Unauthenticated, "wrong login or passcode"));
    let asked = client.asked();
    client.reply(asked[0].0.unwrap(), no());
    let asked = client.asked();
    assert_eq!(asked[0].1, "authenticate a:b p");
    client.reply(asked[0].0.unwrap(), no());
    assert!(client.wire().starts_with("ERROR\nmessage:login refused\n"));
    assert_eq!(client.failed.map(|violation| violation.kind), Some(ViolationKind::Unauthenticated));
}

#[test]
fn blanks_typed_after_the_colon_do_not_matter_in_1_0() {
    check(
        "CONNECT\nlogin: guest\npasscode: secret\n\n^",
        &["authenticate guest secret", "open  STOMP 1.0 None None"],
        "CONNECTED\nversion:1.0\nsession:mynah-7\nheart-beat:0,0\n\n^\n",
    );
}

#[test]
fn a_blank_that_matters_is_explained() {
    let mut client = Client::new();
    client.feed("CONNECT\naccept-version:1.2\nlogin: guest\npasscode: guest\n\n^");
    let asked = client.asked();
    assert_eq!(asked[0].1, "authenticate  guest  guest");
    let no = Refusal::new(RefusalKind::Unauthenticated, "wrong user or password");
    client.reply(asked[0].0.unwrap(), Reply::Refused(no));
    assert!(client.wire().contains("Leave out the blank"));
    super::check_error(super::LATER, "SEND\ndestination: /queue/a\n\n^", "bad header destination", "blank");
}

#[test]
fn an_unknown_virtual_host_is_the_default_one() {
    let mut client = Client::new();
    client.feed("CONNECT\naccept-version:1.2\nhost:/nowhere\n\n^");
    let asked = client.asked();
    client.reply(asked[0].0.unwrap(), Reply::Authenticated { user: "u".into(), proof: bytes::Bytes::new() });
    let asked = client.asked();
    assert_eq!(asked[0].1, "open  STOMP 1.2 Some(\"/nowhere\") None");
    client.reply(asked[0].0.unwrap(), Reply::Refused(Refusal::new(RefusalKind::NotFound, "no such host")));
    let asked = client.asked();
    assert_eq!(asked[0].1, "open  STOMP 1.2 None None");
}

#[test]
fn nothing_is_read_before_the_login_is_answered() {
    let mut client = Client::new();
    client.feed("CONNECT\naccept-version:1.2\n\n^\nSEND\ndestination:/queue/a\n\nx^");
    assert_eq!(client.asked().len(), 1);
    assert!(!client.held.is_empty());
    client.feed("SEND\ndestination:/queue/b\n\nx^");
    assert!(client.asked().is_empty());
}

#[test]
fn a_login_may_take_a_minute() {
    let mut client = Client::new();
    client.feed("CONNECT\n");
    client.pass(Duration::from_secs(59));
    assert_eq!(client.wire(), "");
    client.pass(Duration::from_secs(1));
    assert!(client.wire().starts_with("ERROR\nmessage:login timeout\n"));
    assert_eq!(client.failed.map(|violation| violation.kind), Some(ViolationKind::Timeout));
}

#[test]
fn only_connect_comes_first_and_only_once() {
    let mut client = Client::new();
    client.feed("SEND\ndestination:/queue/a\nreceipt:1\n\nx^");
    assert!(client.wire().starts_with("ERROR\nmessage:not connected\n"));
    super::check_error(super::ALL, "CONNECT\n\n^", "connected already", "another");
}

#[test]
fn heart_beats_go_both_ways() {
    // [STOMP 1.2, Heart-beating]: the client can send each 1,000 ms and wants one each 2,000 ms.
    let mut client = Client::new();
    client.play("CONNECT\naccept-version:1.2\nheart-beat:1000,2000\n\n^");
    assert!(client.wire().contains("heart-beat:2000,1000\n"));
    client.pass(Duration::from_millis(1_199));
    assert_eq!(client.wire(), "");
    client.pass(Duration::from_millis(1));
    assert_eq!(client.wire(), "\n");
    // Any bytes are a sign of life, also half a frame.
    client.feed("SEND\n");
    client.pass(Duration::from_millis(1_500));
    client.pass(Duration::from_millis(1_499));
    assert_eq!(client.failed, None);
    assert_eq!(client.wire(), "\n\n");
    client.feed("destination:/queue/a\n");
    client.pass(Duration::from_millis(2_999));
    assert_eq!(client.failed, None);
    client.wire();
    client.pass(Duration::from_millis(1));
    assert!(client.wire().contains("message:heart-beat missing\n"));
}

#[test]
fn a_client_without_heart_beats_is_never_cut() {
    let client = Client::open("1.2");
    assert_eq!(client.connection.deadline(), None);
}

#[test]
fn a_client_that_waits_for_the_broker_is_not_cut() {
    let mut client = Client::new();
    client.play("CONNECT\naccept-version:1.2\nheart-beat:1000,0\n\n^");
    client.feed("SUBSCRIBE\nid:0\ndestination:/queue/a\n\n^");
    client.pass(Duration::from_secs(60));
    assert_eq!(client.failed, None);
}
