"""Patterns of several queues and many clients: pipelines, and everything at once while connections break."""

import random
import threading

from support.clients import Nothing, Props, connect
from support.wait import PATIENCE, settled, until


def test_a_pipeline_with_workers_that_crash(broker, client, fresh):
    """Ventilator, workers, sink: a worker acknowledges after its result; every result arrives at least once."""
    tasks, results = fresh("tasks"), fresh("results")
    admin = client("amqp091")
    admin.declare_queue(tasks)
    admin.declare_queue(results)
    boss = client("mqtt5")
    for number in range(60):
        boss.publish("queue", tasks, b"%d" % number)
    sink = client("stomp")
    sink.subscribe("queue", results, ack="auto")
    crashes = published = 0
    while sum(broker.counts(tasks)):
        protocol = ("stomp", "amqp10", "amqp091")[crashes % 3]
        worker = client(protocol)
        worker.subscribe("queue", tasks, ack="client", credit=4)
        # Each worker does seven tasks, has taken more by then, and dies before it acknowledges the last one.
        for step in range(7):
            try:
                task = worker.receive(timeout=1)
            except Nothing:
                break
            worker.publish("queue", results, task.body, Props(app={"worker": protocol}))
            published += 1
            if step == 6:
                break
            worker.accept(task)
        worker.drop_connection()
        crashes += 1
        until(lambda: broker.counts(tasks)[1] == 0, "what it held is back")
    seen = [int(sink.receive().body) for _ in range(published)]
    assert set(seen) == set(range(60))
    assert published > 60, "nobody crashed before acknowledging"


#: Seeds of the dice; a failure prints the one it came from.
SEED = 4711
EACH = 250
PRODUCERS = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")
CONSUMERS = ("mqtt5", "stomp", "amqp10", "amqp091", "stomp", "amqp091")


def produce(broker, protocol, queue, failures):
    """Confirmed messages only, over a connection that breaks now and then."""
    dice = random.Random(f"{SEED} {protocol}")
    try:
        boss = connect(protocol, broker)
        for number in range(EACH):
            boss.publish("queue", queue, f"{protocol} {number}".encode())
            if dice.random() < 0.02:
                boss.drop_connection()
                boss = connect(protocol, broker)
        boss.close()
    except Exception as failure:  # noqa: BLE001 - handed to the test's own thread
        failures.append((protocol, failure))


def consume(broker, number, protocol, queue, done, stop, failures):
    """Takes and accepts; dies now and then with messages in hand."""
    dice = random.Random(f"{SEED} {number}")
    mine = []
    try:
        while not stop.is_set():
            reader = connect(protocol, broker, **({"receive_maximum": 8} if protocol == "mqtt5" else {}))
            reader.subscribe("queue", queue, ack="client", credit=8)
            for _ in range(dice.randint(5, 80)):
                try:
                    received = reader.receive(timeout=0.2)
                except Nothing:
                    if stop.is_set():
                        break
                    continue
                mine.append((received.body, received.redelivered))
                reader.accept(received)
            reader.drop_connection()
    except Exception as failure:  # noqa: BLE001 - handed to the test's own thread
        failures.append((protocol, failure))
    done[number] = mine


def test_nothing_confirmed_is_lost_while_connections_break(broker, client, fresh):
    """Every confirmed message is seen; a second time only with a sign that it may be the second."""
    print("seed", SEED)
    queue = fresh("q")
    # Connections break more often than a message may be tried by default.
    client("amqp091").declare_queue(queue, arguments={"x-delivery-limit": 1000})
    failures, done, stop = [], {}, threading.Event()
    consumers = [
        threading.Thread(target=consume, args=(broker, number, protocol, queue, done, stop, failures))
        for number, protocol in enumerate(CONSUMERS)
    ]
    producers = [threading.Thread(target=produce, args=(broker, p, queue, failures)) for p in PRODUCERS]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join(4 * PATIENCE)
    assert not failures
    settled(lambda: broker.counts(queue), (0, 0), "all is consumed", timeout=4 * PATIENCE)
    stop.set()
    for thread in consumers:
        thread.join(PATIENCE)
    assert not failures
    seen = {}
    for mine in done.values():
        for body, redelivered in mine:
            seen.setdefault(body, []).append(redelivered)
    expected = {f"{protocol} {number}".encode() for protocol in PRODUCERS for number in range(EACH)}
    assert set(seen) == expected
    assert broker.queue(f"{queue}.dlq") is None
