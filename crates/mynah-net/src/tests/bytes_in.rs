//! Detection, and what the connection is shown of what came in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
use proptest::test_runner::Config;

use super::lab::Lab;
use super::line::{LOGIN_TIMEOUT, PREAMBLE, REFUSAL, UNDECIDED};
use crate::limits::{
    DETECT_BYTES_MAX, LINGER, READ_BYTES, READ_BYTES_MAX, REST_BYTES_COPIED, REST_BYTES_EXTRA,
};

#[test]
fn the_bytes_that_told_the_protocol_reach_the_connection() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.socket(one).send(b"LINE\necho a\necho b\n");
    lab.settle();
    assert_eq!(lab.socket(one).text(), "a\nb\n");
    assert_eq!(lab.broker.connections.len(), 1);
}

#[test]
fn a_preamble_may_come_byte_by_byte() {
    let mut lab = Lab::new();
    let one = lab.connect();
    for byte in b"LINE\necho a\n" {
        lab.socket(one).send([*byte]);
        lab.settle();
    }
    assert_eq!(lab.socket(one).text(), "a\n");
}

#[test]
fn bytes_of_the_preamble_are_counted() {
    let mut lab = Lab::new();
    let one = lab.speaking("echo a\n");
    let info = lab.broker.connections.get(&lab.tasks[one].number).map(|info| info.value().clone()).unwrap();
    assert_eq!(info.counters.received_bytes.get(), 5 + 7);
    assert_eq!(info.counters.sent_bytes.get(), 2);
}

#[test]
fn unknown_first_bytes_are_refused_and_the_socket_lingers() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.socket(one).send(b"LIN");
    lab.settle();
    assert!(!lab.socket(one).is_write_closed());
    lab.socket(one).send(b"G");
    lab.settle();
    assert_eq!(lab.socket(one).take(), REFUSAL);
    assert!(lab.socket(one).is_write_closed() && !lab.is_done(one));
    // What still comes is read and forgotten.
    lab.socket(one).send(b"more");
    lab.settle();
    assert_eq!(lab.socket(one).unread(), 0);
    lab.advance(LINGER);
    assert!(lab.is_done(one));
    lab.assert_empty();
}

#[test]
fn a_peer_that_reads_its_refusal_ends_the_lingering() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.socket(one).send(b"G");
    lab.settle();
    lab.socket(one).end();
    lab.settle();
    assert!(lab.is_done(one));
    lab.assert_empty();
}

#[test]
fn who_says_nothing_in_time_goes() {
    let mut lab = Lab::new();
    let (silent, slow) = (lab.connect(), lab.connect());
    lab.socket(slow).send(b"LI");
    lab.settle();
    let timeout = LOGIN_TIMEOUT;
    lab.advance(timeout - Duration::from_millis(1));
    assert!(!lab.is_done(silent) && !lab.is_done(slow));
    lab.advance(Duration::from_millis(1));
    assert!(lab.is_done(silent) && lab.is_done(slow));
    lab.assert_empty();
}

#[test]
fn an_end_before_the_protocol_is_known_leaves_nothing() {
    let mut lab = Lab::new();
    let (one, two) = (lab.connect(), lab.connect());
    lab.socket(one).send(b"LI");
    lab.socket(one).end();
    lab.socket(two).break_off();
    lab.settle();
    assert!(lab.is_done(one) && lab.is_done(two));
    assert!(lab.told(one).is_empty());
    lab.assert_empty();
}

#[test]
fn who_never_tells_its_protocol_is_refused() {
    let mut lab = Lab::new();
    let one = lab.connect();
    for _ in 1..DETECT_BYTES_MAX {
        lab.socket(one).send(UNDECIDED);
        lab.settle();
    }
    assert_eq!(lab.socket(one).take(), b"");
    lab.socket(one).send(UNDECIDED);
    lab.settle();
    assert_eq!(lab.socket(one).take(), REFUSAL);
    assert!(lab.told(one).is_empty() && lab.broker.connections.is_empty());
}

#[test]
fn who_waits_for_a_reply_sees_the_same_bytes_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("open x\n");
    let two = lab.speaking("open x\necho first\necho second\n");
    lab.settle();
    // One was told to go, and went; two has its place.
    assert_eq!(lab.socket(one).text(), "opened\ngo\n");
    assert_eq!(lab.socket(two).text(), "opened\nfirst\nsecond\n");
}

#[test]
fn more_bytes_do_not_help_who_waits() {
    let mut lab = Lab::new();
    let one = lab.speaking("hold\necho a\n");
    for _ in 0..10 {
        lab.socket(one).send("echo b\n");
        lab.settle();
    }
    assert_eq!(lab.socket(one).text(), "");
    lab.shared.begin_stop();
    lab.settle();
    assert_eq!(lab.socket(one).text(), "bye\n");
}

#[test]
fn after_a_deadline_the_rest_is_shown_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("later 100\nhold\necho a\n");
    lab.advance(Duration::from_millis(100));
    assert_eq!(lab.socket(one).text(), "deadline\na\n");
}

#[test]
fn after_deliveries_the_rest_is_shown_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub q\n");
    assert_eq!(lab.socket(one).text(), "attached\n");
    lab.socket(one).send("hold\necho a\n");
    lab.settle();
    let two = lab.speaking("put q body\n");
    assert_eq!(lab.socket(two).text(), "published 1\n");
    assert_eq!(lab.socket(one).text(), "body\na\n");
}

