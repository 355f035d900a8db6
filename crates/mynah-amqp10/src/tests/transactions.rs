//! The coordinator, and what is published and settled in transactions.

use fe2o3_amqp_types::messaging::{Accepted, Rejected};
use fe2o3_amqp_types::transaction::{Coordinator, Declare, Discharge, TransactionalState};
use mynah_core::protocol::{Refusal, RefusalKind};

use super::*;

const CONTROL: u32 = 9;

fn attach_coordinator(outcomes: &[&str]) -> Performative {
    let source = Source {
        outcomes: (!outcomes.is_empty()).then(|| {
            serde_amqp::primitives::Array(outcomes.iter().map(|name| (*name).into()).collect::<Vec<_>>())
        }),
        ..Source::default()
    };
    Performative::Attach(Attach {
        source: Some(Box::new(source)),
        target: Some(Box::new(TargetArchetype::Coordinator(Coordinator::default()))),
        ..attach("control", CONTROL, Role::Sender)
    })
}

fn value<T: serde_amqp::serde::Serialize>(body: &T) -> Vec<u8> {
    let mut section = vec![0x00, 0x53, 0x77];
    section.extend(serde_amqp::to_vec(body).unwrap());
    section
}

fn tx(id: u64, outcome: Option<Outcome>) -> DeliveryState {
    DeliveryState::TransactionalState(TransactionalState {
        txn_id: id.to_be_bytes().to_vec().into(),
        outcome,
    })
}

fn accepted(id: u64) -> DeliveryState {
    tx(id, Some(Outcome::Accepted(Accepted {})))
}

impl Client {
    fn coordinated() -> Self {
        Self::coordinated_with(&[])
    }

    fn coordinated_with(outcomes: &[&str]) -> Self {
        let mut client = Self::begun();
        client.send(0, attach_coordinator(outcomes));
        client.host.take_wire();
        client
    }

    fn control(&mut self, delivery: u32, body: &[u8]) {
        self.transfer(transfer(CONTROL, Some(delivery), false, false), body);
    }

    fn declare(&mut self, delivery: u32) {
        self.control(delivery, &value(&Declare { global_id: None }));
        self.agree();
        self.host.take_wire();
        self.host.take_texts();
    }

    fn discharge(&mut self, delivery: u32, id: u64, fail: bool) {
        let txn_id = id.to_be_bytes().to_vec().into();
        self.control(delivery, &value(&Discharge { txn_id, fail: Some(fail) }));
    }

    /// What the broker is asked for, and its yes.
    #[track_caller]
    fn agree_to(&mut self, expected: &[&str]) {
        let asked: Vec<&str> = self.host.calls.iter().map(|call| &*call.text).collect();
        assert_eq!(asked, expected);
        let replies = self.host.agree();
        self.reply(replies);
    }

    fn refuse(&mut self) {
        let ticket = self.ticket();
        let refusal = Refusal::new(RefusalKind::Full, "queue 'q' has no room for the transaction");
        self.reply(vec![(ticket, Reply::Refused(refusal))]);
    }

    /// A transaction and a receiver that has been sent `count` messages.
    fn receiving(count: u64) -> Self {
        let mut client = Self::coordinated();
        client.declare(0);
        client.receiver(0, "q");
        client.credit(0, 0, 10, false);
        client.deliver((0..count).map(|tag| delivery(1, tag + 100, b"m")).collect());
        client.host.take_wire();
        client.host.take_texts();
        client
    }
}

#[test]
fn messages_are_published_in_a_transaction() {
    // [AMQP 4.1, 4.2, 4.3, 4.4.1]
    let mut client = Client::begun();
    client.send(0, attach_coordinator(&[]));
    client.expect(&[
        "attach control 9 Receiver Some(\"\") Some(\"coordinator 3\")",
        "flow 9 count=0 credit=2000",
    ]);
    client.control(0, &value(&Declare { global_id: None }));
    client.agree_to(&["transact Begin(TransactionId(1))"]);
    client.expect(&["disposition Receiver 0..None declared 1"]);
    client.sender(1, "q");
    for id in 1..=2 {
        client.transfer(
            Transfer { state: Some(tx(1, None)), ..transfer(1, Some(id), false, false) },
            &data(b"m"),
        );
    }
    client.agree_to(&["publish queue:q AtMostOnce No tx1", "publish queue:q AtMostOnce No tx1"]);
    client.expect(&["disposition Receiver 1..Some(2) tx1 accepted"]);
    client.discharge(3, 1, false);
    client.agree_to(&["transact Commit(TransactionId(1))"]);
    client.expect(&["disposition Receiver 3..None accepted"]);
    // It is over.
    client.discharge(4, 1, false);
    client.expect(&["disposition Receiver 4..None rejected amqp:transaction:unknown-id"]);
    client.transfer(Transfer { state: Some(tx(1, None)), ..transfer(1, Some(5), false, false) }, &data(b"m"));
    client.expect(&["disposition Receiver 5..None rejected amqp:transaction:unknown-id"]);
    client.asked(&[]);
}

