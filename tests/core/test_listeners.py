"""One port for every protocol, tenants that never meet, and a stop that everybody is told of."""

import time

import pytest
from pika import exceptions

from support.broker import free_ports
from support.clients import Refused
from support.wait import PATIENCE, until

ALL = ("mqtt31", "mqtt311", "mqtt5", "stomp10", "stomp11", "stomp12", "amqp10", "amqp091")


def test_one_port_speaks_every_protocol(own_broker, client, fresh):
    """`protocol: auto`: the first bytes decide."""
    port = free_ports(1)[0]
    everything = own_broker({"listeners": [{"name": "one", "protocol": "auto", "bind": f"127.0.0.1:{port}"}]})
    everything.ports.update({"mqtt": port, "stomp": port, "amqp": port})
    topic = fresh("t")
    readers = [client(protocol, to=everything) for protocol in ALL]
    for reader in readers:
        reader.subscribe("topic", topic, ack="auto")
    for sender in ALL:
        client(sender, to=everything).publish("topic", topic, sender.encode())
    for reader in readers:
        assert [reader.receive().body.decode() for _ in ALL] == list(ALL)


def test_a_listener_speaks_only_what_it_says(broker):
    """STOMP's port does not take MQTT, nor the other way round."""
    connect_311 = bytes.fromhex("100c 0004 4d515454 04 02 0000 0000")
    for port, greeting in (("stomp", connect_311), ("amqp", connect_311), ("mqtt", b"CONNECT\n\n\0")):
        wire = broker.raw(port)
        wire.sendall(greeting)
        wire.settimeout(PATIENCE)
        answer = b""
        try:
            while read := wire.recv(1024):
                answer += read
        except ConnectionError:
            pass
        assert not answer.startswith(b"\x20\x02") and b"CONNECTED" not in answer
        wire.close()


def test_tenants_never_meet(own_broker, client, fresh):
    """Same names in two virtual hosts: queues, topics and exchanges are others."""
    shared = own_broker({"virtual_hosts": ["/", "tenant"]})
    queue, topic = fresh("q"), fresh("t")
    here, there = client("amqp091", to=shared), client("amqp091", to=shared, vhost="tenant")
    here.declare_queue(queue)
    assert not there.queue_exists(queue)
    there.declare_queue(queue)
    there.bind_topic(queue, topic)
    here.publish("queue", queue, b"here")
    client("mqtt5", to=shared).publish("topic", topic, b"to the default tenant")
    assert there.get(queue) is None
    there.publish("topic", topic, b"to this tenant")
    assert there.get(queue, auto_ack=True).body == b"to this tenant"
    assert here.get(queue, auto_ack=True).body == b"here"
    names = {each["name"] for each in shared.api("/queues?virtual_host=tenant")}
    assert queue in names
    assert shared.http("GET", "/api/v1/queues?virtual_host=nowhere")[0] == 404


def test_an_unknown_tenant_is_refused_where_it_must_be_named(own_broker, client):
    """0-9-1 names it; STOMP libraries send the socket's host name there, so that one gets the default tenant."""
    shared = own_broker({"virtual_hosts": ["/", "tenant"]})
    with pytest.raises(Refused):
        client("amqp091", to=shared, vhost="nowhere")
    person = shared.raw("stomp")
    person.sendall(b"CONNECT\naccept-version:1.2\nhost:localhost\n\n\0")
    assert b"CONNECTED" in person.recv(4096)
    person.close()


def test_everybody_is_told_when_the_broker_stops(own_broker, client, fresh):
    mortal = own_broker()
    five, three = client("mqtt5", to=mortal), client("mqtt311", to=mortal)
    will = {"topic": "t", "payload": b"x"}
    client("mqtt5", to=mortal, will=will)
    stomp, amqp10, amqp091 = (client(protocol, to=mortal) for protocol in ("stomp", "amqp10", "amqp091"))
    began = time.monotonic()
    assert mortal.stop() == 0
    assert time.monotonic() - began < 8
    until(five.disconnected.is_set, "MQTT 5 is disconnected")
    # Server shutting down [MQTT 5.0 table 3-10].
    assert five.disconnect_reason.value == 0x8B
    until(three.disconnected.is_set, "MQTT 3.1.1 is disconnected")
    until(stomp.disconnected.is_set, "STOMP is disconnected")
    with pytest.raises(exceptions.ConnectionClosedByBroker) as closed:
        while True:
            amqp091.connection.process_data_events(time_limit=1)
    assert closed.value.reply_code == 320
    with pytest.raises(Exception) as closed:  # noqa: B017 - the library has several
        amqp10.receive(timeout=5)
    assert "forced" in str(closed.value)
