//! Anything a peer may send, cut anywhere.

use proptest::prelude::*;

use bytes::BytesMut;

use super::Client;
use crate::Version;
use crate::codec::{Escape, Frame, Limits, Scanned, Scanner, transcode, write_header};

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

const LIMITS: Limits = Limits { command: 32, line: 10_000, headers: 100, head: 100_000, body: 10_000 };

/// What a reader of that version finds in a frame with these headers and this body.
fn read(version: Version, headers: &[u8], body: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
    let length = format!("content-length:{}\n\n", body.len());
    let bytes = [b"SEND\n", headers, length.as_bytes(), body, b"\0"].concat();
    let mut scanner = Scanner::default();
    let scanned = scanner.next(&bytes, &LIMITS).unwrap();
    assert_eq!(scanned, Scanned::Frame { skip: 0, len: bytes.len() });
    let frame = Frame::found(&bytes, &scanner, Some(version)).unwrap();
    let mut found: Vec<_> = frame
        .headers()
        .map(|(name, value)| (frame.text(name).into_owned(), frame.text(value).into_owned()))
        .collect();
    assert_eq!(found.pop().unwrap().0, "content-length");
    (found, frame.body.to_vec())
}

fn write(version: Version, headers: &[(String, String)]) -> BytesMut {
    let mut out = BytesMut::new();
    headers.iter().for_each(|(name, value)| write_header(Escape::from(version), name, value, &mut out));
    out
}

/// What is left of a text where the version has no escape for it.
fn kept(version: Version, text: &str) -> String {
    let text = text.replace('\0', "");
    match version {
        Version::V1_2 => text,
        Version::V1_1 => text.replace('\r', " "),
        Version::V1_0 => text.replace(['\r', '\n'], " ").trim().to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        headers in prop::collection::vec(("[^\u{0}:]{1,8}|[a-z:\\\\\r\n]{1,8}x", "\\PC{0,10}|[a-z:\\\\\r\n ]{0,10}"), 0..8),
        body in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        for version in [Version::V1_0, Version::V1_1, Version::V1_2] {
            let expected: Vec<_> = headers
                .iter()
                .map(|(name, value)| {
                    // Where there are no escapes a colon would end the name.
                    let name = if version == Version::V1_0 { name.replace(':', "_") } else { name.clone() };
                    (kept(version, &name), kept(version, value))
                })
                .collect();
            let direct = write(version, &headers);
            prop_assert_eq!(read(version, &direct, &body), (expected.clone(), body.clone()), "{:?}", version);
            // The way from a 1.2 sender is the same.
            let mut relayed = BytesMut::new();
            transcode(version.into(), &write(Version::V1_2, &headers), &mut relayed);
            prop_assert_eq!(read(version, &relayed, &body), (expected, body.clone()), "{:?}", version);
        }
    }

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
