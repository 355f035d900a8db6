"""Workers on one queue: each job to one worker, in turn among those with credit, whatever they speak."""

import collections

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.clients import Nothing
from support.wait import settled

MIXED = ("mqtt5", "stomp", "amqp10", "amqp091")


def worker(client, protocol, queue, credit):
    options = {"receive_maximum": credit} if protocol == "mqtt5" else {}
    opened = client(protocol, **options)
    opened.subscribe("queue", queue, ack="client", credit=credit)
    return opened


def jobs(count):
    return [f"job-{number:04}".encode() for number in range(count)]


def test_turns_are_equal_among_protocols(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    workers = [worker(client, protocol, queue, credit=75) for protocol in MIXED]
    boss = client("stomp")
    for job in jobs(300):
        boss.publish("queue", queue, job, confirm=job.endswith(b"99"))
    settled(lambda: broker.counts(queue), (0, 300), "all 300 are out")
    taken = []
    for each in workers:
        mine = [each.receive() for _ in range(75)]
        taken += [received.body for received in mine]
        for received in mine:
            each.accept(received)
    assert sorted(taken) == jobs(300)
    settled(lambda: broker.counts(queue), (0, 0), "all are done")


def test_never_more_than_the_credit(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    workers = [worker(client, protocol, queue, credit=3) for protocol in MIXED]
    boss = client("amqp091")
    for job in jobs(50):
        boss.publish("queue", queue, job)
    settled(lambda: broker.counts(queue), (38, 12), "four workers hold three each")
    for each in workers:
        held = [each.receive() for _ in range(3)]
        # One settled frees exactly one place.
        each.accept(held[0])
        held.append(each.receive())
        settled(lambda: broker.counts(queue)[1], 12, "the window is full again")


def test_each_job_once_while_a_worker_dies(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    protocols = ("amqp10", "amqp10", "amqp091", "stomp")
    workers = [worker(client, protocol, queue, credit=10) for protocol in protocols]
    boss = client("mqtt5")
    for job in jobs(300):
        boss.publish("queue", queue, job, confirm=job.endswith(b"99"))
    settled(lambda: sum(broker.counts(queue)), 300, "all arrived")

    done = collections.Counter()
    lost_by_the_dead = set()
    redelivered = set()

    def take_turns(alive):
        for each in alive:
            try:
                received = each.receive(timeout=0.02)
            except Nothing:
                continue
            if received.redelivered:
                redelivered.add(received.body)
            each.accept(received)
            done[received.body] += 1

    while sum(done.values()) < 100:
        take_turns(workers)
    victim = workers.pop(1)
    held = [victim.receive() for _ in range(10)]
    lost_by_the_dead.update(received.body for received in held)
    victim.drop_connection()
    while sum(done.values()) < 300:
        take_turns(workers)
    assert sorted(done) == jobs(300)
    assert set(done.values()) == {1}
    assert lost_by_the_dead <= redelivered
    settled(lambda: broker.counts(queue), (0, 0), "all are done")


def test_a_new_worker_gets_its_share_without_the_publisher_knowing(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    first = worker(client, "stomp", queue, credit=1)
    boss = client("stomp")
    for job in jobs(4):
        boss.publish("queue", queue, job)
    second = worker(client, "amqp10", queue, credit=1)
    settled(lambda: broker.counts(queue), (2, 2), "one each")
    held = [first.receive(), second.receive()]
    first.accept(held[0])
    settled(lambda: broker.counts(queue), (1, 2), "the first has its next")
    second.accept(held[1])
    settled(lambda: broker.counts(queue), (0, 2), "and so has the second")
    held += [first.receive(), second.receive()]
    assert sorted(received.body for received in held) == jobs(4)


def test_receive_maximum_is_the_credit_of_an_mqtt_session(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 2
    reader = client("mqtt5", properties=properties)
    reader.subscribe("queue", queue, ack="client")
    boss = client("stomp")
    for job in jobs(5):
        boss.publish("queue", queue, job)
    settled(lambda: broker.counts(queue), (3, 2), "two out, three wait")
    for job in jobs(5):
        received = reader.receive()
        assert received.body == job
        reader.accept(received)
    settled(lambda: broker.counts(queue), (0, 0), "all are done")
