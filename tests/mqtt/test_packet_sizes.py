"""What the broker adds to a packet is left out where it would make it larger than the client takes.

Reason strings: [MQTT-3.4.2-2, MQTT-3.5.2-2, MQTT-3.6.2-2, MQTT-3.7.2-2, MQTT-3.14.2-3, MQTT-3.15.2-2]. User properties, of which it adds none: [MQTT-3.2.2-20,
MQTT-3.4.2-3, MQTT-3.5.2-3, MQTT-3.6.2-3, MQTT-3.7.2-3, MQTT-3.9.2-2, MQTT-3.11.2-2, MQTT-3.14.2-4, MQTT-3.15.2-3].
"""

import pytest

from support.names import fresh
from support.packets import (
    AUTH,
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    V5,
    Raw,
    ack,
    connect,
    packet,
    publish,
    subscribe,
    unsubscribe,
)

MAXIMUM = 0x27
REASON_STRING, USER_PROPERTY = 0x1F, 0x26
#: What provokes each packet, with the reason that the broker has something to say about.
PROVOKED = {
    "PUBACK": (PUBACK, 0x97, publish(V5, "$queue/full", b"", qos=1)),
    "PUBREC": (PUBREC, 0x97, publish(V5, "$queue/full", b"", qos=2)),
    "PUBREL": (PUBREL, 0x92, ack(PUBREC, 77)),
    "PUBCOMP": (PUBCOMP, 0x92, ack(PUBREL, 77)),
    "SUBACK": (SUBACK, 0x87, subscribe(V5, [("$P2P/somebody", 1)])),
    "UNSUBACK": (UNSUBACK, 0x11, unsubscribe(V5, ["nothing"])),
    "DISCONNECT": (DISCONNECT, 0x82, packet(SUBACK, b"\0\1\0\0")),
}


def size(found):
    return 2 + len(found.body)


def provoke(broker, name, props=()):
    kind, reason, sent = PROVOKED[name]
    raw = Raw(broker, V5, client=fresh("c"), props=props)
    raw.send(sent)
    found = raw.expect_kind(kind)
    assert reason in (found.reason, *getattr(found, "reasons", ())), f"{found}"
    raw.close()
    return found


@pytest.fixture
def full(client):
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    client("amqp091").declare_queue("full", arguments=arguments)


@pytest.mark.parametrize("name", PROVOKED)
@pytest.mark.usefixtures("full")
def test_as_large_as_the_client_takes_and_no_larger(broker, name):
    free = provoke(broker, name)
    assert free.prop(USER_PROPERTY) is None
    assert (free.prop(REASON_STRING) is not None) == (name in ("PUBACK", "PUBREC", "DISCONNECT"))
    # At its full size it still comes whole; one byte less and it comes without.
    exact = provoke(broker, name, [(MAXIMUM, size(free))])
    assert exact.props == free.props
    smaller = provoke(broker, name, [(MAXIMUM, size(free) - 1)]) if free.props else free
    assert smaller.props == [] and size(smaller) <= size(free)


def test_connack(broker):
    refused = Raw(broker, V5, client="", clean=True, user="nobody", password=b"wrong")
    free = refused.connack
    assert free.kind == CONNACK and free.reason in (0x86, 0x87) and free.prop(USER_PROPERTY) is None
    refused.expect_close()
    props = [(MAXIMUM, size(free) - 1)]
    refused = Raw(broker, V5, client="", user="nobody", password=b"wrong", props=props)
    assert size(refused.connack) < size(free) and refused.connack.props == []
    refused.expect_close()
    accepted = Raw(broker, V5, client=fresh("c"), props=[(MAXIMUM, 64)])
    assert size(accepted.connack) <= 64 and accepted.connack.prop(USER_PROPERTY) is None
    accepted.close()


def test_auth(broker):
    raw = Raw(broker, V5, login=False)
    raw.send(connect(V5, client=fresh("c"), props=[(0x15, "SCRAM-SHA-256"), (0x16, b"n,,n=guest,r=nonce")]))
    found = raw.expect_kind(AUTH)
    assert found.reason == 0x18
    assert {key for key, _ in found.props} == {0x15, 0x16}
    raw.close()


def test_larger_than_the_broker_takes(own_broker):
    """[MQTT-3.2.2-15] The header is enough to see it."""
    broker = own_broker({"limits": {"message_bytes_max": "1KiB"}})
    raw = Raw(broker, V5, client="c")
    told = raw.connack.prop(MAXIMUM)
    raw.send(b"\x30" + bytes([told & 127 | 128, told >> 7 & 127]))
    assert raw.expect_kind(DISCONNECT).reason == 0x95
    raw.expect_close()


def test_no_aliases_where_none_are_offered(own_broker):
    """[MQTT-3.2.2-18]"""
    broker = own_broker(
        lambda ports: {
            "listeners": [
                {"name": "mqtt", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['mqtt']}", "mqtt": {"topic_alias_max": 0}}
            ]
        }
    )
    raw = Raw(broker, V5, client="c")
    assert raw.connack.prop(0x22) in (None, 0)
    raw.send(publish(V5, "t", b"x", props=[(0x23, 1)]))
    assert raw.expect_kind(DISCONNECT).reason == 0x94
    raw.expect_close()
