"""Transactions of STOMP and AMQP 1.0: nothing before the commit, all of it after, none of it after an abort or a lost connection.

Those of 0-9-1 are in tests/amqp091.
"""

import pytest

from support.clients import Refused
from support.wait import settled

VERSIONS = ("stomp10", "stomp11", "stomp12", "amqp10")
BOTH = ("stomp", "amqp10")


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


@pytest.mark.parametrize("version", BOTH)
def test_a_lost_connection_aborts(broker, client, queue, version):
    boss = client(version)
    transaction = boss.begin()
    boss.publish("queue", queue, b"never", transaction=transaction)
    boss.drop_connection()
    client("stomp").publish("queue", queue, b"sentinel")
    assert broker.counts(queue) == (1, 0)


@pytest.mark.parametrize("version", BOTH)
def test_acks_belong_to_the_unit(broker, client, fresh, queue, version):
    results = fresh("results")
    client("amqp091").declare_queue(results)
    client("mqtt5").publish("queue", queue, b"job")
    worker = client(version)
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


@pytest.mark.parametrize("version", BOTH)
def test_two_transactions_at_once(broker, client, queue, version):
    boss = client(version)
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


@pytest.mark.parametrize("version", BOTH)
def test_a_topic_subscriber_sees_the_unit_in_order(client, fresh, version):
    topic = f"{fresh('t')}/x"
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="auto")
    boss = client(version)
    transaction = boss.begin()
    for number in range(5):
        boss.publish("topic", topic, b"%d" % number, transaction=transaction)
    boss.publish("topic", topic, b"outside")
    boss.commit(transaction)
    assert [reader.receive().body for _ in range(6)] == [b"outside", b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("version", BOTH)
def test_a_unit_that_finds_no_room_is_refused_whole(broker, client, fresh, version):
    small, large = fresh("small"), fresh("large")
    declarer = client("amqp091")
    declarer.declare_queue(small, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    declarer.declare_queue(large)
    boss = client(version)
    transaction = boss.begin()
    for queue in (large, small, small):
        boss.publish("queue", queue, b"x", transaction=transaction)
    with pytest.raises(Refused):
        boss.commit(transaction)
    assert (broker.counts(small), broker.counts(large)) == ((0, 0), (0, 0))


@pytest.mark.parametrize("settle_first", [False, True], ids=["settled-by-the-discharge", "settled-before"])
@pytest.mark.parametrize("end", ["commit", "abort"])
def test_amqp10_retires_deliveries_both_ways(broker, client, queue, settle_first, end):
    """[AMQP 4.4.2] Proton forgets a delivery with the discharge, or as soon as it has settled it in the transaction."""
    for body in (b"1", b"2"):
        client("amqp091").publish("queue", queue, body)
    worker = client("amqp10")
    worker.subscribe("queue", queue, ack="client")
    transaction = worker.begin(settle_before_discharge=settle_first)
    for _ in range(2):
        worker.accept(worker.receive(), transaction=transaction)
    assert broker.counts(queue) == (0, 2)
    getattr(worker, end)(transaction)
    if end == "commit":
        settled(lambda: broker.counts(queue), (0, 0), "gone with the commit")
        return
    again = [worker.receive() for _ in range(2)]
    assert [(each.body, each.redelivered) for each in again] == [(b"1", True), (b"2", True)]
    for each in again:
        worker.accept(each)
    settled(lambda: broker.counts(queue), (0, 0), "accepted for good")


def test_an_amqp10_consumer_may_end_before_its_commit(broker, client, queue):
    client("amqp091").publish("queue", queue, b"1")
    worker = client("amqp10")
    receiver = worker.subscribe("queue", queue, ack="client")
    transaction = worker.begin(settle_before_discharge=True)
    worker.accept(worker.receive(), transaction=transaction)
    receiver.close()
    assert broker.counts(queue) == (0, 1)
    worker.commit(transaction)
    settled(lambda: broker.counts(queue), (0, 0), "gone with the commit")
