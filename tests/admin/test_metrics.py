"""Prometheus' /metrics: every number agrees with what the clients did."""

import pytest

from support.wait import settled

#: Label value by driver.
LABEL = {"mqtt311": "mqtt", "mqtt5": "mqtt", "stomp": "stomp", "amqp10": "amqp10", "amqp091": "amqp091"}


def value(broker, name, **labels):
    return broker.metrics().get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture(scope="module")
def alone(brokers):
    """A broker that nobody else counts on."""
    broker = brokers.start()
    yield broker
    brokers.end(broker)


@pytest.mark.parametrize("protocol", ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091"))
def test_received_and_delivered(alone, client, fresh, protocol):
    label = LABEL[protocol]
    topic = f"{fresh('t')}/x"
    received = value(alone, "mynah_messages_received_total", protocol=label)
    delivered = value(alone, "mynah_messages_delivered_total", protocol=label)
    reader, boss = client(protocol, to=alone), client(protocol, to=alone)
    reader.subscribe("topic", topic, ack="auto")
    for number in range(25):
        boss.publish("topic", topic, b"%d" % number)
    for number in range(25):
        assert reader.receive().body == b"%d" % number
    settled(lambda: value(alone, "mynah_messages_received_total", protocol=label), received + 25, "received")
    settled(lambda: value(alone, "mynah_messages_delivered_total", protocol=label), delivered + 25, "delivered")


@pytest.mark.parametrize("protocol", ("mqtt5", "stomp", "amqp10", "amqp091"))
def test_received_and_delivered_by_a_queue(alone, client, fresh, protocol):
    label = LABEL[protocol]
    queue = fresh("q")
    client("amqp091", to=alone).declare_queue(queue)
    received = value(alone, "mynah_messages_received_total", protocol=label)
    delivered = value(alone, "mynah_messages_delivered_total", protocol=label)
    reader, boss = client(protocol, to=alone), client(protocol, to=alone)
    reader.subscribe("queue", queue, ack="client")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    for _ in range(10):
        reader.accept(reader.receive())
    settled(lambda: value(alone, "mynah_messages_received_total", protocol=label), received + 10, "received")
    settled(lambda: value(alone, "mynah_messages_delivered_total", protocol=label), delivered + 10, "delivered")
    settled(lambda: alone.counts(queue), (0, 0), "all settled")


@pytest.mark.parametrize("protocol", ("mqtt5", "stomp", "amqp10", "amqp091"))
def test_dead_letters_by_cause(alone, client, fresh, protocol):
    queue = fresh("q")
    client("amqp091", to=alone).declare_queue(queue)
    labels = {"protocol": LABEL[protocol], "cause": "rejected"}
    before = value(alone, "mynah_messages_dead_lettered_total", **labels)
    worker = client(protocol, to=alone)
    worker.subscribe("queue", queue, ack="client")
    boss = client("stomp", to=alone)
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    for _ in range(3):
        worker.reject(worker.receive())
    settled(lambda: value(alone, "mynah_messages_dead_lettered_total", **labels), before + 3, "three rejected")
    assert alone.counts(f"{queue}.dlq") == (3, 0)


def test_connections(alone, client):
    before = value(alone, "mynah_connections", protocol="mqtt")
    opened = value(alone, "mynah_connections_opened_total", protocol="mqtt")
    each = [client("mqtt5", to=alone) for _ in range(4)]
    settled(lambda: value(alone, "mynah_connections", protocol="mqtt"), before + 4, "four more")
    assert value(alone, "mynah_connections_opened_total", protocol="mqtt") == opened + 4
    for one in each:
        one.close()
    settled(lambda: value(alone, "mynah_connections", protocol="mqtt"), before, "all gone")


def test_violations_and_failed_logins(alone, client):
    from support.clients import Refused

    broken = value(alone, "mynah_protocol_violations_total", protocol="mqtt")
    wire = alone.raw("mqtt")
    wire.sendall(bytes.fromhex("100d 0004 4d515454 04 02 0000 0001 61"))
    assert wire.recv(4) == b"\x20\x02\x00\x00"
    # A type that nobody may send.
    wire.sendall(b"\x00\x00")
    assert wire.recv(1) == b""
    wire.close()
    settled(lambda: value(alone, "mynah_protocol_violations_total", protocol="mqtt"), broken + 1, "one broke it")
    failed = value(alone, "mynah_authentication_failures_total", protocol="stomp")
    with pytest.raises(Refused):
        client("stomp", to=alone, password="wrong")
    settled(lambda: value(alone, "mynah_authentication_failures_total", protocol="stomp"), failed + 1, "one failed")


def test_queue_gauges_agree_with_the_api(alone, client, fresh):
    queue = fresh("q")
    client("amqp091", to=alone).declare_queue(queue)
    boss, reader = client("stomp", to=alone), client("amqp091", to=alone)
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    reader.subscribe("queue", queue, credit=2)
    settled(lambda: alone.counts(queue), (3, 2), "two are out")
    labels = {"virtual_host": "/", "queue": queue}
    assert value(alone, "mynah_queue_messages_ready", **labels) == 3
    assert value(alone, "mynah_queue_messages_unsettled", **labels) == 2
    assert value(alone, "mynah_queue_consumers", **labels) == 1


def test_the_format(alone):
    status, raw = alone.http("GET", "/metrics", login=False, port="metrics")
    text = raw.decode()
    assert status == 200
    families = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            families[line.split()[2]] = line
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            assert name in families, f"{name} has no HELP"
    assert all(name.startswith(("mynah_", "process_")) for name in families)
    assert all(name.endswith("_total") for name in families if f"# TYPE {name} counter" in text)
    # Names of clients, connections and topics must not become labels: they are unbounded.
    assert "client_id=" not in text and "topic=" not in text
