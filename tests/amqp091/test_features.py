"""AMQP 0-9-1 with pika: what issue 2 item 4 lists, each method at least once."""

import datetime
import decimal
import time

import pika
import pytest
from pika import exceptions

from support.clients import Nothing, Props, Refused
from support.wait import settled, until


@pytest.fixture
def queue(client, fresh):
    name = fresh("q")
    client("amqp091").declare_queue(name)
    return name


def test_server_properties(client):
    """Libraries look for these capabilities before they use a feature."""
    properties = client("amqp091").connection._impl.server_properties
    assert properties["product"]
    capabilities = properties["capabilities"]
    for name in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "per_consumer_qos",
    ):
        assert capabilities.get(name) is True, name


def test_wrong_password(client):
    with pytest.raises(Refused) as refused:
        client("amqp091", password="wrong")
    assert "403" in str(refused.value) or "ACCESS_REFUSED" in str(refused.value)


def test_unknown_virtual_host(client):
    with pytest.raises(Refused):
        client("amqp091", vhost="/nowhere")


def test_many_channels(client, queue):
    connection = client("amqp091").connection
    channels = [connection.channel() for _ in range(50)]
    for number, channel in enumerate(channels):
        channel.basic_publish("", queue, b"%d" % number)
    for channel in channels:
        channel.close()
    reader = client("amqp091")
    seen = sorted(int(reader.get(queue, auto_ack=True).body) for _ in range(50))
    assert seen == list(range(50))


def test_declare_again_passive_and_different(client, fresh):
    admin = client("amqp091")
    name = fresh("q")
    admin.declare_queue(name, arguments={"x-max-length": 5})
    admin.declare_queue(name, arguments={"x-max-length": 5})
    assert admin.channel.queue_declare(name, passive=True).method.message_count == 0
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        admin.declare_queue(name, arguments={"x-max-length": 6})
    assert closed.value.reply_code == 406
    channel = admin.connection.channel()
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        channel.queue_declare(fresh("none"), passive=True)
    assert closed.value.reply_code == 404
    channel = admin.connection.channel()
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        channel.exchange_declare("amq.direct", "fanout")
    assert closed.value.reply_code in (403, 406)
    # The connection has survived all of it.
    assert admin.connection.is_open


def test_declare_counts(client, queue):
    admin = client("amqp091")
    for _ in range(3):
        admin.publish("queue", queue, b"x")
    reader = client("amqp091")
    reader.subscribe("queue", queue, credit=1)
    reader.receive()
    result = admin.declare_queue(queue)
    assert (result.message_count, result.consumer_count) == (2, 1)


def test_server_named_queues(client):
    admin = client("amqp091")
    one = admin.channel.queue_declare("", exclusive=True).method.queue
    two = admin.channel.queue_declare("", exclusive=True).method.queue
    assert one and two and one != two
    # An empty name means the one declared last on this channel.
    admin.channel.queue_bind("", "amq.fanout")
    admin.publish("exchange", "amq.fanout/", b"x")
    assert admin.get(two, auto_ack=True).body == b"x"


def test_exclusive(client, fresh):
    name = fresh("q")
    owner, other = client("amqp091"), client("amqp091")
    owner.channel.queue_declare(name, exclusive=True)
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        other.channel.queue_declare(name, passive=True)
    assert closed.value.reply_code == 405
    owner.close()
    third = client("amqp091")
    until(lambda: not third.queue_exists(name), "gone with its owner")


def test_auto_delete(client, fresh):
    name = fresh("q")
    reader = client("amqp091")
    reader.channel.queue_declare(name, auto_delete=True)
    tag = reader.channel.basic_consume(name, reader._on_message)
    reader.channel.basic_cancel(tag)
    until(lambda: not reader.queue_exists(name), "gone with its last consumer")


def test_expires(client, fresh):
    name = fresh("q")
    admin = client("amqp091")
    admin.channel.queue_declare(name, arguments={"x-expires": 100})
    until(lambda: not admin.queue_exists(name), "gone after being unused")


