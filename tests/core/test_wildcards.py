"""One topic tree, three spellings of wildcards: `home/+/temp`, `home.*.temp`, and a filter per protocol."""

import pytest

from support.clients import amqp091

#: (filter, topics that match, topics that do not), with `{}` for a fresh root.
EXAMPLES = [
    ("{}/kitchen/temp", ["{}/kitchen/temp"], ["{}/kitchen", "{}/kitchen/temp/x", "{}/bath/temp"]),
    ("{}/+/temp", ["{}/kitchen/temp", "{}/bath/temp"], ["{}/temp", "{}/a/b/temp", "{}/kitchen/light"]),
    ("{}/kitchen/+", ["{}/kitchen/temp", "{}/kitchen/light"], ["{}/kitchen", "{}/kitchen/temp/x"]),
    ("{}/#", ["{}", "{}/kitchen", "{}/kitchen/temp", "{}/a/b/c"], ["{}x/kitchen"]),
    ("{}/+/+/state", ["{}/kitchen/lamp/state"], ["{}/kitchen/state", "{}/a/b/c/state"]),
    ("{}/+/#", ["{}/kitchen", "{}/kitchen/temp", "{}/a/b/c"], ["{}", "{}x/a"]),
]


def subscribe(client, protocol, pattern):
    reader = client(protocol)
    if protocol == "stomp":
        reader.subscribe("topic", pattern.replace("+", "*"), ack="auto")
    else:
        reader.subscribe("topic", pattern, ack="auto")
    return reader


@pytest.mark.parametrize(
    "pattern, matching, others", EXAMPLES, ids=[example[0].format("home") for example in EXAMPLES]
)
def test_the_six_examples(client, fresh, pattern, matching, others):
    root = fresh("home")
    place = lambda text: text.format(root)
    readers = {p: subscribe(client, p, place(pattern)) for p in ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")}
    boss = client("stomp")
    for topic in [*others, *matching]:
        boss.publish("topic", place(topic), place(topic).encode())
    expected = [place(topic).encode() for topic in matching]
    for protocol, reader in readers.items():
        assert [reader.receive().body for _ in expected] == expected, protocol


def test_rest_in_the_middle_of_a_binding_key(client, fresh):
    """0-9-1 allows `#` anywhere."""
    root, queue = fresh("t"), fresh("q")
    admin = client("amqp091")
    admin.declare_queue(queue)
    admin.channel.queue_bind(queue, "amq.topic", f"{root}.#.temp")
    boss = client("mqtt5")
    for topic in (f"{root}/temp", f"{root}/a/temp", f"{root}/a/b/temp", f"{root}/a/light"):
        boss.publish("topic", topic, topic.encode())
    bodies = [admin.get(queue, auto_ack=True).body.decode() for _ in range(3)]
    assert bodies == [f"{root}/temp", f"{root}/a/temp", f"{root}/a/b/temp"]
    assert admin.get(queue) is None


def test_a_leading_wildcard_does_not_match_dollar(client, fresh):
    """[MQTT-4.7.2-1]"""
    root = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", f"+/{root}", ack="auto")
    boss = client("mqtt5")
    boss.publish("topic", f"$private/{root}", b"no")
    boss.publish("topic", f"public/{root}", b"yes")
    assert reader.receive().body == b"yes"


def test_empty_levels_are_levels(client, fresh):
    """[MQTT-4.7.1-3, 4.7.3]"""
    root = fresh("t")
    reader = client("mqtt5")
    reader.subscribe("topic", f"{root}/+/x", ack="auto")
    boss = client("mqtt5")
    boss.publish("topic", f"{root}/x", b"no")
    boss.publish("topic", f"{root}//x", b"yes")
    assert reader.receive().body == b"yes"


def test_wildcard_characters_inside_words_of_other_protocols(client, fresh):
    """A key may contain what no MQTT topic may: it is escaped there, and the bare key still reaches its binding."""
    root, queue = fresh("t"), fresh("q")
    reader = client("mqtt5")
    reader.subscribe("topic", f"{root}/#", ack="auto")
    admin = client("amqp091")
    admin.declare_queue(queue)
    admin.channel.queue_bind(queue, "amq.topic", f"{root}.c++")
    admin.publisher.basic_publish("amq.topic", f"{root}.c++", b"x")
    assert reader.receive().address == f"{root}/c%2B%2B"
    assert admin.get(queue, auto_ack=True).raw[0].routing_key == f"{root}.c++"


def test_keys_of_the_helpers_round_trip():
    assert amqp091.binding_key("home/+/temp") == "home.*.temp"
    assert amqp091.key("room.2/x") == "room%2E2.x"
