//! Links on which the client sends.

use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::performatives::Attach;
use mynah_core::protocol::{Defined, Refusal, RefusalKind, Reply};

use super::*;

fn refused(kind: RefusalKind) -> Reply {
    Reply::Refused(Refusal::new(kind, "no"))
}

#[test]
fn a_queue_is_looked_for_and_made_but_not_declared_again() {
    let mut client = Client::begun();
    client.send(0, attach_sender("s", 0, Some("/queues/a%20b")));
    assert_eq!(client.host.calls[0].text, "declare queue a b passive=true");
    let ticket = client.ticket();
    client.reply(vec![(ticket, refused(RefusalKind::NotFound))]);
    assert_eq!(client.host.calls[0].text, "declare queue a b passive=false");
    client.expect(&[]);
    client.agree();
    client.expect(&["attach s 0 Receiver Some(\"\") Some(\"/queues/a%20b\")", "flow 0 count=0 credit=2000"]);
}

#[test]
fn a_link_is_refused_by_attach_and_detach() {
    // [AMQP 2.6.3] the session stays usable.
    let mut client = Client::begun();
    client.send(0, attach_sender("s", 0, Some("q")));
    let ticket = client.ticket();
    client.reply(vec![(ticket, refused(RefusalKind::Forbidden))]);
    client.expect(&["attach s 0 Receiver Some(\"\") None", "detach 0 closed amqp:unauthorized-access"]);
    client.transfer(transfer(0, Some(0), false, false), &data(b"x"));
    client.send(0, detach(0, true));
    client.expect(&[]);
    client.send(0, attach_sender("s", 0, Some("/topcis/x")));
    client.expect(&["attach s 0 Receiver Some(\"\") None", "detach 0 closed amqp:invalid-field"]);
}

#[test]
fn another_connections_reply_queue_may_be_sent_to() {
    let mut client = Client::begun();
    client.send(0, attach_sender("s", 0, Some("/queues/gen-1")));
    let ticket = client.ticket();
    client.reply(vec![(ticket, refused(RefusalKind::Locked))]);
    assert_eq!(client.texts().len(), 2);
}

#[test]
fn outcomes_come_as_ranges() {
    let mut client = Client::begun();
    client.sender(0, "q");
    for id in 0..6 {
        client.transfer(transfer(0, Some(id), false, false), &data(&[id as u8]));
    }
    let tickets = client.host.take_tickets();
    assert_eq!(tickets.len(), 6);
    assert_eq!(tickets[0].1, "publish queue:q AtMostOnce No");
    let replies = tickets.into_iter().enumerate().map(|(n, (ticket, _))| {
        let reply = match n {
            3 => refused(RefusalKind::Full),
            4 => Reply::Published { routed: 0 },
            _ => Reply::Published { routed: 1 },
        };
        (ticket, reply)
    });
    client.reply(replies.collect());
    client.expect(&[
        "disposition Receiver 0..Some(2) accepted",
        "disposition Receiver 3..None rejected amqp:resource-limit-exceeded",
        "disposition Receiver 4..None released",
        "disposition Receiver 5..None accepted",
    ]);
}

#[test]
fn a_topic_without_subscribers_accepts() {
    let mut client = Client::begun();
    client.sender(0, "/topics/a/b");
    client.transfer(transfer(0, Some(0), false, false), &data(b"x"));
    let ticket = client.ticket();
    client.reply(vec![(ticket, Reply::Published { routed: 0 })]);
    client.expect(&["disposition Receiver 0..None accepted"]);
}

#[test]
fn settled_transfers_are_not_answered() {
    let mut client = Client::begun();
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), true, false), &data(b"x"));
    assert_eq!(client.host.calls[0].ticket, None);
    assert_eq!(&client.host.calls[0].body[..], b"x");
}

#[test]
fn credit_is_topped_up_at_half() {
    let config = Amqp10Config { link_credit: 4, ..Amqp10Config::default() };
    let mut client = Client::begun_with(config, 512, 10);
    client.sender(0, "q");
    for id in 0..3 {
        client.transfer(transfer(0, Some(id), true, false), &data(b"x"));
    }
    client.expect(&["flow 0 count=2 credit=4"]);
}

