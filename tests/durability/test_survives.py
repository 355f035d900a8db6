"""What is durable comes back as it was, after kill -9 and after SIGTERM; what is not is gone."""

import time

import pytest

from support.clients import Nothing, Props, connect
from support.wait import until

DURABLE = Props(durable=True)
SHORT = 0.5


@pytest.fixture
def open_client():
    opened = []

    def start(protocol, broker, **options):
        opened.append(connect(protocol, broker, **options))
        return opened[-1]

    yield start
    for each in opened:
        try:
            each.drop_connection()
        except Exception:  # the broker it spoke to was killed
            pass


@pytest.fixture(params=[True, False], ids=["kill-9", "SIGTERM"])
def crash(request):
    return request.param


def bodies(client, count):
    found = []
    for _ in range(count):
        received = client.receive()
        found.append(received.body)
        client.accept(received)
    with pytest.raises(Nothing):
        client.receive(SHORT)
    return found


@pytest.mark.parametrize("protocol", ["mqtt311", "mqtt5", "stomp", "amqp10", "amqp091"])
def test_confirmed_messages_of_a_queue(own_broker, open_client, protocol, crash):
    broker = own_broker()
    publisher = open_client(protocol, broker)
    if protocol == "amqp091":
        publisher.declare_queue("q")
    sent = [b"%d" % number for number in range(100)]
    for body in sent:
        publisher.publish("queue", "q", body, DURABLE)
    broker.restart(crash)
    consumer = open_client("amqp091", broker)
    consumer.subscribe("queue", "q")
    assert bodies(consumer, 100) == sent


