"""Attempts: what counts, what does not, and where each protocol shows it."""

import pytest

from support.wait import settled


def queue_with(client, fresh, body=b"job", **arguments):
    queue = fresh("q")
    client("amqp091").declare_queue(queue, arguments=arguments or None)
    client("stomp").publish("queue", queue, body)
    return queue


@pytest.mark.parametrize("protocol", ("stomp", "amqp10", "amqp091"))
def test_lost_connections_are_counted(client, fresh, protocol):
    queue = queue_with(client, fresh)
    for attempt in range(4):
        worker = client(protocol)
        worker.subscribe("queue", queue)
        received = worker.receive()
        assert bool(received.redelivered) == (attempt > 0)
        assert (received.attempts or 0) == attempt
        worker.drop_connection()


def test_released_is_not_counted_modified_is(client, fresh):
    """[AMQP 3.4.4, 3.4.5]"""
    queue = queue_with(client, fresh)
    worker = client("amqp10")
    worker.subscribe("queue", queue, credit=1)
    received = worker.receive()
    assert received.attempts == 0 and not received.redelivered
    worker.release(received)
    received = worker.receive()
    assert received.attempts == 0
    worker.modify(received, failed=True)
    received = worker.receive()
    assert received.attempts == 1
    worker.modify(received, failed=False)
    received = worker.receive()
    assert received.attempts == 1
    worker.accept(received)


def test_undeliverable_here_goes_to_another_consumer(broker, client, fresh):
    queue = queue_with(client, fresh)
    one = client("amqp10")
    one.subscribe("queue", queue, credit=5)
    received = one.receive()
    one.modify(received, failed=False, undeliverable=True)
    settled(lambda: broker.counts(queue), (1, 0), "it waits for somebody else")
    other = client("stomp")
    other.subscribe("queue", queue)
    received = other.receive()
    assert received.body == b"job"
    other.accept(received)


def test_requeue_in_0_9_1_marks_redelivered(client, fresh):
    queue = queue_with(client, fresh)
    worker = client("amqp091")
    worker.subscribe("queue", queue, credit=1)
    received = worker.receive()
    assert not received.redelivered
    worker.release(received)
    received = worker.receive()
    assert received.redelivered
    worker.accept(received)


def test_stomp_nack_requeues_and_counts(client, fresh):
    queue = queue_with(client, fresh)
    worker = client("stomp")
    worker.subscribe("queue", queue, credit=1)
    received = worker.receive()
    assert received.redelivered is False
    worker.release(received)
    received = worker.receive()
    assert received.redelivered is True
    worker.accept(received)


def test_a_requeued_message_goes_back_to_its_place(client, fresh):
    queue = queue_with(client, fresh, body=b"0")
    boss = client("stomp")
    for number in (1, 2, 3):
        boss.publish("queue", queue, b"%d" % number)
    worker = client("amqp091")
    first, second = worker.get(queue), worker.get(queue)
    worker.release(second)
    worker.release(first)
    order = [worker.get(queue, auto_ack=True).body for _ in range(4)]
    assert order == [b"0", b"1", b"2", b"3"]


def test_the_limit_of_the_configuration(own_broker, client, fresh):
    strict = own_broker({"queues": {"delivery_limit": 2}})
    queue = fresh("q")
    client("stomp", to=strict).publish("queue", queue, b"poison")
    for _ in range(2):
        worker = client("stomp", to=strict)
        worker.subscribe("queue", queue)
        worker.receive()
        worker.drop_connection()
    settled(lambda: strict.counts(f"{queue}.dlq"), (1, 0), "dead after two failed deliveries")
