"""Garbage, oversized frames and slow senders on every port, while one healthy pair per protocol goes on exchanging.

The healthy ones must not notice: every message once, in order, and the broker's memory stays bounded.
"""

import random
import socket
import threading
import time

import pytest

from support.clients import connect
from support.names import fresh as fresh_name
from support.wait import PATIENCE, settled

PORTS = ("mqtt", "stomp", "amqp")
HEALTHY = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")

#: Valid beginnings, so that the garbage meets more of the machine than its first byte.
PREAMBLES = {
    "mqtt": [
        b"",
        bytes.fromhex("100c 0004 4d515454 04 02 0000 0000"),
        bytes.fromhex("100d 0004 4d515454 05 02 0000 00 0000"),
    ],
    "stomp": [b"", b"CONNECT\naccept-version:1.2\nhost:/\n\n\0", b"CONNECT\n\n\0"],
    "amqp": [
        b"",
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x03\x01\x00\x00",
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00\x00\x00\x00\x1c\x02\x01\x00\x00\x00\x53\x41\xd0\x00\x00\x00\x0f\x00\x00\x00\x01\xa3\x09ANONYMOUS"
        b"AMQP\x00\x01\x00\x00",
    ],
}

#: Frames that declare more than anybody may send.
OVERSIZED = {
    "mqtt": [
        bytes.fromhex("10 ff ff ff 7f 0004 4d515454 04 02 0000"),
        bytes.fromhex("100c 0004 4d515454 04 02 0000 0000") + bytes.fromhex("30 ff ff ff 7f 00 01 74"),
    ],
    "stomp": [
        b"CONNECT\naccept-version:1.2\nhost:/\n\n\0SEND\ndestination:/queue/x\ncontent-length:4000000000\n\n",
        b"CONNECT\naccept-version:1.2\nhost:/\ncontent-length:4000000000\n\n",
    ],
    "amqp": [
        b"AMQP\x00\x00\x09\x01\x01\x00\x00\xff\xff\xff\xff",
        b"AMQP\x03\x01\x00\x00\xff\xff\xff\xff\x02\x01\x00\x00",
        b"AMQP\x00\x01\x00\x00\x7f\xff\xff\xff\x02\x00\x00\x00",
    ],
}


class Pair:
    """Two clients of one protocol that exchange numbered messages until told to stop; on a thread of their own."""

    def __init__(self, broker, protocol):
        self.protocol = protocol
        self.done = 0
        self.failure = None
        self.ready = threading.Event()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(broker, protocol), daemon=True)
        self.thread.start()

    def _run(self, broker, protocol):
        try:
            name = fresh_name("healthy")
            reader, writer = connect(protocol, broker), connect(protocol, broker)
            reader.subscribe("queue", name, ack="client")
            while not self.stop.is_set():
                body = f"{protocol} {self.done}".encode()
                writer.publish("queue", name, body)
                received = reader.receive()
                assert received.body == body and not received.redelivered, received
                reader.accept(received)
                self.done += 1
                self.ready.set()
            reader.close()
            writer.close()
            settled(lambda: broker.counts(name), (0, 0), "nothing is left over")
        except BaseException as failure:  # noqa: BLE001 - handed to the test's own thread
            self.failure = failure
            self.ready.set()

    def finish(self):
        self.stop.set()
        self.thread.join(2 * PATIENCE)
        assert self.failure is None, f"{self.protocol} after {self.done}: {self.failure!r}"
        return self.done


@pytest.fixture
def healthy(broker):
    """Healthy pairs of all protocols; when the test ends, each must have exchanged more than when it began."""
    pairs = [Pair(broker, protocol) for protocol in HEALTHY]
    for pair in pairs:
        assert pair.ready.wait(2 * PATIENCE), f"{pair.protocol} does not get going"
    before = {pair.protocol: pair.done for pair in pairs}
    yield pairs
    # At least one more exchange after the last bad byte.
    marks = {pair.protocol: pair.done for pair in pairs}
    end = time.monotonic() + PATIENCE
    while (
        any(pair.done == marks[pair.protocol] and pair.failure is None for pair in pairs) and time.monotonic() < end
    ):
        time.sleep(0.005)
    after = {pair.protocol: pair.finish() for pair in pairs}
    assert all(after[protocol] > before[protocol] for protocol in HEALTHY), (before, after)


def throw(broker, port, data):
    """Sends and reads until the broker closes or has nothing to say, and leaves."""
    wire = broker.raw(port)
    try:
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        wire.settimeout(PATIENCE)
        while wire.recv(65536):
            pass
    except ConnectionError:
        pass
    finally:
        wire.close()


@pytest.mark.parametrize("port", PORTS)
def test_garbage(broker, healthy, port):
    seed = 20261121
    dice = random.Random(seed)
    print("seed", seed)
    for _ in range(150):
        preamble = dice.choice(PREAMBLES[port])
        throw(broker, port, preamble + dice.randbytes(dice.choice((1, 7, 60, 500, 5000))))


