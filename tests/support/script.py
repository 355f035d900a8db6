"""Scripts of MQTT packets: what several connections send and what each must get.

A file holds scripts; the line `= title` begins one, and may end with the versions it is for (`3.1 3.1.1 5.0`, all without). What stands before
the first is for people. A line is `<connection> <verb> <arguments>`; `a` and `b` are connections, `$x` is a name that is
fresh in each run. Arguments `key=value`, numbers and properties as Python writes them, `props=[(0x11, 60)]`.

  a connect client=$c clean=0 ...     sends CONNECT and expects CONNACK; `code=` another one than 0, in 3.x `code3=`; `present=` session present
  a subscribe FILTER OPTIONS          ... and expects SUBACK with that QoS, or `code=`; `props=`
  a unsubscribe FILTER                ... and expects UNSUBACK; `code=`
  a publish TOPIC PAYLOAD             sends; `qos= id= retain= dup= props=`; with QoS 1 and 2 what confirms it is expected: `code=`; `confirm=0`: not
  a gets TOPIC PAYLOAD                expects a PUBLISH; `qos= retain= dup= id=` and `has=[(0x0b, 1)]` are compared, properties must be among its own;
                                      `all=` instead: these and no others; `hasnot=0x1f`; its identifier is what `a ack` confirms
  a ack | pubrec | pubrel | pubcomp   sends it for the last PUBLISH that was got, or `id=`; `code=`; pubrel expects PUBCOMP (`want=`)
  a wants TYPE                        expects a packet of that type (`wants 7 id=5 code=0x92`)
  a nothing                           pings: nothing else may come before the answer
  a hex BYTES                         sends them
  a expect BYTES                      exactly these, `..` is any byte
  a closed [CODE]                     expects the end; in 5.0 DISCONNECT with that code before it
  a drop | disconnect [CODE]          ends the connection
  wait SECONDS
"""

import ast
import pathlib
import re
import time

from support.names import fresh
from support.packets import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    V5,
    V31,
    V311,
    Raw,
    ack,
    connect,
    packet,
    publish,
    subscribe,
    unsubscribe,
)

VERSIONS = {"3.1": V31, "3.1.1": V311, "5.0": V5}
TITLE = re.compile(r"= (.*?)((?: (?:3\.1|3\.1\.1|5\.0))*)$")
VERBS = re.compile(r"gets|ack|expect|pubrec|pubrel|pubcomp|nothing|hex|closed|drop|disconnect|connect|subscribe|unsubscribe|publish|wants")


def load(folder):
    """[(statement, title, version, lines)] of all files."""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.txt")):
        scripts = []
        for line in path.read_text().splitlines():
            if begun := TITLE.match(line):
                named = begun[2].split() or list(VERSIONS)
                scripts.append((begun[1], named, []))
            elif scripts and line.strip():
                scripts[-1][2].append(line.strip())
        assert scripts, f"{path}: no script"
        for title, named, lines in scripts:
            found += [(path.stem, title, version, lines) for version in named]
    return found


