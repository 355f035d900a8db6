"""Many retained values and one who asks for all of them: all arrive, nothing is held up by it."""

import time

import pytest

from support.packets import PUBACK, PUBLISH, V5, Raw, ack, publish, subscribe
from support.wait import until

COUNT = 30_000


@pytest.fixture(scope="module")
def full(brokers):
    """A broker with so many values of 200 bytes."""
    broker = brokers.start()
    raw = Raw(broker)
    for begin in range(0, COUNT, 1000):
        some = range(begin, begin + 1000)
        raw.send(b"".join(publish(V5, f"many/{n % 100}/{n}", b"%0200d" % n, 1, n % 1000 + 1, retain=True) for n in some))
        raw.ping()
    raw.close()
    return broker


def values(raw, count=COUNT, acknowledge=False, window=None):
    found, most, open_ = set(), 0, 0
    while len(found) < count:
        got = raw.read()
        if got.kind != PUBLISH:
            continue
        assert got.retain and got.payload not in found
        found.add(got.payload)
        if acknowledge:
            open_ += 1
            most = max(most, open_)
            if open_ == window or len(found) == count:
                # The window is full: nothing more may come before this.
                raw.send(b"".join(ack(PUBACK, number) for number in [*raw.open, got.number]))
                raw.open, open_ = [], 0
            else:
                raw.open.append(got.number)
    return found, most


@pytest.mark.parametrize("filter", ["#", "many/#", "+/+/+", "$share-not/#"])
def test_all_values_arrive_once(full, filter):
    raw = Raw(full)
    raw.send(subscribe(V5, [(filter, 0)]))
    if filter.startswith("$"):
        raw.ping()
        return
    values(raw)
    assert all(got.kind != PUBLISH for got in raw.ping())
    raw.close()


@pytest.mark.parametrize("expiry", [0, 60], ids=["clean", "session"])
def test_within_the_receive_maximum(full, expiry):
    raw = Raw(full, props=[(0x21, 50), (0x11, expiry)])
    raw.open = []
    raw.send(subscribe(V5, [("many/#", 1)]))
    found, most = values(raw, acknowledge=True, window=50)
    assert len(found) == COUNT and most <= 50
    raw.close()


def test_a_subscriber_that_does_not_read_holds_nothing_up_and_costs_little(full):
    before = full.resident_bytes()
    stuck = [Raw(full) for _ in range(20)]
    for each in stuck:
        each.send(subscribe(V5, [("#", 0)]))
    boss, reader = Raw(full), Raw(full)
    reader.subscribe("other/t")
    times = []
    for _ in range(200):
        begun = time.monotonic()
        boss.send(publish(V5, "other/t", b"x"))
        reader.expect_kind(PUBLISH)
        times.append(time.monotonic() - begun)
        time.sleep(0.002)
    assert sorted(times)[197] < 0.1, sorted(times)[-5:]
    # 20 x 6 MB would be 120 MB; a pointer for each value is 5 MB.
    until(lambda: full.resident_bytes() - before < 40_000_000, "memory is bounded")
    for each in (*stuck, boss, reader):
        each.close()


def test_an_ended_subscription_gets_no_more(full):
    raw = Raw(full)
    raw.send(subscribe(V5, [("many/#", 0)]) + b"\xa2\x0b\0\2\0\0\6many/#")
    raw.ping()
    assert [got for got in raw.ping() if got.kind == PUBLISH] == []
    raw.close()
