//! Exchanges and their bindings.

use mynah_core::exchange::{ExchangeKind, ExchangeSpec};
use mynah_core::protocol::{Change, Destination, From, Holder, RefusalKind, Reply, Source};
use mynah_core::queue::QueueSpec;
use mynah_core::{Address, AddressRef, Outcome, PublishRef, Value};

use crate::lab::{
    BACK, CLEAN, Client, FORGET, Lab, at_least_once, exchange_spec, from_queue, from_topic, queue, topic,
};

fn to<'a>(name: &'a str, key: &'a str) -> AddressRef<'a> {
    AddressRef::Exchange { name, key }
}

fn bind_exchange(client: &mut Client, source: &str, destination: &str, key: &str) {
    let destination = Destination::Exchange(destination);
    client.define(Change::Bind { source, destination, key, arguments: &Vec::new() }).unwrap();
}

fn is_there(client: &mut Client, name: &str) -> bool {
    let spec = exchange_spec(ExchangeKind::Direct);
    client.define(Change::DeclareExchange { name, spec: &spec, passive: true }).is_ok()
}

#[test]
fn only_the_broker_publishes_to_an_internal_exchange() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.exchange("dlx", &ExchangeSpec { internal: true, ..exchange_spec(ExchangeKind::Fanout) }).unwrap();
    one.declare("dead", &QueueSpec::default()).unwrap();
    one.bind("dlx", "dead", "").unwrap();
    let reply = one.publish(&at_least_once(to("dlx", "k"), "x"));
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::Forbidden));
    one.turn(|turn| {
        use mynah_core::protocol::Host;
        turn.publish(None, &at_least_once(to("dlx", "k"), "x"));
    });
    assert_eq!(lab.depth("dead"), Some((0, 0)));
    let spec = QueueSpec { dead_letter_exchange: Some("dlx".into()), ..QueueSpec::default() };
    one.declare("q", &spec).unwrap();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "y");
    let tag = one.deliveries[0].tag;
    one.settle(1, tag, &Outcome::Rejected { reason: None });
    assert_eq!(lab.depth("dead"), Some((1, 0)));
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let spec = ExchangeSpec { auto_delete: true, ..exchange_spec(ExchangeKind::Direct) };
    let none = Vec::new();
    let unbind = |queue, key| Change::Unbind {
        source: "e",
        destination: Destination::Queue(queue),
        key,
        arguments: &none,
    };
    one.exchange("e", &spec).unwrap();
    one.declare("q", &QueueSpec::default()).unwrap();
    one.define(unbind("q", "never")).unwrap();
    assert!(is_there(&mut one, "e"), "it had no binding yet");
    one.bind("e", "q", "a").unwrap();
    one.bind("e", "q", "b").unwrap();
    one.define(unbind("q", "a")).unwrap();
    assert!(is_there(&mut one, "e"));
    one.define(unbind("q", "b")).unwrap();
    assert!(!is_there(&mut one, "e"));

    // By deleting the queue, and on to the exchange that led to it.
    one.exchange("outer", &spec).unwrap();
    one.exchange("e", &spec).unwrap();
    one.bind("e", "q", "a").unwrap();
    bind_exchange(&mut one, "outer", "e", "a");
    one.delete("q").unwrap();
    assert!(!is_there(&mut one, "e") && !is_there(&mut one, "outer"));
}

#[test]
fn topics_do_not_lead_to_an_exchange_that_is_gone() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let spec = exchange_spec(ExchangeKind::Fanout);
    one.exchange("e", &spec).unwrap();
    bind_exchange(&mut one, "amq.topic", "e", "a.#");
    bind_exchange(&mut one, "amq.topic", "e", "a.#");
    assert_eq!(lab.subscriptions(), 1);
    one.define(Change::DeleteExchange { name: "e", if_unused: false }).unwrap();
    assert_eq!(lab.subscriptions(), 0);
    one.exchange("e", &spec).unwrap();
    one.declare("q", &QueueSpec::default()).unwrap();
    one.bind("e", "q", "").unwrap();
    assert_eq!(one.send(topic("a/b"), "x"), 0, "the new exchange has not the old one's bindings");
}

