"""WebSocket: RFC 6455 and chapter 6 of MQTT, a transport beside TCP [MQTT-4.2-1, MQTT-6.0.0-3, MQTT-6.0.0-4], with paho and with frames made by hand."""

import base64
import hashlib
import os
import socket
import struct
import time

import pytest

from support.clients.mqtt import MqttClient

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONNECT = bytes.fromhex("100c00044d5154540402003c0000")
PING = b"\xc0\x00"


class Raw:
    """A client that makes its own frames."""

    def __init__(self, broker, path="/mqtt", protocol="mqtt", headers=(), port="websocket"):
        self.socket = socket.create_connection((broker.host, broker.ports[port]))
        self.socket.settimeout(5)
        self.key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {broker.host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self.key}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
            *headers,
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status, *fields = head.decode().split("\r\n")
        self.headers = {k.lower(): v for k, v in (field.split(": ", 1) for field in fields)}

    def fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def send(self, payload, opcode=2, fin=True, masked=True, reserved=0):
        mask = os.urandom(4)
        head = bytes([(0x80 if fin else 0) | reserved | opcode])
        flag = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([flag | len(payload)])
        elif len(payload) < 65536:
            head += bytes([flag | 126]) + struct.pack("!H", len(payload))
        else:
            head += bytes([flag | 127]) + struct.pack("!Q", len(payload))
        if masked:
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
            head += mask
        self.socket.sendall(head + payload)

    def need(self, count):
        while len(self.buffer) < count:
            self.fill()

    def frame(self):
        """(opcode, payload) of the next frame."""
        self.need(2)
        opcode, length = self.buffer[0] & 15, self.buffer[1]
        assert self.buffer[0] & 0x80 and length < 128, "whole and unmasked"
        start = 2
        if length == 126:
            self.need(4)
            length, start = struct.unpack("!H", self.buffer[2:4])[0], 4
        elif length == 127:
            self.need(10)
            length, start = struct.unpack("!Q", self.buffer[2:10])[0], 10
        self.need(start + length)
        payload, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return opcode, payload

    def data(self, count):
        """So many bytes of data, however they are framed."""
        found = b""
        while len(found) < count:
            opcode, payload = self.frame()
            assert opcode == 2
            found += payload
        return found

    def close_code(self):
        opcode, payload = self.frame()
        assert opcode == 8, (opcode, payload)
        with pytest.raises((EOFError, ConnectionResetError)):
            self.fill()
        return struct.unpack("!H", payload[:2])[0]


@pytest.fixture
def raw(broker):
    made = []

    def connect(*args, **more):
        made.append(Raw(broker, *args, **more))
        return made[-1]

    yield connect
    for each in made:
        each.socket.close()


@pytest.mark.parametrize("version", ["31", "311", "5"])
@pytest.mark.parametrize("path", ["/mqtt", "/ws", "/"])
def test_paho(broker, version, path, fresh):
    topic = fresh("t")
    client = MqttClient(broker, version, port="websocket", path=path)
    plain = MqttClient(broker, version)
    for each in (client, plain):
        each.subscribe("topic", topic)
    for size in (0, 1, 100, 126, 70_000, 1_000_000):
        body = os.urandom(size)
        client.publish("topic", topic, body)
        for each in (client, plain):
            received = each.receive()
            each.accept(received)
            assert received.body == body
    client.close()
    plain.close()


def test_the_handshake_answers_key_and_subprotocol(raw):
    one = raw(protocol="chat, mqtt")
    assert one.status == "HTTP/1.1 101 Switching Protocols"
    assert one.headers["sec-websocket-protocol"] == "mqtt"
    digest = hashlib.sha1((one.key + GUID).encode()).digest()
    assert one.headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
    assert raw(protocol="mqttv3.1").headers["sec-websocket-protocol"] == "mqttv3.1"
    assert "sec-websocket-protocol" not in raw(protocol=None).headers


@pytest.mark.parametrize(
    "path, protocol, headers, status",
    [
        ("/nothing", "mqtt", (), 404),
        ("/mqtt", "v12.stomp", (), 400),
        ("/ws", "chat", (), 400),
        ("/mqtt", "mqtt", ("Upgrade: h2c", "X: " + "x" * 9000), 431),
    ],
)
def test_refused_in_http(raw, path, protocol, headers, status):
    assert raw(path, protocol, headers).status.split()[1] == str(status)


