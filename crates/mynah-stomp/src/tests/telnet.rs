//! A person at a terminal.

use super::Client;

/// What telnet sends when a person types: CR LF for Enter, NUL and CR LF for Ctrl-@ and Enter.
fn typed(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn a_session_typed_by_hand() {
    let mut client = Client::new();
    // Options come first, unasked.
    client.held = b"\xff\xfd\x03\xff\xfb\x18\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0".to_vec();
    client.show();
    client.play(&typed(&["", "CONNECT", "login: guest", "passcode: guest", "", "^"]));
    assert_eq!(client.take_calls(), ["authenticate guest guest", "open  STOMP 1.0 None None"]);
    let wire = client.wire();
    assert!(
        wire.starts_with("CONNECTED\nversion:1.0\nsession:mynah-7\n") && wire.ends_with("\n\n^\n"),
        "{wire}"
    );

    client.play(&typed(&["SUBSCRIBE", "destination: /topic/a.b", "", "^"]));
    client.play(&typed(&["SEND", "destination: /queue/foo", "receipt: 1", "", "hello", "^"]));
    assert_eq!(
        client.take_calls(),
        ["attach 1 topic a/b Connection settled=true Socket", "publish queue:foo AtMostOnce No"]
    );
    assert_eq!(client.wire(), "RECEIPT\nreceipt-id:1\n\n^\n");
    client.play(&typed(&["DISCONNECT", "receipt:2", "", "^"]));
    assert_eq!(client.wire(), "RECEIPT\nreceipt-id:2\n\n^\n");
    assert!(client.is_closed());
}

#[test]
fn what_is_typed_before_the_nul_is_the_body() {
    let mut client = Client::open("1.2");
    client.feed("SEND\r\ndestination:/queue/a\r\n\r\nhello\r\n^\r\n");
    assert_eq!(client.host.calls.pop_front().unwrap().body.as_ref(), b"hello\r\n");
    // LF and CR LF may be mixed in one frame.
    client.feed("SEND\ndestination:/queue/a\r\n\nhello^");
    assert_eq!(client.host.calls.pop_front().unwrap().body.as_ref(), b"hello");
}

#[test]
fn a_mistake_is_explained() {
    let says = |text: &str, expected: &str| {
        let mut client = Client::new();
        client.play(text);
        let wire = client.wire();
        assert!(wire.contains(expected), "{text}: {wire}");
        assert!(client.is_closed());
    };
    says("connect\r\n", "in capital letters");
    says("CONNECT\r\n^", "empty line");
    says("CONNECT\r\nlogin guest\r\n", "name:value");
    says("GET / HTTP/1.1\r\n", "no command of a client");
}
