"""The admin API: its numbers agree with what the clients saw, and looking changes nothing."""

import base64
import json

import pytest

from support.clients import Props
from support.wait import settled, until


def test_probes_need_no_login(broker):
    for path in ("/livez", "/readyz"):
        assert broker.http("GET", path, login=False)[0] == 200


def test_ready_only_while_ports_are_open(own_broker):
    # The fixture waited for /readyz: every port must answer now.
    fresh_one = own_broker()
    for port in ("mqtt", "stomp", "amqp"):
        fresh_one.raw(port).close()


def test_login(own_broker):
    strict = own_broker({"auth": {"anonymous": "never"}})
    assert strict.http("GET", "/api/v1/overview", login=False)[0] == 401
    assert strict.http("GET", "/api/v1/overview")[0] == 200
    strict.password = "wrong"
    assert strict.http("GET", "/api/v1/overview")[0] == 401
    strict.password = type(strict).password


def test_overview(own_broker, client, fresh):
    alone = own_broker()
    before = alone.api("/overview")
    assert before["product"] == "mynah" and before["version"]
    assert (before["connections"], before["ready"], before["unsettled"]) == (0, 0, 0)
    queue = fresh("q")
    boss = client("stomp", to=alone)
    for number in range(7):
        boss.publish("queue", queue, b"%d" % number)
    reader = client("mqtt5", to=alone)
    reader.subscribe("queue", queue, ack="client")
    for _ in range(7):
        received = reader.receive()
    reader.accept(received)
    settled(lambda: alone.api("/overview")["unsettled"], 6, "one of seven is settled")
    after = alone.api("/overview")
    assert (after["connections"], after["ready"]) == (2, 0)
    by_name = {each["protocol"]: each for each in after["protocols"]}
    assert by_name["stomp"]["received"] == 7 and by_name["stomp"]["connections"] == 1
    assert by_name["mqtt"]["delivered"] == 7 and by_name["mqtt"]["connections"] == 1
    boss.close()
    reader.close()
    settled(lambda: alone.api("/overview")["connections"], 0, "all have gone")
    settled(lambda: alone.api("/overview")["ready"], 6, "the unsettled are back")


@pytest.mark.parametrize(
    "protocol, expected",
    [("mqtt311", "mqtt"), ("mqtt5", "mqtt"), ("stomp", "stomp"), ("amqp10", "amqp10"), ("amqp091", "amqp091")],
)
def test_connections(broker, client, fresh, protocol, expected):
    options = {"client_id": fresh("id")} if protocol.startswith("mqtt") else {}
    before = {each["number"] for each in broker.api("/connections")}
    mine = client(protocol, **options)
    topic = fresh("t")
    for _ in range(3):
        mine.publish("topic", topic, b"x")

    def found():
        new = [each for each in broker.api("/connections") if each["number"] not in before]
        return [each for each in new if each["protocol"] == expected and each["received"] == 3]

    seen = until(found, "the connection with its three messages")[0]
    assert seen["peer"].startswith("127.0.0.1:")
    assert seen["user"] == ("anonymous" if protocol.startswith("mqtt") else "guest")
    if options:
        assert seen["client_id"] == options["client_id"]
    mine.close()
    until(lambda: seen["number"] not in {each["number"] for each in broker.api("/connections")}, "it is gone")


def test_an_operator_closes_a_connection(broker, client, fresh):
    identity = fresh("id")
    victim = client("mqtt5", client_id=identity)
    number = until(
        lambda: [each["number"] for each in broker.api("/connections") if each["client_id"] == identity],
        "it is listed",
    )[0]
    assert broker.http("DELETE", f"/api/v1/connections/{number}")[0] == 204
    until(victim.disconnected.is_set, "it is told and closed")
    assert broker.http("DELETE", f"/api/v1/connections/{number}")[0] == 404