#[test]
fn from_an_exchange_by_topics_to_another_exchange() {
    let lab = Lab::new();
    let mut one = lab.connect();
    for name in ["first", "last"] {
        one.exchange(name, &exchange_spec(ExchangeKind::Fanout)).unwrap();
    }
    one.declare("q", &QueueSpec::default()).unwrap();
    bind_exchange(&mut one, "first", "amq.topic", "");
    bind_exchange(&mut one, "amq.topic", "last", "a.*");
    one.bind("last", "q", "").unwrap();
    assert_eq!(one.send(to("first", "a.b"), "x"), 1);
    assert_eq!(one.send(to("first", "b.b"), "x"), 0);
    assert_eq!(one.send(topic("a/b"), "x"), 1);
    // A ring ends.
    bind_exchange(&mut one, "last", "first", "");
    assert_eq!(one.send(to("first", "a.b"), "x"), 1);
}

#[test]
fn an_exchange_leads_to_any_number_of_others() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.exchange("wide", &exchange_spec(ExchangeKind::Fanout)).unwrap();
    for number in 0..40 {
        let (exchange, queue) = (format!("e{number}"), format!("q{number}"));
        one.exchange(&exchange, &exchange_spec(ExchangeKind::Fanout)).unwrap();
        one.declare(&queue, &QueueSpec::default()).unwrap();
        one.bind(&exchange, &queue, "").unwrap();
        bind_exchange(&mut one, "wide", &exchange, "");
    }
    assert_eq!(one.send(to("wide", ""), "x"), 40);
}

#[test]
fn bindings_are_told_apart_by_their_arguments() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.declare("q", &QueueSpec::default()).unwrap();
    let rule = |color: &str, how: &str| {
        vec![("x-match".into(), Value::from(how)), ("color".into(), Value::from(color))]
    };
    let bad = rule("red", "some");
    let source = "amq.headers";
    let destination = Destination::Queue("q");
    let refused = one.define(Change::Bind { source, destination, key: "", arguments: &bad });
    assert_eq!(refused.unwrap_err(), RefusalKind::Conflict);
    let (red, blue) = (rule("red", "all"), rule("blue", "all"));
    for arguments in [&red, &blue] {
        one.define(Change::Bind { source, destination, key: "", arguments }).unwrap();
    }
    let send = |one: &mut Client, color: &str| {
        let properties = mynah_core::Properties {
            application: vec![("color".into(), Value::from(color))],
            ..Default::default()
        };
        let content = mynah_core::ContentRef::Decoded(&properties);
        match one.publish(&PublishRef { content, ..at_least_once(to(source, ""), "x") }) {
            Reply::Published { routed } => routed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((send(&mut one, "red"), send(&mut one, "blue"), send(&mut one, "green")), (1, 1, 0));
    one.define(Change::Unbind { source, destination, key: "", arguments: &red }).unwrap();
    assert_eq!((send(&mut one, "red"), send(&mut one, "blue")), (0, 1));
}

#[test]
fn the_brokers_exchanges_are_as_they_are() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let durable = |kind| ExchangeSpec { durable: true, ..exchange_spec(kind) };
    one.exchange("amq.topic", &durable(ExchangeKind::Topic)).unwrap();
    one.exchange("amq.direct", &durable(ExchangeKind::Direct)).unwrap();
    for name in ["amq.topic", "amq.direct"] {
        assert_eq!(one.exchange(name, &durable(ExchangeKind::Fanout)).unwrap_err(), RefusalKind::Conflict);
        let deleted = one.define(Change::DeleteExchange { name, if_unused: false });
        assert_eq!(deleted.unwrap_err(), RefusalKind::Forbidden);
    }
    assert_eq!(one.exchange("amq.mine", &durable(ExchangeKind::Topic)).unwrap_err(), RefusalKind::Forbidden);
    one.declare("q", &QueueSpec::default()).unwrap();
    assert_eq!(one.bind("", "q", "k").unwrap_err(), RefusalKind::Forbidden);
    assert_eq!(one.bind("none", "q", "k").unwrap_err(), RefusalKind::NotFound);
    assert_eq!(one.bind("amq.direct", "none", "k").unwrap_err(), RefusalKind::NotFound);
    let reply = one.publish(&at_least_once(to("none", "k"), "x"));
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::NotFound));
    // Unbinding what is not there is done already.
    let none = Vec::new();
    for (source, queue) in [("none", "q"), ("amq.direct", "none"), ("amq.direct", "q")] {
        let destination = Destination::Queue(queue);
        one.define(Change::Unbind { source, destination, key: "k", arguments: &none }).unwrap();
    }
}

