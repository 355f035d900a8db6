"""AMQP 1.0 over qpid-proton, blocking.

A receiving link has a window: `credit` deliveries may be unsettled, settling one grants one more. Nothing is granted
behind the test's back.
"""

import collections
import socket

import proton
from proton import ConnectionException, Delivery, Message, symbol
from proton.handlers import MessagingHandler, TransactionHandler
from proton.reactor import AtLeastOnce, AtMostOnce, DurableSubscription
from proton.utils import BlockingConnection, LinkDetached, SendException

from support.clients.common import Nothing, Props, Received, Refused, death_from_flat
from support.names import fresh
from support.wait import PATIENCE


def address(kind, name):
    return {
        "topic": lambda: f"/topics/{name}",
        "queue": lambda: f"/queues/{name}",
        "exchange": lambda: f"/exchanges/{name}",
        "client": lambda: f"p2p/{name}",
        "raw": lambda: name,
    }[kind]()


class _Inbox(MessagingHandler):
    """Keeps what came. Bodies are copied while the message object lives: proton's memory views dangle afterwards."""

    def __init__(self, connection):
        super().__init__(prefetch=0, auto_accept=False, auto_settle=True)
        self.connection = connection
        self.incoming = collections.deque()
        self.drained = 0

    def on_message(self, event):
        message = event.message
        body = message.body
        if isinstance(body, memoryview):
            body = bytes(body)
        elif isinstance(body, str):
            body = body.encode()
        self.incoming.append((body, message, event.delivery, event.receiver))
        self.connection.container.yield_()

    def on_link_flow(self, event):
        if event.link.is_receiver and event.link.drain_mode and event.link.credit == 0:
            self.drained += 1

    def on_link_error(self, event):
        self.on_link_closed(event)

    def on_link_closed(self, event):
        if event.link.state & proton.Endpoint.LOCAL_ACTIVE:
            event.link.close()
            raise LinkDetached(event.link)


class SessionEnded(proton.ProtonException):
    """The peer ended the session with an error."""


class _Connection(BlockingConnection):
    """Notices an ended session, which the library's own blocking connection waits out."""

    def on_session_remote_close(self, event):
        if event.session.state & proton.Endpoint.LOCAL_ACTIVE:
            event.session.close()
            if not self.closing:
                raise SessionEnded(f"session ended: {event.session.remote_condition}")


class _Transactions(TransactionHandler):
    """Keeps how each transaction began and ended."""

    def __init__(self):
        super().__init__()
        self.open, self.ends = [], []

    def on_transaction_declared(self, event):
        self.open.append(event.transaction)

    def on_transaction_committed(self, event):
        self.ends.append("committed")

    def on_transaction_aborted(self, event):
        self.ends.append("aborted")

    def _failed(self, event):
        self.ends.append(event.delivery.remote.condition or "failed")

    on_transaction_declare_failed = on_transaction_commit_failed = _failed


