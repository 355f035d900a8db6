"""Dead letters: the six causes, and what each protocol can read of them."""

import pytest

from support.clients import Props, Refused
from support.wait import settled

READERS = ("mqtt5", "stomp", "amqp10", "amqp091")


def declare(client, name, **arguments):
    """A queue with arguments as 0-9-1 spells them: max_length=5 is x-max-length."""
    spelled = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    client("amqp091").declare_queue(name, arguments=spelled)


def read_death(broker, client, dead_letters, reader="amqp091"):
    settled(lambda: broker.counts(dead_letters)[0] > 0, True, f"a dead letter waits in {dead_letters}")
    undertaker = client(reader)
    undertaker.subscribe("queue", dead_letters, ack="client", credit=1)
    received = undertaker.receive()
    undertaker.accept(received)
    undertaker.close()
    return received


@pytest.mark.parametrize("reader", READERS)
def test_rejected(broker, client, fresh, reader):
    queue = fresh("q")
    declare(client, queue)
    worker = client("amqp091")
    worker.subscribe("queue", queue)
    client("stomp").publish("queue", queue, b"bad")
    worker.reject(worker.receive())
    dead = read_death(broker, client, f"{queue}.dlq", reader)
    assert (dead.body, dead.death.cause, dead.death.queue, dead.death.count) == (b"bad", "rejected", queue, 1)


@pytest.mark.parametrize("reader", READERS)
def test_queue_length(broker, client, fresh, reader):
    queue = fresh("q")
    declare(client, queue, max_length=5, overflow="drop-head")
    boss = client("stomp")
    for number in range(8):
        boss.publish("queue", queue, b"%d" % number)
    settled(
        lambda: (broker.counts(queue), broker.counts(f"{queue}.dlq")), ((5, 0), (3, 0)), "the three oldest fell out"
    )
    dead = read_death(broker, client, f"{queue}.dlq", reader)
    assert (dead.body, dead.death.cause, dead.death.queue, dead.death.count) == (b"0", "queue-length", queue, 1)


@pytest.mark.parametrize("sender, reader", [(s, "amqp091") for s in READERS] + [("amqp091", r) for r in READERS[:-1]])
def test_message_length(broker, client, fresh, sender, reader):
    queue = fresh("q")
    declare(client, queue, max_message_bytes=1024)
    boss = client(sender)
    try:
        boss.publish("queue", queue, b"x" * 2048)
    except Refused:
        pass
    # Whoever was told, the letter is kept; and the connection of those that can be told goes on.
    dead = read_death(broker, client, f"{queue}.dlq", reader)
    assert (dead.body, dead.death.cause, dead.death.queue) == (b"x" * 2048, "message-length", queue)
    if sender != "stomp":
        # Properties count too, so the body must leave them room.
        boss.publish("queue", queue, b"y" * 512)
        settled(lambda: broker.counts(queue), (1, 0), "what fits is taken")


@pytest.mark.parametrize("reader", READERS)
def test_read_count(broker, client, fresh, reader):
    queue = fresh("q")
    declare(client, queue, delivery_limit=2)
    client("stomp").publish("queue", queue, b"poison")
    # The limit is the number of failed attempts that are forgiven; the one beyond it makes the dead letter.
    for attempt in range(3):
        worker = client("stomp")
        worker.subscribe("queue", queue)
        received = worker.receive()
        assert received.attempts in (None, attempt)
        worker.drop_connection()
    settled(lambda: broker.counts(queue), (0, 0), "not delivered again")
    dead = read_death(broker, client, f"{queue}.dlq", reader)
    assert (dead.body, dead.death.cause, dead.death.queue) == (b"poison", "read-count", queue)


@pytest.mark.parametrize("reader", READERS)
def test_expired_goes_where_the_queue_says(broker, client, fresh, reader):
    queue, target = fresh("q"), fresh("late")
    declare(client, target)
    declare(client, queue, message_ttl=50, dead_letter_exchange="", dead_letter_routing_key=target)
    client("stomp").publish("queue", queue, b"stale")
    dead = read_death(broker, client, target, reader)
    assert (dead.body, dead.death.cause, dead.death.queue, dead.death.count) == (b"stale", "expired", queue, 1)


