"""mosquitto_pub and mosquitto_sub, as people use them in a shell, in every version."""

import shutil
import subprocess
import time

import pytest

from support.certificates import Authority

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")


def command(name):
    path = shutil.which(name)
    assert path, f"{name} is missing: apt-get install mosquitto-clients coreutils"
    return path


class Subscriber:
    def __init__(self, broker, *arguments):
        self.process = subprocess.Popen(
            # Line by line also into a pipe: "Subscribed" must be seen at once. stdbuf becomes the client, same process.
            [
                command("stdbuf"),
                "-oL",
                command("mosquitto_sub"),
                "-h",
                broker.host,
                "-p",
                str(broker.ports["mqtt"]),
                "-d",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.shown = []
        # -d tells when the subscription stands.
        for line in self.process.stdout:
            self.shown.append(line.rstrip("\n"))
            if line.startswith("Subscribed"):
                break

    def lines(self):
        """What it printed by its end, which -C or -W brings."""
        self.shown += [line.rstrip("\n") for line in self.process.stdout]
        self.process.wait(20)
        return [line for line in self.shown if not line.startswith(("Client ", "Subscribed"))]


def publish(broker, *arguments, **options):
    subprocess.run(
        [command("mosquitto_pub"), "-h", broker.host, "-p", str(broker.ports["mqtt"]), *arguments],
        check=True,
        timeout=20,
        capture_output=True,
        **options,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", ("0", "1", "2"))
def test_publish_and_subscribe(broker, fresh, version, qos):
    topic = fresh("t")
    reader = Subscriber(broker, "-V", version, "-q", qos, "-t", f"{topic}/#", "-C", "2", "-v", "-W", "15")
    publish(broker, "-V", version, "-q", qos, "-t", f"{topic}/a", "-m", "21.5")
    publish(broker, "-V", version, "-q", qos, "-t", f"{topic}/b", "-m", "22.5", "-u", "app", "-P", "app-secret")
    assert reader.lines() == [f"{topic}/a 21.5", f"{topic}/b 22.5"]
    assert reader.process.returncode == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_many_lines_from_a_pipe(broker, fresh, version):
    topic = fresh("t")
    reader = Subscriber(broker, "-V", version, "-q", "1", "-t", topic, "-C", "500", "-W", "15")
    lines = [f"line {number}" for number in range(500)]
    publish(broker, "-V", version, "-q", "1", "-t", topic, "-l", input="\n".join(lines).encode() + b"\n")
    assert reader.lines() == lines


def test_retained(broker, fresh):
    topic = fresh("t")
    publish(broker, "-r", "-t", topic, "-m", "kept")
    reader = Subscriber(broker, "-t", topic, "-C", "1", "-W", "15", "-F", "%r %p")
    assert reader.lines() == ["1 kept"]


def test_properties_of_version_5(broker, fresh):
    topic = fresh("t")
    reader = Subscriber(broker, "-V", "mqttv5", "-t", topic, "-C", "1", "-W", "15", "-F", "%C|%D|%R|%P|%p")
    publish(
        broker, "-V", "mqttv5", "-t", topic, "-m", "x", "-D", "publish", "content-type", "text/plain",
        "-D", "publish", "correlation-data", "c-1", "-D", "publish", "response-topic", "back/here",
        "-D", "publish", "user-property", "k", "v",
    )  # fmt: skip
    assert reader.lines() == ["text/plain|c-1|back/here|k:v|x"]


def test_will_of_a_killed_client(broker, fresh):
    topic, other = fresh("t"), fresh("t")
    watcher = Subscriber(broker, "-t", topic, "-C", "1", "-W", "15")
    dying = Subscriber(broker, "-t", other, "--will-topic", topic, "--will-payload", "killed", "--will-qos", "1")
    dying.process.kill()
    dying.process.wait()
    dying.process.stdout.close()
    assert watcher.lines() == ["killed"]


def test_a_durable_subscriber_away(broker, fresh):
    topic, identity = fresh("t"), fresh("id")
    arguments = ("-c", "-i", identity, "-q", "1", "-t", topic)
    first = Subscriber(broker, *arguments, "-C", "1", "-W", "15")
    publish(broker, "-q", "1", "-t", topic, "-m", "one")
    assert first.lines() == ["one"]
    publish(broker, "-q", "1", "-t", topic, "-m", "two")
    out = subprocess.run(
        [command("mosquitto_sub"), "-h", broker.host, "-p", str(broker.ports["mqtt"]), *arguments, "-C", "1", "-W", "15"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert out.stdout.splitlines() == ["two"]


def test_a_wrong_password_is_refused(broker, fresh):
    started = time.monotonic()
    result = subprocess.run(
        [command("mosquitto_pub"), "-h", broker.host, "-p", str(broker.ports["mqtt"]), "-u", "app", "-P", "wrong",
         "-t", fresh("t"), "-m", "x"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert result.returncode != 0
    assert "authori" in (result.stdout + result.stderr).lower()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("version", VERSIONS)
def test_over_tls_with_certificates_of_both_sides(own_broker, fresh, tmp_path, version):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost", server=True)
    own, own_key = authority.issue("sensor-1")

    def changes(ports):
        tls = {"cert": str(certificate), "key": str(key), "client_ca": str(authority.path), "client_cert": "required"}
        return {"listeners": [{"name": "mqtts", "protocol": "mqtt", "bind": f"127.0.0.1:{ports['mqtt']}", "tls": tls}]}

    broker, topic = own_broker(changes), fresh("t")
    secured = ("-V", version, "--cafile", authority.path, "--cert", own, "--key", own_key)
    watcher = Subscriber(broker, *secured, "-q", "2", "-t", f"{topic}/#", "-C", "2", "-W", "15", "-v")
    publish(broker, *secured, "-q", "2", "-t", f"{topic}/a", "-m", "21.5")
    dying = Subscriber(
        broker, *secured, "-t", fresh("t"), "--will-topic", f"{topic}/will", "--will-payload", "killed", "--will-qos", "2"
    )
    dying.process.kill()
    dying.process.wait()
    dying.process.stdout.close()
    assert watcher.lines() == [f"{topic}/a 21.5", f"{topic}/will killed"]
    with pytest.raises(subprocess.CalledProcessError):
        publish(broker, "-V", version, "--cafile", authority.path, "-t", topic, "-m", "without a certificate")
