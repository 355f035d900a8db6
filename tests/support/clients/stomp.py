"""STOMP 1.0, 1.1 and 1.2 over stomp.py."""

import queue
import socket
import threading

import stomp as library

from support.clients.common import Nothing, Props, Received, Refused, death_from_flat
from support.names import fresh
from support.wait import PATIENCE, until

CONNECTIONS = {
    "10": library.Connection10,
    "11": library.Connection11,
    "12": library.Connection12,
}

#: Headers of a MESSAGE that the protocol or the broker own; all others are the application's.
OWN_HEADERS = {
    "destination",
    "message-id",
    "subscription",
    "ack",
    "content-type",
    "content-length",
    "correlation-id",
    "reply-to",
    "priority",
    "expiration",
    "expires",
    "persistent",
    "redelivered",
    "delivery-count",
    "timestamp",
    "receipt",
    "retained",
}


def address(kind, name):
    """Words of a topic are joined by dots; a dot inside a word is escaped."""
    return {
        "topic": lambda: "/topic/" + name.replace(".", "%2E").replace("/", "."),
        "queue": lambda: f"/queue/{name}",
        "existing": lambda: f"/amq/queue/{name}",
        "exchange": lambda: f"/exchange/{name}",
        "client": lambda: f"/p2p/{name}",
        "raw": lambda: name,
    }[kind]()


