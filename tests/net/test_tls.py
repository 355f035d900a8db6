"""TLS listeners: server and client certificates, names as users, new certificates without a restart."""

import os
import socket
import ssl
import time

import pytest

from support.certificates import Authority
from support.clients.common import Refused
from support.clients.mqtt import MqttClient
from support.wait import until


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "certificates")


@pytest.fixture
def secure(own_broker, authority):
    """Starts a broker with MQTT over TLS on `one` and WebSocket over TLS on `two`."""

    def start(rules=(), **tls):
        cert, key = authority.issue("127.0.0.1", server=True, stem="server")

        def changes(ports):
            settings = {"cert": str(cert), "key": str(key), **tls}
            return {
                "listeners": [
                    {"name": "mqtts", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['one']}", "tls": settings},
                    {"name": "wss", "protocol": "websocket", "bind": f"127.0.0.1:{ports['two']}", "tls": settings},
                ],
                "auth": {"anonymous": "never", "rules": list(rules)},
            }

        return own_broker(changes)

    return start


def context(authority, client=None):
    made = ssl.create_default_context(cafile=str(authority.path))
    if client is not None:
        made.load_cert_chain(*map(str, client))
    return made


def login(broker):
    return {"user": broker.user, "password": broker.password}


@pytest.mark.parametrize("version", ["31", "311", "5"])
@pytest.mark.parametrize("place", [{"port": "one"}, {"port": "two", "path": "/mqtt"}], ids=["mqtts", "wss"])
def test_messages_of_every_size_pass(secure, authority, version, place):
    broker = secure()
    client = MqttClient(broker, version, tls=context(authority), **place, **login(broker))
    client.subscribe("topic", "t/#")
    for size in (0, 1, 125, 126, 16_384, 65_536, 1_000_000):
        body = os.urandom(size)
        client.publish("topic", "t/x", body)
        received = client.receive()
        client.accept(received)
        assert received.body == body
    client.close()


def test_a_stranger_certificate_is_refused_by_the_client(secure, tmp_path):
    broker = secure()
    other = Authority(tmp_path / "other", "Somebody else")
    with pytest.raises(ssl.SSLCertVerificationError):
        MqttClient(broker, tls=context(other), port="one", **login(broker))


def test_plain_bytes_end_the_connection_and_nothing_else(secure, authority):
    broker = secure()
    with socket.create_connection((broker.host, broker.ports["one"])) as plain:
        plain.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        plain.settimeout(5)
        data = plain.recv(100)
        # An alert at most, and no CONNACK.
        assert not data.startswith(b"\x20")
    MqttClient(broker, tls=context(authority), port="one", **login(broker)).close()


def test_client_certificates_are_required(secure, authority, tmp_path):
    broker = secure(client_ca=str(authority.path), client_cert="required")
    mine = authority.issue("sensor-1")
    MqttClient(broker, tls=context(authority, mine), port="one", **login(broker)).close()
    strange = Authority(tmp_path / "other").issue("sensor-1")
    for client in (None, strange):
        with pytest.raises((OSError, AssertionError, Refused)):
            MqttClient(broker, tls=context(authority, client), port="one", **login(broker))


@pytest.mark.parametrize("user_from, user", [("common_name", "sensor-1"), ("subject", "CN=sensor-1,O=Mynah")])
def test_the_certificate_names_the_user(secure, authority, user_from, user):
    rules = [{"allow": ["all"], "to": ["mine/#"], "users": [user]}]
    broker = secure(rules, client_ca=str(authority.path), client_cert="optional", user_from=user_from)
    certified = MqttClient(broker, tls=context(authority, authority.issue("sensor-1")), port="one")
    certified.publish("topic", "mine/x", b"x")
    with pytest.raises(Refused):
        certified.publish("topic", "other", b"x")
    certified.close()
    # It may say the same in CONNECT, where no password is needed then; another name needs one.
    mine = context(authority, authority.issue("sensor-1"))
    again = MqttClient(broker, tls=mine, port="one", user=user, password=None)
    again.publish("topic", "mine/x", b"x")
    again.close()
    with pytest.raises(Refused):
        MqttClient(broker, tls=mine, port="one", user="sensor-2", password=None)
    # Nobody vouches for who has none.
    with pytest.raises(Refused):
        MqttClient(broker, tls=context(authority), port="one")


def test_new_certificates_are_taken_without_a_restart(secure, authority):
    broker = secure()

    def serial():
        with socket.create_connection((broker.host, broker.ports["one"])) as plain:
            with context(authority).wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                return encrypted.getpeercert()["serialNumber"]

    before = serial()
    stays = MqttClient(broker, tls=context(authority), port="one", **login(broker))
    authority.issue("127.0.0.1", server=True, stem="server")
    until(lambda: serial() != before, "the new certificate")
    after = serial()
    # A file that is no certificate changes nothing, and says so.
    (authority.folder / "server.pem").write_text("nonsense")
    time.sleep(1.2)
    assert serial() == after
    assert "old ones are kept" in broker.log_path.read_text()
    broker.new_faults()
    stays.publish("topic", "t", b"still here")
    stays.close()


def test_a_missing_file_is_named_at_start(own_broker):
    with pytest.raises(AssertionError, match="cannot read /nowhere/key.pem"):
        own_broker(
            lambda ports: {
                "listeners": [
                    {
                        "name": "mqtts",
                        "protocol": "mqtt",
                        "bind": f"127.0.0.1:{ports['one']}",
                        "tls": {"cert": "/nowhere/cert.pem", "key": "/nowhere/key.pem"},
                    }
                ]
            }
        )
