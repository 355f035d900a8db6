"""MQTT 3.1, 3.1.1 and 5.0 over paho-mqtt.

paho acknowledges by itself or not at all; a PUBACK with a reason code is the one packet it cannot send, so that one is
written here and queued through the library.
"""

import queue
import socket
import struct
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from support.clients.common import Nothing, Props, Received, Refused, death_from_flat
from support.names import fresh
from support.wait import PATIENCE, until

VERSIONS = {"31": paho.MQTTv31, "311": paho.MQTTv311, "5": paho.MQTTv5}

#: PUBACK reason for "not wanted": Unspecified error [MQTT 5.0 table 3-4].
REASON_REJECTED = 0x80


def address(kind, name):
    return {
        "topic": lambda: name,
        "queue": lambda: f"$queue/{name}",
        "exchange": lambda: f"$exchange/{name}",
        "client": lambda: f"$P2P/{name}",
        "raw": lambda: name,
    }[kind]()


class MqttClient:
    def __init__(
        self,
        broker,
        version="5",
        client_id=None,
        clean=True,
        expiry=None,
        user=None,
        password=None,
        keep_alive=60,
        will=None,
        receive_maximum=None,
        properties=None,
        fail=True,
        port="mqtt",
        path=None,
        tls=None,
    ):
        """`path` makes it WebSocket; `tls` is an ssl.SSLContext."""
        self.version = version
        self.client_id = fresh("mqtt") if client_id is None else client_id
        self.v5 = version == "5"
        self.inbox = queue.Queue()
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self.connect_reason = None
        self.connect_properties = None
        self.disconnect_reason = None
        self.session_present = None
        self.acknowledged = {}
        self.granted = {}
        self.auto = True
        own = {} if self.v5 else {"clean_session": clean}
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=VERSIONS[version],
            manual_ack=True,
            transport="tcp" if path is None else "websockets",
            reconnect_on_failure=False,
            **own,
        )
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = lambda _client, _data, message: self.inbox.put(message)
        self.client.on_publish = self._on_publish
        self.client.on_subscribe = self._on_subscribe
        self.client.on_unsubscribe = self._on_subscribe
        self.client.max_inflight_messages_set(1000)
        if path is not None:
            self.client.ws_set_options(path=path)
        if tls is not None:
            self.client.tls_set_context(tls)
        if user is not None:
            self.client.username_pw_set(user, password)
        if will is not None:
            self.client.will_set(**will)
        options = {}
        if self.v5:
            options["clean_start"] = clean
            given = properties or Properties(PacketTypes.CONNECT)
            if expiry is not None:
                given.SessionExpiryInterval = expiry
            if receive_maximum is not None:
                given.ReceiveMaximum = receive_maximum
            options["properties"] = given
        self.client.connect(broker.host, broker.ports[port], keepalive=keep_alive, **options)
        self.client.loop_start()
        if not self.connected.wait(PATIENCE):
            self.drop_connection()
            raise AssertionError(f"no CONNACK ({self.disconnect_reason})")
        if fail and self.connect_reason.is_failure:
            self.close()
            raise Refused(str(self.connect_reason))

    # Callbacks, on paho's thread.

    def _on_connect(self, _client, _data, flags, reason, properties):
        self.connect_reason = reason
        self.connect_properties = properties
        self.session_present = flags.session_present
        self.connected.set()

    def _on_disconnect(self, _client, _data, _flags, reason, _properties):
        self.disconnect_reason = reason
        self.disconnected.set()
        self.connected.set()
        if self.connect_reason is None:
            self.connect_reason = reason

    def _on_publish(self, _client, _data, mid, reason, _properties):
        self.acknowledged[mid] = reason

    def _on_subscribe(self, _client, _data, mid, reasons, _properties):
        self.granted[mid] = reasons

    # Verbs.

    def subscribe(self, kind, name, ack="client", qos=None, options=None, properties=None, **_):
        """ack "auto" is QoS 0; "client" is QoS 1 and acknowledged by accept()."""
        if qos is None:
            qos = 0 if ack == "auto" else 1
        self.auto = ack == "auto"
        topic = address(kind, name)
        if self.v5:
            result, mid = self.client.subscribe(
                topic, options=options or SubscribeOptions(qos=qos), properties=properties
            )
        else:
            result, mid = self.client.subscribe(topic, qos)
        assert result == paho.MQTT_ERR_SUCCESS, result
        reasons = until(lambda: self.granted.pop(mid, None), f"SUBACK for {topic}")
        if reasons[0].is_failure:
            raise Refused(str(reasons[0]))
        return reasons[0]

    def unsubscribe(self, kind, name):
        result, mid = self.client.unsubscribe(address(kind, name))
        assert result == paho.MQTT_ERR_SUCCESS, result
        until(lambda: mid in self.granted, f"UNSUBACK for {name}")
        return self.granted.pop(mid)

    def publish(self, kind, name, body, props=None, confirm=True, qos=None, retain=False, properties=None):
        if qos is None:
            qos = 1 if confirm else 0
        if self.v5 and properties is None:
            properties = self._properties(props)
        info = self.client.publish(address(kind, name), body, qos, retain, properties if self.v5 else None)
        assert info.rc == paho.MQTT_ERR_SUCCESS, info.rc
        if confirm and qos:
            self.confirmed(info)
        return info

    def confirmed(self, info):
        """Waits for the acknowledgement of a publish; raises Refused when it says no."""

        def done():
            if self.disconnected.is_set() and not info.is_published():
                raise Refused(f"disconnected: {self.disconnect_reason}")
            return info.is_published()

        until(done, f"acknowledgement of packet {info.mid}")
        reason = self.acknowledged.get(info.mid)
        if reason is not None and reason.is_failure:
            raise Refused(str(reason))

    @staticmethod
    def _properties(props):
        if props is None:
            return None
        packet = Properties(PacketTypes.PUBLISH)
        if props.content_type is not None:
            packet.ContentType = props.content_type
        if props.correlation_id is not None:
            packet.CorrelationData = props.correlation_id.encode()
        if props.reply_to is not None:
            packet.ResponseTopic = address(*props.reply_to)
        if props.ttl_ms is not None:
            packet.MessageExpiryInterval = -(-props.ttl_ms // 1000)
        if props.app:
            packet.UserProperty = list(props.app.items())
        return packet

    def receive(self, timeout=PATIENCE):
        try:
            message = self.inbox.get(timeout=timeout)
        except queue.Empty:
            raise Nothing(f"MQTT {self.version}: nothing within {timeout} s") from None
        if self.auto and message.qos:
            self.client.ack(message.mid, message.qos)
        properties = message.properties
        # The first of several of one name: the newest line of a dead-letter history.
        users = dict(reversed(getattr(properties, "UserProperty", None) or []))
        correlation = getattr(properties, "CorrelationData", None)
        expiry = getattr(properties, "MessageExpiryInterval", None)
        props = Props(
            content_type=getattr(properties, "ContentType", None),
            correlation_id=None if correlation is None else correlation.decode(),
            reply_to=getattr(properties, "ResponseTopic", None),
            message_id=users.get("message-id"),
            ttl_ms=None if expiry is None else expiry * 1000,
            durable=None,
            app=users,
        )
        return Received(
            body=bytes(message.payload),
            props=props,
            address=message.topic,
            redelivered=bool(message.dup),
            attempts=None,
            death=death_from_flat(users.get),
            retained=bool(message.retain),
            raw=message,
        )

    def accept(self, received):
        self.client.ack(received.raw.mid, received.raw.qos)

    def reject(self, received):
        """A PUBACK with an error reason: final in MQTT 5 [MQTT-4.4.0-2]. MQTT 3 has no such thing."""
        assert self.v5 and received.raw.qos == 1
        packet = struct.pack("!BBHB", paho.PUBACK, 3, received.raw.mid, REASON_REJECTED)
        self.client._packet_queue(paho.PUBACK, packet, received.raw.mid, 1)

    def release(self, received):
        raise NotImplementedError("MQTT cannot give a message back while it stays connected")

    def drop_connection(self):
        """The network goes away: no DISCONNECT."""
        sock = self.client.socket()
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.client.loop_stop()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()
