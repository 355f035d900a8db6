"""AMQP 1.0 with qpid-proton: what issue 2 item 4 lists, each feature at least once."""

import uuid

import proton
import pytest
from proton import Delivery, Message, symbol, timestamp, ulong
from proton.reactor import AtLeastOnce, Copy

from support.clients import Nothing, Props, Refused
from support.wait import settled, until


@pytest.fixture
def queue(client, fresh):
    name = fresh("q")
    client("amqp091").declare_queue(name)
    return name


def test_sasl_plain_and_anonymous(client, queue):
    for options in ({}, {"anonymous": True}, {"user": "app", "password": "app-secret"}):
        each = client("amqp10", **options)
        each.publish("queue", queue, b"x")
    with pytest.raises(proton.ProtonException) as failed:
        client("amqp10", password="wrong")
    assert "auth" in str(failed.value).lower() or "sasl" in str(failed.value).lower()


def test_pre_settled_transfers(broker, client, queue):
    boss = client("amqp10")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number, confirm=False)
    boss.publish("queue", queue, b"10")
    reader = client("amqp10")
    reader.subscribe("queue", queue, ack="auto")
    bodies = [reader.receive() for _ in range(11)]
    assert [each.body for each in bodies] == [b"%d" % number for number in range(11)]
    assert all(each.raw[1].settled for each in bodies)
    settled(lambda: broker.counts(queue), (0, 0), "settled by being sent")


def test_all_four_outcomes(broker, client, queue):
    boss, reader = client("amqp10"), client("amqp10")
    reader.subscribe("queue", queue, credit=1)
    boss.publish("queue", queue, b"x")
    reader.release(reader.receive())
    reader.modify(reader.receive(), failed=True)
    received = reader.receive()
    assert received.attempts == 1
    reader.reject(received)
    settled(lambda: (broker.counts(queue), broker.counts(f"{queue}.dlq")), ((0, 0), (1, 0)), "rejected")
    boss.publish("queue", queue, b"y")
    reader.accept(reader.receive())
    settled(lambda: broker.counts(queue), (0, 0), "accepted")


def test_credit_is_obeyed(broker, client, queue):
    boss, reader = client("amqp10"), client("amqp10")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    receiver = reader.subscribe("queue", queue, credit=0)
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)
    receiver.link.flow(3)
    assert [reader.receive().body for _ in range(3)] == [b"0", b"1", b"2"]
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)
    assert broker.counts(queue) == (7, 3)


def test_drain(client, queue):
    boss, reader = client("amqp10"), client("amqp10")
    boss.publish("queue", queue, b"0")
    boss.publish("queue", queue, b"1")
    receiver = reader.subscribe("queue", queue, credit=0)
    reader.drain(receiver, 10)
    assert [reader.receive().body for _ in range(2)] == [b"0", b"1"]
    # The credit is used up: what comes later waits for new credit.
    assert receiver.link.credit == 0
    receiver.link.drain(0)
    boss.publish("queue", queue, b"2")
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)
    receiver.link.flow(1)
    assert reader.receive().body == b"2"


def test_drain_of_an_empty_queue(client, queue):
    reader = client("amqp10")
    receiver = reader.subscribe("queue", queue, credit=0)
    reader.drain(receiver, 5)
    assert receiver.link.credit == 0


@pytest.mark.parametrize("size", (0, 1, 255, 256, 70_000, 3_000_000))
def test_messages_of_any_size(client, queue, size):
    boss, reader = client("amqp10", max_frame_size=4096), client("amqp10", max_frame_size=4096)
    reader.subscribe("queue", queue, credit=1)
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    boss.publish("queue", queue, body)
    received = reader.receive()
    assert received.body == body
    reader.accept(received)


def test_the_smallest_frame(client, queue):
    """max-frame-size 512 is the least a peer may ask for [2.3.1]."""
    reader = client("amqp10", max_frame_size=512)
    reader.subscribe("queue", queue, credit=1)
    body = b"x" * 6000
    client("stomp").publish("queue", queue, body)
    assert reader.receive().body == body


def test_dynamic_node(client):
    owner = client("amqp10")
    receiver = owner.subscribe(None, None, dynamic=True)
    address = receiver.link.remote_source.address
    assert address
    client("amqp10").publish("raw", address, b"x")
    assert owner.receive().body == b"x"


def test_a_dynamic_node_goes_with_its_link(broker, client):
    owner = client("amqp10")
    receiver = owner.subscribe(None, None, dynamic=True)
    address = receiver.link.remote_source.address
    name = address.rsplit("/", 1)[-1]
    until(lambda: broker.queue(name) is not None, "there is a queue behind it")
    owner.close()
    until(lambda: broker.queue(name) is None, "and it is gone")