#[test]
fn several_transactions_are_open_at_once() {
    let mut client = Client::coordinated();
    client.declare(0);
    client.declare(1);
    client.sender(1, "q");
    client.transfer(Transfer { state: Some(tx(2, None)), ..transfer(1, Some(2), true, false) }, &data(b"m"));
    client.discharge(3, 1, true);
    client.agree_to(&["publish queue:q AtMostOnce No tx2", "transact Rollback(TransactionId(1))"]);
    client.expect(&["disposition Receiver 3..None accepted"]);
}

#[test]
fn what_the_coordinator_does_not_take() {
    let mut client = Client::coordinated();
    client.control(0, &data(b"declare"));
    client.expect(&["disposition Receiver 0..None rejected amqp:decode-error"]);
    client.control(1, &value(&Declare { global_id: Some(vec![1].into()) }));
    client.expect(&["disposition Receiver 1..None rejected amqp:not-implemented"]);
    client.control(2, &value(&Discharge { txn_id: vec![1, 2, 3].into(), fail: None }));
    client.expect(&["disposition Receiver 2..None rejected amqp:transaction:unknown-id"]);
    client.control(3, &value(&Declare { global_id: None }));
    client.refuse();
    client.expect(&["disposition Receiver 3..None rejected amqp:resource-limit-exceeded"]);
    // It is an error if the sender sends the transfer pre-settled [AMQP 4.2].
    client.transfer(transfer(CONTROL, Some(4), true, false), &value(&Declare { global_id: None }));
    client.expect(&["detach 9 closed amqp:invalid-field"]);
}

#[test]
fn a_coordinator_is_no_source() {
    let mut client = Client::begun();
    let coordinator = serde_amqp::to_vec(&Coordinator::default()).unwrap();
    let mut fields = vec![0xa1, 1, b'r', 0x43, 0x41, 0x40, 0x40];
    fields.extend_from_slice(&coordinator);
    let mut body = vec![0x00, 0x53, 0x12, 0xc0, fields.len() as u8 + 1, 6];
    body.extend_from_slice(&fields);
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&[2, 0, 0, 0]);
    bytes.extend_from_slice(&body);
    client.raw(&bytes);
    let texts = client.texts();
    assert_eq!(texts.last().unwrap(), "detach 0 closed amqp:invalid-field", "{texts:?}");
}

#[test]
fn a_refused_discharge_is_rejected_or_ends_the_link() {
    // [AMQP 4.3] "If the source does not support the rejected outcome, the transactional resource MUST detach the link".
    let mut client = Client::coordinated_with(&["amqp:accepted:list", "amqp:rejected:list"]);
    client.declare(0);
    client.discharge(1, 1, false);
    client.refuse();
    client.expect(&["disposition Receiver 1..None rejected amqp:transaction:rollback"]);
    let mut client = Client::coordinated_with(&["amqp:accepted:list"]);
    client.declare(0);
    client.discharge(1, 1, false);
    client.refuse();
    client.expect(&["detach 9 closed amqp:transaction:rollback"]);
}

#[test]
fn a_message_that_cannot_be_staged_is_rejected_in_its_transaction() {
    let mut client = Client::coordinated();
    client.declare(0);
    client.sender(1, "q");
    client.transfer(Transfer { state: Some(tx(1, None)), ..transfer(1, Some(1), false, false) }, &data(b"m"));
    client.refuse();
    client.expect(&["disposition Receiver 1..None tx1 rejected amqp:resource-limit-exceeded"]);
}

#[test]
fn the_end_of_the_control_link_rolls_back() {
    // [AMQP 4.2] "all such transactions are immediately rolled back".
    let mut client = Client::coordinated();
    client.declare(0);
    client.declare(1);
    client.send(0, detach(CONTROL, true));
    client.asked(&["transact Rollback(TransactionId(1))", "transact Rollback(TransactionId(2))"]);
    client.expect(&["detach 9 closed"]);
    client.sender(1, "q");
    client.transfer(Transfer { state: Some(tx(1, None)), ..transfer(1, Some(1), false, false) }, &data(b"m"));
    client.expect(&["disposition Receiver 1..None rejected amqp:transaction:unknown-id"]);
}

