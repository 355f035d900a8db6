"""MQTT.js over TCP, TLS and WebSocket in Node, and over WebSocket in headless Chromium."""

import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.parse

import pytest

from support.certificates import Authority

FOLDER = pathlib.Path(__file__).parent / "js"
VERSIONS = ("3.1", "3.1.1", "5.0")
LIMIT = 60


def expected(topic, version):
    return [
        *(f"{topic}/lamp/state on {qos} qos {qos} retain false" for qos in (0, 1, 2)),
        100000,
        f"{topic}/door/state shut qos 1 retain false",
        f"{topic}/door/state shut qos 1 retain true",
        f"{topic}/door/state  qos 1 retain false",
        *(["session present true"] if version != "3.1" else []),
        f"{topic}/orders 1 qos 1 retain false",
        f"{topic}/orders 2 qos 1 retain false",
        f"{topic}/orders 3 qos 2 retain false",
        f"{topic}/will gone qos 1 retain false",
        *(["text/plain back/here c-1 v,w 9"] if version == "5.0" else []),
    ]


def program(*names):
    """The first of these that there is."""
    paths = [path for path in map(shutil.which, names) if path]
    assert paths, f"{' or '.join(names)} is missing: make setup"
    return paths[0]


@pytest.fixture(scope="module")
def secure(brokers, tmp_path_factory):
    """A broker with TLS, by itself and under WebSocket, and the file of the authority to trust."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    certificate, key = authority.issue("localhost", server=True)
    tls = {"cert": str(certificate), "key": str(key)}

    def changes(ports):
        bind = {name: f"127.0.0.1:{ports[name]}" for name in ports}
        return {
            "listeners": [
                {"name": "mqtts", "protocol": "mqtt", "bind": bind["mqtt"], "tls": tls},
                {"name": "wss", "protocol": "websocket", "bind": bind["websocket"], "tls": tls},
            ]
        }

    broker = brokers.start(changes)
    yield broker, str(authority.path)
    brokers.end(broker)


def url(scheme, broker):
    port = broker.ports["websocket" if scheme.startswith("ws") else "mqtt"]
    return f"{scheme}://{broker.host}:{port}" + ("/mqtt" if scheme.startswith("ws") else "")


def in_node(wanted):
    done = subprocess.run(
        [program("node"), "node.mjs", json.dumps(wanted)], cwd=FOLDER, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scheme", ("mqtt", "ws", "mqtts", "wss"))
def test_in_node(request, broker, fresh, scheme, version):
    topic = fresh("t")
    wanted = {"version": version, "topic": topic, "options": {}}
    if scheme in ("mqtts", "wss"):
        broker, wanted["ca"] = request.getfixturevalue("secure")
    assert in_node({**wanted, "url": url(scheme, broker)}) == expected(topic, version)


class Pages(http.server.ThreadingHTTPServer):
    """Serves the page on a free port of loopback and keeps what it hands back."""

    FILES = {
        "/": (FOLDER / "page.html", "text/html"),
        "/habits.mjs": (FOLDER / "habits.mjs", "text/javascript"),
        "/mqtt.min.js": (FOLDER / "node_modules/mqtt/dist/mqtt.min.js", "text/javascript"),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, kind = Pages.FILES.get(urllib.parse.urlsplit(self.path).path, (None, None))
            body = path.read_bytes() if path else b""
            self.send_response(200 if path else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.server.seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            self.server.handed.set()

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.seen, self.handed = None, threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def pages():
    server = Pages()
    yield server
    server.shutdown()
    server.server_close()


def in_chromium(pages, wanted):
    query = urllib.parse.urlencode({"run": json.dumps(wanted)})
    with tempfile.TemporaryDirectory(prefix="mynah-chromium-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [
                program("chromium-headless-shell", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--ignore-certificate-errors", "--disable-background-networking", "--remote-debugging-port=0",
                f"--user-data-dir={profile}", f"{pages.origin}/?{query}",
            ],
            # The browser is a family of processes behind a shell script: it is ended as a group.
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            assert pages.handed.wait(LIMIT), f"the page handed nothing back; Chromium: {browser.poll()}"
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait(20)
    return pages.seen


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scheme", ("ws", "wss"))
def test_in_chromium(request, broker, pages, fresh, scheme, version):
    topic = fresh("t")
    if scheme == "wss":
        broker, _ = request.getfixturevalue("secure")
    wanted = {"url": url(scheme, broker), "version": version, "topic": topic, "options": {}}
    assert in_chromium(pages, wanted) == expected(topic, version)


def test_a_page_of_another_origin_is_kept_out(own_broker, pages, fresh):
    def changes(ports):
        listener = {"name": "ws", "protocol": "websocket", "bind": f"127.0.0.1:{ports['websocket']}"}
        return {"listeners": [{**listener, "origins": ["https://shop.example"]}]}

    broker = own_broker(changes)
    wanted = {"url": url("ws", broker), "version": "5.0", "topic": fresh("t"), "options": {}}
    assert in_chromium(pages, wanted) == {"error": "no handshake"}


def test_a_page_of_a_listed_origin_gets_in(own_broker, pages, fresh):
    def changes(ports):
        listener = {"name": "ws", "protocol": "websocket", "bind": f"127.0.0.1:{ports['websocket']}"}
        return {"listeners": [{**listener, "origins": [pages.origin]}]}

    topic, broker = fresh("t"), own_broker(changes)
    wanted = {"url": url("ws", broker), "version": "5.0", "topic": topic, "options": {}}
    assert in_chromium(pages, wanted) == expected(topic, "5.0")
