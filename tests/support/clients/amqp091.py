"""AMQP 0-9-1 over pika, blocking: one channel in confirm mode to publish, one to consume."""

import collections
import socket

import pika
from pika import exceptions

from support.clients.common import CAUSES_0_9_1, Death, Nothing, Props, Received, Refused
from support.names import fresh
from support.wait import PATIENCE


def key(name):
    """A topic as routing or binding key: words by dots; a dot inside a word is escaped."""
    return name.replace(".", "%2E").replace("/", ".")


def binding_key(name):
    """A filter written with MQTT's wildcards as a binding key."""
    return key(name).replace("+", "*")


def address(kind, name):
    """(exchange, routing key) of a publish."""
    if kind == "exchange":
        exchange, _, routing = name.partition("/")
        return exchange, routing
    return {
        "topic": lambda: ("amq.topic", key(name)),
        "queue": lambda: ("", name),
        "client": lambda: ("p2p", name),
        "raw": lambda: ("", name),
    }[kind]()


class Amqp091Client:
    def __init__(self, broker, user="guest", password="guest", vhost="/", heartbeat=0, **options):
        parameters = pika.ConnectionParameters(
            broker.host,
            broker.ports["amqp"],
            vhost,
            pika.PlainCredentials(user, password),
            heartbeat=heartbeat,
            socket_timeout=PATIENCE,
            stack_timeout=PATIENCE,
            blocked_connection_timeout=PATIENCE,
            **options,
        )
        try:
            self.connection = pika.BlockingConnection(parameters)
        except exceptions.AMQPConnectionError as error:
            raise Refused(repr(error)) from None
        self.channel = self.connection.channel()
        self._publisher = None
        self.inbox = collections.deque()
        self.cancelled = []
        self.channel.add_on_cancel_callback(self.cancelled.append)

    @property
    def publisher(self):
        if self._publisher is None or not self._publisher.is_open:
            self._publisher = self.connection.channel()
            self._publisher.confirm_delivery()
        return self._publisher

    # Definitions.

    def declare_queue(self, name, arguments=None, **flags):
        flags.setdefault("durable", True)
        return self.channel.queue_declare(name, arguments=arguments, **flags).method

    def queue_exists(self, name):
        probe = self.connection.channel()
        try:
            probe.queue_declare(name, passive=True)
        except exceptions.ChannelClosedByBroker as error:
            assert error.reply_code == 404, error
            return False
        probe.close()
        return True

    def bind_topic(self, queue, name):
        self.channel.queue_bind(queue, "amq.topic", binding_key(name))

    # Verbs.

    def subscribe(self, kind, name, ack="client", credit=None, durable=None, arguments=None, **_):
        """A queue is declared unless it is there; a topic or exchange gets a queue of its own, or that named `durable`."""
        if credit is not None:
            self.channel.basic_qos(prefetch_count=credit)
        queue = name
        if kind in ("topic", "exchange"):
            exclusive = durable is None
            queue = self.channel.queue_declare(
                durable or "", exclusive=exclusive, durable=not exclusive, arguments=arguments
            ).method.queue
            if kind == "topic":
                self.bind_topic(queue, name)
            else:
                exchange, routing = address(kind, name)
                self.channel.queue_bind(queue, exchange, routing)
        elif kind == "queue" and not self.queue_exists(name):
            self.declare_queue(name, arguments)
        elif kind == "client":
            raise ValueError("0-9-1 has no client address to consume from")
        try:
            tag = self.channel.basic_consume(queue, self._on_message, auto_ack=ack == "auto")
        except exceptions.ChannelClosedByBroker as error:
            raise Refused(str(error)) from None
        self.queue = queue
        return tag

    def _on_message(self, _channel, method, properties, body):
        self.inbox.append((method, properties, body))

    def publish(self, kind, name, body, props=None, confirm=True, properties=None, mandatory=False):
        exchange, routing = address(kind, name)
        properties = properties or self._properties(props)
        try:
            if confirm:
                self.publisher.basic_publish(exchange, routing, body, properties, mandatory)
            else:
                self.channel.basic_publish(exchange, routing, body, properties, mandatory)
        except (exceptions.NackError, exceptions.UnroutableError) as error:
            raise Refused(repr(error)) from None
        except exceptions.ChannelClosedByBroker as error:
            raise Refused(str(error)) from None

    @staticmethod
    def _properties(props):
        if props is None:
            return None
        optional = lambda value: None if value is None else str(value)
        reply_to = props.reply_to
        if isinstance(reply_to, tuple):
            assert reply_to[0] in ("queue", "raw"), "a reply-to of 0-9-1 is a queue name"
            reply_to = reply_to[1]
        return pika.BasicProperties(
            content_type=props.content_type,
            correlation_id=props.correlation_id,
            reply_to=reply_to,
            message_id=props.message_id,
            priority=props.priority,
            expiration=optional(props.ttl_ms),
            delivery_mode=None if props.durable is None else 2 if props.durable else 1,
            headers=dict(props.app) or None,
        )

    def receive(self, timeout=PATIENCE):
        from support.broker import deadline

        left = deadline(timeout)
        while not self.inbox:
            remaining = left()
            if remaining <= 0:
                raise Nothing(f"AMQP 0-9-1: nothing within {timeout} s")
            self.connection.process_data_events(time_limit=min(remaining, 0.5))
        return self._received(*self.inbox.popleft())

    def get(self, queue, auto_ack=False):
        """basic.get; None if the queue is empty."""
        method, properties, body = self.channel.basic_get(queue, auto_ack=auto_ack)
        return None if method is None else self._received(method, properties, body)

    @staticmethod
    def _received(method, properties, body):
        headers = properties.headers or {}
        deaths = headers.get("x-death") or []
        death = None
        if deaths:
            reason = deaths[0]["reason"]
            death = Death(CAUSES_0_9_1.get(reason, reason), deaths[0]["queue"], deaths[0]["count"])
        props = Props(
            content_type=properties.content_type,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            message_id=properties.message_id,
            priority=properties.priority,
            ttl_ms=None if properties.expiration is None else int(properties.expiration),
            durable=properties.delivery_mode == 2,
            app=headers,
        )
        return Received(
            body=body,
            props=props,
            address=method.routing_key,
            redelivered=method.redelivered,
            attempts=headers.get("x-delivery-count"),
            death=death,
            retained=None,
            raw=(method, properties),
        )

    def accept(self, received):
        self.channel.basic_ack(received.raw[0].delivery_tag)

    def reject(self, received):
        self.channel.basic_reject(received.raw[0].delivery_tag, requeue=False)

    def release(self, received):
        self.channel.basic_nack(received.raw[0].delivery_tag, requeue=True)

    def drop_connection(self):
        try:
            self.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        try:
            self.connection.process_data_events(time_limit=1)
        except exceptions.AMQPError:
            pass

    def close(self):
        try:
            self.connection.close()
        except (exceptions.AMQPError, OSError):
            pass


__all__ = ["Amqp091Client", "address", "binding_key", "fresh", "key"]
