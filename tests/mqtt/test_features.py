"""MQTT 3.1, 3.1.1 and 5.0 with paho: what issue 2 item 2 lists, each feature at least once."""

import socket
import struct
import time

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from proton import ConnectionException

from support.clients import Nothing, Props, Refused
from support.wait import settled, until

VERSIONS = ("mqtt31", "mqtt311", "mqtt5")


def persistent(client, version, identity, **options):
    if version == "mqtt5":
        options.setdefault("expiry", 300)
    return client(version, client_id=identity, clean=False, **options)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("published", (0, 1, 2))
@pytest.mark.parametrize("subscribed", (0, 1, 2))
def test_quality_of_service_is_the_lower_of_both(client, fresh, version, published, subscribed):
    topic = fresh("t")
    reader, writer = client(version), client(version)
    assert reader.subscribe("topic", topic, qos=subscribed).value == subscribed
    writer.publish("topic", topic, b"\x00\xff body", qos=published, confirm=published > 0)
    received = reader.receive()
    assert received.body == b"\x00\xff body"
    assert received.raw.qos == min(published, subscribed)
    reader.accept(received)
    # QoS 2 comes to its end on both sides, so that the identifiers are free again.
    writer.publish("topic", topic, b"next", qos=published, confirm=published > 0)
    reader.accept(reader.receive())


@pytest.mark.parametrize("version", VERSIONS)
def test_exactly_once_in_both_directions(client, fresh, version):
    topic = fresh("t")
    reader, writer = client(version), client(version)
    reader.subscribe("topic", topic, qos=2)
    infos = [writer.publish("topic", topic, b"%d" % n, qos=2, confirm=False) for n in range(200)]
    for number in range(200):
        received = reader.receive()
        assert received.body == b"%d" % number
        reader.accept(received)
    for info in infos:
        writer.confirmed(info)


def test_a_repeated_publish_of_qos_2_is_one_message(broker, client, fresh):
    """Until PUBREL the same identifier is the same message [MQTT-4.3.3-10]; after PUBCOMP it is a new one."""
    topic = fresh("t")
    reader = client("mqtt311")
    reader.subscribe("topic", topic, ack="auto")
    wire = broker.raw("mqtt")
    wire.sendall(bytes.fromhex("100c 0004 4d515454 04 02 0000 0000"))
    assert wire.recv(4) == b"\x20\x02\x00\x00"

    def publish(dup, body):
        rest = len(topic).to_bytes(2, "big") + topic.encode() + b"\x00\x05" + body
        wire.sendall(bytes([0x34 | dup << 3, len(rest)]) + rest)
        assert wire.recv(4) == b"\x50\x02\x00\x05"

    publish(0, b"once")
    publish(1, b"once")
    for _ in range(2):
        # A PUBREL repeated is answered again [MQTT-4.3.3-11].
        wire.sendall(b"\x62\x02\x00\x05")
        assert wire.recv(4) == b"\x70\x02\x00\x05"
    publish(0, b"again")
    assert [reader.receive().body for _ in range(2)] == [b"once", b"again"]
    wire.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_retained_by_topic_and_by_wildcard(client, fresh, version):
    root = fresh("t")
    writer = client(version)
    for name in ("a", "b", "c/d"):
        writer.publish("topic", f"{root}/{name}", name.encode(), qos=1, retain=True)
    writer.publish("topic", f"{root}/a", b"a2", qos=1, retain=True)
    writer.publish("topic", f"{root}/b", b"", qos=1, retain=True)
    exact = client(version)
    exact.subscribe("topic", f"{root}/a", ack="auto")
    received = exact.receive()
    assert (received.body, received.retained) == (b"a2", True)
    wild = client(version)
    wild.subscribe("topic", f"{root}/#", ack="auto")
    found = sorted(
        (received.address, received.body, received.retained) for received in (wild.receive(), wild.receive())
    )
    assert found == [(f"{root}/a", b"a2", True), (f"{root}/c/d", b"c/d", True)]
    # A live message is not marked retained, even when it is kept [MQTT-3.3.1-9].
    writer.publish("topic", f"{root}/a", b"a3", qos=1, retain=True)
    received = wild.receive()
    assert (received.body, received.retained) == (b"a3", False)


