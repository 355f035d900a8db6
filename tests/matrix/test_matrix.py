"""From each protocol to each protocol, over a topic and over a queue, and each way a delivery can end.

Every cell is one test, named like `mqtt311_to_amqp10_queue_reject_goes_to_dead_letter`, or stands in NOT_APPLICABLE with
the reason. Bodies have all 256 byte values; properties are checked as far as both protocols have a place for them
(docs/mapping.md).
"""

import itertools

import pytest

from support.clients import PROTOCOLS, Props
from support.clients import amqp091, amqp10, mqtt, stomp
from support.wait import settled

KINDS = ("topic", "queue")
ENDINGS = {
    ("topic", "accept"): "accept_gives_each_subscriber_one_copy",
    ("queue", "accept"): "accept_gives_one_consumer_one_copy",
    ("topic", "reject"): "reject_is_final_for_this_subscriber_only",
    ("queue", "reject"): "reject_goes_to_dead_letter",
    ("topic", "lost"): "lost_connection_redelivers_to_the_subscription",
    ("queue", "lost"): "lost_connection_redelivers_to_another_consumer",
}

#: (sender, receiver, kind, ending) with None for "any": why there is nothing to test.
NOT_APPLICABLE = {
    (None, "mqtt311", None, "reject"): "PUBACK of MQTT 3.1.1 has no reason code: a receiver can only accept [3.4.2]",
}

BODY = bytes(range(256))
APPLICATION = {"colour": "blue", "room": "c:\\1 - é", "empty": ""}

#: What a protocol's sender can say beside the body, and what its receiver can see.
SAYS = {
    "mqtt311": {"durable"},
    "mqtt5": {"durable", "content_type", "correlation_id", "reply_to", "ttl_ms", "app"},
    "stomp": {"durable", "content_type", "correlation_id", "reply_to", "ttl_ms", "app", "priority"},
    "amqp10": {"durable", "content_type", "correlation_id", "reply_to", "ttl_ms", "app", "priority", "message_id"},
    "amqp091": {"durable", "content_type", "correlation_id", "reply_to", "ttl_ms", "app", "priority", "message_id"},
}
SHOWS = {
    "mqtt311": set(),
    "mqtt5": {"content_type", "correlation_id", "reply_to", "ttl_ms", "app", "message_id"},
    "stomp": {"durable", "content_type", "correlation_id", "reply_to", "ttl_ms", "app", "priority", "message_id"},
    "amqp10": SAYS["amqp10"],
    "amqp091": SAYS["amqp091"],
}

#: How a receiver spells the queue `q` as an address to reply to.
REPLY_TO = {
    "mqtt5": lambda q: mqtt.address("queue", q),
    "stomp": lambda q: stomp.address("queue", q),
    "amqp10": lambda q: amqp10.address("queue", q),
    "amqp091": lambda q: amqp091.address("queue", q)[1],
}


def reason_not_applicable(cell):
    for pattern, reason in NOT_APPLICABLE.items():
        if all(want is None or want == have for want, have in zip(pattern, cell)):
            return reason
    return None


def all_cells():
    return itertools.product(PROTOCOLS, PROTOCOLS, KINDS, ("accept", "reject", "lost"))


def name_of(cell):
    sender, receiver, kind, ending = cell
    return f"{sender}_to_{receiver}_{kind}_{ENDINGS[kind, ending]}"


CELLS = [cell for cell in all_cells() if reason_not_applicable(cell) is None]


def cells(kind, ending):
    """The cells of one test function, each under its name."""
    mine = [cell for cell in CELLS if cell[2:] == (kind, ending)]
    return pytest.mark.parametrize("sender, receiver", [cell[:2] for cell in mine], ids=[name_of(c) for c in mine])


def test_every_cell_exists_or_is_listed_with_its_reason(request):
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    collected = {item.callspec.id for item in mine}
    expected = {name_of(cell) for cell in all_cells() if reason_not_applicable(cell) is None}
    if len(collected) > 1:
        narrowed = request.config.option.keyword or any("::" in arg for arg in request.config.args)
        assert collected == expected or narrowed
    assert len(CELLS) + sum(reason_not_applicable(cell) is not None for cell in all_cells()) == 5 * 5 * 2 * 3
    for pattern in NOT_APPLICABLE:
        assert any(all(w is None or w == h for w, h in zip(pattern, cell)) for cell in all_cells()), "a dead entry"


