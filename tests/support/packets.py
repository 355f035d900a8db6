"""MQTT packets by hand, for what no client library would send; and a connection that sends and reads them."""

import struct

from support.raw import Wire

V31, V311, V5 = 3, 4, 5
CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)

#: How a property is written: number of bytes of an integer, or "text", "binary", "pair", "varint".
FORMS = {
    0x01: 1, 0x02: 4, 0x03: "text", 0x08: "text", 0x09: "binary", 0x0B: "varint", 0x11: 4, 0x12: "text", 0x13: 2,
    0x15: "text", 0x16: "binary", 0x17: 1, 0x18: 4, 0x19: 1, 0x1A: "text", 0x1C: "text", 0x1F: "text", 0x21: 2,
    0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: "pair", 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


def varint(number):
    out = bytearray()
    while True:
        number, byte = number >> 7, number & 0x7F
        out.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(out)


def binary(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("!H", len(data)) + data


def properties(pairs):
    """[(identifier, value)] with their length before them."""
    out = b""
    for identifier, value in pairs:
        form = FORMS[identifier]
        out += bytes([identifier])
        if form in ("text", "binary"):
            out += binary(value)
        elif form == "pair":
            out += binary(value[0]) + binary(value[1])
        elif form == "varint":
            out += varint(value)
        else:
            out += value.to_bytes(form, "big")
    return varint(len(out)) + out


def packet(kind, body=b"", flags=None):
    if flags is None:
        flags = 2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def connect(version, client="", clean=True, keep_alive=60, props=(), user=None, password=None, will=None, flags=0):
    """`will` is (topic, payload, qos, retain, properties); `flags` are set as well."""
    name = b"\0\x06MQIsdp" if version == V31 else b"\0\x04MQTT"
    tail = binary(client)
    flags |= 2 if clean else 0
    if will:
        topic, payload, qos, retain, more = will
        flags |= 4 | qos << 3 | (32 if retain else 0)
        tail += (properties(more) if version == V5 else b"") + binary(topic) + binary(payload)
    if user is not None:
        flags |= 128
        tail += binary(user)
    if password is not None:
        flags |= 64
        tail += binary(password)
    head = name + bytes([version, flags]) + struct.pack("!H", keep_alive)
    return packet(CONNECT, head + (properties(props) if version == V5 else b"") + tail)


def publish(version, topic, payload=b"", qos=0, number=1, retain=False, dup=False, props=()):
    body = binary(topic) + (struct.pack("!H", number) if qos else b"")
    body += (properties(props) if version == V5 else b"") + payload
    return packet(PUBLISH, body, qos << 1 | (1 if retain else 0) | (8 if dup else 0))


def subscribe(version, filters, number=1, props=()):
    """`filters` are (filter, options)."""
    body = struct.pack("!H", number) + (properties(props) if version == V5 else b"")
    return packet(SUBSCRIBE, body + b"".join(binary(name) + bytes([options]) for name, options in filters))


def unsubscribe(version, filters, number=1):
    body = struct.pack("!H", number) + (b"\0" if version == V5 else b"")
    return packet(UNSUBSCRIBE, body + b"".join(binary(name) for name in filters))


def ack(kind, number, reason=None):
    return packet(kind, struct.pack("!H", number) + (b"" if reason is None else bytes([reason])))


def read_varint(data):
    number = shift = used = 0
    while True:
        byte = data[used]
        number |= (byte & 0x7F) << shift
        shift, used = shift + 7, used + 1
        if byte < 0x80:
            return number, data[used:]


def read_text(data):
    size = int.from_bytes(data[:2], "big")
    return data[2 : 2 + size], data[2 + size :]


def read_properties(data):
    """([(identifier, value)], what follows)."""
    size, data = read_varint(data)
    # A view is cut without copying: there may be 65,536 of them.
    data, rest, found = memoryview(data[:size]), data[size:], []
    while data:
        identifier, data = data[0], data[1:]
        form = FORMS[identifier]
        if form == "text":
            value, data = read_text(data)
            value = bytes(value).decode()
        elif form == "binary":
            value, data = read_text(data)
            value = bytes(value)
        elif form == "pair":
            name, data = read_text(data)
            value, data = read_text(data)
            value = (bytes(name).decode(), bytes(value).decode())
        elif form == "varint":
            value, data = read_varint(data)
        else:
            value, data = int.from_bytes(data[:form], "big"), data[form:]
        found.append((identifier, value))
    return found, rest


class Packet:
    """One packet as it was received; `fields` holds what its type has."""

    def __init__(self, first, body, version):
        self.kind, self.flags, self.body = first >> 4, first & 15, body
        self.reason, self.props, self.number = None, [], None
        v5 = version == V5
        if self.kind == CONNACK:
            self.session_present, self.reason = body[0] == 1, body[1]
            self.props = read_properties(body[2:])[0] if v5 else []
        elif self.kind == PUBLISH:
            self.qos, self.retain, self.dup = self.flags >> 1 & 3, bool(self.flags & 1), bool(self.flags & 8)
            topic, rest = read_text(body)
            self.topic = topic.decode()
            if self.qos:
                self.number, rest = int.from_bytes(rest[:2], "big"), rest[2:]
            if v5:
                self.props, rest = read_properties(rest)
            self.payload = rest
        elif self.kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
            self.number = int.from_bytes(body[:2], "big")
            self.reason = body[2] if len(body) > 2 else 0
            self.props = read_properties(body[3:])[0] if len(body) > 3 else []
        elif self.kind in (SUBACK, UNSUBACK):
            self.number, rest = int.from_bytes(body[:2], "big"), body[2:]
            if v5:
                self.props, rest = read_properties(rest)
            self.reasons = list(rest)
        elif self.kind in (DISCONNECT, AUTH):
            self.reason = body[0] if body else 0
            self.props = read_properties(body[1:])[0] if len(body) > 1 else []

    def prop(self, identifier):
        """The value of a property, None without one."""
        return dict(self.props).get(identifier)

    def all(self, identifier):
        return [value for key, value in self.props if key == identifier]

    def __repr__(self):
        return f"<type {self.kind} flags {self.flags} {self.body.hex(' ')}>"


class Raw(Wire):
    """A connection that speaks packets. With `login` it has connected."""

    def __init__(self, broker, version=V5, port="mqtt", login=True, **options):
        super().__init__(broker, port)
        self.version = version
        self.connack = None
        if login:
            self.send(connect(version, **options))
            self.connack = self.read()

    def read(self):
        """The next packet; None at the end of the connection."""
        while True:
            try:
                size, rest = read_varint(self.pending[1:])
                if len(rest) >= size:
                    found = Packet(self.pending[0], rest[:size], self.version)
                    self.pending = rest[size:]
                    return found
            except IndexError:
                pass
            if not self._more():
                assert not self.pending, f"the end within a packet: {self.pending!r}"
                return None

    def expect_kind(self, kind):
        found = self.read()
        assert found is not None and found.kind == kind, f"wanted type {kind}, got {found}"
        return found

    def subscribe(self, name, options=0, number=1, props=()):
        self.send(subscribe(self.version, [(name, options)], number, props))
        return self.expect_kind(SUBACK)

    def ping(self):
        """What came before the answer to a ping."""
        self.send(packet(PINGREQ))
        found = []
        while True:
            got = self.read()
            assert got is not None, f"the connection has ended; before that came {found}"
            if got.kind == PINGRESP:
                return found
            found.append(got)
