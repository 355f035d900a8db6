"""`$SYS/broker/...` as mosquitto names it, and what it shares with `/metrics`."""

import json
import re
import time

import pytest

from support.clients.common import Nothing
from support.clients.mqtt import MqttClient

LIST = """version uptime clients/total clients/active clients/inactive clients/connected clients/disconnected
    clients/maximum messages/received messages/sent messages/dropped messages/stored bytes/received bytes/sent
    publish/messages/received publish/messages/sent publish/messages/dropped subscriptions/count
    store/messages/count store/messages/bytes""".split() + ["retained messages/count"]
LOADS = [
    f"load/{name}/{period}"
    for name in ("messages/received", "messages/sent", "bytes/received", "bytes/sent", "connections")
    for period in ("1min", "5min", "15min")
]


@pytest.fixture
def quick(own_broker):
    return own_broker({"sys": {"interval": "200ms"}})


def values(reader, seconds=1.5):
    found, end = {}, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            message = reader.receive(timeout=0.1)
        except Nothing:
            continue
        found[message.address.removeprefix("$SYS/broker/")] = message.body.decode()
    return found


@pytest.mark.parametrize("version", ["31", "311", "5"])
def test_all_values_are_retained(quick, version):
    reader = MqttClient(quick, version)
    reader.subscribe("topic", "$SYS/broker/#", ack="auto")
    found = values(reader, 0.6)
    assert set(LIST + LOADS) <= set(found), set(LIST + LOADS) - set(found)
    assert re.fullmatch(r"mynah version \d+\.\d+\.\d+", found["version"])
    assert re.fullmatch(r"\d+ seconds", found["uptime"])
    reader.close()


def test_the_numbers_are_those_of_metrics(quick):
    reader = MqttClient(quick)
    reader.subscribe("topic", "$SYS/broker/#", ack="auto")
    sleeper = MqttClient(quick, client_id="sleeper", clean=False, expiry=60)
    sleeper.subscribe("topic", "t")
    sleeper.close()
    boss = MqttClient(quick)
    for _ in range(20):
        boss.publish("topic", "t", b"x")
    boss.publish("topic", "kept", b"x", retain=True)
    found = values(reader)
    text = quick.http("GET", "/metrics", port="metrics")[1].decode()
    received = sum(int(value) for value in re.findall(r'^mynah_messages_received_total\{[^}]*\} (\d+)', text, re.M))
    assert int(found["messages/received"]) == received == 21
    assert found["clients/connected"] == "2" and found["clients/inactive"] == "1" and found["clients/total"] == "3"
    assert int(found["clients/maximum"]) >= 3
    assert int(found["store/messages/count"]) >= 21
    assert float(found["load/messages/received/1min"]) > 0
    for each in (boss, reader):
        each.close()


def test_only_what_has_changed_is_sent_again(quick):
    reader = MqttClient(quick)
    reader.subscribe("topic", "$SYS/broker/version", ack="auto")
    assert reader.receive().retained
    with pytest.raises(Nothing):
        reader.receive(timeout=0.7)
    reader.close()


def test_clients_come_and_go(quick):
    reader = MqttClient(quick)
    reader.subscribe("topic", "$SYS/broker/clients/+/connected", ack="auto")
    reader.subscribe("topic", "$SYS/broker/clients/+/disconnected", ack="auto")
    MqttClient(quick, "311", client_id="visitor").close()
    came, went = reader.receive(), reader.receive()
    assert came.address == "$SYS/broker/clients/visitor/connected"
    assert went.address == "$SYS/broker/clients/visitor/disconnected"
    assert json.loads(came.body)["protocol"] == "MQTT 3.1.1"
    reader.close()


def test_nobody_else_publishes_there_and_hash_does_not_match(quick):
    reader = MqttClient(quick)
    for wide in ("#", "+/broker/#", "$share/g/#"):
        reader.subscribe("raw", wide, ack="auto")
    with pytest.raises(Nothing):
        reader.receive(timeout=0.6)
    reader.close()


def test_an_interval_of_zero_turns_it_off(own_broker):
    broker = own_broker({"sys": {"interval": 0}})
    reader = MqttClient(broker)
    reader.subscribe("topic", "$SYS/#", ack="auto")
    with pytest.raises(Nothing):
        reader.receive(timeout=0.5)
    reader.close()