#[test]
fn more_than_the_credit_ends_the_link() {
    let mut client = Client::begun();
    // A transfer before the attach is answered has no credit.
    client.send(0, attach_sender("s", 0, Some("q")));
    client.transfer(transfer(0, Some(0), true, false), &data(b"x"));
    client.expect(&["detach 0 closed amqp:link:transfer-limit-exceeded"]);
}

#[test]
fn the_session_window_is_kept_and_renewed() {
    // [AMQP 2.5.6] counted in frames.
    let config = Amqp10Config { session_window: 4, ..Amqp10Config::default() };
    let mut client = Client::begun_with(config, 512, 10);
    client.sender(0, "q");
    for _ in 0..2 {
        client.transfer(transfer(0, Some(0), true, true), b"");
    }
    client.expect(&["flow window=4"]);
}

#[test]
fn messages_in_many_frames_interleave_between_links() {
    // [AMQP 2.6.14] later frames may omit the identifier and the tag.
    let mut client = Client::begun();
    client.sender(0, "q");
    client.sender(1, "/topics/t");
    let (one, two) = (data(b"hello world"), data(b"other"));
    client.transfer(transfer(0, Some(0), false, true), &one[..3]);
    client.transfer(transfer(1, Some(1), true, true), &two[..6]);
    client.transfer(transfer(0, None, false, true), &one[3..10]);
    client.transfer(transfer(1, None, true, false), &two[6..]);
    client.transfer(transfer(0, None, false, false), &one[10..]);
    let calls: Vec<_> = client.host.calls.iter().map(|c| (c.text.clone(), c.body.to_vec())).collect();
    assert_eq!(
        calls,
        [
            ("publish topic:t AtMostOnce No".to_owned(), b"other".to_vec()),
            ("publish queue:q AtMostOnce No".to_owned(), b"hello world".to_vec())
        ]
    );
}

#[test]
fn an_aborted_message_is_forgotten() {
    // [AMQP 2.7.5] its credit is used, the next delivery is good.
    let mut client = Client::begun();
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), false, true), &data(b"half")[..4]);
    client.transfer(Transfer { aborted: true, ..transfer(0, None, false, false) }, b"");
    client.transfer(transfer(0, Some(1), false, false), &data(b"good"));
    assert_eq!(client.host.calls.len(), 1);
    assert_eq!(&client.host.calls[0].body[..], b"good");
    client.agree();
    client.expect(&["disposition Receiver 1..None accepted"]);
}

#[test]
fn a_message_that_is_too_large_ends_the_link() {
    let config = Amqp10Config { message_bytes_max: 100, ..Amqp10Config::default() };
    let mut client = Client::begun_with(config, 512, 10);
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), false, true), &[0; 60]);
    client.transfer(transfer(0, None, false, true), &[0; 60]);
    client.expect(&["detach 0 closed amqp:link:message-size-exceeded"]);
}

#[test]
fn what_is_no_message_is_rejected() {
    let mut client = Client::begun();
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), false, false), b"\x00\x53\x75\xa0\xff");
    let odd = Transfer { message_format: Some(7), ..transfer(0, Some(1), false, false) };
    client.transfer(odd, &data(b"x"));
    client.expect(&[
        "disposition Receiver 0..None rejected amqp:decode-error",
        "disposition Receiver 1..None rejected amqp:not-implemented",
    ]);
    client.transfer(transfer(0, Some(2), true, false), b"\x01");
    client.expect(&["detach 0 closed amqp:decode-error"]);
}

fn to(address: &str) -> Vec<u8> {
    let mut message =
        vec![0x00, 0x53, 0x73, 0xc0, address.len() as u8 + 5, 3, 0x40, 0x40, 0xa1, address.len() as u8];
    message.extend_from_slice(address.as_bytes());
    message.extend(data(b"x"));
    message
}