@pytest.mark.parametrize("sender", ("mqtt5", "stomp", "amqp10", "amqp091"))
def test_own_time_to_live_expires_too(broker, client, fresh, sender):
    queue, target = fresh("q"), fresh("late")
    declare(client, target)
    declare(client, queue, dead_letter_exchange="", dead_letter_routing_key=target)
    client(sender).publish("queue", queue, b"stale", Props(ttl_ms=100))
    dead = read_death(broker, client, target)
    assert (dead.body, dead.death.cause) == (b"stale", "expired")
    # It must not expire again: the time to live is gone, and kept in the history.
    assert dead.props.ttl_ms is None
    history = dead.raw[1].headers["x-death"][0]
    assert history["original-expiration"] == ("1000" if sender == "mqtt5" else "100")


@pytest.mark.parametrize("reader", READERS)
def test_no_queue(broker, client, fresh, reader):
    """Nobody asked to have it back, so it is not refused. RabbitMQ would drop it; here it is kept."""
    missing = fresh("missing")
    before = sum(broker.counts("mynah.dlq"))
    client("amqp091").publish("queue", missing, missing.encode())
    settled(lambda: sum(broker.counts("mynah.dlq")), before + 1, "one more without a queue")
    undertaker = client(reader)
    undertaker.subscribe("queue", "mynah.dlq", ack="client")
    dead = undertaker.receive()
    undertaker.accept(dead)
    assert (dead.body, dead.death.cause, dead.death.queue) == (missing.encode(), "no-queue", missing)
    assert broker.queue(missing) is None


def test_a_queue_that_must_exist_is_not_made_by_sending(broker, client, fresh):
    """STOMP /amq/queue/<name>: the sender is told."""
    missing = fresh("missing")
    with pytest.raises(Refused):
        client("stomp").publish("existing", missing, b"x")
    assert broker.queue(missing) is None


def test_without_creation_by_use_a_missing_queue_is_a_cause(own_broker, client, fresh):
    strict = own_broker({"queues": {"auto_create": False, "no_queue_dead_letters": "lost.letters"}})
    client("amqp091", to=strict).declare_queue("lost.letters")
    missing = fresh("missing")
    for sender in ("mqtt311", "mqtt5", "stomp", "amqp091"):
        try:
            client(sender, to=strict).publish("queue", missing, sender.encode())
        except Refused:
            continue
    settled(lambda: strict.counts("lost.letters")[0] > 0, True, "kept as dead letters")
    dead = client("amqp091", to=strict).get("lost.letters")
    assert (dead.death.cause, dead.death.queue) == ("no-queue", missing)
    assert strict.queue(missing) is None


def test_an_expired_message_without_a_target_is_gone(broker, client, fresh):
    queue = fresh("q")
    declare(client, queue, message_ttl=30)
    client("stomp").publish("queue", queue, b"stale")
    settled(lambda: broker.counts(queue), (0, 0), "expired")
    assert broker.queue(f"{queue}.dlq") is None


def test_an_own_dead_letter_exchange(broker, client, fresh):
    """Rejected by one queue, into an exchange, into another queue, with the history of both."""
    queue, target, exchange = fresh("q"), fresh("dead"), fresh("dlx")
    admin = client("amqp091")
    admin.channel.exchange_declare(exchange, "topic")
    admin.declare_queue(target)
    admin.channel.queue_bind(target, exchange, "dead.#")
    declare(client, queue, dead_letter_exchange=exchange, dead_letter_routing_key="dead.letters")
    worker = client("amqp10")
    worker.subscribe("queue", queue)
    client("mqtt5").publish("queue", queue, b"bad", Props(app={"k": "v"}))
    worker.reject(worker.receive())
    dead = read_death(broker, client, target)
    assert (dead.body, dead.death.cause, dead.death.queue) == (b"bad", "rejected", queue)
    assert dead.props.app["k"] == "v"
    assert dead.address == "dead.letters"


