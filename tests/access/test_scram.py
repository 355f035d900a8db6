"""SCRAM-SHA-256 in AUTH packets [MQTT-4.12.0-1, MQTT-4.12.0-2, MQTT-4.12.0-3, MQTT-4.12.0-4, MQTT-4.12.0-7, MQTT-4.12.1-1, MQTT-3.15.2-1,
RFC 5802, RFC 7677]. No client library has it, so the client's half is here."""

import base64
import hashlib
import hmac
import os
import subprocess

import pytest

from support.broker import binary
from support.clients import connect as open_client
from support.packets import AUTH, DISCONNECT, V5, Raw, connect, packet, properties

METHOD, DATA = 0x15, 0x16
CONTINUE, AGAIN = 0x18, 0x19


class Scram:
    """The client's half of one exchange."""

    def __init__(self, user, password):
        self.user, self.password = user, password.encode()
        self.nonce = base64.b64encode(os.urandom(12)).decode()
        self.bare = f"n={user},r={self.nonce}"

    def first(self):
        return f"n,,{self.bare}".encode()

    def final(self, challenge):
        fields = dict(field.split("=", 1) for field in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce) and len(fields["r"]) > len(self.nonce) + 10
        assert int(fields["i"]) >= 4096
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        last = f"c=biws,r={fields['r']}"
        said = f"{self.bare},{challenge.decode()},{last}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        proof = bytes(one ^ other for one, other in zip(client_key, signature))
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        self.expected = b"v=" + base64.b64encode(hmac.digest(server_key, said, "sha256"))
        return f"{last},p={base64.b64encode(proof).decode()}".encode()


def auth(reason, data, method="SCRAM-SHA-256"):
    return packet(AUTH, bytes([reason]) + properties([(METHOD, method), (DATA, data)]))


def login(broker, user, password, **options):
    """The connection and the packet that ended the login."""
    scram = Scram(user, password)
    raw = Raw(broker, login=False)
    raw.send(connect(V5, props=[(METHOD, "SCRAM-SHA-256"), (DATA, scram.first())], **options))
    challenge = raw.expect_kind(AUTH)
    assert challenge.reason == CONTINUE and challenge.prop(METHOD) == "SCRAM-SHA-256"
    raw.send(auth(CONTINUE, scram.final(challenge.prop(DATA))))
    return raw, raw.read(), scram


@pytest.fixture(scope="module")
def stored():
    made = subprocess.run(
        [binary(), "hash-password", "--scram"], input="tr0ub4dor", text=True, capture_output=True, check=True
    )
    assert made.stdout.startswith("SCRAM-SHA-256$4096:")
    return made.stdout.strip()


@pytest.fixture(scope="module")
def ruled(brokers, stored):
    auth = {
        "anonymous": "never",
        "failures_max": 0,
        "users": [
            {"name": "clear", "password": "in the clear"},
            {"name": "stored", "password_hash": stored},
        ],
    }
    return brokers.start({"auth": auth})


@pytest.mark.parametrize(("user", "password"), [("clear", "in the clear"), ("stored", "tr0ub4dor")])
def test_both_sides_prove_themselves(ruled, user, password):
    raw, connack, scram = login(ruled, user, password)
    assert connack.reason == 0 and connack.prop(METHOD) == "SCRAM-SHA-256"
    assert connack.prop(DATA) == scram.expected
    raw.ping()
    raw.close()
    # The same password the usual way, and over another protocol.
    for protocol in ("mqtt5", "amqp091"):
        client = open_client(protocol, ruled, user=user, password=password)
        client.publish("topic", "t", b"x")
        client.close()


@pytest.mark.parametrize(("user", "password"), [("clear", "wrong"), ("stored", "wrong"), ("nobody", "x")])
def test_a_wrong_proof_is_refused_like_an_unknown_user(ruled, user, password):
    raw, connack, _ = login(ruled, user, password)
    assert connack.reason == 0x86 and connack.prop(DATA) is None
    raw.expect_close()


def test_the_first_message_may_come_in_auth(ruled):
    scram = Scram("clear", "in the clear")
    raw = Raw(ruled, login=False)
    raw.send(connect(V5, props=[(METHOD, "SCRAM-SHA-256")]))
    empty = raw.expect_kind(AUTH)
    assert empty.prop(DATA) is None
    raw.send(auth(CONTINUE, scram.first()))
    raw.send(auth(CONTINUE, scram.final(raw.expect_kind(AUTH).prop(DATA))))
    assert raw.read().reason == 0


def test_what_does_not_belong_there(ruled):
    first = Scram("clear", "x").first()
    for sent, reason in [
        (auth(CONTINUE, b"x", "OTHER"), 0x82),  # [MQTT-4.12.0-5]
        (auth(AGAIN, b"x"), 0x82),
        (auth(0, b"x"), 0x82),
        (packet(12), 0x82),  # a PINGREQ [MQTT-3.1.2-30]
        (packet(AUTH, b"\x18\x00", 1), 0x81),  # [MQTT-3.15.1-1]
    ]:
        raw = Raw(ruled, login=False)
        raw.send(connect(V5, props=[(METHOD, "SCRAM-SHA-256"), (DATA, first)]))
        raw.expect_kind(AUTH)
        raw.send(sent)
        assert raw.read().reason == reason, sent
        raw.expect_close()
    for props, reason in [([(METHOD, "GS2-KRB5")], 0x8C), ([(DATA, b"x")], 0x82)]:
        raw = Raw(ruled, login=False)
        raw.send(connect(V5, props=props))
        assert raw.read().reason == reason
        raw.expect_close()


def test_again_while_connected(ruled):
    raw, connack, _ = login(ruled, "clear", "in the clear")
    assert connack.reason == 0
    scram = Scram("clear", "in the clear")
    raw.send(auth(AGAIN, scram.first()))
    challenge = raw.expect_kind(AUTH)
    # Other packets go on meanwhile [MQTT 5.0 4.12.1].
    raw.ping()
    raw.send(auth(CONTINUE, scram.final(challenge.prop(DATA))))
    done = raw.expect_kind(AUTH)
    assert done.reason == 0 and done.prop(DATA) == scram.expected
    for user, password in (("clear", "wrong"), ("stored", "tr0ub4dor")):
        raw, _, _ = login(ruled, "clear", "in the clear")
        scram = Scram(user, password)
        raw.send(auth(AGAIN, scram.first()))
        raw.send(auth(CONTINUE, scram.final(raw.expect_kind(AUTH).prop(DATA))))
        assert raw.expect_kind(DISCONNECT).reason == 0x87  # [MQTT-4.12.1-2]
        raw.expect_close()


def test_auth_without_a_method_in_connect(ruled):
    raw = Raw(ruled, user="clear", password="in the clear")
    raw.send(auth(AGAIN, Scram("clear", "x").first()))
    assert raw.expect_kind(DISCONNECT).reason == 0x82  # [MQTT-4.12.0-6]
    raw.expect_close()