#[test]
fn after_a_notice_the_rest_is_shown_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub q\nhold\necho a\n");
    let queue = lab.broker.default_host().queue("q").unwrap();
    let mut batch = mynah_broker::batch::Batch::new(lab.broker.shared.metrics.protocol("test"));
    lab.broker.default_host().delete_queue(&mut batch, &queue, lab.now);
    batch.wake();
    lab.settle();
    // Attached is an answer as well, so the first hold was over at once: hold again.
    assert_eq!(lab.socket(one).text(), "attached\na\n");
    let two = lab.speaking("qsub r\n");
    lab.socket(two).send("hold\necho a\n");
    lab.settle();
    assert_eq!(lab.socket(two).text(), "attached\n");
    let queue = lab.broker.default_host().queue("r").unwrap();
    lab.broker.default_host().delete_queue(&mut batch, &queue, lab.now);
    batch.wake();
    lab.settle();
    assert_eq!(lab.socket(two).text(), "a\n");
}

#[test]
fn after_a_deadline_with_a_full_socket_the_rest_is_shown_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(0);
    lab.socket(one).send("later 100\necho a\nhold\necho b\n");
    lab.settle();
    lab.advance(Duration::from_millis(100));
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).text(), "a\ndeadline\nb\n");
}

#[test]
fn who_waits_is_not_filled_with_bytes_without_bound() {
    let mut lab = Lab::new();
    let one = lab.speaking("later 1000\nhold\n");
    let bound = lab.broker.shared.config.message_bytes_max + REST_BYTES_EXTRA;
    let line = "echo a\n".repeat((1 << 20) / 7);
    let sent = 40 * line.len();
    for _ in 0..40 {
        lab.socket(one).send(&line);
    }
    lab.settle();
    assert!(sent - lab.socket(one).unread() <= bound + READ_BYTES_MAX);
    assert!(lab.socket(one).unread() > 0);
    lab.advance(Duration::from_secs(1));
    // Everything comes through, in the end and once.
    assert_eq!(lab.socket(one).unread(), 0);
    assert_eq!(lab.socket(one).take().len(), "deadline\n".len() + sent / 7 * 2);
}

#[test]
fn who_is_filled_up_behind_a_full_socket_goes_on_afterwards() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(0);
    lab.socket(one).send("later 1000\necho b\nhold\n");
    let line = "echo a\n".repeat((1 << 20) / 7);
    for _ in 0..24 {
        lab.socket(one).send(&line);
    }
    lab.settle();
    assert!(lab.socket(one).unread() > 0);
    lab.advance(Duration::from_secs(1));
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).unread(), 0);
    assert_eq!(lab.socket(one).take().len(), "b\ndeadline\n".len() + 24 * line.len() / 7 * 2);
}

#[test]
fn a_big_frame_in_pieces_is_not_copied_again_and_again() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    let frame = format!("echo {}\n", "x".repeat(1 << 20));
    for piece in frame.as_bytes().chunks(4096) {
        lab.socket(one).send(piece);
        lab.settle();
    }
    assert_eq!(lab.socket(one).take().len(), frame.len() - 5);
    // Each doubling moves it, not each piece.
    let moved = lab.seen.moved.load(Ordering::Relaxed);
    assert!(moved < 40, "moved {moved} times");
}

#[test]
fn frames_around_every_bound_come_through() {
    for around in [REST_BYTES_COPIED, READ_BYTES, READ_BYTES_MAX] {
        for size in [around - 6, around - 5, around - 1, around, around + 1] {
            let mut lab = Lab::new();
            let one = lab.speaking("");
            let frame = format!("echo {}\n", "x".repeat(size));
            lab.socket(one).send(format!("{frame}{frame}{frame}"));
            lab.settle();
            assert_eq!(lab.socket(one).take().len(), 3 * (size + 1), "{size}");
        }
    }
}

fn script() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(
        proptest::prop_oneof![6 => 1_usize..64, 2 => 1_usize..5_000, 1 => 30_000_usize..80_000],
        1..24,
    )
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    /// Whatever the pieces that arrive and whatever the socket takes at a time.
    #[test]
    fn nothing_is_lost_or_doubled(
        sizes in script(),
        cuts in proptest::collection::vec(1_usize..70_000, 1..40),
        write_max in proptest::prop_oneof![1_usize..16, 16_usize..100_000],
        rooms in proptest::collection::vec(1_usize..60_000, 1..20),
        detected in any::<bool>(),
    ) {
        let mut lab = Lab::new();
        let mut input = PREAMBLE.to_vec();
        let mut expected = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let text = format!("{number}:{}", char::from(b'a' + u8::try_from(number % 26).unwrap()).to_string().repeat(*size));
            input.extend_from_slice(format!("echo {text}\n").as_bytes());
            expected.extend_from_slice(format!("{text}\n").as_bytes());
        }
        let one = lab.connect();
        lab.socket(one).write_max(write_max);
        lab.socket(one).room(0);
        let mut written = Vec::new();
        let mut rest = &input[..];
        if detected {
            lab.socket(one).send(&rest[..5]);
            rest = &rest[5..];
            lab.settle();
        }
        let (mut cuts, mut rooms) = (cuts.iter().cycle(), rooms.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            lab.socket(one).send(piece);
            rest = after;
            lab.socket(one).room(*rooms.next().unwrap());
            lab.settle();
            written.extend(lab.socket(one).take());
        }
        while lab.socket(one).unread() > 0 || written.len() < expected.len() {
            let before = (lab.socket(one).unread(), written.len());
            lab.socket(one).room(*rooms.next().unwrap());
            lab.settle();
            written.extend(lab.socket(one).take());
            assert_ne!(before, (lab.socket(one).unread(), written.len()), "stuck");
        }
        prop_assert_eq!(written, expected);
    }
}
