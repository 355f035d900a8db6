"""The cells of docs/mapping.md, section 2, that the matrix does not show: rarer properties, types, what is left out."""

import datetime
import time
import uuid

import pika
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import Message, int32, symbol, timestamp, ulong

from support.clients import Props
from support.wait import until

READERS = ("mqtt5", "stomp", "amqp10", "amqp091")


@pytest.fixture
def arrives(client, fresh):
    """arrives(reader, send) lets `send(kind, name)` publish to a fresh queue and answers what the reader got."""

    def run(reader_protocol, send):
        queue = fresh("q")
        client("amqp091").declare_queue(queue)
        send("queue", queue)
        reader = client(reader_protocol)
        reader.subscribe("queue", queue, ack="client")
        received = reader.receive()
        reader.accept(received)
        return received

    return run


def from_amqp10(client, **fields):
    message = Message(inferred=True, **{"body": b"x", **fields})
    return lambda kind, name: client("amqp10").publish(kind, name, None, message=message)


def from_amqp091(client, **fields):
    properties = pika.BasicProperties(**fields)
    return lambda kind, name: client("amqp091").publish(kind, name, b"x", properties=properties)


def test_rarer_properties_of_amqp_1_0(client, arrives):
    send = from_amqp10(
        client, subject="s", address="to-1", user_id=b"guest", content_encoding=symbol("gzip"), creation_time=1_700_000_000.5,
        expiry_time=4_000_000_000, group_id="g", group_sequence=7, reply_to_group_id="rg",
    )  # fmt: skip
    flat = {
        "subject": "s",
        "to": "to-1",
        "user-id": "guest",
        "content-encoding": "gzip",
        "group-id": "g",
        "group-sequence": "7",
        "reply-to-group-id": "rg",
    }
    seen = arrives("mqtt5", send).props.app
    assert {key: seen.get(key) for key in flat} == flat
    assert (seen["creation-time"], seen["absolute-expiry-time"]) == ("1700000000500", "4000000000000")
    seen = arrives("stomp", send).raw.headers
    assert {key: seen.get(key) for key in flat} == flat
    assert (seen["timestamp"], seen["expires"]) == ("1700000000500", "4000000000000")
    properties = arrives("amqp091", send).raw[1]
    assert (properties.user_id, properties.content_encoding, properties.timestamp) == ("guest", "gzip", 1_700_000_000)
    headers = {
        key: properties.headers[key]
        for key in ("x-subject", "x-to", "x-group-id", "x-group-sequence", "x-reply-to-group-id")
    }
    assert headers == {
        "x-subject": "s",
        "x-to": "to-1",
        "x-group-id": "g",
        "x-group-sequence": 7,
        "x-reply-to-group-id": "rg",
    }
    assert properties.headers["x-absolute-expiry-time"] in (
        4_000_000_000_000,
        datetime.datetime.fromtimestamp(4_000_000_000, datetime.timezone.utc),
    )


def test_rarer_properties_of_0_9_1(client, arrives):
    send = from_amqp091(
        client,
        type="order",
        app_id="shop",
        content_encoding="gzip",
        timestamp=1_700_000_000,
        headers={"x-mine": "kept"},
    )
    seen = arrives("mqtt5", send).props.app
    assert (seen["type"], seen["app-id"], seen["content-encoding"]) == ("order", "shop", "gzip")
    assert seen["creation-time"] == "1700000000000"
    seen = arrives("stomp", send).raw.headers
    assert (seen["type"], seen["app-id"], seen["content-encoding"], seen["timestamp"]) == (
        "order", "shop", "gzip", "1700000000000",
    )  # fmt: skip
    message = arrives("amqp10", send).raw[0]
    assert (str(message.content_encoding), message.creation_time) == ("gzip", 1_700_000_000)
    annotations = {str(key): value for key, value in message.annotations.items()}
    assert (annotations["x-basic-type"], annotations["x-basic-app-id"], annotations["x-mine"]) == (
        "order",
        "shop",
        "kept",
    )