class Amqp10Client:
    def __init__(self, broker, user="guest", password="guest", anonymous=False, container_id=None, **options):
        login = {"allowed_mechs": "ANONYMOUS"} if anonymous else {"user": user, "password": password}
        container = None
        if container_id is not None:
            from proton.reactor import Container

            container = Container()
            container.container_id = container_id
        login.setdefault("allowed_mechs", "PLAIN")
        self.connection = _Connection(
            f"amqp://{broker.host}:{broker.ports['amqp']}",
            timeout=PATIENCE,
            container=container,
            allow_insecure_mechs=True,
            **login,
            **options,
        )
        self.inbox = _Inbox(self.connection)
        self.senders = {}
        self.receivers = []
        self.windows = {}
        self.dropped = False
        self.transactions = _Transactions()

    def _pump(self, rounds=3):
        """Writes what waits to be written and reads what is there."""
        container = self.connection.container
        before, container.timeout = container.timeout, 0.002
        try:
            for _ in range(rounds):
                container.process()
        finally:
            container.timeout = before

    def subscribe(
        self, kind, name, ack="client", credit=100, durable=None, options=None, dynamic=False, link_name=None, **_
    ):
        """ack "auto" asks for pre-settled deliveries."""
        chosen = [AtMostOnce() if ack == "auto" else AtLeastOnce(), *(options or [])]
        if durable:
            chosen.append(DurableSubscription())
        where = None if dynamic else address(kind, name)
        try:
            receiver = self.connection.create_receiver(
                where, credit=0, dynamic=dynamic, handler=self.inbox, name=link_name or durable, options=chosen
            )
        except (LinkDetached, proton.ProtonException) as error:
            raise Refused(str(error)) from None
        if credit:
            receiver.link.flow(credit)
        self.windows[receiver.link] = ack
        self.receivers.append(receiver)
        self._pump()
        return receiver

    def sender(self, kind, name, settled=False, options=None):
        where = None if kind is None else address(kind, name)
        key = (where, settled)
        if key not in self.senders:
            chosen = [AtMostOnce() if settled else AtLeastOnce(), *(options or [])]
            try:
                # A name of its own: proton would reuse "container-address" for both settle modes.
                self.senders[key] = self.connection.create_sender(where, name=fresh("link"), options=chosen)
            except (LinkDetached, proton.ProtonException) as error:
                raise Refused(str(error)) from None
        return self.senders[key]

    def begin(self, settle_before_discharge=False):
        container, connection = self.connection.container, self.connection.conn
        container.declare_transaction(connection, self.transactions, settle_before_discharge)
        try:
            self.connection.wait(lambda: self.transactions.open or self.transactions.ends, timeout=PATIENCE)
        except (LinkDetached, ConnectionException) as error:
            raise Refused(str(error)) from None
        if self.transactions.ends:
            raise Refused(str(self.transactions.ends.pop()))
        return self.transactions.open.pop()

    def _end(self, wanted):
        try:
            self.connection.wait(lambda: self.transactions.ends, timeout=PATIENCE)
        except (LinkDetached, ConnectionException) as error:
            raise Refused(str(error)) from None
        end = self.transactions.ends.pop()
        if end != wanted:
            raise Refused(str(end))

    def commit(self, transaction):
        transaction.commit()
        self._end("committed")

    def abort(self, transaction):
        transaction.abort()
        self._end("aborted")

    def publish(self, kind, name, body, props=None, confirm=True, message=None, transaction=None):
        message = message or self.message(body, props)
        sender = self.sender(kind, name, settled=not confirm and transaction is None)
        if transaction is not None:
            delivery = transaction.send(sender.link, message)
            if confirm:
                self.connection.wait(lambda: delivery.settled, timeout=PATIENCE)
            return
        try:
            if confirm:
                delivery = sender.send(message, timeout=PATIENCE)
                if delivery.remote_state != Delivery.ACCEPTED:
                    raise Refused(str(delivery.remote_state))
            else:
                sender.link.send(message)
                self._pump()
        except SendException as error:
            raise Refused(str(error.state)) from None
        except (LinkDetached, ConnectionException, SessionEnded) as error:
            self.senders.clear()
            raise Refused(str(error)) from None

    @staticmethod
    def message(body, props=None):
        message = Message(body=body, inferred=True)
        if props is None:
            return message
        if props.content_type is not None:
            message.content_type = symbol(props.content_type)
        if props.correlation_id is not None:
            message.correlation_id = props.correlation_id
        if props.reply_to is not None:
            message.reply_to = address(*props.reply_to)
        if props.message_id is not None:
            message.id = props.message_id
        if props.priority is not None:
            message.priority = props.priority
        if props.ttl_ms is not None:
            message.ttl = props.ttl_ms / 1000
        if props.durable is not None:
            message.durable = props.durable
        if props.app:
            message.properties = dict(props.app)
        return message

    def receive(self, timeout=PATIENCE):
        try:
            self.connection.wait(lambda: self.inbox.incoming, timeout=timeout)
        except proton.Timeout:
            raise Nothing(f"AMQP 1.0: nothing within {timeout} s") from None
        body, message, delivery, link = self.inbox.incoming.popleft()
        if self.windows.get(link) == "auto":
            link.flow(1)
            self._pump(1)
        # An absent symbol comes out of proton as symbol("None").
        text = lambda value: None if value is None or str(value) == "None" else str(value)
        props = Props(
            content_type=text(message.content_type),
            correlation_id=_plain(message.correlation_id),
            reply_to=message.reply_to,
            message_id=_plain(message.id),
            priority=message.priority,
            ttl_ms=round(message.ttl * 1000) or None,
            durable=message.durable,
            app=dict(message.properties or {}),
        )
        annotations = message.annotations or {}
        return Received(
            body=body,
            props=props,
            address=text(message.address) or (link.remote_source.address or ""),
            redelivered=not message.first_acquirer or message.delivery_count > 0,
            attempts=message.delivery_count,
            death=death_from_flat(lambda key: annotations.get(symbol(key))),
            retained=None,
            raw=(message, delivery, link),
        )

    def _settle(self, received, state=None):
        _message, delivery, link = received.raw
        if state is not None:
            delivery.update(state)
        delivery.settle()
        link.flow(1)
        self._pump()

    def accept(self, received, transaction=None):
        if transaction is None:
            self._settle(received, Delivery.ACCEPTED)
            return
        _message, delivery, link = received.raw
        transaction.accept(delivery)
        link.flow(1)
        self._pump()

    def reject(self, received):
        self._settle(received, Delivery.REJECTED)

    def release(self, received):
        self._settle(received, Delivery.RELEASED)

    def modify(self, received, failed=True, undeliverable=False):
        delivery = received.raw[1]
        delivery.local.failed = failed
        delivery.local.undeliverable = undeliverable
        self._settle(received, Delivery.MODIFIED)

    def drain(self, receiver, credit, timeout=PATIENCE):
        """Asks for up to `credit` and waits until the sender says that there is no more."""
        before = self.inbox.drained
        receiver.link.drain(credit)
        self.connection.wait(lambda: receiver.link.credit == 0 or self.inbox.drained > before, timeout=timeout)

    def drop_connection(self):
        self.dropped = True
        transport = self.connection.conn.transport
        try:
            transport._selectable._delegate.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.closing = True
        try:
            self._pump(5)
        except proton.ProtonException:
            pass

    def close(self):
        if self.dropped:
            return
        try:
            self.connection.close()
        except (proton.ProtonException, AttributeError):
            pass


def _plain(value):
    if value is None:
        return None
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).decode(errors="backslashreplace")
    return str(value)


__all__ = ["Amqp10Client", "address"]