def full_props(reply_queue):
    return Props(
        content_type="application/x-mynah",
        correlation_id="corr-1",
        reply_to=("queue", reply_queue),
        message_id="id-1",
        priority=7,
        ttl_ms=600_000,
        durable=True,
        app=dict(APPLICATION),
    )


def check_message(received, sender, receiver, reply_queue, body=BODY):
    assert received.body == body
    both = SAYS[sender] & SHOWS[receiver]
    props = received.props
    sent = full_props(reply_queue)
    for field in ("content_type", "correlation_id", "message_id", "priority", "durable"):
        if field in both:
            assert getattr(props, field) == getattr(sent, field), field
    if "reply_to" in both:
        assert props.reply_to == REPLY_TO[receiver](reply_queue)
    if "ttl_ms" in both:
        assert props.ttl_ms is not None and 0 < props.ttl_ms <= sent.ttl_ms
    if "app" in both:
        assert {key: props.app.get(key) for key in APPLICATION} == APPLICATION
    # What the sender cannot say must not be invented.
    for field in {"content_type", "correlation_id", "reply_to", "message_id"} - SAYS[sender]:
        assert getattr(props, field) is None, f"{field} was never sent"


def make_queue(client, fresh):
    name = fresh("q")
    client("amqp091").declare_queue(name)
    return name


def check_empty(broker, queue):
    settled(lambda: broker.counts(queue), (0, 0), f"(ready, unsettled) of {queue}")


def expect_only_sentinel(reader, sentinel):
    """The next message is the sentinel: nothing came twice, nothing else came."""
    received = reader.receive()
    assert received.body == sentinel
    return received


@cells("topic", "accept")
def test_topic_accept(client, fresh, sender, receiver):
    topic, reply = f"{fresh('t')}/a", fresh("reply")
    readers = [client(receiver), client(receiver)]
    for reader in readers:
        reader.subscribe("topic", topic, ack="client")
    writer = client(sender)
    writer.publish("topic", topic, BODY, full_props(reply))
    writer.publish("topic", topic, b"sentinel")
    for reader in readers:
        received = reader.receive()
        check_message(received, sender, receiver, reply)
        assert not received.redelivered
        reader.accept(received)
        reader.accept(expect_only_sentinel(reader, b"sentinel"))


@cells("queue", "accept")
def test_queue_accept(broker, client, fresh, sender, receiver):
    queue, reply = make_queue(client, fresh), fresh("reply")
    readers = [client(receiver), client(receiver)]
    for reader in readers:
        reader.subscribe("queue", queue, ack="client", credit=1)
    writer = client(sender)
    # Two messages for two consumers with a turn each: one copy of each, and none twice.
    for body in (BODY, BODY[::-1]):
        writer.publish("queue", queue, body, full_props(reply))
    bodies = []
    for reader in readers:
        received = reader.receive()
        check_message(received, sender, receiver, reply, body=received.body)
        assert not received.redelivered
        bodies.append(received.body)
        reader.accept(received)
    assert sorted(bodies) == sorted([BODY, BODY[::-1]])
    check_empty(broker, queue)


@cells("topic", "reject")
def test_topic_reject(client, fresh, sender, receiver):
    topic, reply = f"{fresh('t')}/a", fresh("reply")
    rejecting, other = client(receiver), client("mqtt5")
    rejecting.subscribe("topic", topic, ack="client")
    other.subscribe("topic", topic, ack="client")
    writer = client(sender)
    writer.publish("topic", topic, BODY, full_props(reply))
    received = rejecting.receive()
    check_message(received, sender, receiver, reply)
    rejecting.reject(received)
    writer.publish("topic", topic, b"sentinel")
    rejecting.accept(expect_only_sentinel(rejecting, b"sentinel"))
    received = other.receive()
    check_message(received, sender, "mqtt5", reply)
    other.accept(received)
    other.accept(expect_only_sentinel(other, b"sentinel"))