def test_purge_and_delete(client, queue):
    admin = client("amqp091")
    for _ in range(3):
        admin.publish("queue", queue, b"x")
    assert admin.channel.queue_purge(queue).method.message_count == 3
    admin.publish("queue", queue, b"x")
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        admin.channel.queue_delete(queue, if_empty=True)
    assert closed.value.reply_code == 406
    channel = admin.connection.channel()
    assert channel.queue_delete(queue).method.message_count == 1
    # Deleting what is not there is no error.
    assert channel.queue_delete(queue).method.message_count == 0


def test_bind_and_unbind(client, queue):
    admin = client("amqp091")
    admin.channel.queue_bind(queue, "amq.direct", "k")
    admin.publish("exchange", "amq.direct/k", b"1")
    assert admin.get(queue, auto_ack=True).body == b"1"
    admin.channel.queue_unbind(queue, "amq.direct", "k")
    admin.publish("exchange", "amq.direct/k", b"2")
    assert admin.get(queue) is None
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        admin.channel.queue_bind(queue, "no-such-exchange", "k")
    assert closed.value.reply_code == 404


def test_exchange_delete(client, fresh):
    admin = client("amqp091")
    name = fresh("e")
    admin.channel.exchange_declare(name, "direct")
    admin.channel.exchange_declare(name, "direct", passive=True)
    admin.channel.exchange_delete(name)
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        admin.channel.exchange_declare(name, "direct", passive=True)
    assert closed.value.reply_code == 404


def test_publish_to_a_missing_exchange_closes_the_channel(client, fresh):
    admin = client("amqp091")
    with pytest.raises(Refused) as refused:
        admin.publish("exchange", f"{fresh('none')}/k", b"x")
    assert "404" in str(refused.value)
    # A new channel works.
    admin.publish("exchange", "amq.direct/k", b"x")


def test_confirms(client, queue):
    boss = client("amqp091")
    for number in range(100):
        boss.publish("queue", queue, b"%d" % number)
    assert boss.declare_queue(queue).message_count == 100


def test_confirms_of_the_unroutable(client):
    """Without mandatory: acknowledged [RabbitMQ: confirmed as soon as it is known to be unroutable]."""
    client("amqp091").publish("exchange", "amq.direct/nobody", b"x")


def test_mandatory_return_comes_before_the_ack(client, queue):
    boss = client("amqp091")
    with pytest.raises(Refused) as refused:
        boss.publish("exchange", "amq.direct/nobody", b"back", Props(content_type="a/b"), mandatory=True)
    assert "UnroutableError" in str(refused.value)
    boss.publish("queue", queue, b"fits", mandatory=True)
    returned = []
    channel = boss.connection.channel()
    channel.add_on_return_callback(lambda _c, method, properties, body: returned.append((method, properties, body)))
    channel.basic_publish("amq.direct", "nobody", b"back", pika.BasicProperties(content_type="a/b"), mandatory=True)
    until(lambda: boss.connection.process_data_events(0.05) or returned, "basic.return")
    method, properties, body = returned[0]
    assert (method.reply_code, method.reply_text, method.routing_key) == (312, "NO_ROUTE", "nobody")
    assert (properties.content_type, body) == ("a/b", b"back")


def test_get(client, queue):
    boss, reader = client("stomp"), client("amqp091")
    assert reader.get(queue) is None
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    received = reader.get(queue)
    # message-count leaves out the one that was taken.
    assert (received.body, received.raw[0].message_count) == (b"0", 2)
    reader.channel.basic_nack(received.raw[0].delivery_tag, requeue=True)
    received = reader.get(queue)
    assert (received.body, received.redelivered) == (b"0", True)
    reader.accept(received)


def test_qos(broker, client, queue):
    boss, reader = client("stomp"), client("amqp091")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    reader.subscribe("queue", queue, credit=3)
    settled(lambda: broker.counts(queue), (7, 3), "three are out")
    first = reader.receive()
    reader.accept(first)
    settled(lambda: broker.counts(queue), (6, 3), "one more")


def test_qos_of_the_channel_is_shared(client, queue):
    boss, reader = client("stomp"), client("amqp091")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    reader.channel.basic_qos(prefetch_count=4, global_qos=True)
    for _ in range(2):
        reader.channel.basic_consume(queue, reader._on_message)
    held = [reader.receive() for _ in range(4)]
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)
    reader.accept(held[0])
    reader.receive()
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)


