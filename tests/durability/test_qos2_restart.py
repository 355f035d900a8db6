"""QoS 2 stays exactly once when the broker dies between any two of its four packets, either way [MQTT-4.3.3]."""

import struct

import pytest

from support.clients import connect
from support.names import fresh
from support.wait import PATIENCE

CONNACK, PUBLISH, PUBREC, PUBREL, PUBCOMP, SUBACK = 2, 3, 5, 6, 7, 9


class Raw:
    """A client that sends and reads packet by packet."""

    def __init__(self, broker, version, client_id):
        self.version = version
        self.socket = broker.raw("mqtt")
        self.socket.settimeout(PATIENCE)
        level = 5 if version == 5 else 4
        properties = b"\x05\x11\x00\x00\x0e\x10" if version == 5 else b""
        body = struct.pack("!H4sBBH", 4, b"MQTT", level, 0, 0) + properties
        self.send(0x10, body + struct.pack("!H", len(client_id)) + client_id.encode())
        kind, body = self.read()
        assert kind >> 4 == CONNACK and body[1] == 0, body
        self.present = body[0]

    def send(self, first, body):
        assert len(body) < 128
        self.socket.sendall(bytes([first, len(body)]) + body)

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the broker has closed"
            data += more
        return data

    def read(self):
        first, length = self.take(1)[0], 0
        for shift in range(0, 28, 7):
            byte = self.take(1)[0]
            length |= (byte & 127) << shift
            if byte < 128:
                break
        return first, self.take(length)

    def expect(self, wanted):
        first, body = self.read()
        assert first >> 4 == wanted, (first, body)
        return first, body

    def nothing(self):
        self.socket.settimeout(0.4)
        with pytest.raises(TimeoutError):
            self.read()
        self.socket.settimeout(PATIENCE)

    def acknowledge(self, kind, id_):
        first = kind << 4 | (2 if kind == PUBREL else 0)
        self.send(first, struct.pack("!H", id_))

    def publish(self, topic, body, id_, dup=False):
        properties = b"\x00" if self.version == 5 else b""
        name = struct.pack("!H", len(topic)) + topic.encode()
        self.send(0x34 | (8 if dup else 0), name + struct.pack("!H", id_) + properties + body)

    def subscribe(self, topic):
        properties = b"\x00" if self.version == 5 else b""
        name = struct.pack("!H", len(topic)) + topic.encode()
        self.send(0x82, struct.pack("!H", 1) + properties + name + b"\x02")
        self.expect(SUBACK)

    def message(self):
        """(first byte, identifier, payload) of the next PUBLISH."""
        first, body = self.expect(PUBLISH)
        (length,) = struct.unpack_from("!H", body)
        (id_,) = struct.unpack_from("!H", body, 2 + length)
        rest = body[4 + length :]
        return first, id_, rest[1 + rest[0] :] if self.version == 5 else rest


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("dies_after", ["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"])
def test_to_the_broker(own_broker, version, dies_after):
    broker = own_broker()
    setup = connect("amqp091", broker)
    setup.declare_queue("q")
    setup.close()
    me = fresh("raw")
    client = Raw(broker, version, me)
    client.publish("$queue/q", b"once", 7)
    done = dies_after == "PUBCOMP"
    if dies_after == "PUBLISH":
        # Perhaps it has come to the disk, perhaps not.
        broker.restart()
        client = Raw(broker, version, me)
        client.publish("$queue/q", b"once", 7, dup=True)
        client.expect(PUBREC)
    else:
        client.expect(PUBREC)
        if dies_after == "PUBREC":
            broker.restart()
            client = Raw(broker, version, me)
            # A client that did not see the PUBREC sends it again: it must not be a second message.
            client.publish("$queue/q", b"once", 7, dup=True)
            client.expect(PUBREC)
        else:
            client.acknowledge(PUBREL, 7)
            if done:
                client.expect(PUBCOMP)
            broker.restart()
            client = Raw(broker, version, me)
    if not done:
        client.acknowledge(PUBREL, 7)
        client.expect(PUBCOMP)
    # The identifier is free: what comes under it is another message, also after one more crash.
    broker.restart()
    client = Raw(broker, version, me)
    client.publish("$queue/q", b"next", 7)
    client.expect(PUBREC)
    client.acknowledge(PUBREL, 7)
    client.expect(PUBCOMP)
    consumer = connect("amqp091", broker)
    consumer.subscribe("queue", "q")
    assert [consumer.receive().body for _ in range(2)] == [b"once", b"next"]
    assert broker.queue("q")["ready"] == 0
    consumer.close()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("dies_after", ["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"])
def test_from_the_broker(own_broker, version, dies_after):
    broker = own_broker()
    me = fresh("raw")
    client = Raw(broker, version, me)
    client.subscribe("t")
    publisher = connect("mqtt5", broker)
    publisher.publish("topic", "t", b"once", qos=2)
    publisher.close()
    _, id_, body = client.message()
    assert body == b"once"
    if dies_after == "PUBLISH":
        broker.restart()
        client = Raw(broker, version, me)
        assert client.present
        first, again, body = client.message()
        assert (first & 8, again, body) == (8, id_, b"once")
    client.acknowledge(PUBREC, id_)
    if dies_after == "PUBREC":
        # It may have come to the disk or not: either the message comes again under its identifier, or its release.
        broker.restart()
        client = Raw(broker, version, me)
        kind, body = client.read()
        if kind >> 4 == PUBLISH:
            assert struct.unpack_from("!H", body, 3)[0] == id_ and kind & 8
            client.acknowledge(PUBREC, id_)
            client.expect(PUBREL)
        else:
            assert (kind >> 4, body[:2]) == (PUBREL, struct.pack("!H", id_))
    else:
        client.expect(PUBREL)
    if dies_after == "PUBREL":
        broker.restart()
        client = Raw(broker, version, me)
        kind, body = client.expect(PUBREL)
        assert body[:2] == struct.pack("!H", id_)
    client.acknowledge(PUBCOMP, id_)
    if dies_after == "PUBCOMP":
        broker.restart()
        client = Raw(broker, version, me)
        # Its end may not have come to the disk: then it is released once more, and nothing else.
        client.socket.settimeout(0.4)
        try:
            kind, body = client.read()
            assert (kind >> 4, body[:2]) == (PUBREL, struct.pack("!H", id_))
            client.acknowledge(PUBCOMP, id_)
        except TimeoutError:
            pass
        client.socket.settimeout(PATIENCE)
    client.nothing()
    publisher = connect("mqtt5", broker)
    publisher.publish("topic", "t", b"next", qos=2)
    publisher.close()
    assert client.message()[2] == b"next"
