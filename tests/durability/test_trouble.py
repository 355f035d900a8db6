"""The store while something goes on: pages that cannot be read for a while, backups at full speed, a thousand sessions that hold old messages."""

import pathlib
import shutil
import subprocess
import threading
import time

import pytest

from support.broker import binary
from support.clients import Nothing, Props, connect
from support.packets import PUBACK, V5, Raw, publish, subscribe
from support.wait import until

DURABLE = Props(durable=True)
MIB = 1 << 20


def metric(broker, name):
    text = broker.http("GET", "/metrics", port="metrics")[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def filled(broker, queue, count, size):
    """Numbered messages, published 500 at a time."""
    raw = Raw(broker, V5, client="filler")
    topic, body = f"$queue/{queue}", b"%08d" + b"." * (size - 8)
    for start in range(0, count, 500):
        part = range(start, min(start + 500, count))
        raw.send(b"".join(publish(V5, topic, body % n, qos=1, number=n % 500 + 1) for n in part))
        for _ in part:
            raw.expect_kind(PUBACK)
    raw.close()


def pages(broker):
    return sorted(path for path in (broker.folder / "data" / "queues").rglob("*") if path.is_file())


def pages_at_rest(broker):
    """The pages, when none has been written for a while."""
    seen, since = None, 0.0

    def at_rest():
        nonlocal seen, since
        found = pages(broker)
        if found != seen or any(path.suffix == ".tmp" for path in found):
            seen, since = found, time.monotonic()
        return time.monotonic() - since > 0.5

    until(at_rest, "no page is being written")
    return seen


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_pages_that_cannot_be_read(own_broker, fault):
    """Their messages wait, nothing is skipped, other queues go on; once they can be read again everything comes in order."""
    broker = own_broker({"store": {"memory_max": "8MiB"}})
    count = 30_000
    filled(broker, "long", count, 2000)
    until(lambda: metric(broker, "mynah_store_pages") > 3, "pages are written")
    kept = {path: path.read_bytes() for path in pages_at_rest(broker)}
    for path, raw in kept.items():
        if fault == "missing":
            path.unlink()
        else:
            middle = len(raw) // 2
            path.write_bytes(raw[:middle] + bytes(100) + raw[middle + 100 :])
    consumer = connect("amqp091", broker)
    consumer.subscribe("queue", "long", credit=500)
    taken = []
    try:
        while True:
            received = consumer.receive(0.5)
            taken.append(int(received.body[:8]))
            consumer.accept(received)
    except Nothing:
        pass
    assert taken == list(range(len(taken))) and len(taken) < count
    errors = broker.new_faults()
    assert errors and all("a page cannot be read: its messages wait" in each for each in errors), errors[:3]
    assert metric(broker, "mynah_store_read_errors_total") > 0
    assert broker.queue("long")["ready"] + broker.queue("long")["unsettled"] == count - len(taken)
    # Another queue does not notice.
    other = connect("stomp", broker)
    other.publish("queue", "other", b"x", DURABLE)
    other.subscribe("queue", "other")
    assert other.receive().body == b"x"
    other.close()
    for path, raw in kept.items():
        path.write_bytes(raw)
    for number in range(len(taken), count):
        received = consumer.receive()
        assert int(received.body[:8]) == number
        consumer.accept(received)
    consumer.close()
    broker.new_faults()


def test_backups_at_full_speed(own_broker):
    """Each backup has all that was confirmed before it began, in order, and no half of a transaction."""
    broker = own_broker()
    boss = connect("amqp091", broker)
    for queue in ("one", "two"):
        boss.declare_queue(queue)
    over, confirmed = threading.Event(), {"plain": 0, "pairs": 0}

    def plain(client=connect("mqtt5", broker)):
        while not over.is_set():
            client.publish("queue", "plain", b"%d" % (confirmed["plain"] + 1), DURABLE)
            confirmed["plain"] += 1
        client.close()

    def pairs(client=connect("amqp10", broker)):
        while not over.is_set():
            transaction = client.begin()
            for queue in ("one", "two"):
                client.publish("queue", queue, b"%d" % (confirmed["pairs"] + 1), DURABLE, confirm=False, transaction=transaction)
            client.commit(transaction)
            confirmed["pairs"] += 1
        client.close()

    threads = [threading.Thread(target=run) for run in (plain, pairs)]
    for each in threads:
        each.start()
    copies = []
    for number in range(5):
        time.sleep(0.2)
        before = dict(confirmed)
        to = broker.folder / f"copy-{number}"
        done = subprocess.run(
            [binary(), "backup", to, "--address", f"127.0.0.1:{broker.ports['admin']}", "--user", "app:app-secret"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        copies.append((to, before))
    over.set()
    for each in threads:
        each.join(20)
    boss.close()
    assert copies[0][1] != copies[-1][1] and min(copies[-1][1].values()) > 50, copies
    broker.stop()
    for to, before in copies:
        shutil.rmtree(broker.folder / "data")
        to.rename(broker.folder / "data")
        broker.run()
        found = {}
        for queue in ("plain", "one", "two"):
            client = connect("amqp091", broker)
            ready = broker.queue(queue)["ready"]
            client.subscribe("queue", queue, ack="auto")
            found[queue] = [int(client.receive().body) for _ in range(ready)]
            client.close()
        for queue, kind in (("plain", "plain"), ("one", "pairs")):
            assert found[queue] == list(range(1, len(found[queue]) + 1)), queue
            assert len(found[queue]) >= before[kind], (queue, len(found[queue]), before)
        assert found["one"] == found["two"]
        broker.stop()


def test_the_journal_is_reused_with_a_thousand_sessions(own_broker):
    """Sessions that are away hold a few old messages each, spread over the journal: it is emptied all the same, and they get them."""
    broker = own_broker({"store": {"journal_bytes_max": "256MiB"}})
    sessions, rounds, body = 1000, 5, b"." * 100_000
    for number in range(sessions):
        raw = Raw(broker, V5, client=f"s{number}", clean=False, props=[(0x11, 3600)])
        raw.send(subscribe(V5, [(f"to/{number}", 1)]))
        raw.read()
        raw.close()
    boss, loud = Raw(broker, V5, client="boss"), Raw(broker, V5, client="loud")
    connect("amqp091", broker).declare_queue("loud")
    most = 0
    for each in range(rounds):
        for start in range(0, sessions, 100):
            # 100 small ones that stay, and 20 MB that go.
            boss.send(b"".join(publish(V5, f"to/{n}", b"%d" % each, qos=1, number=n % 100 + 1) for n in range(start, start + 100)))
            loud.send(b"".join(publish(V5, "$queue/loud", body, qos=1, number=n + 1) for n in range(200)))
            for _ in range(100):
                boss.expect_kind(PUBACK)
            for _ in range(200):
                loud.expect_kind(PUBACK)
            broker.api("/queues/loud/purge", "POST")
            most = max(most, metric(broker, "mynah_store_journal_bytes"))
    until(lambda: metric(broker, "mynah_store_journal_bytes") <= 320 * MIB, "the journal is back at its bound")
    # 1 GB went through it.
    assert most <= 640 * MIB, most
    broker.restart()
    for number in range(0, sessions, 7):
        raw = Raw(broker, V5, client=f"s{number}", clean=False, props=[(0x11, 3600)])
        assert raw.connack.session_present
        assert [raw.expect_kind(3).payload for _ in range(rounds)] == [b"%d" % each for each in range(rounds)]
        raw.close()
    boss.close()
    loud.close()
