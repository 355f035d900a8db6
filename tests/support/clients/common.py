"""What the drivers have in common: the shape of a message as a test sees it."""

import dataclasses
import typing


class Refused(Exception):
    """The broker said no to a publish or a subscription; `str()` is what it said."""


class Nothing(AssertionError):
    """No message came in time."""


@dataclasses.dataclass
class Props:
    """The properties a test sets, in no protocol's words. What a protocol cannot say, its driver leaves out."""

    content_type: str | None = None
    correlation_id: str | None = None
    #: (kind, name) when set by a test; the protocol's own spelling when received.
    reply_to: typing.Any = None
    message_id: str | None = None
    priority: int | None = None
    ttl_ms: int | None = None
    durable: bool | None = None
    app: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Death:
    """The newest line of a message's dead-letter history."""

    cause: str
    queue: str
    count: int


@dataclasses.dataclass
class Received:
    """One message as a receiver saw it. None where the protocol cannot say."""

    body: bytes
    props: Props
    #: Where it came by, in the receiver's own spelling.
    address: str
    redelivered: bool | None
    attempts: int | None
    death: Death | None
    retained: bool | None
    #: The library's own objects, for tests of one protocol and for settling.
    raw: typing.Any


def take(client, count):
    """The bodies of the next messages, each accepted."""
    found = []
    for _ in range(count):
        received = client.receive()
        client.accept(received)
        found.append(received.body)
    return found


#: The reasons RabbitMQ writes into x-death, and the causes they stand for.
CAUSES_0_9_1 = {
    "rejected": "rejected",
    "maxlen": "queue-length",
    "expired": "expired",
    "delivery_limit": "read-count",
}


def death_from_flat(get):
    """The history as MQTT 5, STOMP and AMQP 1.0 show it: x-death-cause, x-death-queue, x-death-count."""
    cause = get("x-death-cause")
    if cause is None:
        return None
    return Death(str(cause), str(get("x-death-queue")), int(get("x-death-count")))
