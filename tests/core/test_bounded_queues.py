"""What a full queue does: drop-head, reject-publish, dead-letter; in messages and in bytes; seen by each publisher."""

import pytest

from support.clients import Refused
from support.wait import settled

CONFIRMING = ("mqtt5", "stomp", "amqp10", "amqp091")


def declare(client, name, **arguments):
    spelled = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    client("amqp091").declare_queue(name, arguments=spelled)


def contents(client, queue, count):
    reader = client("amqp091")
    reader.subscribe("queue", queue, ack="auto")
    bodies = [reader.receive().body for _ in range(count)]
    reader.close()
    return bodies


@pytest.mark.parametrize("sender", CONFIRMING)
def test_drop_head_keeps_the_newest(broker, client, fresh, sender):
    queue = fresh("q")
    declare(client, queue, max_length=3, overflow="drop-head")
    boss = client(sender)
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    settled(
        lambda: (broker.counts(queue), broker.counts(f"{queue}.dlq")), ((3, 0), (2, 0)), "three stay, two are dead"
    )
    assert contents(client, queue, 3) == [b"2", b"3", b"4"]
    assert contents(client, f"{queue}.dlq", 2) == [b"0", b"1"]


@pytest.mark.parametrize("sender", CONFIRMING)
def test_reject_publish_tells_the_sender(broker, client, fresh, sender):
    queue = fresh("q")
    declare(client, queue, max_length=3, overflow="reject-publish")
    boss = client(sender)
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    with pytest.raises(Refused):
        boss.publish("queue", queue, b"too much")
    settled(lambda: broker.counts(queue), (3, 0), "nothing was dropped")
    assert broker.queue(f"{queue}.dlq") is None
    assert contents(client, queue, 3) == [b"0", b"1", b"2"]
    # There is room again. STOMP ends the connection with the ERROR that says no.
    boss = client(sender) if sender == "stomp" else boss
    boss.publish("queue", queue, b"fits")
    settled(lambda: broker.counts(queue), (1, 0), "taken")


@pytest.mark.parametrize("sender", CONFIRMING)
def test_dead_letter_tells_the_sender_and_keeps_the_message(broker, client, fresh, sender):
    queue = fresh("q")
    declare(client, queue, max_length=1, overflow="reject-publish-dlx")
    boss = client(sender)
    boss.publish("queue", queue, b"first")
    with pytest.raises(Refused):
        boss.publish("queue", queue, b"second")
    settled(lambda: (broker.counts(queue), broker.counts(f"{queue}.dlq")), ((1, 0), (1, 0)), "the second is dead")
    reader = client("amqp091")
    reader.subscribe("queue", f"{queue}.dlq", ack="auto")
    dead = reader.receive()
    assert (dead.body, dead.death.cause, dead.death.queue) == (b"second", "queue-length", queue)


def test_bytes_count_too(broker, client, fresh):
    queue = fresh("q")
    declare(client, queue, max_length_bytes=10_000, overflow="drop-head")
    boss = client("amqp091")
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number * 4000)
    settled(lambda: broker.counts(queue), (2, 0), "two of 4,000 bytes fit into 10,000")
    assert contents(client, queue, 2) == [b"3" * 4000, b"4" * 4000]


def test_unsettled_messages_do_not_make_room(broker, client, fresh):
    """What is out at a consumer may come back, so it counts for reject-publish as RabbitMQ's ready count does not."""
    queue = fresh("q")
    declare(client, queue, max_length=2, overflow="drop-head")
    reader = client("amqp091")
    reader.subscribe("queue", queue, credit=10)
    boss = client("stomp")
    for number in range(4):
        boss.publish("queue", queue, b"%d" % number)
    held = [reader.receive() for _ in range(4)]
    assert [received.body for received in held] == [b"0", b"1", b"2", b"3"]
    settled(lambda: broker.counts(queue), (0, 4), "nothing waits, so nothing was dropped")


def test_the_configured_default_bounds_every_queue(own_broker, client, fresh):
    """Also those made by use; what falls out is a dead letter, never just gone."""
    small = own_broker({"queues": {"max_length_messages": 2}})
    queue = fresh("q")
    boss = client("amqp10", to=small)
    for number in range(4):
        boss.publish("queue", queue, b"%d" % number)
    settled(lambda: (small.counts(queue), small.counts(f"{queue}.dlq")), ((2, 0), (2, 0)), "the two oldest fell out")


def test_mqtt_3_is_not_told_taken_when_the_queue_is_full(broker, client, fresh):
    """It cannot be told no; without an acknowledgement it sends again when it comes back."""
    queue = fresh("q")
    client("amqp091").declare_queue(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    boss = client("mqtt311")
    boss.publish("queue", queue, b"1")
    refused = boss.publish("queue", queue, b"2", qos=1, confirm=False)
    boss.publish("topic", fresh("t"), b"acknowledged, though sent later")
    assert not refused.is_published()
    assert broker.counts(queue) == (1, 0)
