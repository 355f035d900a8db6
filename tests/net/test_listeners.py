"""What a listener may say for itself: the PROXY protocol, anonymous, terms of MQTT [MQTT-3.1.2-20, MQTT-3.1.2-21, MQTT-3.2.2-9,
MQTT-3.2.2-10, MQTT-3.2.2-11, MQTT-3.2.2-12, MQTT-3.2.2-13, MQTT-3.2.2-14, MQTT-3.2.2-17, MQTT-3.2.2-21, MQTT-3.2.2-22]."""

import socket

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from support.clients.common import Nothing, Props, Refused
from support.clients.mqtt import MqttClient
from support.clients.stomp import StompClient
from support.packets import (
    DISCONNECT,
    V5,
    V31,
    V311,
    Raw,
    connect,
    packet,
    properties,
    publish,
    subscribe,
    unsubscribe,
)

CONNECT = bytes.fromhex("100c00044d5154540402003c0000")
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.fixture
def listener(own_broker):
    """A broker with one MQTT listener `one` of these terms, beside a plain one."""

    def start(rules=(), **terms):
        def changes(ports):
            plain = {"name": "mqtt", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['mqtt']}"}
            stomp = {"name": "stomp", "protocol": "stomp", "bind": f"127.0.0.1:{ports['stomp']}"}
            own = {"name": "one", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['one']}", **terms}
            return {"listeners": [plain, stomp, own], "auth": {"rules": list(rules)}}

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


@pytest.mark.parametrize("permanent", [False, True])
def test_clients_are_sent_to_another_server(listener, permanent):
    """[MQTT 5.0 4.11]; 3.x is told "not now"."""
    broker = listener(mqtt={"redirect": "other.example:1883", "redirect_permanent": permanent})
    raw = Raw(broker, V5, "one")
    assert raw.connack.reason == (0x9D if permanent else 0x9C)
    assert raw.connack.prop(0x1C) == "other.example:1883"
    raw.expect_close()
    raw = Raw(broker, V311, "one")
    assert raw.connack.reason == 3
    raw.expect_close()
    MqttClient(broker).close()


