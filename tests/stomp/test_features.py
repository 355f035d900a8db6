"""STOMP 1.0, 1.1 and 1.2 with stomp.py: what issue 2 item 3 lists, for each version."""

import socket
import time

import pytest

from support.clients import Props, Refused
from support.names import fresh as fresh_name
from support.wait import settled, until

VERSIONS = ("stomp10", "stomp11", "stomp12")


@pytest.fixture
def queue(client, fresh):
    name = fresh("q")
    client("amqp091").declare_queue(name)
    return name


@pytest.mark.parametrize("version, expected", zip(VERSIONS, ("1.0", "1.1", "1.2")))
def test_connected_says_the_version(client, version, expected):
    headers = client(version).session_headers
    if version == "stomp10":
        # 1.0 knows no version header; it may be there.
        assert headers.get("version", "1.0") == "1.0"
    else:
        assert headers["version"] == expected
    assert headers.get("session") or version == "stomp10"


@pytest.mark.parametrize("version", VERSIONS)
def test_auto(broker, client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="auto")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    assert [reader.receive().body for _ in range(10)] == [b"%d" % number for number in range(10)]
    settled(lambda: broker.counts(queue), (0, 0), "settled by being sent")


@pytest.mark.parametrize("version", VERSIONS)
def test_client_mode_is_cumulative(broker, client, queue, version):
    """ACK of one counts for all sent before on that subscription, and on no other [STOMP 1.1 SUBSCRIBE ack]."""
    boss, reader = client(version), client(version)
    other = fresh_name("q")
    boss.publish("queue", other, b"elsewhere")
    reader.subscribe("queue", other, ack="cumulative")
    reader.receive()
    reader.subscribe("queue", queue, ack="cumulative")
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    received = [reader.receive() for _ in range(5)]
    assert broker.counts(queue) == (0, 5)
    reader.accept(received[2])
    settled(lambda: broker.counts(queue), (0, 2), "the first three are done")
    reader.accept(received[4])
    settled(lambda: broker.counts(queue), (0, 0), "all are done")
    assert broker.counts(other) == (0, 1), "the other subscription is untouched"


@pytest.mark.parametrize("version", ("stomp11", "stomp12"))
def test_client_individual(broker, client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="client")
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    received = [reader.receive() for _ in range(3)]
    reader.accept(received[1])
    settled(lambda: broker.counts(queue), (0, 2), "one is done")
    reader.drop_connection()
    second = client(version)
    second.subscribe("queue", queue, ack="client")
    again = [second.receive() for _ in range(2)]
    assert [(each.body, each.redelivered) for each in again] == [(b"0", True), (b"2", True)]


@pytest.mark.parametrize("version", ("stomp11", "stomp12"))
def test_nack(broker, client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="client", credit=1)
    boss.publish("queue", queue, b"x")
    received = reader.receive()
    reader.release(received)
    received = reader.receive()
    assert received.redelivered
    reader.reject(received)
    settled(lambda: (broker.counts(queue), broker.counts(f"{queue}.dlq")), ((0, 0), (1, 0)), "dead")


@pytest.mark.parametrize("version", VERSIONS)
def test_unsubscribe(broker, client, queue, version):
    boss, reader = client(version), client(version)
    subscription = reader.subscribe("queue", queue, ack="auto")
    boss.publish("queue", queue, b"1")
    assert reader.receive().body == b"1"
    reader.unsubscribe(subscription)
    boss.publish("queue", queue, b"2")
    settled(lambda: broker.counts(queue), (1, 0), "nobody takes it")


@pytest.mark.parametrize("version", VERSIONS)
def test_unacknowledged_come_back_after_unsubscribe(broker, client, queue, version):
    boss, reader = client(version), client(version)
    subscription = reader.subscribe("queue", queue, ack="client")
    boss.publish("queue", queue, b"1")
    reader.receive()
    reader.unsubscribe(subscription)
    settled(lambda: broker.counts(queue), (1, 0), "back in its place")