def test_ack_multiple(broker, client, queue):
    boss, reader = client("stomp"), client("amqp091")
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    reader.subscribe("queue", queue)
    received = [reader.receive() for _ in range(5)]
    reader.channel.basic_ack(received[2].raw[0].delivery_tag, multiple=True)
    settled(lambda: broker.counts(queue), (0, 2), "the first three")
    reader.channel.basic_nack(0, multiple=True, requeue=False)
    settled(lambda: broker.counts(f"{queue}.dlq"), (2, 0), "the rest is dead")


def test_an_unknown_tag_closes_the_channel(client, queue):
    reader = client("amqp091")
    client("stomp").publish("queue", queue, b"x")
    received = reader.get(queue)
    reader.accept(received)
    reader.accept(received)
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        reader.channel.queue_declare(queue, passive=True)
    assert closed.value.reply_code == 406
    assert "unknown delivery tag" in closed.value.reply_text


def test_reject_and_recover(broker, client, queue):
    reader = client("amqp091")
    client("stomp").publish("queue", queue, b"x")
    received = reader.get(queue)
    reader.channel.basic_reject(received.raw[0].delivery_tag, requeue=True)
    received = reader.get(queue)
    assert received.redelivered
    reader.channel.basic_recover(requeue=True)
    settled(lambda: broker.counts(queue), (1, 0), "recovered")


def test_cancel(broker, client, queue):
    reader = client("amqp091")
    tag = reader.subscribe("queue", queue)
    client("stomp").publish("queue", queue, b"1")
    received = reader.receive()
    reader.channel.basic_cancel(tag)
    client("stomp").publish("queue", queue, b"2")
    settled(lambda: broker.counts(queue), (1, 1), "no consumer takes the second; the first is still out")
    # What came before the cancel can still be acknowledged.
    reader.accept(received)
    settled(lambda: broker.counts(queue), (1, 0), "acknowledged")


def test_cancel_by_the_broker(client, queue):
    """basic.cancel to a client that can take it, when its queue goes [RabbitMQ consumer_cancel_notify]."""
    reader = client("amqp091")
    reader.subscribe("queue", queue)
    client("amqp091").channel.queue_delete(queue)
    until(lambda: reader.connection.process_data_events(0.05) or reader.cancelled, "basic.cancel")


def test_exclusive_consumer(client, queue):
    reader, other = client("amqp091"), client("amqp091")
    reader.channel.basic_consume(queue, reader._on_message, exclusive=True)
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        other.channel.basic_consume(queue, other._on_message)
        other.connection.process_data_events(1)
    assert closed.value.reply_code == 403


def test_consumer_priority(client, queue):
    low, high = client("amqp091"), client("amqp091")
    low.channel.basic_consume(queue, low._on_message, arguments={"x-priority": 0})
    high.channel.basic_consume(queue, high._on_message, arguments={"x-priority": 5})
    boss = client("stomp")
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    assert [high.receive().body for _ in range(5)] == [b"%d" % number for number in range(5)]
    with pytest.raises(Nothing):
        low.receive(timeout=0.1)


def test_all_properties(client, queue):
    headers = {
        "bool": True,
        "int": -5,
        "long": 2**40,
        "decimal": decimal.Decimal("1.5"),
        "text": "äöü",
        "list": [1, "two", False],
        "table": {"nested": {"deep": 1}},
        "null": None,
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    }
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="gzip",
        headers=headers,
        delivery_mode=2,
        priority=9,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    boss = client("amqp091")
    boss.publish("queue", queue, b"x", properties=sent)
    seen = client("amqp091").get(queue, auto_ack=True).raw[1]
    for field in ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to",
                  "message_id", "timestamp", "type", "user_id", "app_id"):  # fmt: skip
        assert getattr(seen, field) == getattr(sent, field), field
    assert {key: seen.headers.get(key) for key in headers} == headers
    assert 0 < int(seen.expiration) <= 60000


def test_a_forged_user_id_is_refused(client, queue):
    with pytest.raises(Refused) as refused:
        client("amqp091").publish("queue", queue, b"x", properties=pika.BasicProperties(user_id="somebody"))
    assert "406" in str(refused.value)


