"""Publishes that are alike but for their payloads, many in one segment: everybody gets all of them in order, in the form that is theirs."""

import pytest

from support.clients import connect
from support.clients.common import take
from support.names import fresh
from support.packets import V5, V31, V311, Raw, publish

VERSIONS = {"3.1": V31, "3.1.1": V311, "5.0": V5}
SUBSCRIPTION_ID, MAXIMUM, USER_PROPERTY = 0x0B, 0x27, 0x26
NO_LOCAL, AS_PUBLISHED = 4, 8


def payloads(count=200):
    return [b"%d " % number * (number % 60) for number in range(count)]


def read_all(raw, topic, wanted):
    for payload in wanted:
        found = raw.read()
        assert (found.topic, found.payload, found.qos, found.retain, found.dup) == (topic, payload, 0, False, False)
    assert not raw.ping()


@pytest.fixture(params=VERSIONS)
def version(request):
    return VERSIONS[request.param]


def test_subscribers_of_each_version_alone_and_together(broker, version):
    topic, sent = fresh("t"), payloads()
    publisher = Raw(broker, version, client=fresh("c"))
    readers = []
    for each in VERSIONS.values():
        readers.append(Raw(broker, each, client=fresh("c")))
        readers[-1].subscribe(topic, 1)
        publisher.send(b"".join(publish(version, topic, payload) for payload in sent))
        for reader in readers:
            read_all(reader, topic, sent)


def test_who_gets_something_else_with_them(broker, version):
    """Identifiers, a size limit, another protocol, a queue: with them all is encoded, and the plain subscriber sees no difference."""
    topic, sent = fresh("t"), payloads()
    publisher = Raw(broker, version, client=fresh("c"))
    plain = Raw(broker, version, client=fresh("c"))
    plain.subscribe(topic)

    def burst():
        publisher.send(b"".join(publish(version, topic, payload) for payload in sent))
        read_all(plain, topic, sent)

    numbered = Raw(broker, V5, client=fresh("c"))
    numbered.subscribe(topic, 0, props=[(SUBSCRIPTION_ID, 300)])
    burst()
    found = [numbered.read() for _ in sent]
    assert [(each.payload, each.prop(SUBSCRIPTION_ID)) for each in found] == [(each, 300) for each in sent]
    numbered.close()

    limited = Raw(broker, V5, client=fresh("c"), props=[(MAXIMUM, 100)])
    limited.subscribe(topic)
    burst()
    # The head, the topic and no properties.
    read_all(limited, topic, [each for each in sent if 2 + 2 + len(topic) + 1 + len(each) <= 100])
    limited.close()

    for protocol in ("stomp", "amqp091", "amqp10"):
        client = connect(protocol, broker)
        client.subscribe("topic", topic)
        burst()
        assert take(client, len(sent)) == sent, protocol
        client.close()


def test_what_stands_between_them_keeps_its_place(broker, version):
    topic, other, sent = fresh("t"), fresh("t"), payloads(60)
    publisher, reader = Raw(broker, version, client=fresh("c")), Raw(broker, version, client=fresh("c"))
    reader.subscribe(topic, 1)
    reader.subscribe(other, 0, number=2)
    stream, wanted, number = b"", [], 0
    for at, payload in enumerate(sent):
        for _ in range(at % 5):
            stream += publish(version, topic, payload)
            wanted.append((topic, payload, 0, []))
        if at % 3 == 0:
            number += 1
            stream += publish(version, topic, payload, 1, number)
            wanted.append((topic, payload, 1, []))
        elif at % 3 == 1:
            stream += publish(version, other, payload)
            wanted.append((other, payload, 0, []))
        else:
            props = [(USER_PROPERTY, ("k", "v"))] if version == V5 else []
            stream += publish(version, topic, payload, retain=True, props=props)
            wanted.append((topic, payload, 0, props))
    # Cut in the middle of packets.
    for at in range(0, len(stream), 777):
        publisher.send(stream[at : at + 777])
    for topic_wanted, payload, qos, props in wanted:
        found = reader.read()
        assert (found.topic, found.payload, found.qos) == (topic_wanted, payload, qos)
        assert found.props == props
    publisher.send(publish(version, topic, b"", retain=True))
    # Clearing the value is a message, too, and the last.
    read_all(reader, topic, [b""])


def test_no_local(broker):
    topic, sent = fresh("t"), payloads(20)
    both, other = Raw(broker, V5, client=fresh("c")), Raw(broker, V5, client=fresh("c"))
    both.subscribe(topic, NO_LOCAL)
    other.subscribe(topic, NO_LOCAL | AS_PUBLISHED)
    both.send(b"".join(publish(V5, topic, payload) for payload in sent))
    read_all(other, topic, sent)
    assert not both.ping()
    other.send(b"".join(publish(V5, topic, payload) for payload in sent))
    read_all(both, topic, sent)
    assert not other.ping()


def test_they_are_counted_and_refused_one_by_one(own_broker):
    rules = [{"deny": ["publish"], "to": ["closed/#"]}, {"allow": ["all"], "to": ["#"]}]
    broker = own_broker({"auth": {"anonymous": "always", "rules": rules}})
    publisher, reader = Raw(broker, V311, client=fresh("c")), Raw(broker, V311, client=fresh("c"))
    reader.subscribe("#")
    publisher.send(publish(V311, "closed/x", b"no") * 50 + publish(V311, "open/x", b"yes") * 60)
    read_all(reader, "open/x", [b"yes"] * 60)
    publisher.ping()
    counts = {name: value for (name, labels), value in broker.metrics().items() if ("protocol", "mqtt") in labels}
    assert counts["mynah_messages_received_total"] == 110
    assert counts["mynah_messages_refused_total"] == 50
    assert counts["mynah_messages_delivered_total"] == 60
