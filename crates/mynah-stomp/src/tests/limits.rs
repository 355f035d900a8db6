//! Bounds.

use mynah_core::protocol::ViolationKind;

use super::{ALL, Client, check_error};
use crate::StompConfig;

#[test]
fn bounds_of_a_frame() {
    let line = format!("SEND\nk:{}", "x".repeat(64 << 10));
    check_error(ALL, &line, "header too long", "65536");
    let many: String = (0..=1000).map(|n| format!("k{n}:v\n")).collect();
    check_error(ALL, &format!("SEND\n{many}"), "too many headers", "1000");
    check_error(ALL, "SEND\ncontent-length:16777217\n", "body too long", "16777216");
    check_error(ALL, "SENDSENDSENDSENDSENDSENDSENDSENDSEND", "no command", "CONNECT");
    let big = format!("SEND\n\n{}", "x".repeat((16 << 20) + 1));
    check_error(&["1.2"], &big, "body too long", "parts");
}

#[test]
fn a_refused_frame_names_its_receipt() {
    check_error(ALL, "SEND\nreceipt:r1\ncontent-length:99999999\n", "body too long", "receipt-id:r1\n");
}

#[test]
fn before_login_little_is_taken() {
    let says = |text: &str, message: &str| {
        let mut client = Client::new();
        client.feed(text);
        let wire = client.wire();
        assert!(wire.contains(&format!("message:{message}\n")), "{wire}");
        assert_eq!(client.failed.map(|violation| violation.kind), Some(ViolationKind::Limit));
    };
    says(&format!("CONNECT\nk:{}", "x".repeat(33 << 10)), "headers too long");
    says("CONNECT\ncontent-length:40000\n", "body too long");
    says(&format!("CONNECT\n\n{}", "x".repeat(33 << 10)), "body too long");
}

#[test]
fn bounds_of_a_connection() {
    let config = StompConfig {
        subscriptions_max: 1,
        temp_queues_max: 1,
        transactions_max: 1,
        receipts_max: 2,
        ..StompConfig::default()
    };
    let says = |frames: &str, message: &str| {
        let mut client = Client::with(config.clone());
        client.log_in("1.2");
        client.play(frames);
        let wire = client.wire();
        assert!(wire.contains(&format!("message:{message}\n")), "{wire}");
    };
    says(
        "SUBSCRIBE\nid:0\ndestination:/queue/a\n\n^SUBSCRIBE\nid:1\ndestination:/queue/b\n\n^",
        "too many subscriptions",
    );
    says(
        "SEND\ndestination:/temp-queue/a\n\n^SEND\ndestination:/temp-queue/b\n\n^",
        "too many temporary queues",
    );
    says("BEGIN\ntransaction:a\n\n^BEGIN\ntransaction:b\n\n^", "too many transactions");

    let mut client = Client::with(config.clone());
    client.log_in("1.2");
    client.feed(&"SEND\ndestination:/queue/a\nreceipt:1\n\nx^".repeat(5));
    assert_eq!(client.asked().len(), 2, "no more is read until receipts were written");
    assert!(!client.held.is_empty());
}