def test_empty_and_large_bodies(client, queue):
    boss, reader = client("amqp091"), client("amqp091")
    reader.subscribe("queue", queue, ack="auto")
    for body in (b"", b"x", bytes(range(256)) * 8192, b""):
        boss.publish("queue", queue, body)
        assert reader.receive().body == body


def test_a_small_frame_maximum(client, queue):
    boss, reader = client("amqp091", frame_max=4096), client("amqp091", frame_max=4096)
    reader.subscribe("queue", queue, ack="auto")
    body = bytes(range(256)) * 400
    boss.publish("queue", queue, body)
    assert reader.receive().body == body


def test_heartbeats_keep_the_connection(client, queue):
    idle = client("amqp091", heartbeat=1)
    end = time.monotonic() + 3.5
    # pika closes when it hears nothing for two intervals, the broker when it does: both must beat.
    while time.monotonic() < end:
        idle.connection.process_data_events(time_limit=0.2)
    idle.publish("queue", queue, b"alive")


def test_a_silent_client_is_closed(broker):
    from support.raw import Wire

    wire = Wire(broker, "amqp")
    wire.send(bytes.fromhex("414d5150 00000901"))
    wire.expect("01 00 00")
    wire.expect_text("PLAIN")
    start_ok = (
        bytes.fromhex("000a000b 00000000 05") + b"PLAIN" + (12).to_bytes(4, "big") + b"\0guest\0guest" + b"\x05en_US"
    )
    wire.send(b"\x01\0\0" + len(start_ok).to_bytes(4, "big") + start_ok + b"\xce")
    wire.expect_text("\x00\x0a\x00\x1e")
    tune_ok = bytes.fromhex("000a001f 07ff 00020000 0001")
    wire.send(b"\x01\0\0" + len(tune_ok).to_bytes(4, "big") + tune_ok + b"\xce")
    opened = bytes.fromhex("000a0028 012f 00 00")
    wire.send(b"\x01\0\0" + len(opened).to_bytes(4, "big") + opened + b"\xce")
    wire.expect_text("\x00\x0a\x00\x29")
    began = time.monotonic()
    wire.expect_close(anything=True)
    assert 1.5 < time.monotonic() - began < 8


def test_transactions_of_a_channel(client, queue):
    boss, reader = client("amqp091"), client("amqp091")
    channel = boss.connection.channel()
    channel.tx_select()
    channel.basic_publish("", queue, b"never")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"committed")
    assert reader.get(queue) is None
    channel.tx_commit()
    assert reader.get(queue, auto_ack=True).body == b"committed"
    assert reader.get(queue) is None


def test_no_ack_consumer(broker, client, queue):
    reader = client("amqp091")
    reader.subscribe("queue", queue, ack="auto")
    client("stomp").publish("queue", queue, b"x")
    assert reader.receive().body == b"x"
    settled(lambda: broker.counts(queue), (0, 0), "settled by being sent")


def test_queue_priorities(client, fresh):
    queue = fresh("q")
    admin = client("amqp091")
    admin.declare_queue(queue, arguments={"x-max-priority": 9})
    boss = client("stomp")
    for priority in (1, 5, 9, 5):
        boss.publish("queue", queue, b"%d" % priority, Props(priority=priority))
    assert [admin.get(queue, auto_ack=True).body for _ in range(4)] == [b"9", b"5", b"5", b"1"]


def test_single_active_consumer(client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue, arguments={"x-single-active-consumer": True})
    first, second = client("amqp091"), client("amqp091")
    first.subscribe("queue", queue, ack="auto")
    second.subscribe("queue", queue, ack="auto")
    boss = client("stomp")
    for number in range(4):
        boss.publish("queue", queue, b"%d" % number)
    assert [first.receive().body for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    first.close()
    boss.publish("queue", queue, b"next")
    assert second.receive().body == b"next"


def test_redelivery_limit_headers(client, queue):
    """x-delivery-count as quorum queues show it."""
    client("stomp").publish("queue", queue, b"x")
    reader = client("amqp091")
    reader.subscribe("queue", queue)
    assert reader.receive().attempts in (None, 0)
    reader.drop_connection()
    again = client("amqp091")
    again.subscribe("queue", queue)
    assert again.receive().attempts == 1