@pytest.mark.parametrize("version", VERSIONS)
def test_prefetch_count(broker, client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="client", credit=2)
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    settled(lambda: broker.counts(queue), (3, 2), "two are out")


@pytest.mark.parametrize("version", VERSIONS)
def test_receipts_of_every_frame(client, queue, version):
    """The driver asks for a receipt with SUBSCRIBE, SEND, ACK, BEGIN, COMMIT, ABORT, UNSUBSCRIBE and DISCONNECT."""
    each = client(version)
    transaction = each.begin()
    each.publish("queue", queue, b"x", transaction=transaction)
    each.commit(transaction)
    each.abort(each.begin())
    subscription = each.subscribe("queue", queue, ack="client")
    each.accept(each.receive())
    each.unsubscribe(subscription)
    receipt = fresh_name("receipt")
    each.connection.disconnect(receipt)
    until(lambda: receipt in each.receipts, "RECEIPT for DISCONNECT")


@pytest.mark.parametrize("version", VERSIONS)
def test_bodies_of_any_bytes(client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="auto")
    for body in (b"", b"\x00", b"\x00\n\x00\n", bytes(range(256)) * 4096):
        boss.publish("queue", queue, body)
        assert reader.receive().body == body


@pytest.mark.parametrize("version", ("stomp11", "stomp12"))
def test_headers_are_escaped(client, queue, version):
    boss, reader = client(version), client(version)
    reader.subscribe("queue", queue, ack="auto")
    odd = {"colon": "a:b", "backslash": "c\\d", "line": "one\ntwo", "umlaut": "äöü €"}
    if version == "stomp12":
        odd["return"] = "one\rtwo"
    boss.publish("queue", queue, b"x", Props(app=odd))
    seen = reader.receive().props.app
    assert {key: seen.get(key) for key in odd} == odd


def test_1_0_headers_are_raw(client, queue):
    boss, reader = client("stomp10"), client("stomp10")
    reader.subscribe("queue", queue, ack="auto")
    boss.publish("queue", queue, b"x", Props(app={"path": "c:\\temp"}))
    assert reader.receive().props.app["path"] == "c:\\temp"


def test_versions_understand_each_other(client, queue):
    for sender in VERSIONS:
        for receiver in VERSIONS:
            reader = client(receiver)
            subscription = reader.subscribe("queue", queue, ack="auto")
            client(sender).publish("queue", queue, b"x", Props(app={"k": "v"}))
            received = reader.receive()
            assert received.props.app["k"] == "v"
            reader.unsubscribe(subscription)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_says_what_to_change_and_closes(client, version):
    each = client(version)
    with pytest.raises(Refused) as refused:
        each.publish("raw", "/nowhere/x", b"x")
    assert "/nowhere/x" in str(refused.value)
    # What could have been meant is named.
    assert "/queue/" in str(refused.value) and "/topic/" in str(refused.value)
    until(each.disconnected.is_set, "closed after the ERROR")


@pytest.mark.parametrize("version", ("stomp11", "stomp12"))
def test_an_unknown_ack_is_an_error(client, queue, version):
    each = client(version)
    each.subscribe("queue", queue, ack="client")
    with pytest.raises(Refused):
        arguments = ("99-99", "nobody") if version == "stomp11" else ("99-99",)
        each.connection.ack(*arguments, receipt="r")
        each.receipted("r")


def test_wrong_password(client):
    with pytest.raises(Refused):
        client("stomp", password="wrong")


@pytest.mark.parametrize("version", ("stomp11", "stomp12"))
def test_heartbeats_of_the_broker(client, version):
    each = client(version, heartbeats=(0, 500))
    assert int(each.session_headers["heart-beat"].split(",")[0]) > 0
    # stomp.py closes the connection when nothing is heard for one and a half times the interval.
    until_seen = time.monotonic() + 2.0
    assert not each.disconnected.wait(until_seen - time.monotonic())
    each.publish("queue", fresh_name("q"), b"still here")