#[test]
fn the_brokers_own_topics_are_only_the_brokers() {
    let lab = Lab::new();
    let mut one = lab.connect();
    for address in [topic("$SYS/broker"), to("amq.topic", "$SYS.broker")] {
        let reply = one.publish(&at_least_once(address, "x"));
        assert!(
            matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::Forbidden),
            "{address}"
        );
    }
}

#[test]
fn subscriptions_to_exchanges_come_and_go() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let from = |name, key, holder| Source {
        from: From::Exchange { name, key, holder },
        ..from_topic("x", Holder::Connection)
    };
    one.attach(1, from("amq.topic", "a.*", Holder::Connection));
    assert_eq!(one.send(topic("a/b"), "by topic"), 1);
    one.attach(2, from("amq.fanout", "", Holder::Connection));
    assert_eq!(one.send(to("amq.fanout", ""), "by exchange"), 1);
    assert_eq!(one.bodies(), ["by topic", "by exchange"]);
    assert!(matches!(one.try_attach(3, from("none", "", Holder::Connection)), Reply::Refused(_)));
    one.detach(1, BACK);
    one.detach(2, BACK);
    assert!(lab.host().queues.is_empty());

    // Durable, and then under the same name to something else.
    one.attach(4, from("amq.direct", "a", Holder::Durable("d")));
    one.detach(4, BACK);
    one.send(to("amq.direct", "a"), "waits");
    one.attach(4, from("amq.direct", "a", Holder::Durable("d")));
    assert_eq!(one.bodies(), ["waits"]);
    one.detach(4, BACK);
    one.attach(4, from("amq.direct", "b", Holder::Durable("d")));
    assert_eq!(one.send(to("amq.direct", "a"), "not any more"), 0);
    assert_eq!(one.send(to("amq.direct", "b"), "new"), 1);
    assert_eq!(one.bodies(), ["new"]);
    one.detach(4, FORGET);
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn what_no_binding_wants_goes_to_the_alternate() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.exchange("rest", &exchange_spec(ExchangeKind::Fanout)).unwrap();
    let spec = ExchangeSpec { alternate: Some("rest".into()), ..exchange_spec(ExchangeKind::Direct) };
    one.exchange("e", &spec).unwrap();
    for name in ["wanted", "other"] {
        one.declare(name, &QueueSpec::default()).unwrap();
    }
    one.bind("e", "wanted", "k").unwrap();
    one.bind("rest", "other", "").unwrap();
    one.send(to("e", "k"), "x");
    one.send(to("e", "else"), "y");
    assert_eq!((lab.depth("wanted"), lab.depth("other")), (Some((1, 0)), Some((1, 0))));
    let handle = lab.queue("other").unwrap();
    let address = handle.lock().machine.peek(0, 1)[0].message.address.clone();
    assert_eq!(address, Address::Exchange { name: "e".into(), key: "else".into() });
}
