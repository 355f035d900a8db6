"""Who guesses passwords is slowed down, by address and by user; others are not."""

import concurrent.futures
import time

import pytest
from proton import ConnectionException

from support.clients import connect
from support.clients.common import Refused
from support.packets import V5, Raw


@pytest.fixture
def guarded(own_broker):
    users = [{"name": name, "password": "right"} for name in ("a", "b")]
    return own_broker({"auth": {"anonymous": "always", "failures_max": 3, "users": users}})


def attempt(broker, user, password):
    begun = time.monotonic()
    raw = Raw(broker, V5, user=user, password=password)
    raw.close()
    return raw.connack.reason, time.monotonic() - begun


def test_it_takes_longer_each_time_and_the_right_password_waits_too(guarded):
    assert all(attempt(guarded, "a", "wrong")[1] < 0.1 for _ in range(3))
    times = [attempt(guarded, "a", "wrong") for _ in range(3)]
    assert all(reason == 0x86 for reason, _ in times)
    for (_, took), least in zip(times, (0.1, 0.2, 0.4)):
        assert least <= took < least + 0.3, times
    reason, took = attempt(guarded, "a", "right")
    assert reason == 0 and took >= 0.8
    # Anonymous clients of the same address are not slowed.
    assert attempt(guarded, None, None)[1] < 0.1


def test_many_at_once_wait_for_one_another(guarded):
    for _ in range(7):
        attempt(guarded, "a", "wrong")
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: attempt(guarded, "b", "wrong"), range(20)))
    took = time.monotonic() - begun
    assert all(reason == 0x86 for reason, _ in found)
    # One after the other, and those who would wait too long are refused at once.
    assert took > 1.6 and sum(wait > 0.05 for _, wait in found) <= 6
    # Somebody who is in is not hurt.
    client = connect("mqtt5", guarded)
    client.subscribe("topic", "t")
    client.publish("topic", "t", b"x")
    assert client.receive(1).body == b"x"
    client.close()


@pytest.mark.parametrize("protocol", ["stomp", "amqp091", "amqp10"])
def test_other_protocols_too(guarded, protocol):
    for _ in range(5):
        attempt(guarded, "a", "wrong")
    begun = time.monotonic()
    with pytest.raises((Refused, ConnectionException)):
        connect(protocol, guarded, user="b", password="wrong")
    assert time.monotonic() - begun >= 0.35