def test_the_history_counts_and_keeps_the_order(broker, client, fresh):
    """A retry loop: rejected, waits in a delay queue until it expires, comes back, is rejected again."""
    queue, delay = fresh("q"), fresh("delay")
    declare(client, queue, dead_letter_exchange="", dead_letter_routing_key=delay)
    declare(client, delay, message_ttl=30, dead_letter_exchange="", dead_letter_routing_key=queue)
    worker = client("amqp091")
    worker.subscribe("queue", queue)
    client("stomp").publish("queue", queue, b"retry")
    for attempt in range(3):
        received = worker.receive()
        deaths = received.raw[1].headers["x-death"] if attempt else []
        seen = [(line["queue"], line["reason"], line["count"]) for line in deaths]
        assert seen == ([(delay, "expired", attempt), (queue, "rejected", attempt)] if attempt else [])
        worker.reject(received) if attempt < 2 else worker.accept(received)
    settled(lambda: (broker.counts(queue), broker.counts(delay)), ((0, 0), (0, 0)), "all is done")


@pytest.mark.parametrize("reader", READERS)
def test_a_history_of_two_lines(broker, client, fresh, reader):
    """Rejected, then expired: the newest is what everybody sees first, the first is not forgotten."""
    queue, middle, last = fresh("q"), fresh("middle"), fresh("last")
    declare(client, last)
    declare(client, middle, message_ttl=20, dead_letter_exchange="", dead_letter_routing_key=last)
    declare(client, queue, dead_letter_exchange="", dead_letter_routing_key=middle)
    worker = client("stomp")
    worker.subscribe("queue", queue)
    worker.publish("queue", queue, b"bad")
    worker.reject(worker.receive())
    dead = read_death(broker, client, last, reader)
    assert (dead.death.cause, dead.death.queue, dead.death.count) == ("expired", middle, 1)
    if reader == "mqtt5":
        pairs = dead.raw.properties.UserProperty
        lines = [value for key, value in pairs if key in ("x-death-cause", "x-death-queue")]
        assert lines == ["expired", middle, "rejected", queue]
    elif reader == "stomp":
        headers = dead.raw.headers
        assert (headers["x-first-death-cause"], headers["x-first-death-queue"]) == ("rejected", queue)
    elif reader == "amqp10":
        annotations = {str(key): value for key, value in dead.raw[0].annotations.items()}
        lines = [{str(key): value for key, value in line.items()} for line in annotations["x-opt-deaths"]]
        assert [(line["reason"], line["queue"]) for line in lines] == [("expired", middle), ("rejected", queue)]
    else:
        headers = dead.raw[1].headers
        assert [(line["reason"], line["queue"]) for line in headers["x-death"]] == [
            ("expired", middle),
            ("rejected", queue),
        ]
        assert (headers["x-first-death-reason"], headers["x-first-death-queue"]) == ("rejected", queue)
        assert headers["x-death-cause"] == "expired"


def test_a_circle_without_rejection_ends(broker, client, fresh):
    one, two = fresh("one"), fresh("two")
    declare(client, one, message_ttl=20, dead_letter_exchange="", dead_letter_routing_key=two)
    declare(client, two, message_ttl=20, dead_letter_exchange="", dead_letter_routing_key=one)
    client("stomp").publish("queue", one, b"dizzy")
    settled(lambda: (broker.counts(one), broker.counts(two)), ((0, 0), (0, 0)), "it does not go round for ever")


def test_x_opt_deaths_in_amqp_1_0(broker, client, fresh):
    queue = fresh("q")
    declare(client, queue)
    worker = client("amqp10")
    worker.subscribe("queue", queue)
    client("amqp10").publish("queue", queue, b"bad")
    worker.reject(worker.receive())
    dead = read_death(broker, client, f"{queue}.dlq", "amqp10")
    message = dead.raw[0]
    deaths = {str(key): value for key, value in message.annotations.items()}["x-opt-deaths"]
    line = {str(key): value for key, value in list(deaths)[0].items()}
    assert line["queue"] == queue and line["reason"] == "rejected" and line["count"] == 1