def test_transient_messages_and_queues_are_gone(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("durable")
    client.declare_queue("transient", durable=False)
    client.publish("queue", "durable", b"kept", DURABLE)
    client.publish("queue", "durable", b"lost", Props(durable=False))
    client.publish("queue", "transient", b"lost", DURABLE)
    broker.restart(crash)
    client = open_client("amqp091", broker)
    assert not client.queue_exists("transient")
    client.subscribe("queue", "durable")
    assert bodies(client, 1) == [b"kept"]


def test_properties_come_back(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    props = Props(
        content_type="text/x", correlation_id="c", message_id="m", priority=5, durable=True, app={"k": "v"}
    )
    client.publish("queue", "q", b"x", props)
    broker.restart(crash)
    client = open_client("amqp091", broker)
    client.subscribe("queue", "q")
    got = client.receive().props
    assert (got.content_type, got.correlation_id, got.message_id) == ("text/x", "c", "m")
    assert got.app["k"] == "v" and got.durable


def test_exchanges_and_bindings(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    channel = client.channel
    channel.exchange_declare("ex", "topic", durable=True)
    channel.exchange_declare("inner", "headers", durable=True)
    channel.exchange_declare("gone", "fanout", durable=False)
    channel.exchange_bind("inner", "ex", "in.#")
    client.declare_queue("q")
    client.declare_queue("h")
    channel.queue_bind("q", "ex", "a.*")
    channel.queue_bind("q", "amq.topic", "t.#")
    channel.queue_bind("h", "inner", arguments={"x-match": "all", "colour": "red"})
    channel.queue_bind("q", "ex", "removed.*")
    channel.queue_unbind("q", "ex", "removed.*")
    broker.restart(crash)
    client = open_client("amqp091", broker)
    client.channel.exchange_declare("ex", "topic", durable=True, passive=True)
    client.publish("exchange", "ex/a.b", b"1", DURABLE)
    client.publish("exchange", "ex/removed.b", b"2", DURABLE)
    client.publish("exchange", "amq.topic/t.x", b"3", DURABLE)
    client.publish("exchange", "ex/in.x", b"4", Props(durable=True, app={"colour": "red"}))
    client.publish("exchange", "ex/in.x", b"5", Props(durable=True, app={"colour": "blue"}))
    client.subscribe("queue", "q")
    assert bodies(client, 2) == [b"1", b"3"]
    other = open_client("amqp091", broker)
    other.subscribe("queue", "h")
    assert bodies(other, 1) == [b"4"]


def test_what_was_acknowledged_stays_away_and_order_is_kept(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    for number in range(10):
        client.publish("queue", "q", b"%d" % number, DURABLE)
    client.subscribe("queue", "q")
    received = [client.receive() for _ in range(10)]
    for number in (1, 4, 5, 9):
        client.accept(received[number])
    client.connection.process_data_events(0)
    until(lambda: broker.queue("q")["unsettled"] == 6, "acknowledgements arrive")
    # Acknowledging is confirmed to nobody: it is safe soon.
    time.sleep(0.2)
    broker.restart(crash)
    again = open_client("amqp091", broker)
    again.subscribe("queue", "q")
    back = [again.receive() for _ in range(6)]
    assert [each.body for each in back] == [b"0", b"2", b"3", b"6", b"7", b"8"]
    assert all(each.redelivered for each in back)


def test_never_delivered_is_not_flagged(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    client.publish("queue", "q", b"x", DURABLE)
    broker.restart(crash)
    client = open_client("amqp091", broker)
    client.subscribe("queue", "q")
    assert not client.receive().redelivered


def test_delivery_counts(own_broker, open_client, crash):
    broker = own_broker({"queues": {"delivery_limit": 3}})
    client = open_client("amqp10", broker)
    client.publish("queue", "q", b"poison", DURABLE)
    client.subscribe("queue", "q")
    client.modify(client.receive(), failed=True)
    client.modify(client.receive(), failed=True)
    assert client.receive().attempts == 2
    time.sleep(0.2)
    broker.restart(crash)
    client = open_client("amqp10", broker)
    client.subscribe("queue", "q")
    received = client.receive()
    assert received.attempts >= 2
    client.modify(received, failed=True)
    dead = open_client("amqp10", broker)
    dead.subscribe("queue", "q.dlq")
    assert dead.receive().death.cause == "read-count"


def test_a_dead_letter_is_in_one_place(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    for number in range(20):
        client.publish("queue", "q", b"%d" % number, DURABLE)
    client.subscribe("queue", "q")
    for number in range(20):
        received = client.receive()
        if number % 2:
            client.reject(received)
    until(lambda: (broker.queue("q.dlq") or {}).get("ready") == 10, "dead letters arrive")
    time.sleep(0.2)
    broker.restart(crash)
    assert (broker.queue("q")["ready"], broker.queue("q.dlq")["ready"]) == (10, 10)
    again = open_client("amqp091", broker)
    again.subscribe("queue", "q.dlq")
    dead = [again.receive() for _ in range(10)]
    assert [each.body for each in dead] == [b"%d" % number for number in range(20) if number % 2]
    assert {each.death.cause for each in dead} == {"rejected"}


@pytest.mark.parametrize("version", ["mqtt311", "mqtt5"])
def test_an_mqtt_session(own_broker, open_client, version, crash):
    broker = own_broker()
    terms = {"clean": False} if version == "mqtt311" else {"clean": False, "expiry": 3600}
    session = open_client(version, broker, client_id="s", **terms)
    session.subscribe("topic", "a/+", qos=1)
    session.subscribe("topic", "b", qos=2)
    session.subscribe("topic", "dropped", qos=1)
    session.unsubscribe("topic", "dropped")
    session.close()
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "a/1", b"before", qos=1)
    publisher.publish("topic", "b", b"twice", qos=2)
    broker.restart(crash)
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "a/2", b"after", qos=1)
    publisher.publish("topic", "dropped", b"not", qos=1)
    session = open_client(version, broker, client_id="s", **terms)
    assert session.session_present
    # The library hands over what comes exactly once when it is released, so later than the rest.
    assert sorted(bodies(session, 3)) == [b"after", b"before", b"twice"]
    publisher.publish("topic", "a/3", b"live", qos=1)
    assert bodies(session, 1) == [b"live"]


def test_a_clean_mqtt_session_is_gone(own_broker, open_client, crash):
    broker = own_broker()
    session = open_client("mqtt5", broker, client_id="s", clean=True)
    session.subscribe("topic", "a", qos=1)
    broker.restart(crash)
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=60)
    assert not session.session_present


def test_a_session_without_a_break_is_given_its_time(own_broker, open_client):
    broker = own_broker()
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=2)
    session.subscribe("topic", "a", qos=1)
    broker.restart()
    time.sleep(3)
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=2)
    assert not session.session_present


def test_in_flight_of_a_session_comes_again_with_its_identifier(own_broker, open_client, crash):
    broker = own_broker()
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=3600)
    session.subscribe("topic", "a", qos=1)
    publisher = open_client("mqtt5", broker)
    for number in range(3):
        publisher.publish("topic", "a", b"%d" % number, qos=1)
    first = [session.receive() for _ in range(3)]
    session.accept(first[1])
    time.sleep(0.3)
    session.drop_connection()
    broker.restart(crash)
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=3600)
    again = [session.receive() for _ in range(2)]
    assert [each.body for each in again] == [b"0", b"2"]
    assert [each.raw.mid for each in again] == [first[0].raw.mid, first[2].raw.mid]
    assert all(each.redelivered for each in again)


def test_shared_subscription_of_a_session(own_broker, open_client, crash):
    broker = own_broker()
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=3600)
    session.subscribe("raw", "$share/g/a", qos=1)
    session.close()
    broker.restart(crash)
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "a", b"x", qos=1)
    broker.restart(crash)
    session = open_client("mqtt5", broker, client_id="s", clean=False, expiry=3600)
    assert session.session_present
    assert bodies(session, 1) == [b"x"]


