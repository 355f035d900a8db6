//! Links on which the client receives.

use fe2o3_amqp_types::definitions::{SenderSettleMode, SequenceNo};
use fe2o3_amqp_types::messaging::{
    Accepted, DistributionMode, Modified, Outcome, Rejected, Released, TerminusDurability,
    TerminusExpiryPolicy,
};
use fe2o3_amqp_types::performatives::{Attach, End, Flow};
use mynah_core::protocol::{Attached, Defined, Refusal, RefusalKind, Reply};
use serde_amqp::primitives::Array;

use super::*;

fn source(source: Source) -> Performative {
    Performative::Attach(Attach { source: Some(Box::new(source)), ..attach("r", 0, Role::Receiver) })
}

fn with(address: &str) -> Source {
    Source { address: Some(address.into()), ..Source::default() }
}

#[test]
fn a_queue_is_attached_and_credit_is_granted() {
    let mut client = Client::begun();
    client.send(0, attach_receiver("r", 0, "q"));
    // [AMQP 2.6.7] a flow before the answer, without a delivery-count, is kept.
    client.send(0, link_flow(0, None, 3, false));
    assert_eq!(client.host.calls[0].text, "attach 1 queue q create=true settled=false Granted");
    assert_eq!(client.host.calls.len(), 1);
    client.expect(&[]);
    let ticket = client.ticket();
    let attached = Attached { queue: Some("q".into()), new: true };
    client.reply(vec![(ticket, Reply::Attached(Box::new(attached)))]);
    client.expect(&["attach r 0 Sender Some(\"q\") Some(\"\")"]);
    client.asked(&["flow 1 3 drain=false"]);
}

#[test]
fn sources_of_all_kinds() {
    let check = |source_: Source, expected: &str| {
        let mut client = Client::begun();
        client.send(0, source(source_));
        assert_eq!(client.host.calls[0].text, expected);
    };
    let capable =
        |address: &str, name: &str| Source { capabilities: Some(Array(vec![name.into()])), ..with(address) };
    check(with("/topics/a/*/#"), "attach 1 topic a/+/# Connection settled=false Granted");
    check(with("topic://a.b"), "attach 1 topic a/b Connection settled=false Granted");
    check(capable("a.b", "topic"), "attach 1 topic a/b Connection settled=false Granted");
    check(capable("a.b", "queue"), "attach 1 queue a.b create=true settled=false Granted");
    check(with("/exchanges/e/k"), "attach 1 exchange e k Connection settled=false Granted");
    let durable = Source {
        durable: TerminusDurability::UnsettledState,
        expiry_policy: TerminusExpiryPolicy::Never,
        ..with("/topics/a")
    };
    check(durable, "attach 1 topic a Durable(\"me:r\") settled=false Granted");
    let shared = |names: &[&str]| Source {
        capabilities: Some(Array(names.iter().map(|name| (*name).into()).collect())),
        ..with("/topics/a")
    };
    check(shared(&["shared"]), "attach 1 shared a me:r settled=false Granted");
    check(shared(&["shared", "global"]), "attach 1 shared a r settled=false Granted");
    let copy = Source { distribution_mode: Some(DistributionMode::Copy), ..with("q") };
    check(copy, "attach 1 queue q create=true settled=true Granted");
}

#[test]
fn what_cannot_be_a_source_is_refused() {
    let mut client = Client::begun();
    client.send(0, attach_receiver("r", 0, "p2p/x"));
    client.expect(&["attach r 0 Sender None Some(\"\")", "detach 0 closed amqp:not-allowed"]);
    client.send(0, attach_receiver(&"n".repeat(1025), 1, "q"));
    client.send(0, detach(1, true));
    client.send(0, attach_receiver("l", 1, &"q".repeat(8193)));
    client.send(0, detach(1, true));
    let refused = client.texts();
    assert!(refused[1] == "detach 1 closed amqp:invalid-field" && refused[3] == refused[1], "{refused:?}");
    client.send(0, attach_receiver("t", 1, "q"));
    let ticket = client.ticket();
    client.reply(vec![(ticket, Reply::Refused(Refusal::new(RefusalKind::Locked, "exclusive")))]);
    client.expect(&["attach t 1 Sender None Some(\"\")", "detach 1 closed amqp:resource-locked"]);
    client.asked(&[]);
}

