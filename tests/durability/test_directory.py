"""What an operator does with a data directory, and what the broker says of one it cannot use."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

from support.broker import binary
from support.clients import Nothing, Props, Refused, connect
from support.wait import until

DURABLE = Props(durable=True)


def mynah(*arguments, code=0):
    done = subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def filled(broker, count=200):
    client = connect("amqp091", broker)
    client.declare_queue("q")
    for number in range(count):
        client.publish("queue", "q", b"%d" % number, DURABLE)
    client.close()


def content(broker, queue="q"):
    count = broker.queue(queue)["ready"]
    client = connect("amqp091", broker)
    client.subscribe("queue", queue)
    found = [client.receive().body for _ in range(count)]
    client.close()
    return found


def journal(folder):
    return sorted(path for path in (folder / "journal").iterdir() if not path.name.startswith("spare"))


def test_verify_says_that_it_is_sound(own_broker):
    broker = own_broker()
    filled(broker)
    data = broker.folder / "data"
    assert "another process" in mynah("store", "verify", data, code=1)
    broker.kill9()
    out = mynah("store", "verify", data)
    assert out.strip().endswith("sound") and "groups" in out
    broker.run()
    assert len(content(broker)) == 200
    assert "no data directory" in mynah("store", "verify", broker.folder / "elsewhere", code=1)


def test_damage_is_refused_and_salvaged(own_broker):
    broker = own_broker()
    filled(broker)
    broker.kill9()
    data = broker.folder / "data"
    path = journal(data)[-1]
    raw = bytearray(path.read_bytes())
    at = raw.index(b"100", 8192)
    raw[at] ^= 1
    path.write_bytes(raw)
    assert "damaged" in mynah("store", "verify", data, code=1)
    with pytest.raises(AssertionError) as refused:
        broker.run()
    assert "salvage" in str(refused.value) and "is damaged at byte" in str(refused.value)
    out = mynah("store", "salvage", data)
    assert "rewritten" in out and out.strip().endswith("sound")
    broker.run()
    found = content(broker)
    # One record was lost, and nothing else.
    assert 195 <= len(found) < 200 and found == sorted(found, key=int)
    broker.new_faults()


def test_backup_while_running_and_restore(own_broker):
    broker = own_broker()
    filled(broker)
    publisher = connect("mqtt5", broker)
    publisher.publish("topic", "r", b"kept", qos=1, retain=True)
    to = broker.folder / "copy"
    out = mynah("backup", to, "--address", f"127.0.0.1:{broker.ports['admin']}", "--user", "app:app-secret")
    assert "copied" in out
    again = mynah("backup", to, "--address", f"127.0.0.1:{broker.ports['admin']}", "--user", "app:app-secret", code=1)
    assert "not empty" in again
    publisher.publish("queue", "q", b"later", qos=1)
    publisher.close()
    mynah("store", "verify", to)
    broker.stop()
    shutil.rmtree(broker.folder / "data")
    to.rename(broker.folder / "data")
    broker.run()
    assert content(broker) == [b"%d" % number for number in range(200)]
    subscriber = connect("mqtt5", broker)
    subscriber.subscribe("topic", "r", qos=1)
    assert subscriber.receive().body == b"kept"
    subscriber.close()


def serve(broker, code=1):
    done = subprocess.run(
        [binary(), "serve", "-c", broker.config_path], capture_output=True, text=True, timeout=60, cwd=broker.folder
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_brokers_on_one_directory(own_broker):
    broker = own_broker()
    filled(broker, 3)
    assert f"another process ({broker.process.pid}) uses this data directory" in serve(broker)
    assert len(content(broker)) == 3


def test_a_later_format(own_broker):
    broker = own_broker()
    broker.stop()
    path = broker.folder / "data" / "FORMAT"
    raw = bytearray(path.read_bytes())
    raw[4] = 77
    path.write_bytes(raw)
    assert "format version 77" in serve(broker)
    raw[4] = 1
    path.write_bytes(raw)
    broker.run()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 220 MiB."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("a loop file system needs root and mkfs.ext4")
    with open(image, "wb") as file:
        file.truncate(220 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop mount here: {mounted.stderr.strip()}")
    yield place
    for _ in range(50):
        if subprocess.run(["umount", place], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)


def test_a_read_only_directory(own_broker, small_disk):
    broker = own_broker({"data_dir": str(small_disk / "data"), "store": {"free_bytes_min": "16MiB"}})
    filled(broker, 20)
    broker.stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        said = serve(broker)
        assert str(small_disk / "data") in said and "read-only" in said.lower(), said
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    broker.run()
    assert len(content(broker)) == 20
    broker.stop()


def test_disk_full(own_broker, small_disk):
    broker = own_broker({"data_dir": str(small_disk / "data"), "store": {"free_bytes_min": "16MiB"}})
    client = connect("amqp091", broker)
    client.declare_queue("q")
    body, confirmed = b"x" * 500_000, 0
    with pytest.raises(Exception):
        for _ in range(600):
            client.publish("queue", "q", body, DURABLE)
            confirmed += 1
    assert confirmed > 50
    metric = lambda name: broker.http("GET", "/metrics", port="metrics")[1].decode().split(f"\n{name} ")[1].split("\n")[0]
    assert metric("mynah_store_full") == "1"
    for protocol in ("mqtt5", "stomp", "amqp10"):
        other = connect(protocol, broker)
        with pytest.raises(Refused):
            other.publish("queue", "q", b"refused", DURABLE)
        other.drop_connection()
    # Consuming and settling go on, and make room.
    consumer = connect("amqp091", broker)
    consumer.subscribe("queue", "q")
    for _ in range(confirmed):
        consumer.accept(consumer.receive())
    with pytest.raises(Nothing):
        consumer.receive(0.3)
    consumer.close()
    until(lambda: metric("mynah_store_full") == "0", "there is room again")
    again = connect("amqp091", broker)
    again.publish("queue", "q", b"after", DURABLE)
    again.close()
    broker.restart()
    assert content(broker) == [b"after"]
    faults = broker.new_faults()
    assert all("no room" in fault for fault in faults), faults
    broker.stop()
    broker.new_faults()