#: What a tolerant listener overlooks and a strict one does not: (versions, CONNECT, what follows).
HARMLESS = {
    "flags of SUBSCRIBE": ([V311, V5], {}, lambda v: b"\x80" + subscribe(v, [("t", 0)])[1:]),
    "flags of UNSUBSCRIBE": ([V311, V5], {}, lambda v: b"\xa0" + unsubscribe(v, ["t"])[1:]),
    "flags of PINGREQ": ([V311, V5], {}, lambda v: b"\xc1\0"),
    "DUP with QoS 0": ([V311, V5], {}, lambda v: publish(v, "t", dup=True)),
    "reserved connect flag": ([V311, V5], {"flags": 1}, lambda v: b""),
    "will QoS without a will": ([V311, V5], {"flags": 8}, lambda v: b""),
    "no identifier, not clean": ([V31, V311], {"clean": False}, lambda v: b""),
    "no identifier": ([V31], {}, lambda v: b""),
    "session expiry in DISCONNECT after 0": ([V5], {}, lambda v: packet(DISCONNECT, b"\0" + properties([(0x11, 9)]))),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_strict_and_tolerant(broker, listener, what):
    tolerant = listener(mqtt={"strictness": "tolerant"})
    versions, options, sent = HARMLESS[what]
    for version in versions:
        named = {"client": "c", **options} if "identifier" not in what and version == V31 else options
        raw = Raw(broker, version, login=False)
        raw.send(connect(version, **named) + sent(version))
        raw.expect_close(anything=True)
        raw = Raw(tolerant, version, "one", **named)
        assert raw.connack.reason == 0
        raw.send(sent(version))
        if "DISCONNECT" in what:
            raw.expect_close()
        else:
            raw.ping()
        raw.close()


def test_tolerant_waits_beyond_the_receive_maximum(listener):
    broker = listener(mqtt={"strictness": "tolerant", "receive_max": 5})
    raw = Raw(broker, V5, "one")
    raw.send(b"".join(publish(V5, "t", qos=2, number=number) for number in range(1, 50)))
    assert [got.number for got in raw.ping()] == list(range(1, 50))
    raw.close()


def test_tolerant_is_no_less_safe(listener):
    broker = listener(mqtt={"strictness": "tolerant"})
    for sent in (publish(V5, "a/#"), publish(V5, b"\xed\xa0\x80"), b"\x30\x80\x80\x80\x80\x01", connect(V5)):
        raw = Raw(broker, V5, "one")
        raw.send(sent)
        raw.expect_kind(DISCONNECT)
        raw.expect_close()


def overlapping(client):
    """Subscribed three times, with numbers; what came, and that nothing else did."""
    for number, (pattern, qos) in enumerate((("t/+", 0), ("t/#", 1), ("t/x", 2)), start=1):
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = number
        client.subscribe("topic", pattern, options=SubscribeOptions(qos=qos), properties=properties)


def copies(client, count):
    client.auto = True
    found = []
    for _ in range(count):
        received = client.receive()
        found.append((received.body, received.raw.qos, received.raw.properties.SubscriptionIdentifier))
    with pytest.raises(Nothing):
        client.receive(timeout=0.3)
    return sorted(found)


def reader(broker, clean, aliases=0, port="one"):
    properties = Properties(PacketTypes.CONNECT)
    properties.TopicAliasMaximum = aliases
    properties.SessionExpiryInterval = 0 if clean else 300
    return MqttClient(broker, "5", port=port, client_id="reader", clean=clean, properties=properties)


@pytest.mark.parametrize("clean, aliases", [(True, 0), (True, 10), (False, 0)], ids=["clean", "aliases", "kept"])
def test_overlapping_subscriptions_bring_a_copy_each(listener, clean, aliases):
    """[MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-5]: further copies, each with the QoS and the identifier of its subscription."""
    broker = listener(mqtt={"overlapping": "each"})
    client = reader(broker, clean, aliases)
    overlapping(client)
    writer, other = MqttClient(broker, "5"), StompClient(broker)
    # Written with a note, by itself, in a transaction, and not at all.
    ways = {
        2: lambda body: writer.publish("topic", "t/x", body, qos=2),
        1: lambda body: writer.publish("topic", "t/x", body, qos=1),
        0: lambda body: writer.publish("topic", "t/x", body, qos=0),
    }
    for qos, publish_it in ways.items():
        publish_it(b"m")
        assert copies(client, 3) == sorted((b"m", min(qos, granted), [granted + 1]) for granted in (0, 1, 2)), qos
    transaction = other.begin()
    other.publish("topic", "t/x", b"m", Props(durable=True), transaction=transaction)
    other.commit(transaction)
    assert copies(client, 3) == sorted((b"m", min(1, granted), [granted + 1]) for granted in (0, 1, 2))
    client.publish("topic", "t/y", b"own", qos=2)
    assert copies(client, 2) == [(b"own", 0, [1]), (b"own", 1, [2])]
    for connected in (writer, other, client):
        connected.close()


def test_what_is_kept_for_overlapping_subscriptions_is_a_copy_each(listener):
    broker = listener(mqtt={"overlapping": "each"})
    client = reader(broker, clean=False)
    overlapping(client)
    client.close()
    writer = MqttClient(broker, "5")
    writer.publish("topic", "t/x", b"1", qos=1)
    writer.publish("topic", "t/x", b"2", qos=2)
    expected = [(b"1", 1, [2]), (b"1", 1, [3]), (b"2", 1, [2]), (b"2", 2, [3])]
    broker.restart(crash=True)
    client = reader(broker, clean=False)
    assert copies(client, 4) == expected
    client.close()
    # The subscriptions are what they were where they were made, also on another listener.
    client = reader(broker, clean=False, port="mqtt")
    writer = MqttClient(broker, "5")
    writer.publish("topic", "t/x", b"3", qos=2)
    assert copies(client, 3) == [(b"3", 0, [1]), (b"3", 1, [2]), (b"3", 2, [3])]
    writer.close()
    client.close()


@pytest.mark.parametrize("reveals", [True, False], ids=["told", "not-told"])
def test_what_the_rules_refuse_is_told_or_not(listener, reveals):
    """0x80: the server does not wish to reveal the reason [MQTT 5.0 3.2.2.2, 3.4.2.1, 3.9.3]."""
    rules = [
        {"deny": ["connect"], "to": ["stranger"]},
        {"deny": ["all"], "to": ["secret/#"]},
        {"allow": ["all", "connect"], "to": ["#"]},
    ]
    broker = listener(rules, mqtt={"reveal_denials": reveals})
    raw = Raw(broker, V5, "one")
    raw.send(subscribe(V5, [("secret/x", 1)]) + publish(V5, "secret/x", qos=1, number=5) + publish(V5, "secret/x", qos=2, number=6))
    got = raw.ping()
    code = 0x87 if reveals else 0x80
    assert [entry.reasons for entry in got[:1]] == [[code]]
    assert [(entry.number, entry.reason) for entry in got[1:]] == [(5, code), (6, code)]
    assert [0x1F in dict(entry.props) for entry in got[1:]] == [reveals, reveals]
    stranger = Raw(broker, V5, "one", client="stranger")
    assert (stranger.connack.reason, 0x1F in dict(stranger.connack.props)) == (code, reveals)
    stranger.expect_close()
    # Anything else that is wrong is said as before.
    raw.send(subscribe(V5, [("$share/g/#/x", 1)]))
    assert raw.ping()[0].reasons == [0x8F]
    raw.close()
    assert Raw(broker, V311, "one", client="stranger").connack.reason == 5
    raw = Raw(broker, V311, "one")
    raw.send(subscribe(V311, [("secret/x", 1)]))
    assert raw.ping()[0].reasons == [0x80]
    raw.close()