#[test]
fn credit_is_a_limit_not_a_sum() {
    // [AMQP 2.6.7] the same flow three times is still four messages.
    let mut client = Client::begun();
    client.receiver(0, "q");
    for _ in 0..3 {
        client.credit(0, 0, 4, false);
    }
    client.asked(&["flow 1 4 drain=false"]);
    client.deliver(vec![delivery(1, 10, b"a"), delivery(1, 11, b"b")]);
    // The peer has seen one of the two that are on their way.
    client.credit(0, 1, 4, false);
    client.asked(&["flow 1 3 drain=false"]);
}

#[test]
fn what_was_on_its_way_waits_for_credit() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 1, false);
    client.deliver(vec![delivery(1, 10, b"a"), delivery(1, 11, b"b")]);
    client.expect(&["transfer 0 id=Some(0) 17"]);
    client.host.take_texts();
    client.credit(0, 1, 2, false);
    client.expect(&["transfer 0 id=Some(1) 17"]);
    client.asked(&["flow 1 1 drain=false"]);
    // Taking the credit back gives back what was held.
    client.deliver(vec![delivery(1, 12, b"c"), delivery(1, 13, b"d")]);
    client.host.take_wire();
    client.credit(0, 3, 0, false);
    client.asked(&["settle 1 [13] Released"]);
}

#[test]
fn a_drain_is_answered_even_by_an_empty_queue() {
    // [AMQP 2.6.8] the rest of the credit is used up.
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 10, true);
    client.asked(&["flow 1 10 drain=true"]);
    client.deliver(vec![delivery(1, 1, b"a"), delivery(1, 2, b"b")]);
    client.notice(Notice::Drained { consumer: ConsumerId(1) });
    client.expect(&[
        "transfer 0 id=Some(0) 17",
        "transfer 0 id=Some(1) 17",
        "flow 0 count=10 credit=0 drain",
    ]);
    client.credit(0, 10, 1, false);
    client.asked(&["flow 1 1 drain=false"]);
    // Of an older drain it is no news.
    client.notice(Notice::Drained { consumer: ConsumerId(1) });
    client.expect(&[]);
}

#[test]
fn credit_after_a_drain_is_new_even_before_the_answer() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 10, true);
    // The broker has discarded the credit already; its notice is on the way.
    client.credit(0, 0, 10, false);
    client.asked(&["flow 1 10 drain=true", "flow 1 10 drain=false"]);
    client.notice(Notice::Drained { consumer: ConsumerId(1) });
    client.expect(&[]);
    client.deliver(vec![delivery(1, 1, b"a")]);
    client.expect(&["transfer 0 id=Some(0) 17"]);
}

#[test]
fn flows_are_echoed() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    let Performative::Flow(flow) = link_flow(0, Some(0), 5, false) else { unreachable!() };
    client.send(0, Performative::Flow(Flow { echo: true, ..flow.clone() }));
    client.send(0, Performative::Flow(Flow { handle: None, echo: true, delivery_count: None, ..flow }));
    client.expect(&["flow 0 count=0 credit=5", "flow window=8192"]);
}

#[test]
fn the_four_outcomes() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 10, false);
    client.deliver((0..6).map(|tag| delivery(1, 100 + tag, b"x")).collect());
    client.host.take_texts();
    client.host.take_wire();
    let modified =
        Modified { delivery_failed: Some(true), undeliverable_here: Some(true), message_annotations: None };
    let error = Error { condition: "app:bad".to_owned().parse_condition(), description: None, info: None };
    client.send(0, disposition(0, Some(1), true, DeliveryState::Accepted(Accepted {})));
    client.send(0, disposition(2, None, true, DeliveryState::Released(Released {})));
    client.send(0, disposition(3, None, true, DeliveryState::Rejected(Rejected { error: Some(error) })));
    client.send(0, disposition(4, None, true, DeliveryState::Modified(modified)));
    client.expect(&[]);
    // [AMQP 2.6.12] what the receiver leaves unsettled is settled by the sender.
    client.send(0, disposition(0, Some(5), false, DeliveryState::Accepted(Accepted {})));
    client.expect(&["disposition Sender 0..Some(5) accepted"]);
    client.asked(&[
        "settle 1 [100, 101] Accepted",
        "settle 1 [102] Released",
        "settle 1 [103] Rejected { reason: Some(\"app:bad\") }",
        "settle 1 [104] Modified { failed: true, undeliverable_here: true }",
        "settle 1 [105] Accepted",
    ]);
}

