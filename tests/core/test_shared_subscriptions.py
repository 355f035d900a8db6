"""$share: one copy for the group, a full copy for everybody else, of whatever protocol."""

import pytest

from support.clients import Nothing, Props

COUNT = 60


@pytest.mark.parametrize("version", ("mqtt311", "mqtt5"))
@pytest.mark.parametrize("sender", ("mqtt311", "stomp", "amqp10", "amqp091"))
def test_a_group_gets_one_copy_and_others_full_copies(client, fresh, version, sender):
    topic, group = f"{fresh('t')}/x", fresh("g")
    members = [client(version) for _ in range(2)]
    for member in members:
        member.subscribe("raw", f"$share/{group}/{topic}", ack="client")
    watcher = client("stomp")
    watcher.subscribe("topic", topic, ack="auto")
    boss = client(sender)
    for number in range(COUNT):
        boss.publish("topic", topic, b"%d" % number, confirm=number == COUNT - 1)
    everything = [b"%d" % number for number in range(COUNT)]
    assert [watcher.receive().body for _ in range(COUNT)] == everything
    shares = [[], []]
    while sum(map(len, shares)) < COUNT:
        before = sum(map(len, shares))
        for member, share in zip(members, shares):
            try:
                received = member.receive(timeout=1.0)
            except Nothing:
                continue
            member.accept(received) if received.raw.qos else None
            share.append(received.body)
        assert sum(map(len, shares)) > before, f"stuck with {shares}"
    assert sorted(shares[0] + shares[1]) == sorted(everything)
    assert all(share for share in shares), "each member has a share"


def test_a_member_that_goes_leaves_its_unsettled_to_the_others(client, fresh):
    topic, group = f"{fresh('t')}/x", fresh("g")
    members = [client("mqtt5") for _ in range(2)]
    for member in members:
        member.subscribe("raw", f"$share/{group}/{topic}", ack="client")
    # Durable, so that it is delivered at least once: what nobody acknowledges has nothing to come back from.
    boss = client("stomp")
    for number in range(10):
        boss.publish("topic", topic, b"%d" % number, Props(durable=True))
    going, staying = members
    held = [going.receive() for _ in range(5)]
    going.drop_connection()
    bodies = []
    for _ in range(10):
        received = staying.receive()
        staying.accept(received)
        bodies.append(received.body)
    assert {received.body for received in held} <= set(bodies)
    assert len(set(bodies)) == 10


def test_two_groups_are_two_copies(client, fresh):
    topic = f"{fresh('t')}/x"
    readers = [client("mqtt5"), client("mqtt5")]
    for reader in readers:
        reader.subscribe("raw", f"$share/{fresh('g')}/{topic}", ack="auto")
    client("amqp091").publish("topic", topic, b"x")
    assert [reader.receive().body for reader in readers] == [b"x", b"x"]


def test_shared_and_plain_in_one_client_are_two_copies(client, fresh):
    """[MQTT 5.0 4.8.2]: a normal and a shared subscription each get their copy."""
    topic = f"{fresh('t')}/x"
    reader = client("mqtt5")
    reader.subscribe("raw", f"$share/{fresh('g')}/{topic}", ack="auto")
    reader.subscribe("topic", topic, ack="auto")
    client("stomp").publish("topic", topic, b"x")
    assert [reader.receive().body for _ in range(2)] == [b"x", b"x"]