@pytest.mark.parametrize("protocol, options", [("mqtt5", {"receive_maximum": 10}), ("mqtt311", {}), ("stomp", {})])
def test_all_retained_messages_come_however_many(client, fresh, protocol, options):
    """Not as many as fit into some buffer, and within the receiver's window."""
    root = fresh("t")
    writer = client("mqtt311")
    for number in range(1500):
        writer.publish("topic", f"{root}/{number}", b"%d" % number, qos=1, retain=True, confirm=number == 1499)
    reader = client(protocol, **options)
    reader.subscribe("topic", f"{root}/#", ack="client", credit=10)
    seen = set()
    for _ in range(1500):
        received = reader.receive()
        seen.add(int(received.body))
        reader.accept(received)
    assert seen == set(range(1500))


@pytest.mark.parametrize("qos", (1, 2))
def test_a_long_absence_within_a_small_window(client, fresh, qos):
    """Everything in order, though only five may be unacknowledged at once."""
    topic, identity = fresh("t"), fresh("id")
    reader = persistent(client, "mqtt5", identity, receive_maximum=5)
    reader.subscribe("topic", topic, qos=qos)
    reader.close()
    writer = client("mqtt5")
    for number in range(500):
        writer.publish("topic", topic, b"%d" % number, qos=qos, confirm=number == 499)
    reader = persistent(client, "mqtt5", identity, receive_maximum=5)
    reader.auto = False
    seen = []
    for _ in range(500):
        received = reader.receive()
        seen.append(int(received.body))
        reader.accept(received)
    assert seen == list(range(500))