trait ParseCondition {
    fn parse_condition(self) -> fe2o3_amqp_types::definitions::ErrorCondition;
}

impl ParseCondition for String {
    fn parse_condition(self) -> fe2o3_amqp_types::definitions::ErrorCondition {
        fe2o3_amqp_types::definitions::ErrorCondition::Custom(self.into())
    }
}

#[test]
fn a_range_crosses_links() {
    // [AMQP 2.7.6]
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.receiver(1, "p");
    client.credit(0, 0, 10, false);
    client.credit(1, 0, 10, false);
    client.deliver(vec![delivery(1, 7, b"a"), delivery(2, 7, b"b"), delivery(1, 8, b"c")]);
    client.host.take_texts();
    client.send(0, disposition(0, Some(2), true, DeliveryState::Accepted(Accepted {})));
    client.asked(&["settle 1 [7] Accepted", "settle 2 [7] Accepted", "settle 1 [8] Accepted"]);
}

#[test]
fn settled_without_an_outcome_takes_the_default_one() {
    let check = |default_outcome: Option<Outcome>, expected: &str| {
        let mut client = Client::begun();
        client.send(0, source(Source { default_outcome, ..with("q") }));
        client.agree();
        client.credit(0, 0, 1, false);
        client.deliver(vec![delivery(1, 7, b"a")]);
        client.host.take_texts();
        let Performative::Disposition(plain) =
            disposition(0, None, true, DeliveryState::Accepted(Accepted {}))
        else {
            unreachable!()
        };
        client.send(0, Performative::Disposition(Disposition { state: None, ..plain }));
        client.asked(&[expected]);
    };
    check(None, "settle 1 [7] Released");
    check(Some(Outcome::Accepted(Accepted {})), "settle 1 [7] Accepted");
}

#[test]
fn pre_settled_deliveries() {
    let mut client = Client::begun();
    let attach = Attach {
        snd_settle_mode: SenderSettleMode::Settled,
        source: Some(Box::new(with("q"))),
        ..attach("r", 0, Role::Receiver)
    };
    client.send(0, Performative::Attach(attach));
    assert_eq!(client.host.calls[0].text, "attach 1 queue q create=true settled=true Granted");
    client.agree();
    client.host.take_wire();
    client.credit(0, 0, 1, false);
    client.deliver(vec![Delivery { settled: true, ..delivery(1, 0, b"x") }]);
    client.expect(&["transfer 0 id=Some(0) settled 17"]);
}

#[test]
fn large_messages_are_cut_to_the_peer_s_frames() {
    // [AMQP 2.3.1, 2.6.14] never more than max-frame-size; only the first frame names the delivery.
    let mut client = Client::begun_with(Amqp10Config::default(), 512, 1000);
    client.receiver(0, "q");
    client.credit(0, 0, 10, false);
    let body: Vec<u8> = (0..6000u32).map(|n| n as u8).collect();
    client.deliver(vec![delivery(1, 1, &body), delivery(1, 2, b"next")]);
    let got = client.got();
    assert!(got.iter().all(|frame| frame.len <= 512));
    let joined: Vec<u8> = got[..got.len() - 1].iter().flat_map(|frame| frame.payload.clone()).collect();
    assert!(joined.ends_with(&body));
    let texts: Vec<String> = got.iter().map(describe).collect();
    assert!(texts[0].starts_with("transfer 0 id=Some(0) more"));
    assert!(texts[1].starts_with("transfer 0 id=None more"));
    assert!(!texts[got.len() - 2].contains("more"));
    assert!(texts[got.len() - 1].starts_with("transfer 0 id=Some(1) "));
}

fn window(seen: SequenceNo, window: u32) -> Performative {
    let Performative::Flow(flow) = link_flow(0, None, 0, false) else { unreachable!() };
    Performative::Flow(Flow {
        next_incoming_id: Some(seen),
        incoming_window: window,
        handle: None,
        link_credit: None,
        ..flow
    })
}