def test_queue_numbers(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    boss = client("amqp10")
    for number in range(10):
        boss.publish("queue", queue, b"%d" % number)
    assert broker.counts(queue) == (10, 0)
    one, two = client("amqp091"), client("stomp")
    one.subscribe("queue", queue, credit=3)
    two.subscribe("queue", queue, credit=2)
    settled(lambda: broker.counts(queue), (5, 5), "three and two are out")
    assert broker.queue(queue)["consumers"] == 2
    one.accept(one.receive())
    two.reject(two.receive())
    settled(lambda: broker.counts(queue), (3, 5), "each got one more")
    seen = broker.queue(queue)
    assert (seen["published"], seen["settled"], seen["dead_lettered"]) == (10, 1, 1) or seen["settled"] == 2
    assert seen["delivered"] == 7
    assert seen["durable"] is True and seen["exclusive"] is False
    listed = {each["name"]: each for each in broker.api("/queues")}
    assert (listed[queue]["ready"], listed[queue]["unsettled"]) == (3, 5)
    assert broker.counts(f"{queue}.dlq") == (1, 0)


def test_a_queue_that_is_not_there(broker, fresh):
    status, raw = broker.http("GET", f"/api/v1/queues/{fresh('none')}")
    assert status == 404 and json.loads(raw)["error"] == "not-found"


def test_purge(broker, client, fresh):
    queue = fresh("q")
    boss = client("stomp")
    for number in range(5):
        boss.publish("queue", queue, b"%d" % number)
    assert broker.api(f"/queues/{queue}/purge", "POST") == {"purged": 5}
    assert broker.counts(queue) == (0, 0)
    assert broker.http("POST", f"/api/v1/queues/{fresh('none')}/purge")[0] == 404


def test_purge_leaves_what_is_out(broker, client, fresh):
    queue = fresh("q")
    client("amqp091").declare_queue(queue)
    boss, reader = client("stomp"), client("amqp091")
    reader.subscribe("queue", queue, credit=1)
    for number in range(3):
        boss.publish("queue", queue, b"%d" % number)
    received = reader.receive()
    assert broker.api(f"/queues/{queue}/purge", "POST") == {"purged": 2}
    assert broker.counts(queue) == (0, 1)
    reader.accept(received)
    settled(lambda: broker.counts(queue), (0, 0), "acknowledged")


def test_peek_changes_nothing(broker, client, fresh):
    queue = fresh("q")
    boss = client("amqp10")
    props = Props(
        content_type="text/plain", correlation_id="c", message_id="m", priority=6, app={"k": "v"}, durable=True
    )
    boss.publish("queue", queue, "grün".encode(), props)
    boss.publish("queue", queue, b"\xff\x00")
    for _ in range(3):
        first, second = broker.api(f"/queues/{queue}/messages?count=10")
    assert (first["body"], first["content_type"], first["priority"], first["durable"]) == (
        "grün",
        "text/plain",
        6,
        True,
    )
    assert (first["correlation_id"], first["message_id"], first["properties"]) == ("c", "m", {"k": "v"})
    assert base64.b64decode(second["body_base64"]) == b"\xff\x00"
    assert len(broker.api(f"/queues/{queue}/messages?count=1")) == 1
    assert broker.counts(queue) == (2, 0)
    reader = client("amqp091")
    received = reader.get(queue, auto_ack=True)
    assert not received.redelivered and not received.attempts


def test_peek_shows_the_dead_letter_history(broker, client, fresh):
    queue = fresh("q")
    worker = client("stomp")
    worker.publish("queue", queue, b"bad")
    worker.subscribe("queue", queue)
    worker.reject(worker.receive())
    until(lambda: broker.counts(f"{queue}.dlq") == (1, 0), "it is dead")
    death = broker.api(f"/queues/{queue}.dlq/messages")[0]["deaths"][0]
    assert (death["cause"], death["queue"], death["count"], death["address"]) == (
        "rejected",
        queue,
        1,
        f"queue:{queue}",
    )
    assert death["time_ms"] > 1_700_000_000_000


@pytest.mark.parametrize("receiver", ("mqtt5", "stomp", "amqp10", "amqp091"))
def test_publish(broker, client, fresh, receiver):
    topic, queue = f"{fresh('t')}/x", fresh("q")
    reader = client(receiver)
    reader.subscribe("topic", topic, ack="auto")
    request = {"topic": topic, "body": "hello", "content_type": "text/plain", "properties": {"k": "v"}}
    assert broker.api("/publish", "POST", request) == {"routed": 1}
    received = reader.receive()
    assert (received.body, received.props.content_type, received.props.app.get("k")) == (b"hello", "text/plain", "v")
    encoded = base64.b64encode(bytes(range(256))).decode()
    assert broker.api("/publish", "POST", {"queue": queue, "body_base64": encoded, "durable": True}) == {"routed": 1}
    # A connection of its own: a session's window must not mix the two.
    other = client(receiver)
    other.subscribe("queue", queue, ack="client")
    received = other.receive()
    assert received.body == bytes(range(256))
    other.accept(received)


def test_publish_to_nobody(broker, fresh):
    assert broker.api("/publish", "POST", {"topic": fresh("t"), "body": "x"}) == {"routed": 0}


def test_publish_says_what_is_wrong(broker):
    for request in ({"body": "x"}, {"topic": "a", "queue": "b"}, {"topic": "a/#"}, {"topic": "a", "boddy": "x"}):
        status, raw = broker.http("POST", "/api/v1/publish", request)
        assert 400 <= status < 500, (request, status)
        assert json.loads(raw)["message"]


def test_topics(broker, client, fresh):
    root = fresh("t")
    writer = client("mqtt5")
    writer.publish("topic", f"{root}/kept", b"12345", qos=1, retain=True)
    for protocol in ("mqtt5", "stomp"):
        client(protocol).subscribe("topic", f"{root}/live", ack="auto")

    def mine():
        return {each["name"]: each for each in broker.api("/topics?count=10000") if each["name"].startswith(root)}

    seen = mine()
    assert seen[f"{root}/kept"]["retained_bytes"] == 5
    assert seen[f"{root}/live"]["subscriptions"] == 2
    writer.publish("topic", f"{root}/kept", b"", qos=1, retain=True)
    assert f"{root}/kept" not in mine()


def test_delete_a_queue(broker, client, fresh):
    queue = fresh("q")
    client("stomp").publish("queue", queue, b"x")
    assert broker.api(f"/queues/{queue}", "DELETE") == {"messages": 1}
    assert broker.queue(queue) is None


def test_names_with_slashes_and_umlauts(broker, client, fresh):
    queue = fresh("q") + "/a b/ü"
    client("amqp091").declare_queue(queue)
    assert broker.queue(queue)["name"] == queue


# The description.


def test_openapi_is_a_valid_document(broker):
    document = broker.api("/openapi.json")
    assert document["openapi"].startswith("3.")
    assert document["info"]["title"] and document["info"]["version"]
    identifiers = []

    def resolve(reference):
        node = document
        assert reference.startswith("#/"), reference
        for part in reference[2:].split("/"):
            node = node[part.replace("~1", "/").replace("~0", "~")]
        return node

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                assert resolve(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    for path, item in document["paths"].items():
        parameters = item.get("parameters", [])
        for method, operation in item.items():
            if method not in ("get", "post", "put", "delete", "patch"):
                continue
            assert operation["responses"], (path, method)
            for code, response in operation["responses"].items():
                assert code == "default" or 100 <= int(code) < 600
                response = resolve(response["$ref"]) if "$ref" in response else response
                assert response["description"], (path, method, code)
            identifiers.append(operation.get("operationId", f"{method} {path}"))
            declared = [
                resolve(p["$ref"]) if "$ref" in p else p for p in parameters + operation.get("parameters", [])
            ]
            in_path = {p["name"] for p in declared if p["in"] == "path"}
            wanted = {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert in_path == wanted, (path, method)
            assert all(p.get("required") for p in declared if p["in"] == "path")
    assert len(identifiers) == len(set(identifiers))


def test_openapi_describes_what_is_there(broker, client, fresh):
    """Every path that can be read answers, and with the fields that its description has."""
    document = broker.api("/openapi.json")
    queue = fresh("q")
    person = client("stomp")
    person.publish("queue", queue, b"x")
    client("mqtt5").subscribe("topic", fresh("t"), ack="auto")
    policy = {"pattern": "^nothing$", "definition": {"max-length": 1}}
    assert broker.http("PUT", "/api/v1/policies/described", policy)[0] == 201
    names = {"users": broker.user, "policies": "described"}
    base = document.get("servers", [{"url": ""}])[0]["url"].rstrip("/")

    def resolve(node):
        while "$ref" in node:
            target = document
            for part in node["$ref"][2:].split("/"):
                target = target[part]
            node = target
        return node

    def check(value, schema, where):
        schema = resolve(schema)
        kind = schema.get("type")
        if value is None:
            assert schema.get("nullable") or "null" in (kind or []), where
        elif kind == "array" and isinstance(value, list):
            for each in value:
                check(each, schema["items"], where + "[]")
        elif kind == "object" and "properties" in schema:
            unknown = set(value) - set(schema["properties"])
            assert not unknown, f"{where}: not described: {unknown}"
            for name in schema.get("required", []):
                assert name in value, f"{where}: {name} is missing"
            for name, each in value.items():
                check(each, schema["properties"][name], f"{where}.{name}")

    checked = 0
    for path, item in document["paths"].items():
        if "get" not in item:
            continue
        named = names.get(path.split("/")[3] if path.count("/") > 3 else "", queue)
        status, raw = broker.http("GET", base + path.replace("{name}", named))
        assert status == 200, path
        content = resolve(item["get"]["responses"]["200"]).get("content", {})
        if "application/json" in content and "schema" in content["application/json"]:
            check(json.loads(raw), content["application/json"]["schema"], path)
            checked += 1
    assert checked >= 5