def test_retained_from_another_protocol_and_to_another(client, fresh):
    topic = f"{fresh('t')}/x"
    client("stomp").publish("topic", topic, b"from stomp", headers={"retain": "true"})
    reader = client("mqtt311")
    reader.subscribe("topic", topic, ack="auto")
    received = reader.receive()
    assert (received.body, received.retained) == (b"from stomp", True)
    watcher = client("stomp")
    watcher.subscribe("topic", topic, ack="auto")
    received = watcher.receive()
    assert (received.body, received.retained) == (b"from stomp", True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos, retain", [(0, False), (1, False), (2, True)])
def test_will_on_a_lost_connection(client, fresh, version, qos, retain):
    topic = fresh("t")
    watcher = client(version)
    watcher.subscribe("topic", topic, qos=2)
    elsewhere = client("stomp")
    elsewhere.subscribe("topic", topic, ack="auto")
    dying = client(version, will={"topic": topic, "payload": b"gone", "qos": qos, "retain": retain})
    dying.drop_connection()
    received = watcher.receive()
    assert (received.body, received.raw.qos) == (b"gone", qos)
    if qos:
        watcher.accept(received)
    assert elsewhere.receive().body == b"gone"
    late = client(version)
    late.subscribe("topic", topic, ack="auto")
    if retain:
        assert late.receive().body == b"gone"


@pytest.mark.parametrize("version", VERSIONS)
def test_no_will_after_disconnect(client, fresh, version):
    topic = fresh("t")
    watcher = client(version)
    watcher.subscribe("topic", topic, ack="auto")
    leaving = client(version, will={"topic": topic, "payload": b"gone"})
    leaving.close()
    client(version).publish("topic", topic, b"sentinel")
    assert watcher.receive().body == b"sentinel"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_persistent_session_collects_while_away(client, fresh, version):
    topic, identity = fresh("t"), fresh("id")
    reader = persistent(client, version, identity)
    assert not reader.session_present
    reader.subscribe("topic", f"{topic}/#", ack="client")
    reader.close()
    writer = client("stomp")
    for number in range(50):
        writer.publish("topic", f"{topic}/{number}", b"%d" % number, Props(durable=True))
    reader = persistent(client, version, identity)
    # 3.1 has no Session Present flag.
    assert reader.session_present == (version != "mqtt31")
    reader.auto = False
    for number in range(50):
        received = reader.receive()
        assert received.body == b"%d" % number
        reader.accept(received)
    # A clean start forgets it.
    reader.close()
    forgetful = client(version, client_id=identity, clean=True)
    assert not forgetful.session_present
    writer.publish("topic", f"{topic}/x", b"x", Props(durable=True))
    forgetful.close()
    assert not persistent(client, version, identity).session_present


def test_a_session_ends_when_its_expiry_has_passed(client, fresh):
    identity = fresh("id")
    client("mqtt5", client_id=identity, clean=False, expiry=1).close()
    assert client("mqtt5", client_id=identity, clean=False, expiry=1).session_present
    client("mqtt5", client_id=identity, clean=False, expiry=1).close()
    ended = time.monotonic()

    def gone():
        # Asking renews the session, so each look must be a new one, after its second has passed.
        return time.monotonic() - ended > 1.3

    until(gone, "a second and a bit have passed")
    assert not client("mqtt5", client_id=identity, clean=True, expiry=0).session_present


def test_unacknowledged_come_again_first_and_in_order(client, fresh):
    """[MQTT-4.4.0-1, 4.6.0-1]"""
    topic, identity = fresh("t"), fresh("id")
    reader = persistent(client, "mqtt311", identity)
    reader.subscribe("topic", topic, ack="client")
    writer = client("mqtt311")
    for number in range(5):
        writer.publish("topic", topic, b"%d" % number)
    held = [reader.receive() for _ in range(5)]
    reader.accept(held[0])
    reader.client.publish(fresh("sync"), b"", 1).wait_for_publish(15)
    reader.drop_connection()
    writer.publish("topic", topic, b"5")
    again = persistent(client, "mqtt311", identity)
    again.auto = False
    seen = []
    for _ in range(5):
        received = again.receive()
        seen.append((received.body, received.redelivered))
        again.accept(received)
    assert seen == [(b"1", True), (b"2", True), (b"3", True), (b"4", True), (b"5", False)]


@pytest.mark.parametrize("version", VERSIONS)
def test_take_over(client, fresh, version):
    """[MQTT-3.1.4-3]"""
    identity = fresh("id")
    first = client(version, client_id=identity)
    second = client(version, client_id=identity)
    until(first.disconnected.is_set, "the first is disconnected")
    if version == "mqtt5":
        assert first.disconnect_reason.value == 0x8E
    topic = fresh("t")
    second.subscribe("topic", topic, ack="auto")
    second.publish("topic", topic, b"alive")
    assert second.receive().body == b"alive"


def test_take_over_of_a_session_loses_nothing(client, fresh):
    topic, identity = fresh("t"), fresh("id")
    first = persistent(client, "mqtt5", identity)
    first.subscribe("topic", topic, ack="client")
    writer = client("stomp")
    for number in range(20):
        writer.publish("topic", topic, b"%d" % number, Props(durable=True))
    held = [first.receive() for _ in range(20)]
    assert [received.body for received in held] == [b"%d" % number for number in range(20)]
    second = persistent(client, "mqtt5", identity)
    second.auto = False
    assert second.session_present
    for number in range(20):
        received = second.receive()
        assert received.body == b"%d" % number
        second.accept(received)


def test_keep_alive(broker, client, fresh):
    """A silent client is closed between one and a half and two times its keep alive [MQTT-3.1.2-22]; its will is sent."""
    topic = fresh("t")
    watcher = client("mqtt311")
    watcher.subscribe("topic", topic, ack="auto")
    wire = broker.raw("mqtt")
    identity = fresh("id").encode()
    body = b"\x00\x04MQTT\x04\x06\x00\x01"
    for field in (identity, topic.encode(), b"silent"):
        body += struct.pack("!H", len(field)) + field
    wire.sendall(bytes([0x10, len(body)]) + body)
    assert wire.recv(4) == b"\x20\x02\x00\x00"
    started = time.monotonic()
    wire.settimeout(10)
    assert wire.recv(1) == b""
    passed = time.monotonic() - started
    assert 1.4 <= passed < 4, passed
    assert watcher.receive().body == b"silent"
    wire.close()


def test_pings_keep_it_alive(broker, fresh):
    wire = broker.raw("mqtt")
    identity = fresh("id").encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x01" + struct.pack("!H", len(identity)) + identity
    wire.sendall(bytes([0x10, len(body)]) + body)
    assert wire.recv(4) == b"\x20\x02\x00\x00"
    end = time.monotonic() + 3
    wire.settimeout(0.7)
    while time.monotonic() < end:
        wire.sendall(b"\xc0\x00")
        assert wire.recv(2) == b"\xd0\x00"
        # The pause between two pings is the test's subject: nothing else may be said in it.
        with pytest.raises(socket.timeout):
            wire.recv(1)
    wire.close()


def test_login(own_broker, client):
    strict = own_broker({"auth": {"anonymous": "never"}})
    client("mqtt5", to=strict, user="app", password="app-secret")
    client("mqtt311", to=strict, user="guest", password="guest")
    for options in ({}, {"user": "app", "password": "wrong"}, {"user": "nobody", "password": "x"}):
        with pytest.raises(Refused) as refused:
            client("mqtt5", to=strict, **options)
        assert "authorized" in str(refused.value).lower() or "user name" in str(refused.value).lower()
        with pytest.raises(Refused):
            client("mqtt311", to=strict, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_without_a_password_has_the_rights_of_none(own_broker, client, version):
    """A user name may come without a password [MQTT-3.1.2-17, -19]; it is let in where it would be without the name, as that."""
    rules = [
        {"allow": ["all"], "to": ["%u/#"]},
        {"allow": ["all"], "to": ["of/sensor/#"], "users": ["sensor"]},
        {"allow": ["connect"], "to": ["#"]},
    ]
    broker = own_broker({"auth": {"anonymous": "loopback", "rules": rules}})
    named = client(version, to=broker, user="sensor", password=None)
    named.subscribe("topic", "anonymous/t", ack="auto")
    named.publish("topic", "anonymous/t", b"mine", qos=1)
    assert named.receive().body == b"mine"
    # Neither %u nor a rule for that name is gained by saying it.
    for topic in ("sensor/t", "of/sensor/t"):
        with pytest.raises(Refused):
            named.subscribe("topic", topic)
    # A user's own name does need the password, and a wrong one is none.
    for user, password in (("app", None), ("guest", None), ("sensor", ""), ("sensor", "x")):
        with pytest.raises(Refused):
            client(version, to=broker, user=user, password=password)
    users = {entry["user"] for entry in broker.api("/connections")}
    assert users == {"anonymous"}, users


@pytest.mark.parametrize("protocol", ["mqtt311", "mqtt5", "stomp", "amqp091", "amqp10"])
def test_where_there_are_no_users_any_password_will_do(own_broker, client, protocol):
    for anonymous in ("loopback", "never"):
        broker = own_broker({"auth": {"anonymous": anonymous, "users": []}})
        if anonymous == "never":
            with pytest.raises((Refused, ConnectionException)):
                client(protocol, to=broker, user="device", password="burnt-in")
        else:
            client(protocol, to=broker, user="device", password="burnt-in")


def test_login_without_a_password_where_anonymous_is_off(own_broker, client):
    strict = own_broker({"auth": {"anonymous": "never"}})
    for version in VERSIONS:
        with pytest.raises(Refused):
            client(version, to=strict, user="sensor", password=None)


def test_an_empty_identifier_is_assigned_in_5(client, fresh):
    """[MQTT-3.1.3-6, 3.2.2.3.7]"""
    one = client("mqtt5", client_id="")
    two = client("mqtt5", client_id="")
    ids = {each.connect_properties.AssignedClientIdentifier for each in (one, two)}
    assert len(ids) == 2 and all(ids)
    # 3.1.1 allows it with a clean session.
    topic = fresh("t")
    three = client("mqtt311", client_id="")
    three.subscribe("topic", topic, ack="auto")
    three.publish("topic", topic, b"x")
    assert three.receive().body == b"x"


def test_subscription_identifiers_and_options(client, fresh):
    topic = fresh("t")
    reader = client("mqtt5")
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 7
    reader.subscribe("topic", topic, options=SubscribeOptions(qos=0, noLocal=True), properties=properties)
    reader.publish("topic", topic, b"own")
    client("mqtt5").publish("topic", topic, b"other")
    received = reader.receive()
    assert received.body == b"other"
    assert received.raw.properties.SubscriptionIdentifier == [7]


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("aliases", [0, 10], ids=["", "aliases"])
def test_overlapping_subscriptions(client, fresh, clean, aliases):
    """One copy with the highest quality and both identifiers [MQTT-3.3.4-2, -3]."""
    root = fresh("t")
    properties = Properties(PacketTypes.CONNECT)
    properties.TopicAliasMaximum = aliases
    properties.SessionExpiryInterval = 0 if clean else 60
    reader = client("mqtt5", client_id=fresh("id"), clean=clean, properties=properties)
    for number, (pattern, qos) in enumerate(((f"{root}/+", 0), (f"{root}/#", 1)), start=1):
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = number
        reader.subscribe("topic", pattern, options=SubscribeOptions(qos=qos), properties=properties)
    reader.auto = True
    writer = client("stomp")
    # One subscription of the two takes only what nobody promises: it must not matter which came first.
    for durable in (True, False):
        copies = []
        for body in (b"x", b"y", b"sentinel"):
            writer.publish("topic", f"{root}/x", body, Props(durable=durable))
        while (received := reader.receive()).body != b"sentinel":
            copies.append((received.body, received.raw.qos, sorted(received.raw.properties.SubscriptionIdentifier)))
        assert copies == [(body, int(durable), [1, 2]) for body in (b"x", b"y")]
    reader.client.unsubscribe(f"{root}/+")
    writer.publish("topic", f"{root}/x", b"left", Props(durable=True))
    until(lambda: (received := reader.receive()).body == b"left", "the other subscription goes on")
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)


def test_retain_as_published_and_retain_handling(client, fresh):
    topic = fresh("t")
    writer = client("mqtt5")
    writer.publish("topic", topic, b"old", qos=1, retain=True)
    reader = client("mqtt5")
    reader.subscribe("topic", topic, options=SubscribeOptions(qos=0, retainAsPublished=True, retainHandling=2))
    writer.publish("topic", topic, b"new", qos=1, retain=True)
    received = reader.receive()
    assert (received.body, received.retained) == (b"new", True)
    # 1: only for a subscription that did not exist.
    reader.subscribe("topic", topic, options=SubscribeOptions(qos=0, retainHandling=1))
    writer.publish("topic", topic, b"live", qos=1)
    assert reader.receive().body == b"live"
    # 0: each time.
    reader.subscribe("topic", topic, options=SubscribeOptions(qos=0, retainHandling=0))
    assert reader.receive().body == b"new"


def test_message_expiry_counts_down_and_ends(client, fresh):
    topic, identity = fresh("t"), fresh("id")
    reader = persistent(client, "mqtt5", identity)
    reader.subscribe("topic", topic, ack="client")
    reader.close()
    writer = client("mqtt5")
    writer.publish("topic", topic, b"short", Props(ttl_ms=1000))
    writer.publish("topic", topic, b"long", Props(ttl_ms=60_000))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.2, "the short one has expired")
    reader = persistent(client, "mqtt5", identity)
    reader.auto = False
    received = reader.receive()
    assert received.body == b"long"
    assert 0 < received.props.ttl_ms < 60_000
    reader.accept(received)


