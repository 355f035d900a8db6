"""Users made over the API: they log in with every protocol, are kept, and can be deleted."""

import json

import pytest

from support.clients import connect
from support.wait import until

PROTOCOLS = ("mqtt5", "stomp", "amqp10", "amqp091")


def put(broker, name, expected=201, **user):
    status, raw = broker.http("PUT", f"/api/v1/users/{name}", user)
    assert status == expected, raw


def can_log_in(protocol, broker, user, password):
    try:
        connect(protocol, broker, user=user, password=password).close()
        return True
    except Exception:
        return False


@pytest.fixture
def closed(own_broker):
    return own_broker({"auth": {"anonymous": "never"}})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_user_logs_in_until_it_is_deleted(closed, protocol):
    assert not can_log_in(protocol, closed, "alice", "secret")
    put(closed, "alice", password="secret")
    assert can_log_in(protocol, closed, "alice", "secret")
    assert not can_log_in(protocol, closed, "alice", "wrong")
    put(closed, "alice", 204, password="other")
    assert not can_log_in(protocol, closed, "alice", "secret")
    assert can_log_in(protocol, closed, "alice", "other")
    assert closed.http("DELETE", "/api/v1/users/alice")[0] == 204
    assert not can_log_in(protocol, closed, "alice", "other")


def test_deleting_closes_its_connections(closed):
    put(closed, "alice", password="secret")
    client = connect("stomp", closed, user="alice", password="secret")
    other = connect("stomp", closed)
    assert closed.http("DELETE", "/api/v1/users/alice")[0] == 204
    until(lambda: [each["user"] for each in closed.api("/connections")] == ["guest"], "its connection is closed")
    other.close()
    client.drop_connection()


def test_the_admin_api_is_for_admins(closed):
    put(closed, "alice", password="secret")
    put(closed, "boss", password="secret", admin=True)
    closed.user, closed.password = "alice", "secret"
    try:
        for method, path in (("GET", "/overview"), ("PUT", "/users/mallory"), ("DELETE", "/users/boss")):
            assert closed.http(method, f"/api/v1{path}", {"password": "x"} if method == "PUT" else None)[0] == 403
        closed.user = "boss"
        assert closed.http("GET", "/api/v1/overview")[0] == 200
    finally:
        closed.user, closed.password = type(closed).user, type(closed).password


def test_listing_tells_no_password(closed):
    put(closed, "alice", password="secret", loopback_only=True)
    users = closed.api("/users")
    assert users == [
        {"name": "alice", "loopback_only": True, "admin": False, "configured": False},
        {"name": closed.user, "loopback_only": False, "admin": True, "configured": True},
        {"name": "guest", "loopback_only": True, "admin": True, "configured": True},
    ]
    assert closed.api("/users/alice") == users[0]


def test_a_configured_user_stays_as_it_is(closed):
    for method, body in (("PUT", {"password": "mine"}), ("DELETE", None)):
        assert closed.http(method, "/api/v1/users/guest", body)[0] == 409
    assert can_log_in("stomp", closed, "guest", "guest")


@pytest.mark.parametrize(
    "user",
    [{}, {"password": ""}, {"password": "x", "amdin": True}, {"password": "x", "password_hash": "y"}, {"password_hash": "plain"}, {"password_hash": "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHQ"}],
    ids=["nothing", "empty", "unknown-key", "both", "no-hash", "weak-hash"],
)
def test_what_is_no_user(closed, user):
    put(closed, "alice", 400, **user)
    assert closed.http("GET", "/api/v1/users/alice")[0] == 404


@pytest.mark.parametrize("name", ["anonymous", "a%2Fb", "%2B", "x" * 256, "a%0Ab"])
def test_what_is_no_name(closed, name):
    put(closed, name, 400, password="x")


@pytest.mark.parametrize("scram", [False, True])
def test_users_survive(closed, scram):
    put(closed, "alice", password="secret", scram=scram)
    put(closed, "gone", password="secret")
    assert closed.http("DELETE", "/api/v1/users/gone")[0] == 204
    closed.restart(True)
    assert [each["name"] for each in closed.api("/users")] == ["alice", closed.user, "guest"]
    for protocol in PROTOCOLS:
        assert can_log_in(protocol, closed, "alice", "secret")
        assert not can_log_in(protocol, closed, "gone", "secret")


def test_the_configuration_comes_first(own_broker):
    broker = own_broker()
    put(broker, "alice", password="kept")
    config = json.loads(broker.config_path.read_text())
    config["auth"]["users"].append({"name": "alice", "password": "configured", "admin": False})
    broker.config_path.write_text(json.dumps(config))
    broker.restart()
    assert can_log_in("stomp", broker, "alice", "configured")
    assert not can_log_in("stomp", broker, "alice", "kept")
    assert [each["configured"] for each in broker.api("/users")] == [True, True, True]
    broker.user, broker.password = "alice", "configured"
    try:
        assert broker.http("GET", "/api/v1/overview")[0] == 403
    finally:
        broker.user, broker.password = type(broker).user, type(broker).password
