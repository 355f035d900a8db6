//! What is no STOMP, or not the STOMP of this version.

use super::{ALL, Client, LATER, check, check_error};

#[test]
fn undefined_escapes_are_fatal() {
    // [STOMP 1.2, Value Encoding]
    check_error(LATER, "SEND\ndestination:/queue/a\nk:\\t\n\n^", "undefined escape", "\\\\");
    check_error(LATER, "SEND\nreceipt:7\nk:\\t\n\n^", "undefined escape", "receipt-id:7\n");
    check_error(&["1.1"], "SEND\ndestination:/queue/a\nk:\\r\n\n^", "undefined escape", "\\\\");
}

#[test]
fn escapes_are_read_by_version() {
    let send = "SEND\ndestination:/queue/a\\cb\n\nx^";
    check(LATER, send, &["publish queue:a:b AtMostOnce No"], "");
    check(&["1.0"], send, &["publish queue:a\\cb AtMostOnce No"], "");
    check(&["1.2"], "SEND\ndestination:/queue/a\\r\n\nx^", &["publish queue:a\r AtMostOnce No"], "");
}

#[test]
fn receipts_are_written_by_version() {
    let begin = "BEGIN\ntransaction:t\nreceipt:a\\cb\n\n^";
    let calls = ["transact Begin(TransactionId(1))"];
    check(LATER, begin, &calls, "RECEIPT\nreceipt-id:a\\cb\n\n^\n");
    check(&["1.0"], begin, &calls, "RECEIPT\nreceipt-id:a\\cb\n\n^\n");
    let begin = "BEGIN\ntransaction:t\nreceipt:a:b\n\n^";
    check(LATER, begin, &calls, "RECEIPT\nreceipt-id:a\\cb\n\n^\n");
    check(&["1.0"], begin, &calls, "RECEIPT\nreceipt-id:a:b\n\n^\n");
}

#[test]
fn headers_must_be_utf8() {
    for version in ALL {
        let mut client = Client::open(version);
        client.held = b"SEND\ndestination:/queue/\xe9\n\nx\0".to_vec();
        client.show();
        assert!(client.wire().contains("message:headers not in UTF-8\n"));
        assert!(client.is_closed());
    }
}

#[test]
fn unknown_commands_and_those_of_servers() {
    for command in ["MESSAGE", "RECEIPT", "ERROR", "CONNECTED", "SUBSCRIBED", "send", "SEND "] {
        check_error(ALL, &format!("{command}\n\n^"), "no command", "capital letters");
    }
}