#[test]
fn the_anonymous_terminus_sends_where_the_message_says() {
    let mut client = Client::begun();
    client.send(0, attach_sender("s", 0, None));
    client.expect(&["attach s 0 Receiver Some(\"\") Some(\"\")", "flow 0 count=0 credit=2000"]);
    for (id, address) in ["/queues/a", "/queues/a", "/topics/t.u", "/exchanges/e/k"].iter().enumerate() {
        client.transfer(transfer(0, Some(id as u32), true, false), &to(address));
    }
    client.asked(&[
        "publish queue:a AtMostOnce No",
        "publish queue:a AtMostOnce No",
        "publish topic:t/u AtMostOnce No",
        "publish exchange:e:k AtMostOnce No",
    ]);
    client.transfer(transfer(0, Some(4), false, false), &data(b"x"));
    client.transfer(transfer(0, Some(5), false, false), &to("/nowhere"));
    client.expect(&[
        "disposition Receiver 4..None rejected amqp:precondition-failed",
        "disposition Receiver 5..None rejected amqp:invalid-field",
    ]);
}

#[test]
fn a_dynamic_target_is_a_queue_of_the_link() {
    let mut client = Client::begun();
    let target = Target { dynamic: true, ..Target::default() };
    client.send(
        0,
        Performative::Attach(Attach {
            target: Some(Box::new(TargetArchetype::Target(target))),
            ..attach("s", 0, Role::Sender)
        }),
    );
    assert_eq!(client.host.calls[0].text, "declare queue  passive=false");
    let ticket = client.ticket();
    let made = Defined { name: "gen 1".into(), messages: 0, consumers: 0 };
    client.reply(vec![(ticket, Reply::Defined(Box::new(made)))]);
    client
        .expect(&["attach s 0 Receiver Some(\"\") Some(\"/queues/gen%201\")", "flow 0 count=0 credit=2000"]);
    client.transfer(transfer(0, Some(0), true, false), &data(b"x"));
    client.send(0, detach(0, true));
    client.asked(&["publish queue:gen 1 AtMostOnce No", "delete queue gen 1"]);
}

#[test]
fn the_newer_link_of_a_name_takes_over() {
    // [AMQP 2.6.1] in each direction alone.
    let mut client = Client::begun();
    client.sender(0, "q");
    client.send(0, attach_receiver("s0", 1, "q"));
    client.agree();
    client.send(0, attach_sender("s0", 2, Some("q")));
    client.agree();
    client.expect(&[
        "attach s0 1 Sender Some(\"q\") Some(\"\")",
        "detach 0 closed amqp:link:stolen",
        "attach s0 2 Receiver Some(\"\") Some(\"q\")",
        "flow 2 count=0 credit=2000",
    ]);
}

#[test]
fn replies_for_an_ended_session_are_not_said_in_the_next() {
    let mut client = Client::begun();
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), false, false), &data(b"x"));
    client.send(0, Performative::End(fe2o3_amqp_types::performatives::End { error: None }));
    client.send(0, begin(10));
    client.host.take_wire();
    client.agree();
    client.expect(&[]);
}

#[test]
fn settle_modes_are_answered() {
    // [AMQP 2.7.3] second is not offered: the answer says first.
    let mut client = Client::begun();
    let attach = Attach {
        snd_settle_mode: SenderSettleMode::Settled,
        rcv_settle_mode: fe2o3_amqp_types::definitions::ReceiverSettleMode::Second,
        ..attach("s", 0, Role::Sender)
    };
    client.send(0, Performative::Attach(attach));
    let got = client.got();
    let Some(Performative::Attach(answer)) = &got[0].performative else { unreachable!() };
    assert_eq!(answer.snd_settle_mode, SenderSettleMode::Settled);
    assert_eq!(answer.rcv_settle_mode, fe2o3_amqp_types::definitions::ReceiverSettleMode::First);
    assert_eq!(answer.max_message_size, Some(16 * 1024 * 1024));
}