def test_plain_http_is_told_what_this_is(broker):
    with socket.create_connection((broker.host, broker.ports["websocket"])) as plain:
        plain.sendall(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.recv(1000).startswith(b"HTTP/1.1 426 ")
    with socket.create_connection((broker.host, broker.ports["websocket"])) as plain:
        plain.sendall(CONNECT)
        assert plain.recv(1000)[:12] in (b"HTTP/1.1 400", b"")


def test_packets_cut_and_joined_anywhere(raw):
    """[MQTT-6.0.0-2]: frames need not hold whole packets, nor one each."""
    for size in (1, 3, 7, 30):
        one = raw()
        stream = CONNECT + PING + PING
        for at in range(0, len(stream), size):
            one.send(stream[at : at + size])
        assert one.data(8) == b"\x20\x02\x00\x00\xd0\x00\xd0\x00"


def test_fragments_with_a_ping_between(raw):
    one = raw()
    one.send(CONNECT[:5], fin=False)
    one.send(b"are you there", opcode=9)
    one.send(CONNECT[5:9], opcode=0, fin=False)
    one.send(b"", opcode=0, fin=False)
    one.send(CONNECT[9:], opcode=0)
    assert one.frame() == (10, b"are you there")
    assert one.data(4) == b"\x20\x02\x00\x00"
    # A pong nobody asked for is ignored.
    one.send(b"", opcode=10)
    one.send(PING)
    assert one.data(2) == b"\xd0\x00"


@pytest.mark.parametrize(
    "frame, code",
    [
        (dict(payload=CONNECT, opcode=1), 1003),
        (dict(payload=CONNECT, masked=False), 1002),
        (dict(payload=CONNECT, reserved=0x40), 1002),
        (dict(payload=CONNECT, opcode=3), 1002),
        (dict(payload=b"", opcode=9, fin=False), 1002),
        (dict(payload=b"x" * 126, opcode=9), 1002),
        (dict(payload=CONNECT, opcode=0), 1002),
        (dict(payload=struct.pack("!H", 1005), opcode=8), 1002),
        (dict(payload=struct.pack("!H", 1000), opcode=8), 1000),
        (dict(payload=b"", opcode=8), 1000),
    ],
    ids=lambda value: str(value)[:50],
)
def test_close_codes(raw, frame, code):
    """[MQTT-6.0.0-1] for text frames; RFC 6455 5.1, 5.2, 5.4, 5.5, 7.4 for the rest."""
    one = raw()
    one.send(**frame)
    assert one.close_code() == code


def test_a_frame_too_large_for_any_message(raw):
    one = raw()
    one.socket.sendall(b"\x82\xff" + struct.pack("!Q", 1 << 40) + b"\0\0\0\0")
    assert one.close_code() == 1009


def test_a_client_that_says_goodbye_is_answered(raw):
    one = raw()
    one.send(CONNECT)
    assert one.data(4) == b"\x20\x02\x00\x00"
    one.send(b"\xe0\x00")
    assert one.close_code() == 1000


def test_pings_do_not_keep_a_client_alive(raw):
    """[MQTT-3.1.2-22] counts control packets of MQTT."""
    one = raw()
    one.send(CONNECT[:10] + b"\x00\x01\x00\x00")
    assert one.data(4) == b"\x20\x02\x00\x00"
    one.socket.settimeout(0.3)
    for _ in range(20):
        try:
            one.send(b"", opcode=9)
            opcode, _ = one.frame()
        except (EOFError, OSError):
            return
        if opcode == 8:
            return
        time.sleep(0.2)
    raise AssertionError("still alive")


def test_stomp_in_text_frames(raw):
    one = raw("/stomp", "v12.stomp")
    one.send(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0", opcode=1)
    opcode, payload = one.frame()
    assert opcode == 1 and payload.startswith(b"CONNECTED\n")
    one.send(b"SUBSCRIBE\nid:1\ndestination:/topic/ws.stomp\n\n\0", opcode=1)
    one.send(b"SEND\ndestination:/topic/ws.stomp\n\nhello\0", opcode=2)
    opcode, payload = one.frame()
    assert opcode == 1 and payload.startswith(b"MESSAGE\n") and payload.rstrip(b"\n").endswith(b"hello\0")


def test_only_listed_origins(own_broker):
    broker = own_broker(
        lambda ports: {
            "listeners": [
                {
                    "name": "ws",
                    "protocol": "websocket",
                    "bind": f"127.0.0.1:{ports['one']}",
                    "origins": ["https://shop.example"],
                }
            ]
        }
    )
    status = lambda *headers: Raw(broker, headers=headers, port="one").status.split()[1]
    assert status("Origin: https://shop.example") == "101"
    assert status("Origin: https://evil.example") == "403"
    assert status() == "101"
