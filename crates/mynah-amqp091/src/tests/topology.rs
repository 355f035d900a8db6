use mynah_core::protocol::RefusalKind;

use super::{NONE, Pair};
use crate::codec::method::Request;

fn queue(name: &str, passive: bool, no_wait: bool) -> Request<'_> {
    Request::QueueDeclare {
        ticket: 0,
        queue: name,
        passive,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait,
        arguments: NONE,
    }
}

fn exchange<'a>(name: &'a str, kind: &'a str, passive: bool) -> Request<'a> {
    Request::ExchangeDeclare {
        ticket: 0,
        exchange: name,
        kind,
        passive,
        durable: true,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: NONE,
    }
}

fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> Request<'a> {
    Request::QueueBind { ticket: 0, queue, exchange, key, no_wait: false, arguments: NONE }
}

/// What the broker is asked, and the answer if it agrees.
fn check(request: Request<'_>, asked: &str, answered: &str) {
    let mut pair = Pair::open();
    pair.request(1, request);
    assert_eq!(pair.agree(), [asked]);
    assert_eq!(pair.wire(), [answered]);
}

/// The answer to what the broker is not even asked.
fn refused(request: Request<'_>, text: &str) {
    let mut pair = Pair::open();
    pair.request(1, request);
    assert!(pair.calls().is_empty());
    let wire = pair.wire();
    assert!(wire[0].contains(text), "{wire:?}");
}

#[test]
fn definitions() {
    check(
        queue("q", false, false),
        "declare queue q passive=false",
        "1 QueueDeclareOk { queue: \"q\", messages: 0, consumers: 0 }",
    );
    check(
        queue("q", true, false),
        "declare queue q passive=true",
        "1 QueueDeclareOk { queue: \"q\", messages: 0, consumers: 0 }",
    );
    check(bind("q", "e", "a.*"), "bind exchange e Queue(\"q\") a.*", "1 QueueBindOk");
    check(bind("q", "amq.topic", "a.*.#"), "bind topic a/+/# q", "1 QueueBindOk");
    check(
        Request::QueueUnbind { ticket: 0, queue: "q", exchange: "amq.topic", key: "a.b", arguments: NONE },
        "unbind topic a/b q",
        "1 QueueUnbindOk",
    );
    check(
        Request::QueueUnbind { ticket: 0, queue: "q", exchange: "e", key: "k", arguments: NONE },
        "unbind exchange e Queue(\"q\") k",
        "1 QueueUnbindOk",
    );
    check(
        Request::QueuePurge { ticket: 0, queue: "q", no_wait: false },
        "purge queue q",
        "1 QueuePurgeOk { messages: 0 }",
    );
    check(
        Request::QueueDelete { ticket: 0, queue: "q", if_unused: true, if_empty: true, no_wait: false },
        "delete queue q",
        "1 QueueDeleteOk { messages: 0 }",
    );
    check(exchange("e", "headers", false), "declare exchange e passive=false", "1 ExchangeDeclareOk");
    check(exchange("e", "", true), "declare exchange e passive=true", "1 ExchangeDeclareOk");
    check(
        exchange("amq.direct", "direct", false),
        "declare exchange amq.direct passive=false",
        "1 ExchangeDeclareOk",
    );
    check(
        Request::ExchangeDelete { ticket: 0, exchange: "e", if_unused: false, no_wait: false },
        "delete exchange e",
        "1 ExchangeDeleteOk",
    );
    check(
        Request::ExchangeBind {
            ticket: 0,
            destination: "d",
            source: "s",
            key: "k",
            no_wait: false,
            arguments: NONE,
        },
        "bind exchange s Exchange(\"d\") k",
        "1 ExchangeBindOk",
    );
    check(
        Request::ExchangeUnbind {
            ticket: 0,
            destination: "d",
            source: "amq.topic",
            key: "k",
            no_wait: false,
            arguments: NONE,
        },
        "unbind exchange amq.topic Exchange(\"d\") k",
        "1 ExchangeUnbindOk",
    );
}

