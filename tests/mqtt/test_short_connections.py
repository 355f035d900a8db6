"""Publishers that connect, publish one message of each QoS, wait for every answer and go: no answer is left behind a delivery."""

import threading

import pytest

from support.packets import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, V5, V31, V311, Raw, ack, publish

THREADS, CONNECTIONS = 4, 200


def come_and_go(broker, version, topic, client, failures):
    try:
        for number in range(CONNECTIONS):
            raw = Raw(broker, version, client=f"{client}{number}")
            raw.send(publish(version, topic, b"2", 2, 7))
            assert raw.expect_kind(PUBREC).number == 7
            raw.send(ack(PUBREL, 7))
            assert raw.expect_kind(PUBCOMP).number == 7
            raw.send(publish(version, topic, b"1", 1, 8))
            assert raw.expect_kind(PUBACK).number == 8
            raw.close()
    except BaseException as failure:
        failures.append(failure)


@pytest.mark.parametrize("version", (V31, V311, V5), ids=("3.1", "3.1.1", "5.0"))
@pytest.mark.parametrize("granted", (0, 1, 2))
def test_every_answer_comes(broker, fresh, version, granted):
    topic, failures = fresh("t"), []
    reader = Raw(broker, version, client=fresh("r"))
    reader.subscribe(topic, granted)
    threads = [threading.Thread(target=come_and_go, args=(broker, version, topic, fresh("w"), failures)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    seen, awaited = [], THREADS * CONNECTIONS * 2
    while len(seen) < awaited:
        got = reader.read()
        if got.kind == PUBLISH:
            seen.append(got.payload)
            if got.qos:
                reader.send(ack(PUBREC if got.qos == 2 else PUBACK, got.number))
        elif got.kind == PUBREL:
            reader.send(ack(PUBCOMP, got.number))
    for thread in threads:
        thread.join(30)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert sorted(seen) == [b"1"] * (awaited // 2) + [b"2"] * (awaited // 2)