class Stage:
    def __init__(self, broker, version, port="mqtt"):
        self.broker, self.version, self.port = broker, VERSIONS[version], port
        self.names, self.open = {}, {}

    def fresh(self, found):
        return self.names.setdefault(found[0], fresh(found[0][1:]))

    def play(self, lines):
        try:
            for line in lines:
                try:
                    self.line(re.sub(r"\$[a-z](?![a-zA-Z])", self.fresh, line))
                except AssertionError as error:
                    raise AssertionError(f"{line}: {error}") from error
        finally:
            for each in self.open.values():
                each.close()

    def line(self, line):
        who, verb, *rest = line.split()
        if who == "wait":
            return time.sleep(float(verb))
        assert VERBS.fullmatch(verb), f"no verb {verb}"
        words, named = [], {}
        while rest:
            word = rest.pop(0)
            if match := re.match(r"([a-z0-9_]+)=(.*)", word):
                text = match[2]
                while text.count("[") > text.count("]"):
                    text += " " + rest.pop(0)
                named[match[1]] = ast.literal_eval(text) if re.match(r"[\[\d-]|'", text) else text
            else:
                words.append(word)
        getattr(self, verb)(who, *words, **named)

    @property
    def v5(self):
        return self.version == V5

    def connect(self, who, code=0, code3=None, present=None, will=None, **options):
        if not self.v5:
            options.pop("props", None)
        raw = Raw(self.broker, self.version, self.port, login=False)
        if who in self.open:
            self.open[who].close()
        self.open[who] = raw
        if will:
            topic, payload, qos, retain, props = will
            options["will"] = (topic, payload.encode(), qos, retain, props)
        raw.send(connect(self.version, **options))
        wanted = code if self.v5 or code3 is None else code3
        got = raw.expect_kind(CONNACK)
        assert got.reason == wanted, f"CONNACK {got.reason:#x}"
        assert present is None or self.version == V31 or got.session_present == bool(present), "session present"
        raw.connack = got

    def subscribe(self, who, name, options="0", code=None, props=(), id=7):
        options = int(options, 0)
        raw = self.open[who]
        raw.send(subscribe(self.version, [(name, options if self.v5 else options & 3)], id, props))
        wanted = options & 3 if code is None else code if self.v5 or code < 0x80 else 0x80
        held = []
        while (got := raw.read()) and got.kind == PUBLISH:
            # A `#` meets what other scripts retained.
            if not got.retain or any(own in got.topic for own in self.names.values()):
                held.append(got)
        assert got.kind == SUBACK and got.number == id and got.reasons == [wanted], f"got {got}"
        raw.held = getattr(raw, "held", []) + held

    def unsubscribe(self, who, name, code=0, id=8):
        raw = self.open[who]
        raw.send(unsubscribe(self.version, [name], id))
        # What other scripts retained may still have been on its way to a `#`.
        while (got := raw.read()) and got.kind == PUBLISH and got.retain:
            pass
        assert got and got.kind == UNSUBACK, f"got {got}"
        assert got.number == id and (not self.v5 or got.reasons == [code]), f"got {got}"

    def publish(self, who, topic, payload="", qos=0, id=1, retain=0, dup=0, props=(), code=None, confirm=1):
        raw = self.open[who]
        payload = str(payload).encode()
        raw.send(publish(self.version, topic, payload, qos, id, bool(retain), bool(dup), props))
        if qos and confirm:
            got = raw.expect_kind(PUBACK if qos == 1 else PUBREC)
            assert got.number == id, f"got {got}"
            # Nobody subscribes is no failure.
            assert got.reason in ((0, 0x10) if code is None else (code,)) or not self.v5, f"reason {got.reason:#x}"
            if qos == 2 and got.reason < 0x80 and confirm != 2:
                self.pubrel(who, id=id)

    def gets(self, who, topic, payload="", qos=None, retain=None, dup=None, has=(), hasnot=None, all=None, id=None):
        raw = self.open[who]
        held = getattr(raw, "held", [])
        got = held.pop(0) if held else raw.expect_kind(PUBLISH)
        assert (got.topic, got.payload) == (topic, str(payload).encode()), f"got {got.topic} {got.payload}"
        for name, wanted in (("qos", qos), ("retain", retain), ("dup", dup), ("number", id)):
            assert wanted is None or int(getattr(got, name) or 0) == wanted, f"{name} is {getattr(got, name)}"
        if self.v5:
            assert not [each for each in has if each not in got.props], f"properties {got.props}"
            assert hasnot is None or got.prop(hasnot) is None, f"properties {got.props}"
            assert all is None or got.props == list(all), f"properties {got.props}"
        raw.last = got.number

    def _confirm(self, kind, who, id, code):
        raw = self.open[who]
        raw.send(ack(kind, raw.last if id is None else id, code if self.v5 else None))

    def ack(self, who, id=None, code=None):
        self._confirm(PUBACK, who, id, code)

    def pubrec(self, who, id=None, code=None):
        self._confirm(PUBREC, who, id, code)

    def pubcomp(self, who, id=None, code=None):
        self._confirm(PUBCOMP, who, id, code)

    def pubrel(self, who, id=None, want=0):
        self._confirm(PUBREL, who, id, None)
        got = self.open[who].expect_kind(PUBCOMP)
        assert got.reason == (want if self.v5 else 0), f"PUBCOMP {got.reason:#x}"

    def wants(self, who, kind, id=None, code=None, has=(), hasnot=None):
        got = self.open[who].expect_kind(int(kind))
        self.open[who].last = got.number
        assert id is None or got.number == id, f"got {got}"
        assert code is None or not self.v5 or got.reason == code, f"got {got}"
        assert all(each in got.props for each in has) and (hasnot is None or got.prop(hasnot) is None), f"got {got.props}"

    def nothing(self, who):
        raw = self.open[who]
        assert not getattr(raw, "held", []), f"got {raw.held}"
        found = raw.ping()
        assert not found, f"got {found}"

    def hex(self, who, *data):
        if who not in self.open:
            self.open[who] = Raw(self.broker, self.version, self.port, login=False)
        self.open[who].send(bytes.fromhex("".join(data)))

    def expect(self, who, *pattern):
        self.open[who].expect(" ".join(pattern))

    def closed(self, who, code=None):
        raw = self.open[who]
        if self.v5 and code is not None:
            got = raw.read()
            assert got is not None and got.kind in (DISCONNECT, CONNACK), f"got {got}"
            assert got.reason == int(code, 0), f"reason {got.reason:#x}"
        raw.expect_close()

    def drop(self, who):
        self.open.pop(who).close()

    def disconnect(self, who, code="0", props=None):
        raw = self.open.pop(who)
        body = bytes([int(code, 0)]) if self.v5 and int(code, 0) else b""
        raw.send(packet(DISCONNECT, body))
        raw.expect_close()
        raw.close()
