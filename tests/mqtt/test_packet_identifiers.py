"""More messages than there are packet identifiers: they go round, none is 0, none is used twice at a time [MQTT-2.2.1-3, MQTT-2.2.1-4]."""

import collections
import threading

import pytest

from support.packets import PUBACK, PUBLISH, V5, V31, V311, Raw, ack, publish

COUNT = 70_000


def send_all(raw, topic):
    """QoS 1, with identifiers that go round as well, never more at a time than the broker takes."""
    version, confirmed, sent = raw.version, 0, 0
    most = (version == V5 and raw.connack.prop(0x21)) or 1000
    while confirmed < COUNT:
        count = min(COUNT - sent, most - (sent - confirmed))
        raw.send(b"".join(publish(version, topic, str(n).encode(), 1, n % 65535 + 1) for n in range(sent, sent + count)))
        sent += count
        for _ in range(min(sent - confirmed, 500)):
            assert raw.expect_kind(PUBACK).number == confirmed % 65535 + 1
            confirmed += 1


@pytest.mark.parametrize("version", (V31, V311, V5), ids=("3.1", "3.1.1", "5.0"))
def test_seventy_thousand_messages(broker, fresh, version):
    topic = fresh("t")
    reader, writer = Raw(broker, version, client=fresh("r")), Raw(broker, version, client=fresh("w"))
    reader.subscribe(topic, 1)
    sending = threading.Thread(target=send_all, args=(writer, topic))
    sending.start()
    out = collections.deque()
    for expected in range(COUNT):
        got = reader.expect_kind(PUBLISH)
        assert got.payload == str(expected).encode()
        assert got.number and got.number not in out, f"identifier {got.number}"
        out.append(got.number)
        if len(out) >= 20:
            # Not in order: what is free again must not depend on it.
            batch = [out.pop() if n % 2 else out.popleft() for n in range(len(out))]
            reader.send(b"".join(ack(PUBACK, number) for number in batch))
    sending.join(30)
    assert not sending.is_alive()
