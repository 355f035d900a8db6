"""The broker under test: started from the real binary on free ports, ended by its own process id.

The log is read back as JSON: a panic or a line of level `error` fails the test during which it appeared.
Never: talks to a broker that it did not start.
"""

import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from support.wait import PATIENCE, until

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTENERS = ("mqtt", "stomp", "amqp", "websocket")
#: `one` and `two` are for listeners that a test makes itself.
PORTS = (*LISTENERS, "admin", "metrics", "one", "two")


def binary():
    """The program named by MYNAH_BIN, else the newest build of this checkout."""
    named = os.environ.get("MYNAH_BIN")
    if named:
        path = pathlib.Path(named)
        if not path.exists():
            raise FileNotFoundError(f"MYNAH_BIN={named} does not exist")
        return path
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "mynah" for profile in ("dist", "release", "debug")]
    built = [path for path in built if path.exists()]
    if not built:
        raise FileNotFoundError("no binary: run `cargo build --bin mynah`, or name one by MYNAH_BIN")
    return max(built, key=lambda path: path.stat().st_mtime)


def free_ports(count):
    """Ports nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def merged(base, changes):
    """`base` with `changes` laid over it, dictionaries key by key."""
    result = dict(base)
    for key, value in (changes or {}).items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            value = merged(result[key], value)
        result[key] = value
    return result


class Broker:
    """One running broker. `changes`, or what it answers to the ports, is laid over the configuration the suites use."""

    host = "127.0.0.1"
    user = "app"
    password = "app-secret"

    def __init__(self, changes=None):
        self.directory = tempfile.TemporaryDirectory(prefix="mynah-test-")
        self.folder = pathlib.Path(self.directory.name)
        self.changes = changes
        self.log_path = self.folder / "broker.log"
        self.process = None
        self.killed = False
        self.log_seen = 0
        for _ in range(3):
            try:
                self.start()
                return
            except PortTaken:
                continue
        raise AssertionError(f"no start: {self.log_path.read_text()}")

    def start(self):
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        bind = {name: f"{self.host}:{port}" for name, port in self.ports.items()}
        config = merged(
            {
                "data_dir": str(self.folder / "data"),
                "listeners": [
                    {"name": name, "protocol": name, "bind": bind[name]} for name in LISTENERS
                ],
                "admin": {"bind": bind["admin"]},
                "metrics": {"bind": bind["metrics"]},
                "auth": {
                    "anonymous": "loopback",
                    "users": [
                        {"name": self.user, "password": self.password},
                        {"name": "guest", "password": "guest", "loopback_only": True},
                    ],
                },
                "log": {"level": "info", "format": "json"},
            },
            self.changes(self.ports) if callable(self.changes) else self.changes,
        )
        # JSON is YAML: no second library is needed to write the file.
        self.config_path = self.folder / "mynah.yaml"
        self.config_path.write_text(json.dumps(config, indent=1))
        self.run()

    def run(self):
        self.killed = False
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MYNAH_")}
        environment["RUST_BACKTRACE"] = "1"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [binary(), "serve", "-c", self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
            )
        until(self.is_ready, "the broker answers /readyz")

    def is_ready(self):
        if self.process.poll() is not None:
            text = self.log_path.read_text(errors="replace")
            if "in use" in text:
                raise PortTaken
            raise AssertionError(f"the broker ended with {self.process.returncode}:\n{text[-4000:]}")
        try:
            return self.http("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def stop(self):
        """Ends the broker as an operator would, and answers its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"no end after SIGTERM:\n{self.log()[-2000:]}") from None
        return self.process.returncode

    def kill9(self):
        """Ends the broker as a crash would: nothing it meant to do later is done."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def restart(self, crash=True):
        """The broker ends and starts again, with the same data and the same ports."""
        if crash:
            self.kill9()
        else:
            code = self.stop()
            assert code == 0, f"the broker ended with {code}"
        self.run()

    def discard(self):
        self.directory.cleanup()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def new_faults(self):
        """Panics and errors logged since the last call."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_seen)
            new = log.read()
            whole = new.rfind(b"\n") + 1
            self.log_seen += whole
        faults = []
        for line in new[:whole].decode(errors="replace").splitlines():
            if "panicked at" in line:
                faults.append(line)
                continue
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and str(record.get("level", "")).lower() == "error":
                faults.append(line)
        if not self.killed and self.process.poll() not in (None, 0):
            faults.append(f"the broker ended with {self.process.returncode}")
        return faults

    # The HTTP side.

    def http(self, method, path, body=None, login=True, port="admin"):
        """Status code and raw body of one request."""
        request = urllib.request.Request(f"http://{self.host}:{self.ports[port]}{path}", method=method)
        if login:
            pair = f"{self.user}:{self.password}".encode()
            request.add_header("Authorization", "Basic " + base64.b64encode(pair).decode())
        if body is not None:
            body = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, data=body, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def api(self, path, method="GET", body=None):
        """The JSON answer of the admin API below /api/v1; fails on anything but 2xx."""
        status, raw = self.http(method, f"/api/v1{path}", body)
        assert 200 <= status < 300, f"{method} {path}: {status} {raw[:500]!r}"
        return json.loads(raw) if raw else None

    def queue(self, name):
        """What the API says of a queue; None if there is none."""
        status, raw = self.http("GET", f"/api/v1/queues/{urllib.request.quote(name, safe='')}")
        if status == 404:
            return None
        assert status == 200, f"queue {name}: {status} {raw[:500]!r}"
        return json.loads(raw)

    def counts(self, name):
        """(ready, unsettled) of a queue; (0, 0) if there is none."""
        found = self.queue(name)
        return (found["ready"], found["unsettled"]) if found else (0, 0)

    def metrics(self):
        """Every sample of /metrics: {(name, ((label, value), ...)): number}."""
        status, raw = self.http("GET", "/metrics", login=False, port="metrics")
        assert status == 200, status
        return parse_metrics(raw.decode())

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def raw(self, port, timeout=PATIENCE):
        """A plain socket to one of the ports."""
        return socket.create_connection((self.host, self.ports[port]), timeout=timeout)


class PortTaken(Exception):
    """Somebody else took the port between the look and the bind."""


def parse_metrics(text):
    """The Prometheus text format, strictly enough to notice a broken line."""
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition("{")
        if rest:
            inner, _, value = rest.rpartition("}")
            labels = []
            for pair in filter(None, inner.split(",")):
                key, _, quoted = pair.partition("=")
                assert quoted.startswith('"') and quoted.endswith('"'), line
                labels.append((key, quoted[1:-1]))
        else:
            name, _, value = line.partition(" ")
            labels = []
        samples[(name, tuple(sorted(labels)))] = float(value.split()[0])
    return samples


def deadline(seconds):
    """A function that answers the seconds left."""
    end = time.monotonic() + seconds
    return lambda: max(0.0, end - time.monotonic())
