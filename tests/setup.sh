#!/usr/bin/env bash
# Installs what a target of the Makefile needs, by the ordinary clients, or stops with one line saying what to install.
#
#   tests/setup.sh build     a Rust tool chain and a C compiler
#   tests/setup.sh test      that, the reference clients of Debian, the Python clients in .venv and MQTT.js in tests/mqtt/js
#   tests/setup.sh peers     the brokers that `make bench-peers` measures Mynah beside
#   tests/setup.sh docker    a container engine, compose and debootstrap
#
# Does nothing when everything is there. Never asks a question.
set -euo pipefail
cd "$(dirname "$0")/.."

rust_min=1.89

stop() {
    echo "setup: $*" >&2
    exit 1
}

# apt NAME... - installs Debian packages, as root or by sudo.
apt() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        { command -v sudo && sudo -n true; } >/dev/null 2>&1 || stop "please install: sudo apt-get install -y $*"
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || stop "please install (by Debian's names): $*"
    echo "setup: apt-get install $*"
    { "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >/tmp/mynah-setup-apt.$$ 2>&1 || { tail -5 /tmp/mynah-setup-apt.$$ >&2; stop "apt-get install $* failed"; }
    rm -f /tmp/mynah-setup-apt.$$
}

build() {
    command -v cargo >/dev/null || stop "please install Rust $rust_min or newer (https://rustup.rs): curl https://sh.rustup.rs -sSf | sh"
    local version
    version=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$rust_min" "$version" | sort -V | head -1)" = "$rust_min" ] ||
        stop "Rust $version is too old, please install $rust_min or newer: rustup update stable"
    # The allocator is C, and rustc links by cc.
    if ! command -v cc >/dev/null || ! echo 'int main(void){return 0;}' | cc -x c - -o /dev/null 2>/dev/null; then
        apt gcc libc6-dev
    fi
}

lint() {
    build
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        rustup component add rustfmt clippy || stop "please install rustfmt and clippy: rustup component add rustfmt clippy"
}

# can_venv PYTHON - has venv, pip and the headers that a source distribution needs.
can_venv() {
    "$1" -c 'import venv, ensurepip, os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' >/dev/null 2>&1
}

test_clients() {
    lint
    local missing=() package
    command -v python3 >/dev/null && can_venv python3 || missing+=(python3 python3-venv python3-dev)
    # python-qpid-proton is built from source; with Cyrus SASL it is the stricter client, and without the modules it would
    # know no mechanism at all.
    for package in g++ pkg-config libssl-dev libsasl2-dev libsasl2-modules mosquitto-clients inetutils-telnet; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    # MQTT.js 5 wants Node 16 or newer; Debian packages npm by itself, others with Node.
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || missing+=(chromium-headless-shell)
    [ ${#missing[@]} -eq 0 ] || apt "${missing[@]}"
    local python=python3 stamp
    can_venv "$python" || python=/usr/bin/python3
    stamp=.venv/.made-by-$( { "$python" --version; cat tests/requirements.txt; } | sha256sum | cut -c1-16)
    if [ ! -e "$stamp" ]; then
        echo "setup: Python clients into .venv"
        rm -rf .venv
        "$python" -m venv .venv
        .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt ||
            stop "pip install -r tests/requirements.txt failed"
        touch "$stamp"
    fi
    local js=tests/mqtt/js
    stamp=$js/node_modules/.made-by-$(sha256sum <$js/package-lock.json | cut -c1-16)
    if [ ! -e "$stamp" ]; then
        echo "setup: MQTT.js into $js/node_modules"
        npm ci --prefix $js --silent --no-audit --no-fund || stop "npm ci --prefix $js failed"
        touch "$stamp"
    fi
}

docker_engine() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    { docker compose version || docker-compose version; } >/dev/null 2>&1 || missing+=(docker-compose)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    [ ${#missing[@]} -eq 0 ] || apt "${missing[@]}"
}

peers() {
    build
    local missing=() package
    for package in mosquitto rabbitmq-server nats-server; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        apt "${missing[@]}"
        # Debian starts what it installs, on the ports Mynah wants; the benchmark starts its own, on others.
        if [ -d /run/systemd/system ]; then
            systemctl disable --now "${missing[@]}" >/dev/null 2>&1 || true
        fi
    fi
    # Not --locked: its lock file names a crate that current compilers refuse.
    if ! command -v rumqttd >/dev/null && [ ! -x target/peers/bin/rumqttd ]; then
        echo "setup: cargo install rumqttd into target/peers"
        CARGO_TARGET_DIR=target/peers/build cargo install --quiet --version 0.20.0 --root target/peers rumqttd ||
            stop "cargo install rumqttd failed"
        rm -rf target/peers/build
    fi
}

case "${1:-}" in
build) build ;;
lint) lint ;;
test) test_clients ;;
peers) peers ;;
docker) docker_engine ;;
*) stop "say what for: build, lint, test, peers or docker" ;;
esac
