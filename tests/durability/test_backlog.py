"""A queue that nobody reads: memory stays bounded, the disk holds little more than the messages, a crash is over soon, and what was
confirmed comes in order. `BACKLOG=10000000` for ten million messages."""

import os
import pathlib
import struct
import threading
import time

from support.packets import V311, Raw
from support.wait import until

COUNT = int(os.environ.get("BACKLOG", 500_000))
PAYLOAD, BATCH, IN_FLIGHT = 200, 1000, 50_000
QUEUE = "backlog"
TOPIC = f"$queue/{QUEUE}".encode()
HEAD = struct.pack("!BBBH", 0x32, (4 + len(TOPIC) + PAYLOAD) & 0x7F | 0x80, (4 + len(TOPIC) + PAYLOAD) >> 7, len(TOPIC)) + TOPIC
SIZE = len(HEAD) + 2 + PAYLOAD
MIB = 1 << 20


def resident(broker):
    status = pathlib.Path(f"/proc/{broker.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def on_disk(broker):
    return sum(path.stat().st_blocks * 512 for path in (broker.folder / "data").rglob("*") if path.is_file())


def opened(broker, client):
    connection = Raw(broker, V311, client=client).socket
    connection.settimeout(60)
    return connection


def fill(broker, look):
    """Publishes with QoS 1 and waits for each confirm; `look` is called now and then."""
    connection = opened(broker, "filler")
    seen = {"confirms": 0, "over": False}

    def count():
        left = 4 * COUNT
        try:
            while left and (data := connection.recv(1 << 16)):
                left -= len(data)
                seen["confirms"] = COUNT - left // 4
        finally:
            seen["over"] = True

    counting = threading.Thread(target=count)
    counting.start()
    batch = bytearray((HEAD + bytes(2 + PAYLOAD)) * BATCH)
    for start in range(0, COUNT, BATCH):
        while start - seen["confirms"] > IN_FLIGHT:
            assert not seen["over"]
            time.sleep(0.001)
        for at in range(BATCH):
            number = start + at
            struct.pack_into("!HQ", batch, at * SIZE + len(HEAD), number % 65535 + 1, number)
        connection.sendall(batch)
        if start % (COUNT // 20) == 0:
            look()
    counting.join(60)
    assert seen["confirms"] == COUNT
    connection.close()


def drain(broker, look):
    """Everything in order, each settled."""
    connection = opened(broker, "drainer")
    connection.sendall(b"\x82" + bytes([5 + len(TOPIC)]) + b"\0\1" + struct.pack("!H", len(TOPIC)) + TOPIC + b"\1")
    assert connection.recv(5)[:1] == b"\x90"
    expected, pending = 0, b""
    while expected < COUNT:
        pending += connection.recv(MIB)
        acks, at = [], 0
        while len(pending) - at >= SIZE:
            identifier, number = struct.unpack_from("!HQ", pending, at + len(HEAD))
            assert number == expected, f"{number} after {expected - 1}"
            acks.append(b"\x40\2" + identifier.to_bytes(2, "big"))
            expected, at = expected + 1, at + SIZE
        pending = pending[at:]
        connection.sendall(b"".join(acks))
        look()
    connection.close()


def test_a_long_queue(own_broker):
    broker = own_broker({"store": {"memory_max": "64MiB"}, "limits": {"inbox_bytes_max": "8MiB"}})
    most = []
    begun = time.monotonic()
    fill(broker, lambda: most.append(resident(broker)))
    filled = time.monotonic() - begun
    assert max(most) < 300 * MIB, max(most)
    disk = on_disk(broker)
    assert disk < 1.3 * COUNT * PAYLOAD + 1024 * MIB, disk

    broker.kill9()
    begun = time.monotonic()
    broker.run()
    recovered = time.monotonic() - begun
    assert recovered < 3.0, recovered
    assert broker.queue(QUEUE)["ready"] == COUNT

    most.clear()
    begun = time.monotonic()
    drain(broker, lambda: most.append(resident(broker)))
    drained = time.monotonic() - begun
    assert max(most) < 300 * MIB, max(most)
    until(lambda: broker.queue(QUEUE)["ready"] + broker.queue(QUEUE)["unsettled"] == 0, "it is empty")
    # What is left is a journal that is reused.
    until(lambda: on_disk(broker) < 1100 * MIB, "the disk is given back")
    print(
        f"{COUNT} messages: filled at {COUNT / filled:.0f}/s, {disk / MIB:.0f} MiB on disk, recovered in {recovered:.2f} s, "
        f"drained at {COUNT / drained:.0f}/s with {max(most) / MIB:.0f} MiB resident, {on_disk(broker) / MIB:.0f} MiB left"
    )