def test_several_links_and_both_directions_in_one_session(client, fresh):
    each = client("amqp10")
    names = [fresh("q") for _ in range(5)]
    for name in names:
        each.subscribe("queue", name)
        each.publish("queue", name, name.encode())
    assert sorted(each.receive().body.decode() for _ in names) == sorted(names)


def test_addresses(client, fresh):
    """Spellings of several brokers lead to the same queue."""
    queue = fresh("q")
    boss = client("amqp10")
    spellings = (queue, f"/queues/{queue}", f"/queue/{queue}", f"queue://{queue}", f"/amq/queue/{queue}")
    for spelling in spellings:
        boss.publish("raw", spelling, spelling.encode())
    reader = client("amqp091")
    assert [reader.get(queue, auto_ack=True).body.decode() for _ in spellings] == list(spellings)


def test_topic_addresses(client, fresh):
    root = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", f"{root}/a", ack="auto")
    boss = client("amqp10")
    for spelling in (f"/topics/{root}/a", f"/topic/{root}.a", f"topic://{root}.a"):
        boss.publish("raw", spelling, b"x")
        assert reader.receive().address == f"{root}/a"


def test_percent_encoded_names(client, fresh):
    """RabbitMQ's v2 addresses encode names [/queues/:queue]."""
    name = fresh("q") + "/with slash %"
    client("amqp091").declare_queue(name)
    from urllib.parse import quote

    client("amqp10").publish("raw", "/queues/" + quote(name, safe=""), b"x")
    assert client("amqp091").get(name, auto_ack=True).body == b"x"


def test_an_unknown_address_refuses_the_link_only(client, queue):
    each = client("amqp10")
    with pytest.raises(Refused):
        each.subscribe("raw", "/nowhere/x")
    each.publish("queue", queue, b"the connection is alive")


def test_every_type_of_property_comes_back(client, queue):
    sent = Message(
        body=b"x",
        inferred=True,
        id=uuid.uuid4(),
        correlation_id=ulong(2**63),
        user_id=b"guest",
        address="to",
        subject="subject",
        reply_to="/queues/r",
        content_type=symbol("text/plain"),
        content_encoding=symbol("gzip"),
        expiry_time=4_000_000_000,
        creation_time=1_700_000_000,
        group_id="g",
        group_sequence=7,
        reply_to_group_id="rg",
        properties={
            "bool": True, "int": proton.int32(-5), "ulong": ulong(2**63), "double": 1.5, "text": "é", "null": None,
            "binary": b"\x00\xff", "uuid": uuid.UUID(int=5), "time": timestamp(1_700_000_000_123), "symbol": symbol("s"),
        },
    )  # fmt: skip
    sent.annotations = {symbol("x-opt-mine"): "kept"}
    client("amqp10").publish("queue", queue, None, message=sent)
    reader = client("amqp10")
    reader.subscribe("queue", queue)
    seen = reader.receive().raw[0]
    for field in ("id", "correlation_id", "subject", "address", "reply_to", "content_type", "content_encoding", "expiry_time",
                  "creation_time", "group_id", "group_sequence", "reply_to_group_id"):  # fmt: skip
        assert getattr(seen, field) == getattr(sent, field), field
    assert bytes(seen.user_id) == b"guest"
    properties = dict(seen.properties)
    properties["binary"] = bytes(properties["binary"])
    assert properties == sent.properties
    assert seen.annotations[symbol("x-opt-mine")] == "kept"


@pytest.mark.parametrize(
    "body, expected",
    [("text ü", "text ü".encode()), (b"\x00\xff", b"\x00\xff"), (memoryview(b"view"), b"view")],
    ids=["string", "binary", "view"],
)
def test_value_bodies_are_plain_bytes_elsewhere(client, queue, body, expected):
    client("amqp10").publish("queue", queue, None, message=Message(body=body))
    assert client("amqp091").get(queue, auto_ack=True).body == expected


def test_a_value_body_stays_a_value(client, queue):
    """The bare message is passed on untouched: maps and lists too."""
    body = {"a": [1, "two", None], "b": {"c": True}}
    client("amqp10").publish("queue", queue, None, message=Message(body=body))
    received_from = client("amqp10")
    received_from.subscribe("queue", queue)
    received_from.connection.wait(lambda: received_from.inbox.incoming, timeout=15)
    assert received_from.inbox.incoming[0][1].body == body


def test_browsing_removes_nothing(broker, client, queue):
    client("stomp").publish("queue", queue, b"x")
    reader = client("amqp10")
    reader.subscribe("queue", queue, options=[Copy()])
    received = reader.receive()
    assert received.body == b"x"
    reader.accept(received)
    settled(lambda: broker.counts(queue), (1, 0), "still there")


