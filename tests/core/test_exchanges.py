"""0-9-1 exchanges of all four kinds, reached from every protocol, and topics reached through `amq.topic`."""

import pytest

from support.clients import Props
from support.wait import settled

#: 0-9-1 by itself; the others by their spelling of exchange and key.
SENDERS = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")


@pytest.fixture
def bound(client, fresh):
    """bound(kind, key=..., arguments=...) declares an exchange and a queue bound to it; answers (exchange, queue)."""

    def bind(kind, key="", arguments=None):
        admin = client("amqp091")
        exchange, queue = fresh(f"e-{kind}"), fresh("q")
        admin.channel.exchange_declare(exchange, kind)
        admin.declare_queue(queue)
        admin.channel.queue_bind(queue, exchange, key, arguments)
        return exchange, queue

    return bind


def got(client, queue, count):
    reader = client("amqp091")
    return [reader.get(queue, auto_ack=True).body for _ in range(count)] + [reader.get(queue)]


@pytest.mark.parametrize("sender", SENDERS)
def test_direct(broker, client, bound, sender):
    exchange, queue = bound("direct", "red")
    boss = client(sender)
    # Not confirmed: AMQP 1.0 answers "released" to what finds no queue.
    boss.publish("exchange", f"{exchange}/blue", b"no", confirm=False)
    boss.publish("exchange", f"{exchange}/red", b"yes")
    settled(lambda: broker.counts(queue), (1, 0), "one")
    assert got(client, queue, 1) == [b"yes", None]


@pytest.mark.parametrize("sender", SENDERS)
def test_fanout(broker, client, bound, sender):
    exchange, queue = bound("fanout")
    second = queue + "-2"
    admin = client("amqp091")
    admin.declare_queue(second)
    admin.channel.queue_bind(second, exchange)
    client(sender).publish("exchange", f"{exchange}/whatever", b"all")
    for each in (queue, second):
        settled(lambda each=each: broker.counts(each), (1, 0), "a copy each")
        assert got(client, each, 1) == [b"all", None]


@pytest.mark.parametrize("sender", SENDERS)
def test_topic(broker, client, bound, sender):
    exchange, queue = bound("topic", "*.critical.#")
    boss = client(sender)
    for key in ("critical", "kern.info"):
        boss.publish("exchange", f"{exchange}/{key}", key.encode(), confirm=False)
    for key in ("kern.critical", "kern.critical.disk.full"):
        boss.publish("exchange", f"{exchange}/{key}", key.encode())
    settled(lambda: broker.counts(queue), (2, 0), "two match")
    assert got(client, queue, 2) == [b"kern.critical", b"kern.critical.disk.full", None]


@pytest.mark.parametrize("sender", ("mqtt5", "stomp", "amqp10", "amqp091"))
@pytest.mark.parametrize("match, matching", [("all", {"both"}), ("any", {"both", "one"})])
def test_headers(broker, client, bound, sender, match, matching):
    exchange, queue = bound("headers", arguments={"x-match": match, "colour": "red", "size": "big"})
    boss = client(sender)
    boss.publish("exchange", f"{exchange}/k", b"none", Props(app={"colour": "blue"}), confirm=False)
    boss.publish("exchange", f"{exchange}/k", b"one", Props(app={"colour": "red", "size": "small"}), confirm=False)
    boss.publish("exchange", f"{exchange}/k", b"both", Props(app={"colour": "red", "size": "big", "more": "x"}))
    settled(lambda: broker.counts(queue), (len(matching), 0), f"x-match {match}")
    assert set(got(client, queue, len(matching))[:-1]) == {name.encode() for name in matching}


@pytest.mark.parametrize("sender", SENDERS)
def test_amq_topic_is_the_topic_tree(client, fresh, sender):
    """A topic published anywhere reaches a queue bound to amq.topic, and a publish to amq.topic every subscriber."""
    root = fresh("t")
    queue = fresh("q")
    admin = client("amqp091")
    admin.declare_queue(queue)
    admin.bind_topic(queue, f"{root}/+/temp")
    subscriber = client("mqtt5")
    subscriber.subscribe("topic", f"{root}/+/temp", ack="auto")
    client(sender).publish("topic", f"{root}/kitchen/temp", b"21")
    received = admin.get(queue, auto_ack=True)
    assert received.body == b"21"
    assert received.raw[0].routing_key == f"{root}.kitchen.temp"
    assert received.raw[0].exchange == "amq.topic"
    assert subscriber.receive().address == f"{root}/kitchen/temp"


def test_a_dot_in_a_word_is_escaped_and_comes_back(client, fresh):
    """`room.2` is `room%2E2` in a routing key, so that MQTT to MQTT is byte-identical."""
    root, queue = fresh("t"), fresh("q")
    admin = client("amqp091")
    admin.declare_queue(queue)
    admin.channel.queue_bind(queue, "amq.topic", f"{root}.room%2E2.temp")
    subscriber = client("mqtt311")
    subscriber.subscribe("topic", f"{root}/room.2/temp", ack="auto")
    client("mqtt311").publish("topic", f"{root}/room.2/temp", b"x")
    assert subscriber.receive().address == f"{root}/room.2/temp"
    assert admin.get(queue, auto_ack=True).raw[0].routing_key == f"{root}.room%2E2.temp"
    admin.publisher.basic_publish("amq.topic", f"{root}.room%2E2.temp", b"back")
    assert subscriber.receive().address == f"{root}/room.2/temp"


def test_exchange_to_exchange(client, fresh):
    admin = client("amqp091")
    source, middle, queue = fresh("e"), fresh("e"), fresh("q")
    admin.channel.exchange_declare(source, "topic")
    admin.channel.exchange_declare(middle, "fanout")
    admin.channel.exchange_bind(middle, source, "a.#")
    admin.declare_queue(queue)
    admin.channel.queue_bind(queue, middle)
    client("stomp").publish("exchange", f"{source}/a.b", b"x")
    assert admin.get(queue, auto_ack=True).body == b"x"
    admin.channel.exchange_unbind(middle, source, "a.#")
    client("stomp").publish("exchange", f"{source}/a.b", b"x")
    assert admin.get(queue) is None


def test_alternate_exchange(client, fresh):
    admin = client("amqp091")
    main, alternate, queue = fresh("e"), fresh("e"), fresh("q")
    admin.channel.exchange_declare(alternate, "fanout")
    admin.channel.exchange_declare(main, "direct", arguments={"alternate-exchange": alternate})
    admin.declare_queue(queue)
    admin.channel.queue_bind(queue, alternate)
    admin.publish("exchange", f"{main}/nobody", b"x", mandatory=True)
    assert admin.get(queue, auto_ack=True).body == b"x"


def test_stomp_subscribes_to_an_exchange(client, fresh):
    admin = client("amqp091")
    exchange = fresh("e")
    admin.channel.exchange_declare(exchange, "direct")
    reader = client("stomp")
    reader.subscribe("exchange", f"{exchange}/red", ack="auto")
    admin.publish("exchange", f"{exchange}/red", b"x")
    assert reader.receive().body == b"x"


def test_amqp_1_0_receives_from_an_exchange(client, fresh):
    admin = client("amqp091")
    exchange = fresh("e")
    admin.channel.exchange_declare(exchange, "direct")
    reader = client("amqp10")
    reader.subscribe("exchange", f"{exchange}/red", ack="client")
    admin.publish("exchange", f"{exchange}/red", b"x")
    received = reader.receive()
    assert received.body == b"x"
    reader.accept(received)
