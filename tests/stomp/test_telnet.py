"""STOMP by hand: what a person types at a terminal, CR LF at each line and Ctrl-@ for NUL."""

import os
import pty
import shutil
import signal
import time

import pytest

from support.clients import Refused
from support.wait import PATIENCE, settled, until


@pytest.mark.parametrize("version", ("1.0", "1.1", "1.2"))
def test_a_typed_session(broker, client, fresh, version):
    queue = fresh("q")
    person = client("telnet", version=version)
    if version != "1.0":
        assert person.session_headers["version"] == version
    person.publish("queue", queue, b"hello")
    settled(lambda: broker.counts(queue), (1, 0), "it arrived")
    person.type("SUBSCRIBE", {"id": "1", "destination": f"/queue/{queue}", "ack": "auto"})
    received = person.receive()
    assert received.body == b"hello"
    assert received.raw[1]["subscription"] == "1"
    person.type("UNSUBSCRIBE", {"id": "1"})
    person.type("DISCONNECT", {"receipt": "bye"})
    person.receipted("bye")
    with pytest.raises(ConnectionError):
        person.frame()


def test_enter_inside_the_body_belongs_to_the_body(client, fresh):
    queue = fresh("q")
    person = client("telnet")
    person.publish("queue", queue, b"hello\r\n")
    person.subscribe("queue", queue, ack="auto")
    assert person.receive().body == b"hello\r\n"


def test_the_blank_after_the_colon_in_1_0(client, fresh):
    """The lecture's own spelling: `destination: /queue/foo`."""
    queue = fresh("q")
    person = client("telnet", version="1.0")
    person.type("SEND", {"destination": f"/queue/{queue}", "receipt": "r"}, b"x", blank=True)
    person.receipted("r")
    person.type("SUBSCRIBE", {"destination": f"/queue/{queue}", "ack": "auto"}, blank=True)
    assert person.receive().body == b"x"


def test_one_key_at_a_time(broker, client, fresh):
    queue = fresh("q")
    person = client("telnet", login=False)
    typed = b"\r\nCONNECT\r\naccept-version:1.2\r\nhost:/\r\nlogin:guest\r\npasscode:guest\r\n\r\n\0\r\n"
    typed += f"SEND\r\ndestination:/queue/{queue}\r\nreceipt:r\r\n\r\nslow\0\r\n".encode()
    for at in range(len(typed)):
        person.socket.sendall(typed[at : at + 1])
    person.expect("CONNECTED")
    person.receipted("r")
    assert broker.counts(queue) == (1, 0)


def test_a_mistake_is_explained(client):
    person = client("telnet")
    person.type("SENT", {"destination": "/queue/x"}, b"x")
    command, headers, body = person.frame()
    assert command == "ERROR"
    said = headers.get("message", "") + body.decode()
    assert "SENT" in said and "SEND" in said
    with pytest.raises(ConnectionError):
        person.frame()


def test_a_wrong_password_is_explained(client):
    with pytest.raises(Refused) as refused:
        client("telnet", password="wrong")
    assert "password" in str(refused.value)


def test_a_person_reads_the_dead_letters(broker, client, fresh):
    queue = fresh("q")
    person = client("telnet")
    person.publish("queue", queue, b"bad")
    person.subscribe("queue", queue)
    person.reject(person.receive())
    person.subscribe("queue", f"{queue}.dlq", ack="auto")
    dead = person.receive()
    assert (dead.death.cause, dead.death.queue, dead.death.count) == ("rejected", queue, 1)


def test_a_person_settles_and_leaves(broker, client, fresh):
    queue = fresh("q")
    person = client("telnet")
    for body in (b"one", b"two"):
        person.publish("queue", queue, body)
    person.subscribe("queue", queue)
    first, second = person.receive(), person.receive()
    person.accept(first)
    settled(lambda: broker.counts(queue), (0, 1), "one is done")
    person.drop_connection()
    settled(lambda: broker.counts(queue), (1, 0), "the other waits again")
    again = client("telnet")
    again.subscribe("queue", queue)
    received = again.receive()
    assert (received.body, received.redelivered) == (b"two", True)
    assert second.body == received.body


class Terminal:
    """The real telnet program at a pseudo terminal."""

    def __init__(self, broker):
        program = shutil.which("telnet")
        assert program, "telnet is missing: apt-get install inetutils-telnet"
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execv(program, [program, broker.host, str(broker.ports["stomp"])])
        self.screen = b""
        os.set_blocking(self.master, False)
        self.sees(b"Escape character")

    def look(self):
        try:
            self.screen += os.read(self.master, 65536)
        except BlockingIOError:
            pass
        except OSError:
            # The program has ended; what it showed is in `screen`.
            return

    def sees(self, text):
        def there():
            self.look()
            return text in self.screen

        until(there, f"the screen shows {text!r}; it shows {self.screen[-600:]!r}")

    def types(self, *lines):
        for line in lines:
            os.write(self.master, line + b"\r")

    def ends(self):
        """Whether the program ends by itself, because the broker closed."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.look()
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return True
        return False

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


def test_the_real_telnet(broker, client, fresh):
    queue = fresh("q")
    terminal = Terminal(broker)
    try:
        terminal.types(b"CONNECT", b"accept-version:1.2", b"host:/", b"login:guest", b"passcode:guest", b"", b"\0")
        terminal.sees(b"CONNECTED")
        terminal.types(b"SUBSCRIBE", b"id:1", f"destination:/queue/{queue}".encode(), b"receipt:ready", b"", b"\0")
        terminal.sees(b"receipt-id:ready")
        client("amqp091").publish("queue", queue, b"seen at the terminal")
        terminal.sees(b"seen at the terminal")
        terminal.types(b"SEND", f"destination:/queue/{queue}-2".encode(), b"receipt:sent", b"", b"typed\0")
        terminal.sees(b"receipt-id:sent")
        received = client("amqp091").get(f"{queue}-2", auto_ack=True)
        assert received.body == b"typed"
        terminal.types(b"DISCONNECT", b"receipt:bye", b"", b"\0")
        terminal.sees(b"receipt-id:bye")
        assert terminal.ends()
    finally:
        terminal.close()