def test_durable_subscription(client, fresh):
    topic, name = f"{fresh('t')}/x", fresh("durable")
    container = fresh("container")
    reader = client("amqp10", container_id=container)
    reader.subscribe("topic", topic, durable=name)
    # Closing the connection without closing the link keeps the terminus.
    reader.drop_connection()
    boss = client("stomp")
    for number in range(3):
        boss.publish("topic", topic, b"%d" % number)
    reader = client("amqp10", container_id=container)
    receiver = reader.subscribe("topic", topic, durable=name)
    for number in range(3):
        received = reader.receive()
        assert received.body == b"%d" % number
        reader.accept(received)
    # A closed link ends the subscription [2.6.6].
    receiver.link.close()
    reader.connection.wait(lambda: not receiver.link.state & proton.Endpoint.REMOTE_ACTIVE, timeout=15)
    boss.publish("topic", topic, b"nobody")
    again = client("amqp10", container_id=container)
    again.subscribe("topic", topic, durable=name)
    boss.publish("topic", topic, b"sentinel")
    assert again.receive().body == b"sentinel"


def test_rejected_by_a_full_queue(client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    boss = client("amqp10")
    boss.publish("queue", queue, b"1")
    with pytest.raises(Refused):
        boss.publish("queue", queue, b"2")
    # The link is alive.
    assert client("amqp091").get(queue, auto_ack=True).body == b"1"
    boss.publish("queue", queue, b"3")


def test_unroutable_is_released(client, fresh):
    """No queue bound: released, so that the sender may try another way."""
    boss = client("amqp10")
    sender = boss.sender("exchange", "amq.direct/nobody")
    delivery = sender.link.send(Message(body=b"x", inferred=True))
    boss.connection.wait(lambda: delivery.settled, timeout=15)
    assert delivery.remote_state == Delivery.RELEASED


def test_idle_connections_are_kept_alive(client, queue):
    """The broker sends empty frames within our idle time-out [2.4.5]."""
    import time

    each = client("amqp10", heartbeat=1)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        try:
            each.connection.wait(lambda: False, timeout=0.2)
        except proton.Timeout:
            pass
    each.publish("queue", queue, b"alive")


def test_sender_credit_is_given_and_renewed(client, queue):
    """More messages than any first credit, unsettled all the while."""
    boss = client("amqp10")
    sender = boss.sender("queue", queue)
    deliveries = []
    for number in range(3000):
        boss.connection.wait(lambda: sender.link.credit > 0, timeout=15)
        deliveries.append(sender.link.send(Message(body=b"%d" % number, inferred=True)))
    boss.connection.wait(lambda: all(delivery.settled for delivery in deliveries), timeout=30)
    assert {delivery.remote_state for delivery in deliveries} == {Delivery.ACCEPTED}


def test_to_and_from_0_9_1_with_types(client, queue):
    """Numbers, booleans, times and identifiers keep their meaning between the two AMQPs (docs/mapping.md)."""
    sent = Message(body=b"x", inferred=True, id=uuid.UUID(int=1), creation_time=1_700_000_000, subject="s")
    # A whole number: pika cuts the fraction off every double it reads.
    sent.properties = {"n": proton.int32(5), "big": ulong(2**40), "yes": True, "f": 4.0}
    client("amqp10").publish("queue", queue, None, message=sent)
    seen = client("amqp091").get(queue, auto_ack=True).raw[1]
    assert seen.message_id == str(uuid.UUID(int=1))
    assert seen.timestamp == 1_700_000_000
    assert {key: seen.headers[key] for key in ("n", "big", "yes", "f")} == {"n": 5, "big": 2**40, "yes": True, "f": 4}
    import pika

    back = pika.BasicProperties(timestamp=1_700_000_000, message_id="m", headers={"n": -5, "yes": False, "t": "x"})
    client("amqp091").publish("queue", queue, b"y", properties=back)
    reader = client("amqp10")
    reader.subscribe("queue", queue)
    message = reader.receive().raw[0]
    assert message.creation_time == 1_700_000_000
    assert message.properties == {"n": -5, "yes": False, "t": "x"}


def test_settle_modes_are_echoed(client, queue):
    reader = client("amqp10")
    receiver = reader.subscribe("queue", queue, options=[AtLeastOnce()])
    assert receiver.link.remote_rcv_settle_mode == proton.Link.RCV_FIRST


def test_priority_and_ttl_reach_the_header(client, queue):
    client("amqp10").publish("queue", queue, b"x", Props(priority=8, ttl_ms=30_000, durable=True))
    reader = client("amqp10")
    reader.subscribe("queue", queue)
    props = reader.receive().props
    assert (props.priority, props.durable) == (8, True)
    assert 0 < props.ttl_ms <= 30_000
