"""`$delayed/<seconds>/<topic>`: published later, as if it came then."""

import time

import pytest

from support.clients import Props, connect
from support.clients.common import Nothing, Refused
from support.clients.mqtt import MqttClient


@pytest.fixture
def pair(broker, fresh):
    boss, reader, topic = MqttClient(broker), MqttClient(broker), fresh("t")
    reader.subscribe("topic", topic, qos=2)
    yield boss, reader, topic
    boss.close()
    reader.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_it_comes_at_its_time_and_in_the_order_of_times(pair, qos):
    boss, reader, topic = pair
    begun = time.monotonic()
    boss.publish("raw", f"$delayed/2/{topic}", b"second", qos=qos)
    boss.publish("raw", f"$delayed/1/{topic}", b"first", qos=qos)
    boss.publish("raw", f"$delayed/0/{topic}", b"now", qos=qos)
    arrived = []
    for expected in (b"now", b"first", b"second"):
        received = reader.receive()
        assert (received.body, received.address) == (expected, topic)
        arrived.append(time.monotonic() - begun)
        reader.accept(received)
    assert arrived[0] < 0.9 <= 1.0 <= arrived[1] < 1.9 and 2.0 <= arrived[2] < 3.0, arrived
    with pytest.raises(Nothing):
        reader.receive(timeout=0.3)


@pytest.mark.parametrize("version", ["311", "5"])
def test_a_will_can_be_held_back(broker, pair, version):
    """From the moment it is due, and whoever comes back meanwhile: unlike the will delay of 5.0."""
    _, reader, topic = pair
    will = {"topic": f"$delayed/1/{topic}", "payload": "gone", "qos": 1}
    dying = MqttClient(broker, version=version, will=will)
    begun = time.monotonic()
    dying.drop_connection()
    MqttClient(broker, version=version, client_id=dying.client_id).close()
    received = reader.receive()
    assert (received.body, received.address) == (b"gone", topic)
    assert 1.0 <= time.monotonic() - begun < 2.0


@pytest.mark.parametrize("topic", ["$delayed/x/t", "$delayed/1", "$delayed/1/"])
def test_a_will_that_names_no_time_is_refused(broker, topic):
    with pytest.raises(Refused):
        MqttClient(broker, will={"topic": topic, "payload": "x"})


def test_who_subscribes_before_its_time_gets_it(broker, fresh):
    topic = fresh("t")
    boss = MqttClient(broker)
    boss.publish("raw", f"$delayed/1/{topic}", b"x")
    late = MqttClient(broker)
    late.subscribe("topic", topic)
    assert late.receive().body == b"x"
    boss.close()
    late.close()


def test_a_value_is_retained_when_its_time_has_come(broker, fresh):
    topic = fresh("t")
    boss = MqttClient(broker)
    boss.publish("raw", f"$delayed/1/{topic}", b"x", retain=True)
    early = MqttClient(broker)
    early.subscribe("topic", topic)
    received = early.receive()
    assert not received.retained
    late = MqttClient(broker)
    late.subscribe("topic", topic)
    assert late.receive().retained
    for each in (boss, early, late):
        each.close()


def test_expiry_begins_when_it_is_published(pair):
    boss, reader, topic = pair
    boss.publish("raw", f"$delayed/2/{topic}", b"x", Props(ttl_ms=1000))
    assert reader.receive().body == b"x"


@pytest.mark.parametrize("seconds", ["", "x", "-1", "1.5", "4294967296"])
def test_what_is_not_well_formed_is_refused(pair, seconds):
    boss, reader, topic = pair
    with pytest.raises(Refused, match="(?i)topic name invalid"):
        boss.publish("raw", f"$delayed/{seconds}/{topic}", b"x", qos=1)
    boss.publish("raw", topic, b"alive", qos=1)
    assert reader.receive().body == b"alive"


@pytest.mark.parametrize("crash", [True, False], ids=["kill-9", "SIGTERM"])
def test_it_survives_a_restart(own_broker, crash):
    broker = own_broker()
    client = connect("amqp091", broker)
    client.declare_queue("q")
    boss = MqttClient(broker)
    for qos in (1, 2):
        boss.publish("raw", "$delayed/2/$queue/q", b"%d" % qos, qos=qos)
    begun = time.monotonic()
    broker.restart(crash)
    client = connect("amqp091", broker)
    client.subscribe("queue", "q")
    assert sorted(client.receive().body for _ in range(2)) == [b"1", b"2"]
    assert time.monotonic() - begun > 1.8
    broker.restart(crash)
    assert broker.counts("q") == (2, 0)