@pytest.mark.parametrize("version", ("1.1", "1.2"))
def test_a_client_that_stops_beating_is_closed(broker, version):
    wire = broker.raw("stomp")
    wire.sendall(f"CONNECT\naccept-version:{version}\nhost:/\nheart-beat:500,0\n\n\0".encode())
    assert b"CONNECTED" in wire.recv(4096)
    began = time.monotonic()
    wire.settimeout(15)
    while wire.recv(4096):
        pass
    assert 0.5 < time.monotonic() - began < 10
    wire.close()


def test_a_client_without_heartbeats_is_left_alone(broker, client, queue):
    wire = broker.raw("stomp")
    wire.sendall(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0")
    assert b"CONNECTED" in wire.recv(4096)
    wire.settimeout(1.5)
    with pytest.raises(socket.timeout):
        # Only the newline that may follow CONNECTED.
        while wire.recv(1) == b"\n":
            pass
    wire.close()


def test_a_lost_connection_gives_everything_back(broker, client, queue):
    boss, reader = client("stomp"), client("stomp")
    reader.subscribe("queue", queue, ack="client")
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    for _ in range(3):
        reader.receive()
    assert broker.counts(queue) == (0, 3)
    reader.drop_connection()
    settled(lambda: broker.counts(queue), (3, 0), "all wait again")


def test_durable_subscription(broker, client, fresh):
    topic, identity = f"{fresh('t')}/x", fresh("dur")
    headers = {"durable": "true", "auto-delete": "false", "client-id": identity}
    reader = client("stomp", headers={"client-id": identity})
    reader.subscribe("topic", topic, id=identity, headers=headers)
    reader.close()
    boss = client("mqtt311")
    for number in range(5):
        boss.publish("topic", topic, b"%d" % number)
    reader = client("stomp", headers={"client-id": identity})
    reader.subscribe("topic", topic, id=identity, headers=headers)
    for number in range(5):
        received = reader.receive()
        assert received.body == b"%d" % number
        reader.accept(received)
    # UNSUBSCRIBE with the same headers ends it for good.
    reader.unsubscribe(identity, headers=headers)
    boss.publish("topic", topic, b"nobody")
    again = client("stomp", headers={"client-id": identity})
    again.subscribe("topic", topic, id=identity, headers=headers)
    boss.publish("topic", topic, b"sentinel")
    assert again.receive().body == b"sentinel"


def test_existing_queue_must_exist(client, fresh):
    with pytest.raises(Refused):
        client("stomp").subscribe("existing", fresh("none"))


def test_queue_arguments_of_the_first_use(broker, client, fresh):
    queue = fresh("q")
    boss = client("stomp")
    for number in range(4):
        boss.publish("queue", queue, b"%d" % number, headers={"x-max-length": "2", "x-overflow": "drop-head"})
    settled(lambda: broker.counts(queue), (2, 0), "made with the headers' bound")


def test_priority_and_expiry_are_shown(client, queue):
    boss, reader = client("stomp"), client("stomp")
    boss.publish("queue", queue, b"x", Props(priority=3, ttl_ms=60_000, durable=True))
    reader.subscribe("queue", queue, ack="auto")
    props = reader.receive().props
    assert props.priority == 3 and props.durable and 0 < props.ttl_ms <= 60_000


def test_reply_by_temp_queue(client, fresh):
    """A reply-to of /temp-queue/... subscribes by itself; replies carry it as their subscription."""
    requests, name = fresh("requests"), fresh("r")
    asker, worker = client("stomp"), client("stomp")
    worker.subscribe("queue", requests, ack="auto")
    asker.publish("queue", requests, b"?", headers={"reply-to": f"/temp-queue/{name}"})
    request = worker.receive()
    assert request.props.reply_to.startswith("/reply-queue/")
    worker.publish("raw", request.props.reply_to, b"!")
    reply = asker.receive()
    assert reply.body == b"!"
    assert reply.raw.headers["subscription"] == f"/temp-queue/{name}"
