"""Policies: bounds for queues by their names, for those that exist and those to come, kept over a restart."""

import json

import pytest

from support.clients import Props, Refused
from support.wait import settled, until

DURABLE = Props(durable=True)


def put(broker, name, pattern, expected=201, priority=0, **definition):
    definition = {key.replace("_", "-"): value for key, value in definition.items()}
    body = {"pattern": pattern, "priority": priority, "definition": definition}
    status, raw = broker.http("PUT", f"/api/v1/policies/{name}", body)
    assert status == expected, raw


def delete(broker, name, expected=204):
    assert broker.http("DELETE", f"/api/v1/policies/{name}")[0] == expected


@pytest.fixture
def policy(broker, fresh):
    """A policy for the queue `name`; deleted at the end."""
    made = []

    def make(name, **rest):
        made.append(fresh("policy"))
        put(broker, made[-1], f"^{name}$", **rest)
        return made[-1]

    yield make
    for name in made:
        broker.http("DELETE", f"/api/v1/policies/{name}")


def filled(client, queue, count):
    boss = client("amqp091")
    boss.declare_queue(queue)
    for number in range(count):
        boss.publish("queue", queue, b"%d" % number)
    return boss


def test_a_queue_that_exists_is_cut(broker, client, fresh, policy):
    queue = fresh("cut")
    filled(client, queue, 10)
    policy(queue, max_length=3)
    assert broker.counts(queue) == (3, 0)
    # The oldest made room, and were not lost.
    assert broker.counts(f"{queue}.dlq") == (7, 0)


def test_a_queue_to_come(broker, client, fresh, policy):
    queue = fresh("new")
    name = policy(queue, max_length=2, overflow="reject-publish")
    boss = filled(client, queue, 2)
    with pytest.raises(Refused):
        boss.publish("queue", queue, b"3")
    assert broker.queue(queue)["policy"] == name
    delete(broker, name)
    assert broker.queue(queue)["policy"] is None
    client("amqp091").publish("queue", queue, b"3")
    assert broker.counts(queue) == (3, 0)


def test_dead_letters_go_where_the_policy_says(broker, client, fresh, policy):
    queue, target = fresh("source"), fresh("target")
    policy(queue, dead_letter_exchange="", dead_letter_routing_key=target, message_ttl=30)
    client("amqp091").declare_queue(target)
    filled(client, queue, 1)
    settled(lambda: broker.counts(target), (1, 0), "expired to its target")


def test_attempts(broker, client, fresh, policy):
    queue = fresh("attempts")
    policy(queue, delivery_limit=1)
    filled(client, queue, 1)
    worker = client("amqp10")
    worker.subscribe("queue", queue)
    worker.modify(worker.receive())
    settled(lambda: broker.counts(f"{queue}.dlq"), (1, 0), "its one attempt has failed")


def test_an_unused_queue_goes(broker, client, fresh, policy):
    queue, kept = fresh("unused"), fresh("kept")
    for name in (queue, kept):
        filled(client, name, 1)
    name = policy(queue, expires=100)
    until(lambda: broker.queue(queue) is None, "unused for 100 ms")
    assert broker.queue(kept) is not None
    # Made again it has the policy from the start; without the policy it stays.
    filled(client, queue, 1)
    until(lambda: broker.queue(queue) is None, "again")
    delete(broker, name)
    filled(client, queue, 1)
    assert broker.queue(queue)["policy"] is None


def test_the_lower_number_holds_and_declaring_again_is_the_same(broker, client, fresh, policy):
    queue = fresh("both")
    boss = client("amqp091")
    boss.declare_queue(queue, arguments={"x-max-length": 5})
    name = policy(queue, max_length=10)
    boss.declare_queue(queue, arguments={"x-max-length": 5})
    filled_to(boss, queue, 12)
    assert broker.counts(queue) == (5, 0)
    put(broker, name, f"^{queue}", 204, max_length=2)
    assert broker.counts(queue) == (2, 0)
    boss.declare_queue(queue, arguments={"x-max-length": 5})


def filled_to(boss, queue, count):
    for number in range(count):
        boss.publish("queue", queue, b"%d" % number)


def test_the_highest_priority_holds_alone(broker, client, fresh, policy):
    queue = fresh("several")
    filled(client, queue, 6)
    policy(queue, max_length=5)
    high = policy(queue, priority=7, max_length_bytes=1 << 30)
    assert broker.queue(queue)["policy"] == high
    delete(broker, high)
    assert broker.counts(queue) == (5, 0)


def test_what_is_no_policy(broker):
    put(broker, "bad", "(", 400, max_length=1)
    put(broker, "bad", "x", 400)
    put(broker, "bad", "x", 400, expires=0)
    for definition in ({"max-lenght": 1}, {"max-length": -1}, {"overflow": "explode"}):
        body = {"pattern": "x", "definition": definition}
        status, raw = broker.http("PUT", "/api/v1/policies/bad", body)
        said = json.loads(raw)
        assert (status, said["error"]) == (400, "bad-request")
        assert all(str(each) in said["message"] for each in definition if each != "max-length"), said
    assert broker.http("GET", "/api/v1/policies/bad")[0] == 404
    delete(broker, "bad", 404)
    assert broker.http("GET", "/api/v1/policies?virtual_host=nowhere")[0] == 404


def test_policies_survive(own_broker, client):
    broker = own_broker()
    put(broker, "short", "^short", max_length=3, overflow="reject-publish")
    put(broker, "gone", "^gone", max_length=1)
    delete(broker, "gone")
    boss = client("amqp091", to=broker)
    for queue in ("short-1", "gone-1"):
        boss.declare_queue(queue)
    for number in range(3):
        boss.publish("queue", "short-1", b"%d" % number, DURABLE)
    broker.restart(True)
    assert broker.api("/policies") == [
        {
            "name": "short",
            "virtual_host": "/",
            "pattern": "^short",
            "priority": 0,
            "definition": {"max-length": 3, "overflow": "reject-publish"},
        }
    ]
    boss = client("amqp091", to=broker)
    with pytest.raises(Refused):
        boss.publish("queue", "short-1", b"4", DURABLE)
    boss = client("amqp091", to=broker)
    for number in range(3):
        boss.publish("queue", "gone-1", b"%d" % number, DURABLE)
    assert (broker.counts("short-1"), broker.counts("gone-1")) == ((3, 0), (3, 0))
    # The policy was never part of how it was declared.
    delete(broker, "short")
    broker.restart(True)
    boss = client("amqp091", to=broker)
    boss.declare_queue("short-1")
    boss.publish("queue", "short-1", b"4", DURABLE)
    assert broker.counts("short-1") == (4, 0)