#[test]
fn what_is_reserved() {
    refused(
        queue("amq.mine", false, false),
        "403, text: \"ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
    );
    refused(
        exchange("amq.mine", "direct", false),
        "403, text: \"ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    );
    refused(
        exchange("", "direct", false),
        "403, text: \"ACCESS_REFUSED - operation not permitted on the default exchange",
    );
    refused(
        bind("q", "", "k"),
        "403, text: \"ACCESS_REFUSED - operation not permitted on the default exchange",
    );
    refused(bind("q", "p2p", "k"), "403");
    refused(
        exchange("e", "sideways", false),
        "406, text: \"PRECONDITION_FAILED - invalid exchange type 'sideways'",
    );
    refused(bind("q", "amq.topic", "a\0b"), "406, text: \"PRECONDITION_FAILED - invalid binding key");
    let delete = |exchange| Request::ExchangeDelete { ticket: 0, exchange, if_unused: false, no_wait: false };
    refused(delete("amq.fanout"), "403, text: \"ACCESS_REFUSED");
    refused(delete(""), "403, text: \"ACCESS_REFUSED");
}

#[test]
fn the_topic_exchange_is_always_there() {
    let mut pair = Pair::open();
    pair.request(1, exchange("amq.topic", "topic", false));
    pair.request(1, exchange("amq.topic", "topic", true));
    pair.request(1, exchange("p2p", "", true));
    assert_eq!(pair.wire(), ["1 ExchangeDeclareOk"; 3]);
    pair.request(1, exchange("amq.topic", "fanout", false));
    let text = "inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': received 'fanout' but current is 'topic'";
    assert!(pair.wire()[0].contains(text));
}

#[test]
fn an_empty_name_is_the_queue_declared_last() {
    let mut pair = Pair::open();
    pair.request(1, bind("", "e", "k"));
    assert!(pair.wire()[0].contains("404, text: \"NOT_FOUND - no previously declared queue"));
    let mut pair = Pair::open();
    pair.request(1, queue("", false, false));
    pair.define("amq.gen-1", 0, 0);
    assert_eq!(pair.wire(), ["1 QueueDeclareOk { queue: \"amq.gen-1\", messages: 0, consumers: 0 }"]);
    pair.request(1, bind("", "e", ""));
    assert_eq!(pair.agree(), ["bind exchange e Queue(\"amq.gen-1\") amq.gen-1"]);
    pair.request(1, bind("", "e", "k"));
    assert_eq!(pair.agree(), ["bind exchange e Queue(\"amq.gen-1\") k"]);
    pair.request(1, Request::BasicGet { ticket: 0, queue: "", no_ack: true });
    assert_eq!(pair.agree(), ["attach 1 queue amq.gen-1 create=false settled=true Granted"]);
}

#[test]
fn no_wait_is_not_answered_but_errors_close() {
    let mut pair = Pair::open();
    pair.request(1, queue("q", false, true));
    pair.request(1, queue("r", false, false));
    assert_eq!(pair.agree(), ["declare queue q passive=false"], "one at a time");
    assert_eq!(pair.agree(), ["declare queue r passive=false"]);
    assert_eq!(pair.wire(), ["1 QueueDeclareOk { queue: \"r\", messages: 0, consumers: 0 }"]);
    pair.request(1, queue("q", false, true));
    pair.refuse(RefusalKind::Conflict, "inequivalent arg 'durable'");
    assert!(pair.wire()[0].contains("1 ChannelClose { code: 406"));
}

#[test]
fn deleting_what_is_not_there_is_no_error() {
    let mut pair = Pair::open();
    pair.request(
        1,
        Request::QueueDelete { ticket: 0, queue: "q", if_unused: false, if_empty: false, no_wait: false },
    );
    pair.refuse(RefusalKind::NotFound, "no queue 'q' in vhost '/'");
    assert_eq!(pair.wire(), ["1 QueueDeleteOk { messages: 0 }"]);
}

#[test]
fn everybody_may_ask_for_a_reply_queue() {
    let mut pair = Pair::open();
    pair.request(1, queue("amq.rabbitmq.reply-to.1", true, false));
    assert_eq!(pair.host.calls[0].text, "declare queue 1 passive=true");
    pair.refuse(RefusalKind::Locked, "locked");
    assert!(pair.wire()[0].starts_with("1 QueueDeclareOk { queue: \"amq.rabbitmq.reply-to.1\""));
}

#[test]
fn a_reply_to_a_closed_channel_is_ignored() {
    let mut pair = Pair::open();
    pair.bytes(&super::publish(1, "missing", "k", b"x"));
    pair.request(1, queue("q", false, false));
    let mut replies = pair.host.agree();
    replies[0].1 = mynah_core::protocol::Reply::Refused(mynah_core::protocol::Refusal::new(
        RefusalKind::NotFound,
        "no exchange 'missing' in vhost '/'",
    ));
    pair.replies(replies);
    let wire = pair.wire();
    assert_eq!(wire.len(), 1, "{wire:?}");
    assert!(wire[0].contains("1 ChannelClose { code: 404"));
}