class _Listener(library.ConnectionListener):
    def __init__(self, owner):
        self.owner = owner

    def on_connected(self, frame):
        self.owner.session_headers = frame.headers

    def on_message(self, frame):
        self.owner.inbox.put(frame)

    def on_receipt(self, frame):
        self.owner.receipts.add(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.owner.error = frame

    def on_disconnected(self):
        self.owner.disconnected.set()


class StompClient:
    def __init__(self, broker, version="12", user="guest", password="guest", heartbeats=(0, 0), headers=None):
        self.version = version
        self.inbox = queue.Queue()
        self.receipts = set()
        self.error = None
        self.session_headers = None
        self.disconnected = threading.Event()
        options = {} if version == "10" else {"heartbeats": heartbeats, "vhost": "/"}
        self.connection = CONNECTIONS[version](
            [(broker.host, broker.ports["stomp"])],
            auto_decode=False,
            reconnect_attempts_max=1,
            timeout=PATIENCE,
            **options,
        )
        self.connection.set_listener("suite", _Listener(self))
        self.connection.connect(user, password, wait=False, headers=headers or {})
        until(lambda: self.session_headers or self.error or self.disconnected.is_set(), "CONNECTED")
        if self.session_headers is None:
            raise Refused(self.error_text())
        self.subscriptions = {}

    def error_text(self):
        if self.error is None:
            return "connection closed without an ERROR"
        return f"{self.error.headers.get('message', '')}: {_bytes(self.error.body).decode(errors='replace')}"

    def receipted(self, receipt):
        def done():
            if self.error is not None or self.disconnected.is_set():
                raise Refused(self.error_text())
            return receipt in self.receipts

        until(done, f"RECEIPT {receipt}")

    def subscribe(self, kind, name, ack="client", credit=None, id=None, headers=None, **_):
        """ack: "auto", "client" (settled one by one: client-individual) or "cumulative" (STOMP's client mode)."""
        mode = {"auto": "auto", "client": "client-individual", "cumulative": "client"}[ack]
        if self.version == "10" and mode == "client-individual":
            mode = "client"
        id = id or fresh("sub")
        receipt = fresh("receipt")
        sent = {"receipt": receipt, **(headers or {})}
        if credit is not None:
            sent["prefetch-count"] = str(credit)
        self.connection.subscribe(address(kind, name), id=id, ack=mode, headers=sent)
        self.receipted(receipt)
        self.subscriptions[id] = ack
        return id

    def unsubscribe(self, id, headers=None):
        receipt = fresh("receipt")
        self.connection.unsubscribe(id=id, receipt=receipt, **(headers or {}))
        self.receipted(receipt)

    def publish(self, kind, name, body, props=None, confirm=True, headers=None, transaction=None):
        sent = self._headers(props)
        sent.update(headers or {})
        receipt = fresh("receipt")
        if confirm:
            sent["receipt"] = receipt
        if transaction:
            sent["transaction"] = transaction
        content_type = props.content_type if props else None
        self.connection.send(address(kind, name), body, content_type=content_type, headers=sent)
        if confirm:
            self.receipted(receipt)

    @staticmethod
    def _headers(props):
        headers = {}
        if props is None:
            return headers
        if props.correlation_id is not None:
            headers["correlation-id"] = props.correlation_id
        if props.reply_to is not None:
            headers["reply-to"] = address(*props.reply_to)
        if props.priority is not None:
            headers["priority"] = str(props.priority)
        if props.ttl_ms is not None:
            headers["expiration"] = str(props.ttl_ms)
        if props.durable is not None:
            headers["persistent"] = "true" if props.durable else "false"
        headers.update(props.app)
        return headers

    def receive(self, timeout=PATIENCE):
        try:
            frame = self.inbox.get(timeout=timeout)
        except queue.Empty:
            said = f" ({self.error_text()})" if self.error else ""
            raise Nothing(f"STOMP {self.version}: nothing within {timeout} s{said}") from None
        headers = frame.headers
        number = lambda name: int(headers[name]) if headers.get(name, "").isdigit() else None
        persistent = headers.get("persistent")
        redelivered = headers.get("redelivered")
        props = Props(
            content_type=headers.get("content-type"),
            correlation_id=headers.get("correlation-id"),
            reply_to=headers.get("reply-to"),
            message_id=headers.get("amqp-message-id"),
            priority=number("priority"),
            ttl_ms=number("expiration"),
            durable=persistent == "true",
            app={key: value for key, value in headers.items() if key not in OWN_HEADERS},
        )
        return Received(
            body=_bytes(frame.body),
            props=props,
            address=headers["destination"],
            redelivered=None if redelivered is None else redelivered == "true",
            attempts=number("delivery-count"),
            death=death_from_flat(headers.get),
            retained=headers.get("retained") == "true",
            raw=frame,
        )

    def _ack_arguments(self, received):
        headers = received.raw.headers
        if self.version == "12":
            return (headers["ack"],)
        if self.version == "11":
            return (headers["message-id"], headers["subscription"])
        return (headers["message-id"],)

    def accept(self, received, transaction=None):
        receipt = fresh("receipt")
        self.connection.ack(*self._ack_arguments(received), transaction=transaction, receipt=receipt)
        self.receipted(receipt)

    def _nack(self, received, transaction=None, **headers):
        receipt = fresh("receipt")
        if self.version == "10":
            sent = {"message-id": received.raw.headers["message-id"], "receipt": receipt, **headers}
            self.connection.send_frame("NACK", sent)
        else:
            self.connection.nack(*self._ack_arguments(received), transaction=transaction, receipt=receipt, **headers)
        self.receipted(receipt)

    def reject(self, received, transaction=None):
        self._nack(received, transaction, requeue="false")

    def release(self, received):
        self._nack(received)

    def begin(self):
        receipt = fresh("receipt")
        transaction = self.connection.begin(fresh("tx"), receipt=receipt)
        self.receipted(receipt)
        return transaction

    def commit(self, transaction):
        receipt = fresh("receipt")
        self.connection.commit(transaction, receipt=receipt)
        self.receipted(receipt)

    def abort(self, transaction):
        receipt = fresh("receipt")
        self.connection.abort(transaction, receipt=receipt)
        self.receipted(receipt)

    def drop_connection(self):
        sock = self.connection.transport.socket
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        if not self.disconnected.is_set() and self.connection.is_connected():
            try:
                self.connection.disconnect(fresh("receipt"))
                self.disconnected.wait(PATIENCE)
            except (library.exception.StompException, OSError):
                pass
        try:
            self.connection.transport.stop()
        except (library.exception.StompException, OSError, AttributeError):
            pass


def _bytes(body):
    if body is None:
        return b""
    return body if isinstance(body, bytes) else body.encode()
