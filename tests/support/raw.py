"""Wire scripts as data: what is sent byte by byte, and what must come back.

A case is {"name", "clause", "steps"}, and optionally "port". A step has one key:
  send          hexadecimal (blanks ignored)             send_text     text, with \\r \\n \\0 as JSON writes them
  repeat        [count, hexadecimal]: sent that often    expect        hexadecimal, `..` is any byte: exactly these come next
  expect_text   text that must be in what comes next
  expect_close  true: nothing more and the connection ends (bytes before the end are allowed with "any")
  expect_hex    hexadecimal that must be in what comes next
  expect_packet first byte of an MQTT packet in hexadecimal: it and as much as its remaining length says
  run           name of a shared prelude of the same folder (cases/prelude.json)
"""

import json
import pathlib
import re
import socket

from support.wait import PATIENCE


def load(folder):
    """All cases of a folder: [(id, case, preludes)]."""
    folder = pathlib.Path(folder)
    preludes = {}
    prelude = folder / "prelude.json"
    if prelude.exists():
        preludes = json.loads(prelude.read_text())
    cases = []
    for path in sorted(folder.glob("*.json")):
        if path == prelude:
            continue
        for case in json.loads(path.read_text()):
            assert case["clause"] and case["steps"], f"{path}: {case}"
            cases.append((f"{path.stem}-{case['name']}", case, preludes))
    names = [name for name, _, _ in cases]
    assert len(names) == len(set(names)), "two cases of one name"
    return cases


class Wire:
    """One raw connection that is being scripted."""

    def __init__(self, broker, port):
        self.socket = broker.raw(port)
        self.pending = b""

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            # The broker has closed already; what it said before is still to be read.
            pass

    def _more(self):
        self.socket.settimeout(PATIENCE)
        try:
            read = self.socket.recv(65536)
        except ConnectionError:
            read = b""
        self.pending += read
        return bool(read)

    def expect(self, pattern):
        wanted = re.sub(r"\s", "", pattern)
        size = len(wanted) // 2
        while len(self.pending) < size:
            try:
                assert self._more(), f"closed after {self.pending.hex(' ')}; wanted {pattern}"
            except TimeoutError:
                raise AssertionError(f"only {self.pending.hex(' ')} came; wanted {pattern}") from None
        got, self.pending = self.pending[:size], self.pending[size:]
        text = got.hex()
        for at in range(0, len(wanted), 2):
            pair = wanted[at : at + 2].lower()
            assert pair in ("..", text[at : at + 2]), f"got {got.hex(' ')}; wanted {pattern}"

    def expect_packet(self, first):
        """One MQTT packet of that type, whatever it contains."""
        self.expect(first)
        length, shift = 0, 0
        while True:
            while not self.pending:
                assert self._more(), "closed within a packet"
            byte, self.pending = self.pending[0], self.pending[1:]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        self.expect(" ".join([".."] * length))

    def expect_text(self, text):
        self.expect_within(text.encode(), text)

    def expect_within(self, wanted, text):
        while wanted not in self.pending:
            try:
                assert self._more(), f"closed after {self.pending!r}; wanted {text!r}"
            except TimeoutError:
                raise AssertionError(f"only {self.pending!r} came; wanted {text!r}") from None
        at = self.pending.index(wanted)
        self.pending = self.pending[at + len(wanted) :]

    def expect_close(self, anything=False):
        try:
            while self._more():
                pass
        except TimeoutError:
            raise AssertionError(f"still open; read {self.pending!r}") from None
        assert anything or not self.pending, f"unexpected before the end: {self.pending!r}"

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def play(self, steps, preludes):
        for step in steps:
            ((verb, value),) = step.items()
            if verb == "run":
                self.play(preludes[value], preludes)
            elif verb == "send":
                self.send(bytes.fromhex(value))
            elif verb == "send_text":
                self.send(value.encode())
            elif verb == "repeat":
                self.send(bytes.fromhex(value[1]) * value[0])
            elif verb == "expect":
                self.expect(value)
            elif verb == "expect_packet":
                self.expect_packet(value)
            elif verb == "expect_hex":
                self.expect_within(bytes.fromhex(value), value)
            elif verb == "expect_text":
                self.expect_text(value)
            elif verb == "expect_close":
                self.expect_close(anything=value == "any")
            else:
                raise ValueError(f"no verb {verb}")


def play(broker, port, case, preludes):
    wire = Wire(broker, case.get("port", port))
    try:
        wire.play(case["steps"], preludes)
    finally:
        wire.close()
