"""STOMP transactions: nothing before COMMIT, all of it after, none of it after ABORT or a lost connection."""

import pytest

from support.clients import Refused
from support.wait import settled

VERSIONS = ("stomp10", "stomp11", "stomp12")


@pytest.fixture
def queue(client, fresh):
    name = fresh("q")
    client("amqp091").declare_queue(name)
    return name


@pytest.mark.parametrize("version", VERSIONS)
def test_sends_appear_at_commit_over_several_queues(broker, client, fresh, queue, version):
    other = fresh("other")
    client("amqp091").declare_queue(other)
    boss = client(version)
    transaction = boss.begin()
    for body in (b"1", b"2"):
        boss.publish("queue", queue, body, transaction=transaction)
    boss.publish("queue", other, b"3", transaction=transaction)
    assert (broker.counts(queue), broker.counts(other)) == ((0, 0), (0, 0))
    boss.commit(transaction)
    assert (broker.counts(queue), broker.counts(other)) == ((2, 0), (1, 0))


@pytest.mark.parametrize("version", VERSIONS)
def test_abort_forgets(broker, client, queue, version):
    boss = client(version)
    transaction = boss.begin()
    boss.publish("queue", queue, b"never", transaction=transaction)
    boss.abort(transaction)
    boss.publish("queue", queue, b"sentinel")
    assert broker.counts(queue) == (1, 0)


def test_a_lost_connection_aborts(broker, client, queue):
    boss = client("stomp")
    transaction = boss.begin()
    boss.publish("queue", queue, b"never", transaction=transaction)
    boss.drop_connection()
    client("stomp").publish("queue", queue, b"sentinel")
    assert broker.counts(queue) == (1, 0)


def test_acks_belong_to_the_unit(broker, client, fresh, queue):
    results = fresh("results")
    client("amqp091").declare_queue(results)
    client("mqtt5").publish("queue", queue, b"job")
    worker = client("stomp")
    worker.subscribe("queue", queue, ack="client")
    received = worker.receive()
    transaction = worker.begin()
    worker.accept(received, transaction=transaction)
    worker.publish("queue", results, b"result", transaction=transaction)
    assert (broker.counts(queue), broker.counts(results)) == ((0, 1), (0, 0))
    worker.commit(transaction)
    assert (broker.counts(queue), broker.counts(results)) == ((0, 0), (1, 0))


def test_an_aborted_ack_leaves_the_message_with_the_client(broker, client, queue):
    client("mqtt5").publish("queue", queue, b"job")
    worker = client("stomp")
    worker.subscribe("queue", queue, ack="client")
    received = worker.receive()
    transaction = worker.begin()
    worker.accept(received, transaction=transaction)
    worker.abort(transaction)
    assert broker.counts(queue) == (0, 1)
    worker.accept(received)
    settled(lambda: broker.counts(queue), (0, 0), "acknowledged for good")


def test_two_transactions_at_once(broker, client, queue):
    boss = client("stomp")
    one, two = boss.begin(), boss.begin()
    boss.publish("queue", queue, b"one", transaction=one)
    boss.publish("queue", queue, b"two", transaction=two)
    boss.abort(one)
    boss.commit(two)
    reader = client("amqp091")
    assert reader.get(queue, auto_ack=True).body == b"two"
    assert reader.get(queue) is None


def test_an_unknown_transaction_is_an_error(client, queue):
    boss = client("stomp")
    with pytest.raises(Refused):
        boss.publish("queue", queue, b"x", transaction="nobody")


def test_a_topic_subscriber_sees_the_unit_in_order(client, fresh):
    topic = f"{fresh('t')}/x"
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="auto")
    boss = client("stomp")
    transaction = boss.begin()
    for number in range(5):
        boss.publish("topic", topic, b"%d" % number, transaction=transaction)
    boss.publish("topic", topic, b"outside")
    boss.commit(transaction)
    assert [reader.receive().body for _ in range(6)] == [b"outside", b"0", b"1", b"2", b"3", b"4"]