#[test]
fn the_peer_s_window_holds_transfers_back() {
    // [AMQP 2.5.6] although link credit is left.
    let mut client = Client::begun_with(Amqp10Config::default(), 512, 2);
    client.receiver(0, "q");
    let Performative::Flow(flow) = link_flow(0, Some(0), 10, false) else { unreachable!() };
    client.send(0, Performative::Flow(Flow { next_incoming_id: Some(0), incoming_window: 2, ..flow }));
    client.deliver(vec![delivery(1, 1, b"a"), delivery(1, 2, &[7; 1200]), delivery(1, 3, b"c")]);
    let texts = client.texts();
    assert_eq!(texts.len(), 2, "{texts:?}");
    client.send(0, window(1, 2));
    assert_eq!(client.texts(), ["transfer 0 id=None more 464"]);
    client.send(0, window(3, 5));
    let texts = client.texts();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[1].starts_with("transfer 0 id=Some(2)"));
    // [AMQP 2.5.6] what was not sent cannot have been seen.
    client.send(0, window(9, 5));
    client.expect(&["end amqp:invalid-field"]);
}

#[test]
fn a_drain_waits_for_the_window() {
    let mut client = Client::begun_with(Amqp10Config::default(), 512, 1);
    client.receiver(0, "q");
    let Performative::Flow(flow) = link_flow(0, Some(0), 5, true) else { unreachable!() };
    client.send(0, Performative::Flow(Flow { next_incoming_id: Some(0), incoming_window: 1, ..flow }));
    client.deliver(vec![delivery(1, 1, b"a"), delivery(1, 2, b"b")]);
    client.notice(Notice::Drained { consumer: ConsumerId(1) });
    client.expect(&["transfer 0 id=Some(0) 17"]);
    client.send(0, window(1, 9));
    client.expect(&["transfer 0 id=Some(1) 17", "flow 0 count=5 credit=0 drain"]);
}

#[test]
fn a_message_above_the_link_s_limit_goes_to_somebody_else() {
    let mut client = Client::begun();
    let attach = Attach {
        max_message_size: Some(30),
        source: Some(Box::new(with("q"))),
        ..attach("r", 0, Role::Receiver)
    };
    client.send(0, Performative::Attach(attach));
    client.agree();
    client.host.take_wire();
    client.credit(0, 0, 5, false);
    client.host.take_texts();
    client.deliver(vec![delivery(1, 1, &[0; 40]), delivery(1, 2, b"ok")]);
    client.asked(&[
        "settle 1 [1] Modified { failed: false, undeliverable_here: true }",
        "flow 1 5 drain=false",
    ]);
    client.expect(&["transfer 0 id=Some(0) 18"]);
}

#[test]
fn a_dynamic_source_is_a_queue_with_an_address() {
    let mut client = Client::begun();
    client.send(0, source(Source { dynamic: true, ..Source::default() }));
    assert_eq!(client.host.calls[0].text, "declare queue  passive=false");
    let ticket = client.ticket();
    let made = Defined { name: "amq.gen-1".into(), messages: 0, consumers: 0 };
    client.reply(vec![(ticket, Reply::Defined(Box::new(made)))]);
    assert_eq!(client.host.calls[0].text, "attach 1 queue amq.gen-1 create=false settled=false Granted");
    client.agree();
    let got = client.got();
    let Some(Performative::Attach(answer)) = &got[0].performative else { unreachable!() };
    let source = answer.source.as_ref().unwrap();
    assert_eq!(source.address.as_deref(), Some("/queues/amq.gen-1"));
    assert!(source.dynamic && source.dynamic_node_properties.is_some());
    client.send(0, detach(0, true));
    client.asked(&["detach 1 End { forget: true, keep_unsettled: false }", "delete queue amq.gen-1"]);
    client.expect(&["detach 0 closed"]);
}

#[test]
fn a_dynamic_node_whose_link_went_is_taken_back() {
    let mut client = Client::begun();
    client.send(0, source(Source { dynamic: true, ..Source::default() }));
    let ticket = client.ticket();
    client.send(0, detach(0, true));
    let made = Defined { name: "amq.gen-1".into(), messages: 0, consumers: 0 };
    client.reply(vec![(ticket, Reply::Defined(Box::new(made)))]);
    client.asked(&["delete queue amq.gen-1"]);
}

