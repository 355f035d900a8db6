"""Response information [MQTT-3.1.2-28, MQTT 5.0 3.2.2.3.15]: a part of the topic tree for one client's answers."""

import pytest

from support.clients import connect
from support.names import fresh
from support.packets import PUBLISH, V5, V311, Raw, publish

REQUEST, INFORMATION, RESPONSE_TOPIC, CORRELATION = 0x19, 0x1A, 0x08, 0x09


def test_request_and_response(broker):
    name = fresh("client")
    asker = Raw(broker, client=name, props=[(REQUEST, 1)])
    prefix = asker.connack.prop(INFORMATION)
    assert prefix == f"$response/{name}"
    assert asker.subscribe(f"{prefix}/#").reasons == [0]
    worker = Raw(broker)
    topic = fresh("requests")
    worker.subscribe(topic)
    asker.send(publish(V5, topic, b"2+3", props=[(RESPONSE_TOPIC, f"{prefix}/sum"), (CORRELATION, b"7")]))
    request = worker.expect_kind(PUBLISH)
    answer = publish(V5, request.prop(RESPONSE_TOPIC), b"5", props=[(CORRELATION, request.prop(CORRELATION))])
    worker.send(answer)
    got = asker.expect_kind(PUBLISH)
    assert (got.topic, got.payload, got.prop(CORRELATION)) == (f"{prefix}/sum", b"5", b"7")


def test_it_is_not_told_unasked(broker):
    for props in ([], [(REQUEST, 0)]):
        assert Raw(broker, props=props).connack.prop(INFORMATION) is None
    # An assigned identifier has one too; one that cannot be a level has none.
    raw = Raw(broker, props=[(REQUEST, 1)])
    assert raw.connack.prop(INFORMATION) == "$response/" + raw.connack.prop(0x12)
    assert Raw(broker, client="a/b" + fresh("c"), props=[(REQUEST, 1)]).connack.prop(INFORMATION) is None


def test_nobody_else_can_listen(broker):
    name = fresh("client")
    Raw(broker, client=name, props=[(REQUEST, 1)])
    for version, refused in ((V5, 0x87), (V311, 0x80)):
        other = Raw(broker, version, client=fresh("other"))
        for number, filter in enumerate((f"$response/{name}/#", "$response/#", "$response/+/x", f"$share/g/$response/{name}")):
            assert other.subscribe(filter, number=number + 1).reasons == [refused], filter
    amqp = connect("amqp091", broker)
    queue = fresh("q")
    amqp.declare_queue(queue)
    with pytest.raises(Exception, match="reserved for the broker"):
        amqp.channel.queue_bind(queue, "amq.topic", f"$response.{name}.#")
    wild = Raw(broker, client="+")
    assert wild.subscribe("$response/+/#").reasons == [0x87]
