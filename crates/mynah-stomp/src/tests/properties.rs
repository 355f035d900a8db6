//! Anything a peer may send, cut anywhere.

use proptest::prelude::*;

use super::Client;

/// All that was asked and told, and whether it ended.
#[derive(Debug, PartialEq)]
struct Seen {
    calls: Vec<String>,
    wire: String,
    closed: bool,
}

/// Plays the bytes in pieces of these lengths; the broker says yes to everything after each piece.
fn seen(bytes: &[u8], cuts: &[usize]) -> Seen {
    let mut client = Client::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().copied();
    while !rest.is_empty() && !client.is_closed() {
        let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        client.held.extend_from_slice(piece);
        client.show();
        client.agree();
        rest = after;
    }
    let mut seen = Seen { calls: client.take_calls(), wire: String::new(), closed: client.is_closed() };
    // Acknowledgements and questions without receipts are gathered by read.
    seen.calls.retain(|call| !call.starts_with("settle"));
    seen.wire = client.wire();
    seen
}

fn check(bytes: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let whole = seen(bytes, &[]);
    // An ERROR quotes at most some hundred bytes; everything else is a line or two for each frame.
    prop_assert!(whole.wire.len() <= 2_000 + 40 * bytes.len(), "{} from {}", whole.wire.len(), bytes.len());
    prop_assert_eq!(&seen(bytes, cuts), &whole);
    prop_assert_eq!(&seen(bytes, &vec![1; bytes.len()]), &whole);
    Ok(())
}

/// Frames that make sense, one after the other, and some that do not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let connect = prop::sample::select(
        &["CONNECT\n\n^", "STOMP\naccept-version:1.1\n\n^", "CONNECT\r\naccept-version:1.2\r\n\r\n^\r\n"][..],
    );
    let frame = prop::sample::select(
        &[
            "SEND\ndestination:/queue/a\n\nx^",
            "SEND\r\ndestination:/topic/a.b\r\ncontent-length:3\r\nreceipt:1\r\n\r\n^^^^",
            "SEND\ndestination:/queue/a\nreply-to:/temp-queue/t\nk\\cl:v\n\nx^\n",
            "SUBSCRIBE\nid:0\ndestination:/topic/>\nreceipt:s\n\n^",
            "SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client\nprefetch-count:3\n\n^",
            "SUBSCRIBE\nid:2\ndestination:/temp-queue/t\n\n^",
            "UNSUBSCRIBE\nid:0\nreceipt:u\n\n^",
            "ACK\nid:1-1\nmessage-id:1-1\nsubscription:1\n\n^",
            "BEGIN\ntransaction:t\n\n^",
            "COMMIT\ntransaction:t\nreceipt:c\n\n^",
            "ABORT\ntransaction:t\n\n^",
            "DISCONNECT\nreceipt:bye\n\n^",
            "\r\n\r\n^",
        ][..],
    );
    (connect, prop::collection::vec(frame, 0..8))
        .prop_map(|(connect, frames)| super::bytes(&format!("{connect}{}", frames.concat())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(1..20usize, 0..20)) {
        check(&bytes, &cuts)?;
    }

    #[test]
    fn the_letters_of_stomp(bytes in "(CONNECT|SEND|ACK|[a-z:/\\\\0-9\r\n\u{0}\u{ff}-]){0,60}", cuts in prop::collection::vec(1..20usize, 0..20)) {
        check(bytes.as_bytes(), &cuts)?;
    }

    #[test]
    fn frames_however_they_are_cut(bytes in frames(), cuts in prop::collection::vec(1..40usize, 0..20)) {
        check(&bytes, &cuts)?;
    }

    #[test]
    fn frames_with_a_mistake(
        bytes in frames(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        way in 0..3,
        cuts in prop::collection::vec(1..40usize, 0..20),
    ) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        match way {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => { bytes.remove(at); }
        }
        check(&bytes, &cuts)?;
    }
}