def test_types_as_text_and_back(client, arrives):
    values = {
        "int": int32(-5), "big": ulong(2**63), "yes": True, "text": "é", "raw": b"\x00\xff", "utf8": "é".encode(),
        "uuid": uuid.UUID(int=17), "time": timestamp(1_700_000_000_123), "symbol": symbol("s"), "double": 2.5,
    }  # fmt: skip
    send = from_amqp10(client, properties=values)
    expected = {
        "int": "-5", "big": str(2**63), "yes": "true", "text": "é", "raw": "00ff", "utf8": "é",
        "uuid": str(uuid.UUID(int=17)), "time": "1700000000123", "symbol": "s", "double": "2.5",
    }  # fmt: skip
    for reader in ("mqtt5", "stomp"):
        seen = arrives(reader, send).props.app
        assert {key: seen.get(key) for key in expected} == expected, reader
    headers = arrives("amqp091", send).props.app
    assert (headers["int"], headers["yes"], headers["text"], headers["uuid"]) == (
        -5,
        True,
        "é",
        str(uuid.UUID(int=17)),
    )


def test_nested_headers_of_0_9_1_become_annotations(client, arrives):
    send = from_amqp091(client, headers={"list": [1, "two"], "table": {"a": True}, "plain": 1})
    message = arrives("amqp10", send).raw[0]
    annotations = {str(key): value for key, value in message.annotations.items()}
    assert message.properties == {"plain": 1}
    assert list(annotations["x-opt-list"]) == [1, "two"]
    assert {str(key): value for key, value in annotations["x-opt-table"].items()} == {"a": True}
    seen = arrives("stomp", send).props.app
    assert (seen["list"], seen["table"]) == ('[1,"two"]', '{"a":true}')


@pytest.mark.parametrize(
    "correlation, mqtt, stomp, amqp091",
    [
        ("text é", "text é", "text é", "text é"),
        (ulong(2**63), str(2**63), str(2**63), str(2**63)),
        (uuid.UUID(int=3), str(uuid.UUID(int=3)), str(uuid.UUID(int=3)), str(uuid.UUID(int=3))),
    ],
    ids=["text", "ulong", "uuid"],
)
def test_correlation_of_each_type(client, arrives, correlation, mqtt, stomp, amqp091):
    send = from_amqp10(client, correlation_id=correlation)
    assert arrives("mqtt5", send).props.correlation_id == mqtt
    assert arrives("stomp", send).props.correlation_id == stomp
    assert arrives("amqp091", send).props.correlation_id == amqp091
    assert arrives("amqp10", send).raw[0].correlation_id == correlation


def test_binary_correlation_of_mqtt(client, arrives):
    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = b"\x00\xff"
    send = lambda kind, name: client("mqtt5").publish(kind, name, b"x", properties=properties)
    assert arrives("stomp", send).props.correlation_id == "00ff"
    assert bytes(arrives("amqp10", send).raw[0].correlation_id) == b"\x00\xff"


def test_an_identifier_too_long_for_0_9_1_is_left_out_not_cut(client, arrives):
    send = from_amqp10(client, correlation_id="c" * 256, id="m" * 255)
    props = arrives("amqp091", send).props
    assert (props.correlation_id, props.message_id) == (None, "m" * 255)


def test_message_id_and_group_of_mqtt(client, arrives):
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("message-id", "m-1"), ("group-id", "g-1"), ("other", "o")]
    send = lambda kind, name: client("mqtt5").publish(kind, name, b"x", properties=properties)
    message = arrives("amqp10", send).raw[0]
    assert (message.id, message.group_id, message.properties) == ("m-1", "g-1", {"other": "o"})
    assert arrives("amqp091", send).props.message_id == "m-1"
    assert arrives("stomp", send).props.message_id == "m-1"
    # To its own kind it goes as it came.
    assert arrives("mqtt5", send).raw.properties.UserProperty == properties.UserProperty


def test_repeated_properties(client, arrives):
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("k", "first"), ("k", "second")]
    send = lambda kind, name: client("mqtt5").publish(kind, name, b"x", properties=properties)
    assert arrives("mqtt5", send).raw.properties.UserProperty == properties.UserProperty
    assert arrives("amqp10", send).props.app == {"k": "first"}


@pytest.mark.parametrize("reader", ("mqtt5", "amqp091", "stomp"))
def test_a_body_that_is_no_bytes(client, arrives, reader):
    send = from_amqp10(client, body={"a": [1, 2]})
    received = arrives(reader, send)
    assert received.props.content_type == "message/vnd.rabbitmq.amqp"
    # The sections as they were: an amqp-value (0x77).
    assert received.body.startswith(b"\x00\x53\x77")


