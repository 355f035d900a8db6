"""What a listener may say for itself: the PROXY protocol, anonymous, terms of MQTT."""

import socket

import pytest

from support.clients.common import Nothing, Refused
from support.clients.mqtt import MqttClient

CONNECT = bytes.fromhex("100c00044d5154540402003c0000")
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.fixture
def listener(own_broker):
    """A broker with one MQTT listener `one` of these terms, beside a plain one."""

    def start(**terms):
        def changes(ports):
            plain = {"name": "mqtt", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['mqtt']}"}
            own = {"name": "one", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['one']}", **terms}
            return {"listeners": [plain, own]}

        return own_broker(changes)

    return start


def send(broker, data):
    with socket.create_connection((broker.host, broker.ports["one"])) as stream:
        stream.settimeout(5)
        stream.sendall(data)
        try:
            return stream.recv(100)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n",
        b"PROXY TCP6 2001:db8::7 ::1 4711 1883\r\n",
        SIGNATURE + bytes([0x21, 0x11, 0, 12]) + socket.inet_aton("192.0.2.7") * 2 + b"\x12\x67\x07\x5b",
        SIGNATURE + bytes([0x21, 0x11, 0, 15]) + socket.inet_aton("192.0.2.7") * 2 + b"\x12\x67\x07\x5b\x04\x00\x00",
    ],
    ids=["v1-4", "v1-6", "v2", "v2-tlv"],
)
def test_proxy_says_who_is_there(listener, header):
    """Loopback no more: anonymous clients of the proxy are refused as those of other machines."""
    broker = listener(proxy_protocol=["127.0.0.1"])
    assert send(broker, header + CONNECT)[:4] == b"\x20\x02\x00\x05"
    assert "192.0.2.7:4711" in broker.log_path.read_text() or "2001:db8::7" in broker.log_path.read_text()


def test_proxy_speaks_for_itself(listener):
    broker = listener(proxy_protocol=["127.0.0.0/8"])
    for header in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00"):
        assert send(broker, header + CONNECT) == b"\x20\x02\x00\x00"


def test_proxy_is_required_and_must_be_trusted(listener):
    broker = listener(proxy_protocol=["127.0.0.1"])
    assert send(broker, CONNECT) == b""
    assert send(broker, b"PROXY TCP4 nonsense\r\n" + CONNECT) == b""
    broker = listener(proxy_protocol=["10.0.0.0/8"])
    assert send(broker, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n" + CONNECT) == b""


def test_anonymous_never(listener):
    broker = listener(anonymous="never")
    MqttClient(broker).close()
    with pytest.raises(Refused):
        MqttClient(broker, port="one")


def test_versions(listener):
    broker = listener(mqtt={"versions": ["3.1.1"]})
    MqttClient(broker, "311", port="one").close()
    for version in ("31", "5"):
        with pytest.raises(Refused, match="rotocol"):
            MqttClient(broker, version, port="one")


@pytest.mark.parametrize("version", ["311", "5"])
def test_maximum_qos(listener, version):
    """[MQTT-3.2.2-9 to -12]"""
    broker = listener(mqtt={"qos_max": 1})
    client = MqttClient(broker, version, port="one")
    if version == "5":
        assert client.connect_properties.MaximumQoS == 1
    assert client.subscribe("topic", "t", qos=2).value == 1
    client.publish("topic", "t", b"one", qos=1)
    assert client.receive().body == b"one"
    with pytest.raises((Refused, AssertionError)):
        client.publish("topic", "t", b"two", qos=2)
    with pytest.raises(Refused):
        MqttClient(broker, "5", port="one", will={"topic": "w", "payload": b"x", "qos": 2})


def test_no_retained_messages(listener):
    """[MQTT-3.2.2-13, -14]"""
    broker = listener(mqtt={"retain": False})
    client = MqttClient(broker, "5", port="one")
    assert client.connect_properties.RetainAvailable == 0
    with pytest.raises(Refused, match="(?i)retain"):
        client.publish("topic", "t", b"x", retain=True)
    with pytest.raises(Refused):
        MqttClient(broker, "5", port="one", will={"topic": "w", "payload": b"x", "retain": True})


def test_server_keep_alive_aliases_and_receive_maximum(listener):
    broker = listener(
        mqtt={"keep_alive_max": "20s", "topic_alias_max": 3, "receive_max": 7, "packet_bytes_max": "2KiB"}
    )
    client = MqttClient(broker, "5", port="one", keep_alive=60)
    given = client.connect_properties
    assert given.ServerKeepAlive == 20
    assert (given.TopicAliasMaximum, given.ReceiveMaximum, given.MaximumPacketSize) == (3, 7, 2048)
    client.close()


def test_a_mount_point_is_a_world_of_its_own(listener):
    broker = listener(mqtt={"mount_point": "tenant/a/"})
    inside, outside = MqttClient(broker, "5", port="one"), MqttClient(broker, "311")
    inside.subscribe("topic", "#")
    inside.subscribe("raw", "$share/g/shared/+")
    outside.subscribe("topic", "tenant/#")
    inside.publish("topic", "x/y", b"from inside")
    assert outside.receive().address == "tenant/a/x/y"
    received = inside.receive()
    inside.accept(received)
    assert received.address == "x/y"
    outside.publish("topic", "tenant/a/z", b"to inside")
    received = inside.receive()
    inside.accept(received)
    assert received.address == "z"
    outside.publish("topic", "tenant/b/z", b"to others", retain=True)
    with pytest.raises(Nothing):
        inside.receive(timeout=0.3)