def test_retained_messages(own_broker, open_client, crash):
    broker = own_broker()
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "r/1", b"one", qos=1, retain=True)
    publisher.publish("topic", "r/2", b"old", qos=1, retain=True)
    publisher.publish("topic", "r/2", b"two", qos=1, retain=True)
    publisher.publish("topic", "r/3", b"three", qos=1, retain=True)
    publisher.publish("topic", "r/3", b"", qos=1, retain=True)
    publisher.publish("topic", "r/4", b"four", qos=0, retain=True)
    time.sleep(0.3)
    broker.restart(crash)
    subscriber = open_client("mqtt5", broker)
    subscriber.subscribe("topic", "r/#", qos=1)
    got = sorted((received.address, received.body, received.retained) for received in [subscriber.receive() for _ in range(3)])
    assert got == [("r/1", b"one", True), ("r/2", b"two", True), ("r/4", b"four", True)]
    with pytest.raises(Nothing):
        subscriber.receive(SHORT)


def test_retained_messages_of_qos_0_at_an_orderly_end(own_broker, open_client):
    """They are written a little later than they come; an end does not wait for that time, and misses none."""
    broker = own_broker()
    publisher = open_client("mqtt5", broker)
    for number in range(5000):
        publisher.publish("topic", f"r/{number % 2500}", str(number).encode(), qos=0, retain=True)
    publisher.publish("topic", "r/7", b"", qos=0, retain=True)
    publisher.publish("topic", "done", b"x", qos=1)
    broker.restart(crash=False)
    subscriber = open_client("mqtt5", broker)
    subscriber.subscribe("topic", "r/#", qos=1)
    got = sorted(int(subscriber.receive().body) for _ in range(2499))
    assert got == [number for number in range(2500, 5000) if number != 2507]
    with pytest.raises(Nothing):
        subscriber.receive(SHORT)


def test_a_delayed_will(own_broker, open_client):
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    broker = own_broker()
    delay = Properties(PacketTypes.WILLMESSAGE)
    delay.WillDelayInterval = 2
    will = {"topic": "will", "payload": "gone", "qos": 1, "retain": True, "properties": delay}
    client = open_client("mqtt5", broker, client_id="w", clean=False, expiry=3600, will=will)
    client.drop_connection()
    broker.restart()
    watcher = open_client("mqtt5", broker)
    watcher.subscribe("topic", "will", qos=1)
    assert watcher.receive(6).body == b"gone"


def test_durable_subscriptions(own_broker, open_client, crash):
    broker = own_broker()
    stomp = open_client("stomp", broker)
    stomp.subscribe("topic", "d", id="sub", headers={"durable": "true", "client-id": "me", "auto-delete": "false"})
    link = open_client("amqp10", broker, container_id="me")
    link.subscribe("topic", "d", durable="link")
    stomp.drop_connection()
    link.drop_connection()
    until(lambda: all(queue["consumers"] == 0 for queue in broker.api("/queues")), "subscribers are gone")
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "d", b"x", qos=1)
    broker.restart(crash)
    waiting = {queue["name"]: queue["ready"] for queue in broker.api("/queues")}
    assert sorted(waiting.values()) == [1, 1], waiting
    publisher = open_client("mqtt5", broker)
    publisher.publish("topic", "d", b"y", qos=1)
    link = open_client("amqp10", broker, container_id="me")
    link.subscribe("topic", "d", durable="link")
    assert bodies(link, 2) == [b"x", b"y"]


def test_a_deleted_queue_stays_deleted(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    client.channel.queue_bind("q", "amq.topic", "t")
    client.publish("queue", "q", b"old", DURABLE)
    client.channel.queue_delete("q")
    broker.restart(crash)
    client = open_client("amqp091", broker)
    assert not client.queue_exists("q")
    client.declare_queue("q")
    client.publish("exchange", "amq.topic/t", b"unbound", DURABLE)
    client.publish("queue", "q", b"new", DURABLE)
    client.subscribe("queue", "q")
    assert bodies(client, 1) == [b"new"]


def test_a_purged_queue_stays_empty(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    for _ in range(50):
        client.publish("queue", "q", b"old", DURABLE)
    client.channel.queue_purge("q")
    client.publish("queue", "q", b"new", DURABLE)
    broker.restart(crash)
    client = open_client("amqp091", broker)
    client.subscribe("queue", "q")
    assert bodies(client, 1) == [b"new"]


def test_time_to_live_goes_on(own_broker, open_client, crash):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    client.publish("queue", "q", b"short", Props(durable=True, ttl_ms=1500))
    client.publish("queue", "q", b"long", Props(durable=True, ttl_ms=600_000))
    broker.restart(crash)
    time.sleep(1.6)
    client = open_client("amqp091", broker)
    client.subscribe("queue", "q")
    assert bodies(client, 1) == [b"long"]


def test_many_restarts(own_broker, open_client):
    broker = own_broker()
    client = open_client("amqp091", broker)
    client.declare_queue("q")
    for life in range(5):
        client.publish("queue", "q", b"%d" % life, DURABLE)
        broker.restart(crash=life % 2 == 0)
        client = open_client("amqp091", broker)
    client.subscribe("queue", "q")
    assert bodies(client, 5) == [b"0", b"1", b"2", b"3", b"4"]
