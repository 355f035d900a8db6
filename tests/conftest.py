"""Fixtures of the black-box suites: a broker for the session, brokers with a configuration of their own, fresh names."""

import pytest

# Before the folder of the same name is collected: what is in sys.modules first is what the drivers get.
import stomp  # noqa: F401

from support.broker import Broker
from support.clients import connect
from support.names import fresh as fresh_name


class _Brokers:
    """Every broker started so far, so that each test can ask for new faults in their logs."""

    def __init__(self):
        self.all = []

    def start(self, changes=None):
        broker = Broker(changes)
        self.all.append(broker)
        return broker

    def end(self, broker):
        self.all.remove(broker)
        code = broker.stop()
        faults = broker.new_faults()
        broker.discard()
        assert code == 0, f"the broker ended with {code}"
        assert not faults, faults

    def faults(self):
        return [fault for broker in self.all for fault in broker.new_faults()]


@pytest.fixture(scope="session")
def brokers():
    started = _Brokers()
    yield started
    for broker in list(started.all):
        started.end(broker)


@pytest.fixture(scope="session")
def broker(brokers):
    """The broker most tests share; they keep apart by fresh names."""
    return brokers.start()


@pytest.fixture
def own_broker(brokers):
    """Starts a broker for this test alone: `own_broker({...changes...})`."""
    mine = []

    def start(changes=None):
        mine.append(brokers.start(changes))
        return mine[-1]

    yield start
    for each in mine:
        brokers.end(each)


@pytest.fixture(autouse=True)
def no_faults_in_the_log(brokers):
    yield
    faults = brokers.faults()
    assert not faults, "the broker logged:\n" + "\n".join(faults[:20])


@pytest.fixture
def fresh():
    return fresh_name


@pytest.fixture
def client(broker):
    """Opens clients that are closed when the test ends: `client("mqtt5", ...)`."""
    opened = []

    def open_client(protocol, to=None, **options):
        opened.append(connect(protocol, to or broker, **options))
        return opened[-1]

    yield open_client
    for each in reversed(opened):
        each.close()
