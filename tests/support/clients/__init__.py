"""One driver per protocol, all with the same verbs, each over a client library that people use.

connect, subscribe(kind, name, ack, ...), publish(kind, name, body, props, confirm), receive(timeout),
accept / reject / release, drop_connection, close.
"""

from support.clients.common import Death, Nothing, Props, Received, Refused

PROTOCOLS = ("mqtt311", "mqtt5", "stomp", "amqp10", "amqp091")


def connect(protocol, broker, **options):
    """Opens a client of one of the protocols; the libraries are loaded when first needed."""
    if protocol in ("mqtt31", "mqtt311", "mqtt5"):
        from support.clients.mqtt import MqttClient

        return MqttClient(broker, version=protocol.removeprefix("mqtt"), **options)
    if protocol in ("stomp", "stomp10", "stomp11", "stomp12"):
        from support.clients.stomp import StompClient

        return StompClient(broker, version=protocol.removeprefix("stomp") or "12", **options)
    if protocol == "telnet":
        from support.clients.telnet import TelnetClient

        return TelnetClient(broker, **options)
    if protocol == "amqp10":
        from support.clients.amqp10 import Amqp10Client

        return Amqp10Client(broker, **options)
    if protocol == "amqp091":
        from support.clients.amqp091 import Amqp091Client

        return Amqp091Client(broker, **options)
    raise ValueError(f"no driver for {protocol}")


__all__ = ["PROTOCOLS", "Death", "Nothing", "Props", "Received", "Refused", "connect"]
