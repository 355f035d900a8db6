"""Many producers, one collector: the order of each producer is kept, nothing is lost, nothing comes twice."""

import threading

import pytest

from support.clients import connect

PRODUCERS = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")
EACH = 300


def produce(broker, protocol, kind, name, failures):
    try:
        boss = connect(protocol, broker)
        for number in range(EACH):
            # The last confirm answers for all: confirms come in order.
            boss.publish(kind, name, f"{protocol} {number}".encode(), confirm=number == EACH - 1)
        boss.close()
    except Exception as failure:  # noqa: BLE001 - handed to the test's own thread
        failures.append((protocol, failure))


@pytest.mark.parametrize("collector", ("mqtt5", "stomp", "amqp10", "amqp091"))
@pytest.mark.parametrize("kind", ("queue", "topic"))
def test_the_order_of_each_producer(broker, client, fresh, kind, collector):
    name = fresh("in")
    if kind == "queue":
        client("amqp091").declare_queue(name)
    reader = client(collector)
    reader.subscribe(kind, name, ack="auto", credit=1000)
    failures = []
    threads = [threading.Thread(target=produce, args=(broker, p, kind, name, failures)) for p in PRODUCERS]
    for thread in threads:
        thread.start()
    seen = {protocol: [] for protocol in PRODUCERS}
    for _ in range(EACH * len(PRODUCERS)):
        protocol, number = reader.receive().body.decode().split()
        seen[protocol].append(int(number))
    for thread in threads:
        thread.join()
    assert not failures
    for protocol, numbers in seen.items():
        assert numbers == list(range(EACH)), f"{protocol}: {numbers[:20]}..."
