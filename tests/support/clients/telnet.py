"""STOMP as a person types it: lines end in CR LF, Ctrl-@ is NUL, Enter follows it. No library at all.

Text only, one frame at a time; what a terminal shows is what is parsed here.
"""

import socket

from support.clients.common import Nothing, Props, Received, Refused, death_from_flat
from support.clients.stomp import OWN_HEADERS, address
from support.names import fresh
from support.wait import PATIENCE


class TelnetClient:
    def __init__(self, broker, user="guest", password="guest", version="1.2", login=True):
        self.socket = broker.raw("stomp")
        self.buffer = b""
        self.queue = []
        self.version = version
        if login:
            # The lecture's own spelling: a blank after the colon, no content-length, no host.
            headers = {"login": user, "passcode": password}
            if version != "1.0":
                headers.update({"accept-version": version, "host": "/"})
            self.type("CONNECT", headers, blank=version == "1.0")
            frame = self.frame()
            if frame[0] != "CONNECTED":
                raise Refused(f"{frame[1].get('message')}: {frame[2].decode()}")
            self.session_headers = frame[1]

    def type(self, command, headers=None, body=b"", blank=False):
        colon = ": " if blank else ":"
        lines = [command, *(f"{key}{colon}{value}" for key, value in (headers or {}).items()), ""]
        text = "\r\n".join(lines) + "\r\n"
        # One write per line, as a terminal in line mode does.
        for line in text.encode().splitlines(keepends=True):
            self.socket.sendall(line)
        self.socket.sendall(body + b"\0\r\n")

    def frame(self, timeout=PATIENCE):
        """(command, headers, body) of the next frame."""
        self.socket.settimeout(timeout)
        while True:
            self.buffer = self.buffer.lstrip(b"\r\n")
            parsed = self._parse()
            if parsed:
                return parsed
            try:
                read = self.socket.recv(65536)
            except TimeoutError:
                raise Nothing(f"telnet: nothing within {timeout} s") from None
            if not read:
                raise ConnectionError("closed by the broker")
            self.buffer += read

    def _parse(self):
        end = self.buffer.find(b"\n\n")
        if end < 0:
            return None
        head = self.buffer[:end].decode().split("\n")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers.setdefault(name, value)
        start = end + 2
        length = headers.get("content-length")
        if length is None:
            stop = self.buffer.find(b"\0", start)
            if stop < 0:
                return None
        else:
            stop = start + int(length)
            if len(self.buffer) <= stop:
                return None
            assert self.buffer[stop] == 0, "the byte after the body is not NUL"
        body = self.buffer[start:stop]
        self.buffer = self.buffer[stop + 1 :]
        return head[0], headers, body

    def expect(self, command, timeout=PATIENCE):
        """The next frame of this command; messages that come before it are kept."""
        while True:
            frame = self.frame(timeout)
            if frame[0] == command:
                return frame
            if frame[0] == "ERROR":
                raise Refused(f"{frame[1].get('message')}: {frame[2].decode()}")
            self.queue.append(frame)

    def receipted(self, receipt):
        assert self.expect("RECEIPT")[1]["receipt-id"] == receipt

    def subscribe(self, kind, name, ack="client", id=None, headers=None, **_):
        mode = {"auto": "auto", "client": "client-individual"}[ack]
        receipt = fresh("receipt")
        id = id or fresh("sub")
        self.type(
            "SUBSCRIBE",
            {"id": id, "destination": address(kind, name), "ack": mode, "receipt": receipt, **(headers or {})},
        )
        self.receipted(receipt)
        return id

    def publish(self, kind, name, body, props=None, confirm=True, headers=None):
        sent = {"destination": address(kind, name), **(headers or {})}
        if props is not None:
            sent.update(props.app)
        receipt = fresh("receipt")
        if confirm:
            sent["receipt"] = receipt
        self.type("SEND", sent, body)
        if confirm:
            self.receipted(receipt)

    def receive(self, timeout=PATIENCE):
        if self.queue:
            frame = self.queue.pop(0)
        else:
            frame = self.frame(timeout)
        command, headers, body = frame
        if command == "ERROR":
            raise Refused(f"{headers.get('message')}: {body.decode()}")
        assert command == "MESSAGE", frame
        count = headers.get("delivery-count")
        return Received(
            body=body,
            props=Props(
                content_type=headers.get("content-type"),
                correlation_id=headers.get("correlation-id"),
                reply_to=headers.get("reply-to"),
                app={key: value for key, value in headers.items() if key not in OWN_HEADERS},
            ),
            address=headers["destination"],
            redelivered=headers.get("redelivered") == "true",
            attempts=int(count) if count else None,
            death=death_from_flat(headers.get),
            retained=None,
            raw=frame,
        )

    def accept(self, received):
        receipt = fresh("receipt")
        self.type("ACK", {"id": received.raw[1]["ack"], "receipt": receipt})
        self.receipted(receipt)

    def reject(self, received):
        receipt = fresh("receipt")
        self.type("NACK", {"id": received.raw[1]["ack"], "requeue": "false", "receipt": receipt})
        self.receipted(receipt)

    def drop_connection(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def close(self):
        self.socket.close()