#[test]
fn closing_forgets_a_subscription_detaching_does_not() {
    // [AMQP 2.6.4, 2.6.6] the answer has the same flag.
    let mut client = Client::begun();
    client.receiver(0, "/topics/a");
    client.send(0, detach(0, false));
    client.expect(&["detach 0"]);
    client.asked(&["detach 1 End { forget: false, keep_unsettled: false }"]);
    // A link without source asks for the durable subscription of its name, and closing it forgets it.
    let lookup = Attach { source: None, ..attach("r0", 0, Role::Receiver) };
    client.send(0, Performative::Attach(lookup.clone()));
    assert_eq!(client.host.calls[0].text, "declare queue me:r0 passive=true");
    client.agree();
    client.expect(&["attach r0 0 Sender Some(\"\") Some(\"\")"]);
    client.send(0, detach(0, true));
    client.asked(&["delete queue me:r0"]);
    client.expect(&["detach 0 closed"]);
    client.send(0, Performative::Attach(lookup));
    let ticket = client.ticket();
    client.reply(vec![(ticket, Reply::Refused(Refusal::new(RefusalKind::NotFound, "none")))]);
    client.expect(&["attach r0 0 Sender None Some(\"\")", "detach 0 closed amqp:not-found"]);
}

#[test]
fn late_deliveries_are_not_taken_for_the_next_consumer_s() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 5, false);
    client.send(0, detach(0, true));
    client.send(0, attach_receiver("r", 0, "p"));
    client.credit(0, 0, 5, false);
    client.host.take_wire();
    client.deliver(vec![delivery(1, 1, b"late")]);
    client.expect(&[]);
    let texts: Vec<String> = client.host.calls.iter().map(|call| call.text.clone()).collect();
    assert!(texts.contains(&"attach 2 queue p create=true settled=false Granted".to_owned()), "{texts:?}");
    client.agree();
    // Nor does it get used again when the broker has answered: a delivery may be later still.
    client.send(0, attach_receiver("s", 1, "q"));
    assert!(client.host.calls[0].text.starts_with("attach 3 "), "{:?}", client.host.calls);
}

#[test]
fn a_deleted_queue_detaches_its_links() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.notice(Notice::Cancelled { consumer: ConsumerId(1) });
    client.expect(&["detach 0 closed amqp:resource-deleted"]);
    client.asked(&[]);
    client.send(0, detach(0, true));
    client.expect(&[]);
}

#[test]
fn ending_the_session_ends_its_links() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.sender(1, "q");
    client.send(0, Performative::End(End { error: None }));
    client.asked(&["detach 1 End { forget: false, keep_unsettled: false }"]);
    client.expect(&["end"]);
}

#[test]
fn only_filters_in_force_are_answered() {
    // [AMQP 3.5.8] the descriptor decides, not the key.
    use serde_amqp::Value;
    use serde_amqp::described::Described;
    use serde_amqp::descriptor::Descriptor;
    let described = |code: u64, value: Value| {
        let descriptor = Descriptor::Code(code);
        Some(Value::Described(Box::new(Described { descriptor, value })))
    };
    let mut filters = fe2o3_amqp_types::messaging::FilterSet::new();
    filters.insert(
        "a".into(),
        described(0x468c_0000_0004, Value::String("x = 1".to_owned())).unwrap_or_default(),
    );
    filters.insert("b".into(), described(0x468c_0000_0003, Value::List(Vec::new())).unwrap_or_default());
    let mut client = Client::begun();
    client.send(0, source(Source { filter: Some(filters), ..with("/topics/t") }));
    client.agree();
    let got = client.got();
    let Some(Performative::Attach(answer)) = &got[0].performative else { unreachable!() };
    let answered = answer.source.as_ref().unwrap().filter.as_ref().unwrap();
    let keys: Vec<&str> = answered.keys().map(|key| key.as_str()).collect();
    assert_eq!(keys, ["b"]);
}

#[test]
fn large_credit_is_granted_in_parts() {
    let mut client = Client::begun();
    client.receiver(0, "q");
    client.credit(0, 0, 1_000_000, false);
    client.asked(&["flow 1 2000 drain=false"]);
    client.deliver((0..1001).map(|tag| delivery(1, tag, b"x")).collect());
    client.asked(&["flow 1 2000 drain=false"]);
}