def test_user_properties_keep_order_and_repetition(client, fresh):
    """[MQTT-3.3.2-17, -18]"""
    topic = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="auto")
    properties = Properties(PacketTypes.PUBLISH)
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("", "empty key")]
    properties.UserProperty = pairs
    properties.PayloadFormatIndicator = 1
    properties.ContentType = "text/plain"
    properties.CorrelationData = bytes(range(256))
    client("mqtt5").publish("topic", topic, "é".encode(), properties=properties)
    received = reader.inbox.get(timeout=15)
    assert received.properties.UserProperty == pairs
    assert received.properties.PayloadFormatIndicator == 1
    assert bytes(received.properties.CorrelationData) == bytes(range(256))


def test_topic_alias_from_the_client(client, fresh):
    topic = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="auto")
    writer = client("mqtt5")
    allowed = getattr(writer.connect_properties, "TopicAliasMaximum", 0)
    assert allowed > 0
    for name in (topic, ""):
        properties = Properties(PacketTypes.PUBLISH)
        properties.TopicAlias = 1
        # paho refuses an empty topic unless an alias is set, which it is.
        writer.publish("raw", name, b"x", properties=properties)
    assert [reader.receive().address for _ in range(2)] == [topic, topic]


def test_will_delay_is_cancelled_by_coming_back(client, fresh):
    """[MQTT-3.1.3-9]"""
    topic, identity = fresh("t"), fresh("id")
    watcher = client("mqtt5")
    watcher.subscribe("topic", topic, ack="auto")
    will = Properties(PacketTypes.WILLMESSAGE)
    will.WillDelayInterval = 60
    dying = persistent(client, "mqtt5", identity, will={"topic": topic, "payload": b"gone", "properties": will})
    dying.drop_connection()
    persistent(client, "mqtt5", identity).close()
    client("mqtt5").publish("topic", topic, b"sentinel")
    assert watcher.receive().body == b"sentinel"


