"""Direct to a client: `$P2P/<client id>`, `/p2p/<id>`, `p2p/<id>`, exchange `p2p`; delivered without a SUBSCRIBE."""

import pytest

from support.clients import Refused
from support.wait import settled

SENDERS = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")


@pytest.mark.parametrize("version", ("mqtt311", "mqtt5"))
@pytest.mark.parametrize("sender", SENDERS)
def test_only_the_named_client_gets_it(client, fresh, sender, version):
    device, other = client(version), client(version)
    other.subscribe("topic", "#", ack="auto")
    client(sender).publish("client", device.client_id, b"for you")
    received = device.receive()
    assert received.body == b"for you"
    # The other one sees what is published for all, and nothing before it.
    topic = fresh("t")
    client("stomp").publish("topic", topic, b"for all")
    while (seen := other.receive()).address != topic:
        assert not seen.address.startswith("$P2P"), seen
    assert seen.body == b"for all"


@pytest.mark.parametrize("sender", SENDERS)
def test_a_persistent_session_gets_it_later(client, fresh, sender):
    identity = fresh("device")
    device = client("mqtt5", client_id=identity, clean=False, expiry=300)
    device.close()
    client(sender).publish("client", identity, b"while away")
    device = client("mqtt5", client_id=identity, clean=False, expiry=300)
    assert device.session_present
    received = device.receive()
    assert received.body == b"while away"
    device.accept(received)


def test_to_an_unknown_client_is_a_dead_letter(broker, client, fresh):
    nobody = fresh("nobody")
    before = sum(broker.counts("mynah.dlq"))
    try:
        client("amqp091").publish("client", nobody, b"hello?")
    except Refused:
        pass
    settled(lambda: sum(broker.counts("mynah.dlq")), before + 1, "kept as a dead letter")


def test_nobody_else_can_listen(client, fresh):
    spy = client("mqtt5")
    with pytest.raises(Refused):
        spy.subscribe("raw", "$P2P/#")
    with pytest.raises(Refused):
        spy.subscribe("raw", "$P2P/somebody")
