"""Requests in one protocol, answers in another: the reply address of each is usable from each other one."""

import pika
import pytest
from proton import Message

from support.clients import Props

#: Requesters and how they name the place they wait at.
REQUESTERS = (
    "mqtt5-topic",
    "mqtt5-queue",
    "stomp-temp",
    "stomp-queue",
    "amqp10-dynamic",
    "amqp091-direct",
    "amqp091-queue",
)
WORKERS = ("mqtt5", "stomp", "amqp10", "amqp091")


class Requester:
    """Sends one request to a queue and waits for answers, in its protocol's usual way."""

    def __init__(self, client, fresh, style):
        self.protocol, self.style = style.split("-")
        self.client = client(self.protocol)
        self.name = fresh("replies")
        if style == "mqtt5-topic":
            self.reply_to = ("topic", f"{self.name}/answers")
            self.client.subscribe(*self.reply_to, ack="auto")
        elif style in ("mqtt5-queue", "stomp-queue", "amqp091-queue"):
            self.reply_to = ("queue", self.name)
            self.client.subscribe(*self.reply_to, ack="auto")
        elif style == "stomp-temp":
            self.reply_to = ("raw", f"/temp-queue/{self.name}")
        elif style == "amqp10-dynamic":
            receiver = self.client.subscribe(None, None, ack="auto", dynamic=True)
            self.reply_to = ("raw", receiver.link.remote_source.address)
            assert self.reply_to[1]
        elif style == "amqp091-direct":
            self.client.channel.basic_consume("amq.rabbitmq.reply-to", self.client._on_message, auto_ack=True)
            self.reply_to = None

    def ask(self, queue, body, correlation):
        if self.style == "direct":
            # Request and reply must use the same channel.
            properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=correlation)
            self.client.publish("queue", queue, body, properties=properties, confirm=False)
            return
        self.client.publish("queue", queue, body, Props(reply_to=self.reply_to, correlation_id=correlation))


def answer(worker, protocol, request, body):
    """Sends to the reply address exactly as the worker's protocol spells it."""
    reply_to, correlation = request.props.reply_to, request.props.correlation_id
    assert reply_to, "the request has no reply address"
    worker.publish("raw", reply_to, body, Props(correlation_id=correlation), confirm=False)


@pytest.mark.parametrize("worker_protocol", WORKERS)
@pytest.mark.parametrize("style", REQUESTERS)
def test_partial_answers_come_in_order(client, fresh, style, worker_protocol):
    queue = fresh("requests")
    client("amqp091").declare_queue(queue)
    worker = client(worker_protocol)
    worker.subscribe("queue", queue, ack="client")
    requester = Requester(client, fresh, style)
    requester.ask(queue, b"how far?", "corr-42")
    request = worker.receive()
    assert request.body == b"how far?"
    assert request.props.correlation_id == "corr-42"
    for body in (b"25 %", b"50 %", b"75 %", b"done"):
        answer(worker, worker_protocol, request, body)
    worker.accept(request)
    answers = [requester.client.receive() for _ in range(4)]
    assert [received.body for received in answers] == [b"25 %", b"50 %", b"75 %", b"done"]
    assert {received.props.correlation_id for received in answers} == {"corr-42"}


def test_many_requesters_and_workers_share_one_queue(client, fresh):
    """Router and dealer: no reply goes astray."""
    queue = fresh("requests")
    client("amqp091").declare_queue(queue)
    workers = [(protocol, client(protocol)) for protocol in ("stomp", "amqp10", "amqp091")]
    for _, worker in workers:
        worker.subscribe("queue", queue, ack="client", credit=2)
    requesters = [
        Requester(client, fresh, style)
        for style in ("mqtt5-topic", "stomp-temp", "amqp10-dynamic", "amqp091-direct", "mqtt5-queue")
    ]
    for number, requester in enumerate(requesters):
        requester.ask(queue, b"%d" % number, f"corr-{number}")
    done = 0
    from support.clients import Nothing

    while done < len(requesters):
        for protocol, worker in workers:
            try:
                request = worker.receive(timeout=0.05)
            except Nothing:
                continue
            answer(worker, protocol, request, b"re:" + request.body)
            worker.accept(request)
            done += 1
    for number, requester in enumerate(requesters):
        received = requester.client.receive()
        assert received.body == b"re:%d" % number
        assert received.props.correlation_id == f"corr-{number}"


def test_an_answer_to_a_requester_that_went_harms_nobody(client, fresh):
    queue = fresh("requests")
    client("amqp091").declare_queue(queue)
    requester = Requester(client, fresh, "amqp10-dynamic")
    requester.ask(queue, b"anyone?", "c")
    worker = client("amqp091")
    worker.subscribe("queue", queue)
    request = worker.receive()
    requester.client.drop_connection()
    answer(worker, "amqp091", request, b"too late")
    worker.accept(request)
    client("stomp").publish("queue", queue, b"next")
    assert worker.receive().body == b"next"


def test_amqp_1_0_answers_by_the_anonymous_terminus(client, fresh):
    """Libraries send replies over one link without a target; the message's `to` decides [AMQP 1.0 anonymous terminus]."""
    queue = fresh("requests")
    client("amqp091").declare_queue(queue)
    requester = Requester(client, fresh, "stomp-temp")
    requester.ask(queue, b"?", "c")
    worker = client("amqp10")
    worker.subscribe("queue", queue)
    request = worker.receive()
    reply = Message(body=b"!", inferred=True, address=request.props.reply_to, correlation_id="c")
    worker.publish(None, None, None, message=reply)
    worker.accept(request)
    assert requester.client.receive().body == b"!"