@cells("queue", "reject")
def test_queue_reject(broker, client, fresh, sender, receiver):
    queue, reply = make_queue(client, fresh), fresh("reply")
    rejecting = client(receiver)
    rejecting.subscribe("queue", queue, ack="client")
    client(sender).publish("queue", queue, BODY, full_props(reply))
    received = rejecting.receive()
    check_message(received, sender, receiver, reply)
    rejecting.reject(received)
    settled(lambda: broker.counts(f"{queue}.dlq"), (1, 0), "the dead letter waits")
    undertaker = client(receiver)
    undertaker.subscribe("queue", f"{queue}.dlq", ack="client")
    dead = undertaker.receive()
    assert dead.body == BODY
    assert (dead.death.cause, dead.death.queue, dead.death.count) == ("rejected", queue, 1)
    undertaker.accept(dead)
    check_empty(broker, queue)
    check_empty(broker, f"{queue}.dlq")


def durable_subscriber(client, protocol, identity, topic, again=False):
    """A subscription that outlives its connection, opened or resumed, in each protocol's own way."""
    if protocol in ("mqtt311", "mqtt5"):
        expiry = {"expiry": 300} if protocol == "mqtt5" else {}
        reader = client(protocol, client_id=identity, clean=False, **expiry)
        if again:
            assert reader.session_present
        else:
            reader.subscribe("topic", topic, ack="client")
        reader.auto = False
        return reader
    if protocol == "stomp":
        reader = client(protocol, headers={"client-id": identity})
        headers = {"durable": "true", "auto-delete": "false", "client-id": identity}
        reader.subscribe("topic", topic, ack="client", id=identity, headers=headers)
        return reader
    if protocol == "amqp10":
        reader = client(protocol, container_id=f"container-{identity}")
        reader.subscribe("topic", topic, ack="client", durable=identity)
        return reader
    reader = client(protocol)
    reader.subscribe("topic", topic, ack="client", durable=identity)
    return reader


@cells("topic", "lost")
def test_topic_lost(client, fresh, sender, receiver):
    topic, reply, identity = f"{fresh('t')}/a", fresh("reply"), fresh("durable")
    first = durable_subscriber(client, receiver, identity, topic)
    other = client("stomp")
    other.subscribe("topic", topic, ack="auto")
    writer = client(sender)
    writer.publish("topic", topic, BODY, full_props(reply))
    received = first.receive()
    check_message(received, sender, receiver, reply)
    assert not received.redelivered
    first.drop_connection()
    second = durable_subscriber(client, receiver, identity, topic, again=True)
    received = second.receive()
    check_message(received, sender, receiver, reply)
    assert received.redelivered
    second.accept(received)
    # The one that was not lost has its one copy.
    writer.publish("topic", topic, b"sentinel")
    second.accept(expect_only_sentinel(second, b"sentinel"))
    check_message(other.receive(), sender, "stomp", reply)
    expect_only_sentinel(other, b"sentinel")


@cells("queue", "lost")
def test_queue_lost(broker, client, fresh, sender, receiver):
    queue, reply = make_queue(client, fresh), fresh("reply")
    first = client(receiver)
    first.subscribe("queue", queue, ack="client")
    client(sender).publish("queue", queue, BODY, full_props(reply))
    received = first.receive()
    check_message(received, sender, receiver, reply)
    assert not received.redelivered and not received.attempts
    settled(lambda: broker.counts(queue), (0, 1), "one unsettled")
    second = client(receiver)
    second.subscribe("queue", queue, ack="client")
    first.drop_connection()
    received = second.receive()
    check_message(received, sender, receiver, reply)
    if receiver not in ("mqtt311", "mqtt5"):
        # DUP says "sent before on this connection's session" and nothing else [MQTT-3.3.1-1], so MQTT cannot show it.
        assert received.redelivered
    if received.attempts is not None:
        assert received.attempts == 1
    second.accept(received)
    check_empty(broker, queue)