def test_stomp_1_0_has_no_line_feeds_in_values(client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    client("amqp091").publish("queue", queue, b"x", properties=pika.BasicProperties(headers={"k": "one\ntwo"}))
    reader = client("stomp10")
    reader.subscribe("queue", queue, ack="auto")
    assert reader.receive().props.app["k"] == "one two"


@pytest.mark.parametrize("header", ("expiration", "ttl", "expires"))
def test_each_way_stomp_limits_a_life(client, arrives, header):
    value = round((time.time() + 60) * 1000) if header == "expires" else 60_000
    send = lambda kind, name: client("stomp").publish(kind, name, b"x", headers={header: str(value)})
    for reader in READERS:
        left = arrives(reader, send).props.ttl_ms
        assert 50_000 < left <= 60_000, reader


def test_a_time_to_live_counts_down_where_it_can(client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    for _ in range(4):
        client("stomp").publish("queue", queue, b"x", Props(ttl_ms=60_000))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.1, "a second has passed")
    left = {}
    for protocol in READERS:
        reader = client(protocol)
        reader.subscribe("queue", queue, ack="client", credit=1)
        received = reader.receive()
        left[protocol] = received.props.ttl_ms
        reader.accept(received)
        reader.close()
    assert left["stomp"] <= 59_000 and left["amqp10"] <= 59_000
    # Whole seconds, rounded up.
    assert left["mqtt5"] in (58_000, 59_000)
    assert left["amqp091"] == 60_000


def test_text_stays_text(client, arrives):
    """What a JMS receiver would get as a TextMessage."""
    message = Message(body="grün")
    send = lambda kind, name: client("amqp10").publish(kind, name, None, message=message)
    received = arrives("mqtt5", send)
    assert received.body == "grün".encode() and received.raw.properties.PayloadFormatIndicator == 1
    person = client("telnet")
    send = lambda kind, name: person.publish(kind, name, "grün".encode())
    assert arrives("amqp10", send).raw[0].body == "grün"
    counted = client("stomp")
    send = lambda kind, name: counted.publish(kind, name, b"bytes")
    assert bytes(arrives("amqp10", send).body) == b"bytes"


@pytest.mark.parametrize("reader", READERS)
def test_durability_of_mqtt_is_its_quality_of_service(client, arrives, reader):
    for qos, durable in ((0, False), (1, True), (2, True)):
        send = lambda kind, name, qos=qos: client("mqtt311").publish(kind, name, b"x", qos=qos, confirm=qos > 0)
        received = arrives(reader, send)
        if reader != "mqtt5":
            assert received.props.durable is durable, qos


def test_mqtt_3_sees_the_body_and_nothing_else(client, fresh):
    queue = fresh("q")
    client("stomp").publish(
        "queue", queue, b"x", Props(content_type="a/b", app={"k": "v"}, ttl_ms=60_000, durable=True)
    )
    reader = client("mqtt311")
    reader.subscribe("queue", queue, ack="client")
    received = reader.receive()
    assert received.body == b"x" and received.raw.properties is None
    reader.accept(received)


def test_how_each_receiver_spells_an_address(client, fresh):
    """A reply-to of every kind, as each other protocol shows it (docs/mapping.md, Where to reply to)."""
    topic, word, name = fresh("a"), "b", fresh("q")
    cases = [
        (
            ("topic", f"{topic}/{word}"),
            (f"{topic}/{word}", f"/topic/{topic}.{word}", f"/topics/{topic}/{word}", f"/topics/{topic}/{word}"),
        ),
        (("queue", name), (f"$queue/{name}", f"/queue/{name}", name, f"/queues/{name}")),
    ]
    for reply_to, spellings in cases:
        for protocol, spelling in zip(("mqtt5", "stomp", "amqp091", "amqp10"), spellings):
            queue = fresh("q")
            client("amqp091").declare_queue(queue)
            for sender in ("mqtt5", "stomp", "amqp10"):
                client(sender).publish("queue", queue, b"?", Props(reply_to=reply_to))
                reader = client(protocol)
                reader.subscribe("queue", queue, ack="client")
                received = reader.receive()
                assert received.props.reply_to == spelling or sender == protocol, (sender, protocol)
                reader.accept(received)
                reader.close()