#[test]
fn deliveries_are_settled_in_a_transaction() {
    // [AMQP 4.4.2] "On a successful discharge, the resource will apply the given outcome and can immediately settle".
    let mut client = Client::receiving(4);
    client.send(0, disposition(0, Some(1), false, accepted(1)));
    client.send(0, disposition(2, None, true, tx(1, Some(Outcome::Rejected(Rejected { error: None })))));
    client.asked(&["settle 1 [100, 101] Accepted tx1", "settle 1 [102] Rejected { reason: None } tx1"]);
    client.expect(&[]);
    client.discharge(1, 1, false);
    client.agree_to(&["transact Commit(TransactionId(1))"]);
    client.expect(&["disposition Sender 0..Some(1) accepted", "disposition Receiver 1..None accepted"]);
    // What the peer says of them afterwards is no news; the last one is still out.
    client.send(0, disposition(0, Some(3), true, DeliveryState::Accepted(Accepted {})));
    client.asked(&["settle 1 [103] Accepted"]);
}

#[test]
fn after_a_rollback_deliveries_are_out_as_before() {
    // [AMQP 4.4.2] "the outcome will not be applied, and the deliveries will still be 'live'".
    let mut client = Client::receiving(5);
    client.send(0, disposition(0, Some(2), false, accepted(1)));
    client.send(0, disposition(3, None, true, accepted(1)));
    // Forgotten by the peer before the discharge.
    client.send(0, disposition(2, None, true, accepted(1)));
    client.host.take_texts();
    client.discharge(1, 1, true);
    client.agree_to(&["transact Rollback(TransactionId(1))"]);
    let failed = "Modified { failed: true, undeliverable_here: false }";
    client.asked(&[&format!("settle 1 [102] {failed}"), &format!("settle 1 [103] {failed}")]);
    client.expect(&["disposition Receiver 1..None accepted"]);
    client.send(0, disposition(0, Some(4), true, DeliveryState::Accepted(Accepted {})));
    client.asked(&["settle 1 [100, 101, 104] Accepted"]);
}

#[test]
fn settling_in_an_unknown_transaction_ends_the_link() {
    let mut client = Client::receiving(1);
    client.send(0, disposition(0, None, true, accepted(7)));
    client.expect(&["detach 0 closed amqp:transaction:unknown-id"]);
    client.asked(&["detach 1 End { forget: false, keep_unsettled: false }"]);
}

#[test]
fn a_consumer_may_end_before_the_discharge() {
    // What it has settled in the transaction stays with that, the rest goes back.
    for fail in [false, true] {
        let mut client = Client::receiving(3);
        client.send(0, disposition(0, None, true, accepted(1)));
        client.send(0, disposition(1, None, false, accepted(1)));
        client.send(0, detach(0, true));
        client.agree_to(&[
            "settle 1 [100] Accepted tx1",
            "settle 1 [101] Accepted tx1",
            "settle 1 [102] Released",
            "detach 1 End { forget: true, keep_unsettled: true }",
        ]);
        // Sent by the broker before it knew.
        client.deliver(vec![delivery(1, 200, b"late")]);
        client.asked(&["settle 1 [200] Released"]);
        client.host.take_wire();
        client.discharge(1, 1, fail);
        let replies = client.host.agree();
        client.reply(replies);
        let failed = "Modified { failed: true, undeliverable_here: false }";
        let back = [format!("settle 1 [100] {failed}"), format!("settle 1 [101] {failed}")];
        assert_eq!(client.host.take_texts(), if fail { &back[..] } else { &[] });
    }
}

#[test]
fn credit_in_a_transaction_is_refused() {
    // [AMQP 4.4.3] Transactional acquisition.
    let mut client = Client::receiving(0);
    let Performative::Flow(mut flow) = link_flow(0, Some(0), 5, false) else { unreachable!() };
    let mut properties = fe2o3_amqp_types::definitions::Fields::new();
    properties.insert("txn-id".into(), serde_amqp::Value::Binary(vec![1].into()));
    flow.properties = Some(properties);
    client.send(0, Performative::Flow(flow));
    client.expect(&["detach 0 closed amqp:not-implemented"]);
}