def test_will_delay_passes(client, fresh):
    topic = fresh("t")
    watcher = client("mqtt5")
    watcher.subscribe("topic", topic, ack="auto")
    will = Properties(PacketTypes.WILLMESSAGE)
    will.WillDelayInterval = 1
    dying = persistent(client, "mqtt5", fresh("id"), will={"topic": topic, "payload": b"gone", "properties": will})
    began = time.monotonic()
    dying.drop_connection()
    assert watcher.receive().body == b"gone"
    assert time.monotonic() - began >= 0.9


def test_unsubscribe(client, fresh):
    topic = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="auto")
    assert [reason.value for reason in reader.unsubscribe("topic", topic)] == [0]
    assert [reason.value for reason in reader.unsubscribe("topic", topic)] == [0x11]
    writer = client("mqtt5")
    writer.publish("topic", topic, b"no")
    reader.subscribe("topic", topic, ack="auto")
    writer.publish("topic", topic, b"yes")
    assert reader.receive().body == b"yes"


def test_a_large_message(client, fresh):
    topic = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", topic, ack="client")
    body = bytes(range(256)) * 16384
    client("mqtt311").publish("topic", topic, body)
    received = reader.receive()
    assert received.body == body
    reader.accept(received)


def test_maximum_packet_size_of_the_client(client, fresh):
    """What is too large for it is left out, and does not block what comes after [MQTT-3.1.2-24, -25]."""
    topic = fresh("t")
    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = 200
    reader = client("mqtt5", properties=properties)
    reader.subscribe("topic", topic, ack="client")
    writer = client("mqtt5")
    writer.publish("topic", topic, b"x" * 500)
    writer.publish("topic", topic, b"fits")
    received = reader.receive()
    assert received.body == b"fits"
    reader.accept(received)