@pytest.mark.parametrize("port", PORTS)
def test_valid_frames_with_flipped_bits(broker, healthy, port):
    seed = 8912
    dice = random.Random(seed)
    print("seed", seed)
    publish = {
        "mqtt": bytes.fromhex("3207 0001 74 0001 78 78") + bytes.fromhex("8206 0002 0001 74 01") + b"\xc0\x00",
        "stomp": b"SEND\ndestination:/topic/t\nreceipt:1\ncontent-length:2\n\nxx\0SUBSCRIBE\nid:1\ndestination:/topic/t\n\n\0",
        "amqp": bytes.fromhex("0000001a 02000000 00 53 10 d0 0000000a 00000001 a1 04") + b"wire",
    }[port]
    for _ in range(150):
        data = bytearray(dice.choice(PREAMBLES[port][1:]) + publish * 3)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(data))
            data[at] ^= 1 << dice.randrange(8)
        throw(broker, port, bytes(data))


@pytest.mark.parametrize("port", PORTS)
def test_oversized_frames_are_refused_at_once(broker, healthy, port):
    """By their declared length: nothing is allocated for it, and the sender is not waited for."""
    before = broker.resident_bytes()
    for data in OVERSIZED[port]:
        wires = [broker.raw(port) for _ in range(20)]
        for wire in wires:
            wire.sendall(data)
        for wire in wires:
            wire.settimeout(PATIENCE)
            try:
                while wire.recv(65536):
                    pass
            except ConnectionError:
                pass
            wire.close()
    assert broker.resident_bytes() - before < 64 << 20


@pytest.mark.parametrize("port", PORTS)
def test_slow_senders(broker, healthy, port):
    """Fifty connections that send one byte now and then of a frame that never ends."""
    wires = [(broker.raw(port), dict(enumerate(PREAMBLES[port][-1]))) for _ in range(50)]
    for step in range(12):
        for wire, data in wires:
            try:
                wire.sendall(bytes([data.get(step, 0)]))
            except ConnectionError:
                pass
        # The pace of a slow sender is the test's subject.
        time.sleep(0.05)
    for wire, _ in wires:
        wire.close()


@pytest.mark.parametrize("port", PORTS)
def test_connections_that_say_nothing(broker, healthy, port):
    wires = [broker.raw(port) for _ in range(200)]
    for wire in wires:
        wire.close()


def test_a_reader_that_does_not_read(broker, healthy, client, fresh):
    """A subscriber that stops reading its socket: others go on, its own surplus is dropped and counted, memory is bounded."""
    topic = fresh("t")
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.settimeout(PATIENCE)
    wire.connect((broker.host, broker.ports["mqtt"]))
    wire.sendall(bytes.fromhex("100c 0004 4d515454 04 02 0000 0000"))
    assert wire.recv(4) == b"\x20\x02\x00\x00"
    name = topic.encode()
    body = b"\x00\x01" + len(name).to_bytes(2, "big") + name + b"\x00"
    wire.sendall(bytes([0x82, len(body)]) + body)
    assert wire.recv(5) == b"\x90\x03\x00\x01\x00"
    reader, writer = client("mqtt311"), client("mqtt311")
    reader.subscribe("topic", topic, ack="auto")
    before = broker.resident_bytes()
    payload = bytes(100_000)
    for number in range(400):
        writer.publish("topic", topic, payload, confirm=number % 20 == 19)
        assert reader.receive().body == payload
    assert broker.resident_bytes() - before < 64 << 20
    dropped = broker.metrics().get(
        ("mynah_messages_dropped_total", (("protocol", "mqtt"), ("reason", "inbox-full"))), 0
    )
    assert dropped > 0
    wire.close()


def test_logins_that_are_never_finished_are_closed(own_broker):
    impatient = own_broker({"limits": {"login_timeout": "1s", "login_timeout_stomp": "1s"}})
    for port in PORTS:
        wire = impatient.raw(port)
        began = time.monotonic()
        wire.settimeout(PATIENCE)
        try:
            while wire.recv(1024):
                pass
        except ConnectionError:
            pass
        assert 0.5 < time.monotonic() - began < 6
        wire.close()


@pytest.mark.parametrize("protocol", HEALTHY)
def test_a_message_above_the_limit_is_refused_and_nothing_is_lost(own_broker, client, fresh, protocol):
    small = own_broker({"limits": {"message_bytes_max": "64KiB"}})
    queue = fresh("q")
    client("amqp091", to=small).declare_queue(queue)
    keeper = client("stomp", to=small)
    keeper.publish("queue", queue, b"before")
    boss = client(protocol, to=small)
    with pytest.raises(Exception):  # noqa: B017 - each library has its own word for it
        boss.publish("queue", queue, b"x" * 100_000)
    keeper.publish("queue", queue, b"after")
    reader = client("amqp091", to=small)
    assert [reader.get(queue, auto_ack=True).body for _ in range(2)] == [b"before", b"after"]
    assert reader.get(queue) is None
