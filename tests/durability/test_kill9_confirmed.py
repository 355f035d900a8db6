"""kill9_confirmed: four protocols publish numbered messages with confirms, the broker is killed, and nothing confirmed is missing.

Rounds by the variable ROUNDS (20 by default), the seed by SEED; both are printed when a round fails.
"""

import os
import random
import threading
import time

from support.clients import Nothing, Props, connect
from support.names import fresh
from support.wait import until

ROUNDS = int(os.environ.get("ROUNDS", "20"))
SEED = int(os.environ.get("SEED", str(random.randrange(1 << 30))))
PROTOCOLS = ("mqtt5", "stomp", "amqp10", "amqp091")
PUBLISHERS = 2
DURABLE = Props(durable=True)


class Publisher(threading.Thread):
    """Publishes numbers until the broker dies under it."""

    def __init__(self, broker, protocol, queue, name):
        super().__init__(daemon=True)
        self.client = connect(protocol, broker)
        self.queue, self.name_ = queue, name
        self.sent, self.confirmed = [], []

    def run(self):
        number = 0
        try:
            while True:
                number += 1
                body = b"%s:%d" % (self.name_.encode(), number)
                self.sent.append(body)
                self.client.publish("queue", self.queue, body, DURABLE)
                self.confirmed.append(body)
        except BaseException:
            pass  # the broker is gone, as it was meant to be


class Consumer(threading.Thread):
    """Takes and acknowledges until the broker dies under it."""

    def __init__(self, broker, queue):
        super().__init__(daemon=True)
        self.client = connect("amqp091", broker)
        self.client.subscribe("queue", queue)
        self.taken = []

    def run(self):
        try:
            while True:
                received = self.client.receive()
                self.taken.append(received.body)
                self.client.accept(received)
        except BaseException:
            pass


def drained(broker, queue):
    """Everything in a queue, in order."""
    ready = broker.queue(queue)["ready"]
    client = connect("amqp091", broker)
    client.subscribe("queue", queue, ack="auto")
    found = [client.receive().body for _ in range(ready)]
    try:
        raise AssertionError(f"one more than the {ready} that were there: {client.receive(0.05).body}")
    except Nothing:
        pass
    client.channel.queue_delete(queue)
    client.close()
    return found


def check(found, publishers, taken=()):
    sent = {body for publisher in publishers for body in publisher.sent}
    confirmed = {body for publisher in publishers for body in publisher.confirmed}
    assert not confirmed - set(found) - set(taken), "confirmed and lost"
    assert not set(found) - sent, "received and never sent"
    assert len(found) == len(set(found)), "received twice"
    for publisher in publishers:
        own = publisher.name_.encode() + b":"
        numbers = [int(body[len(own) :]) for body in found if body.startswith(own)]
        assert numbers == sorted(numbers), f"order of {publisher.name_}"


def test_kill9_confirmed(own_broker):
    broker = own_broker()
    dice = random.Random(SEED)
    total = 0
    for round_ in range(ROUNDS):
        where = f"SEED={SEED} round {round_}"
        queues = {protocol: fresh(protocol) for protocol in PROTOCOLS}
        setup = connect("amqp091", broker)
        for queue in queues.values():
            setup.declare_queue(queue)
        setup.close()
        publishers = {
            protocol: [Publisher(broker, protocol, queues[protocol], f"{protocol}-{at}") for at in range(PUBLISHERS)]
            for protocol in PROTOCOLS
        }
        consumers = {}
        if round_ % 4 == 3:
            consumers = {protocol: Consumer(broker, queues[protocol]) for protocol in PROTOCOLS}
        everybody = [each for group in publishers.values() for each in group] + list(consumers.values())
        for each in everybody:
            each.start()
        time.sleep(dice.uniform(0.1, 1.0))
        broker.kill9()
        broker.run()
        until(lambda: not any(each.is_alive() for each in everybody), "publishers notice")
        for protocol in PROTOCOLS:
            taken = consumers[protocol].taken if consumers else ()
            found = drained(broker, queues[protocol])
            try:
                check(found, publishers[protocol], taken)
            except AssertionError as error:
                raise AssertionError(f"{where}, {protocol}: {error}") from None
            total += sum(len(each.confirmed) for each in publishers[protocol])
    assert total > ROUNDS * 20, f"only {total} messages were confirmed"


def test_transactions_are_whole(own_broker):
    broker = own_broker()
    dice = random.Random(SEED)
    for round_ in range(max(3, ROUNDS // 4)):
        one, other = fresh("one"), fresh("other")
        setup = connect("amqp091", broker)
        setup.declare_queue(one)
        setup.declare_queue(other)
        setup.close()
        committed = {"amqp091": 0, "stomp": 0, "amqp10": 0}

        def amqp(client=connect("amqp091", broker)):
            channel = client.connection.channel()
            channel.tx_select()
            properties = client._properties(DURABLE)
            try:
                for number in range(1, 1_000_000):
                    for queue in (one, other):
                        channel.basic_publish("", queue, b"a:%d" % number, properties)
                    channel.tx_commit()
                    committed["amqp091"] = number
            except BaseException:
                pass

        def units(protocol, mark):
            client = connect(protocol, broker)

            def run():
                try:
                    for number in range(1, 1_000_000):
                        transaction = client.begin()
                        for queue in (one, other):
                            body = b"%s:%d" % (mark, number)
                            client.publish("queue", queue, body, DURABLE, confirm=False, transaction=transaction)
                        client.commit(transaction)
                        committed[protocol] = number
                except BaseException:
                    pass

            return run

        runs = (amqp, units("stomp", b"s"), units("amqp10", b"t"))
        threads = [threading.Thread(target=run, daemon=True) for run in runs]
        for each in threads:
            each.start()
        time.sleep(dice.uniform(0.1, 0.6))
        broker.restart()
        first, second = drained(broker, one), drained(broker, other)
        assert first == second, f"SEED={SEED} round {round_}: half a transaction"
        for mark, protocol in ((b"a:", "amqp091"), (b"s:", "stomp"), (b"t:", "amqp10")):
            numbers = [int(body[2:]) for body in first if body.startswith(mark)]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= committed[protocol] > 0, f"SEED={SEED}: committed and lost"
