"""`auth.rules`: connect, publish, subscribe and deliver, on every way a message takes, with `%u` and `%c`."""

import pika.exceptions
import pytest

from support.clients.amqp091 import Amqp091Client
from support.clients.common import Nothing, Refused, take
from support.clients.mqtt import MqttClient
from support.clients.stomp import StompClient

RULES = [
    {"allow": ["connect"], "to": ["%u", "+"], "users": ["app", "guest", "sensor", "anonymous"]},
    {"allow": ["publish"], "to": ["dev/%c/#"], "users": ["sensor"]},
    {"allow": ["read"], "to": ["cmd/%u/+"], "users": ["sensor"]},
    {"deny": ["deliver"], "to": ["all/secret"], "users": ["guest"]},
    {"allow": ["read"], "to": ["all/#"], "users": ["guest"]},
    {"allow": ["all"], "to": ["#"], "users": ["app"]},
]
#: As paho spells reason 0x87 and return code 5.
NOT_AUTHORIZED = "Not authorized"

USERS = [
    {"name": "app", "password": "app-secret"},
    {"name": "guest", "password": "guest"},
    {"name": "sensor", "password": "s"},
]


@pytest.fixture
def ruled(own_broker):
    return own_broker({"auth": {"users": USERS, "rules": RULES}})


def mqtt(broker, user, client_id, version="5", **more):
    password = {each["name"]: each["password"] for each in USERS}[user]
    return MqttClient(broker, version, client_id=client_id, user=user, password=password, **more)


def bodies(reader, count):
    got = take(reader, count)
    with pytest.raises(Nothing):
        reader.receive(timeout=0.4)
    return got


@pytest.mark.parametrize("version", ["31", "311", "5"])
def test_publish_only_below_the_own_client_identifier(ruled, version):
    boss = mqtt(ruled, "app", "boss")
    boss.subscribe("topic", "dev/#")
    sensor = mqtt(ruled, "sensor", "s1", version)
    sensor.publish("topic", "dev/s1/temp", b"mine")
    if version == "5":
        with pytest.raises(Refused) as refused:
            sensor.publish("topic", "dev/s2/temp", b"not mine")
        assert str(refused.value) == NOT_AUTHORIZED
    else:
        # 3.x has no word for it: acknowledged, and gone [MQTT-3.3.5-2].
        sensor.publish("topic", "dev/s2/temp", b"not mine")
    sensor.publish("topic", "dev/s1", b"mine too")
    assert bodies(boss, 2) == [b"mine", b"mine too"]
    for each in (boss, sensor):
        each.close()


@pytest.mark.parametrize("version, code", [("311", "Unspecified error"), ("5", NOT_AUTHORIZED)])
def test_subscribe_is_refused_filter_by_filter(ruled, version, code):
    sensor = mqtt(ruled, "sensor", "s1", version)
    sensor.subscribe("topic", "cmd/sensor/+")
    for wanted in ("cmd/other/+", "cmd/sensor/#", "#", "cmd/+/x", "$share/g/cmd/other/x", "$queue/jobs"):
        with pytest.raises(Refused) as refused:
            sensor.subscribe("raw", wanted)
        assert str(refused.value) == code, wanted
    boss = mqtt(ruled, "app", "boss")
    boss.publish("topic", "cmd/sensor/go", b"go")
    assert bodies(sensor, 1) == [b"go"]
    for each in (boss, sensor):
        each.close()


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_not_to_be_delivered_is_not_live_retained_or_replayed(ruled, qos):
    boss = mqtt(ruled, "app", "boss")
    reader = mqtt(ruled, "guest", "reader", clean=False, expiry=60)
    reader.subscribe("topic", "all/#", qos=qos)
    for topic in ("all/secret", "all/open"):
        boss.publish("topic", topic, topic.encode(), retain=True)
    assert bodies(reader, 1) == [b"all/open"]
    # Retained: a second subscription.
    second = mqtt(ruled, "guest", "second")
    second.subscribe("topic", "all/#", qos=qos)
    assert bodies(second, 1) == [b"all/open"]
    if qos:
        # Replayed from the session's queue, also after a restart of the broker.
        reader.drop_connection()
        boss.publish("topic", "all/secret", b"later")
        boss.publish("topic", "all/open", b"later open")
        ruled.kill9()
        ruled.restart()
        boss = mqtt(ruled, "app", "boss")
        boss.publish("topic", "all/secret", b"latest")
        reader = mqtt(ruled, "guest", "reader", clean=False, expiry=60)
        assert bodies(reader, 1) == [b"later open"]


def test_a_group_may_not_share_what_one_may_not_have(ruled):
    reader = mqtt(ruled, "guest", "reader")
    with pytest.raises(Refused):
        reader.subscribe("raw", "$share/g/all/#")
    reader.subscribe("raw", "$share/g/all/open")
    reader.close()


def test_connect_is_refused(own_broker):
    broker = own_broker(
        {"auth": {"users": USERS, "rules": [{"allow": ["connect"], "to": ["%u"]}, {"allow": ["all"], "to": ["#"]}]}}
    )
    mqtt(broker, "sensor", "sensor").close()
    for version in ("5", "311"):
        with pytest.raises(Refused) as refused:
            mqtt(broker, "sensor", "other", version)
        assert str(refused.value) == NOT_AUTHORIZED


def test_a_will_is_a_publish(ruled):
    with pytest.raises(Refused):
        mqtt(ruled, "sensor", "s1", will={"topic": "dev/s2/gone", "payload": b"x"})


def test_amqp_channels_are_closed_with_access_refused(ruled):
    guest = Amqp091Client(ruled, user="guest", password="guest")
    channel = guest.channel
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "amq.topic", "all.open")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        channel.queue_bind(queue, "amq.topic", "dev.#")
    assert closed.value.reply_code == 403


def test_stomp_says_what_is_wrong(ruled):
    guest = StompClient(ruled, user="guest", password="guest")
    with pytest.raises(Refused) as refused:
        guest.subscribe("topic", "dev/x")
    assert "auth.rules" in str(refused.value)