def test_puback_says_that_nobody_listens(client, fresh):
    """0x10 No matching subscribers, which is a success."""
    writer = client("mqtt5")
    info = writer.publish("topic", fresh("t"), b"x", qos=1)
    assert writer.acknowledged[info.mid].value == 0x10


def test_queue_by_its_address(broker, client, fresh):
    """`$queue/q` is made on first use; QoS 0 takes without acknowledging, QoS 1 holds until PUBACK."""
    queue = fresh("q")
    writer = client("mqtt311")
    writer.publish("queue", queue, b"1")
    writer.publish("queue", queue, b"2")
    settled(lambda: broker.counts(queue), (2, 0), "both wait")
    reader = client("mqtt5")
    reader.subscribe("queue", queue, ack="client")
    received = [reader.receive(), reader.receive()]
    assert [each.body for each in received] == [b"1", b"2"]
    assert received[0].address == f"$queue/{queue}"
    settled(lambda: broker.counts(queue), (0, 2), "both are out")
    for each in received:
        reader.accept(each)
    settled(lambda: broker.counts(queue), (0, 0), "both are done")


def test_nothing_is_invented_for_a_silent_topic(client, fresh):
    reader = client("mqtt5")
    reader.subscribe("topic", fresh("t"), ack="auto")
    with pytest.raises(Nothing):
        reader.receive(timeout=0.2)
