#!/usr/bin/env bash
# Builds the image and runs the broker's part of compose.yaml for real: health, login, messages, restart, stop.
#
# Where no image can be pulled, stand-ins for the two base images are made with debootstrap; the Dockerfile is the same.
# BASES=standin skips the attempt to pull. PROFILE=release builds faster than the shipped profile (cargo calls its default one "dev").
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d /tmp/mynah-docker-test.XXXXXX)
own_engine=
compose=(docker-compose)
profile=${PROFILE:-dist}
project=mynahtest
build_image=rust:1-slim-bookworm
base_image=gcr.io/distroless/cc-debian12:nonroot

say() { echo "docker-test: $*"; }

fail() {
    say "FAILED: $*" >&2
    exit 1
}

cleanup() {
    local code=$?
    if [ "$code" -ne 0 ]; then
        "${compose[@]}" -p "$project" -f docker/compose.yaml logs mynah 2>/dev/null | tail -20 || true
    fi
    "${compose[@]}" -p "$project" -f docker/compose.yaml down -v >/dev/null 2>&1 || true
    if [ -n "$own_engine" ]; then
        # Only the engine started below, by its own id.
        kill "$own_engine" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$own_engine" 2>/dev/null || break
            sleep 0.2
        done
    fi
    umount "$work/engine/exec/netns/default" 2>/dev/null || true
    rm -rf "$work" 2>/dev/null || true
    exit "$code"
}
trap cleanup EXIT

# until_true SECONDS COMMAND... - waits for a condition.
until_true() {
    local seconds=$1
    shift
    for _ in $(seq $((seconds * 5))); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    return 1
}

start_engine() {
    docker info >/dev/null 2>&1 && return
    [ "$(id -u)" -eq 0 ] || fail "no engine answers, and only root can start one: sudo systemctl start docker"
    say "no engine answers, starting dockerd for this run"
    local engine=$work/engine
    mkdir -p "$engine"
    # A host without iptables or bridges still runs containers, on the host's network.
    local options
    for options in "" "--storage-driver=vfs" "--storage-driver=vfs --iptables=false --bridge=none"; do
        # shellcheck disable=SC2086 # the options are words
        dockerd --data-root "$engine/data" --exec-root "$engine/exec" --pidfile "$engine/pid" \
            -H "unix://$engine/socket" $options >"$engine/log" 2>&1 &
        own_engine=$!
        export DOCKER_HOST=unix://$engine/socket
        if until_true 20 docker info; then
            say "dockerd runs ${options:+with $options}"
            return
        fi
        kill "$own_engine" 2>/dev/null || true
        wait "$own_engine" 2>/dev/null || true
        own_engine=
    done
    tail -5 "$engine/log" >&2
    fail "dockerd does not start here, see above"
}

# import NAME DIR - a directory as an image of one layer.
import() {
    tar -C "$2" --one-file-system -c . | docker import - "$1" >/dev/null
}

stand_ins() {
    say "making stand-in base images with debootstrap"
    local base=$work/base builder=$work/builder sysroot registry
    debootstrap --variant=minbase bookworm "$base" http://deb.debian.org/debian >"$work/debootstrap.log" 2>&1 ||
        { tail -3 "$work/debootstrap.log" >&2; fail "debootstrap"; }
    # What distroless/cc has, in effect: the C library and libgcc, no package cache.
    rm -rf "$base"/var/cache/apt/* "$base"/var/lib/apt/lists/* "$base"/usr/share/{doc,man,locale}
    import mynah-standin-base "$base"
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$builder" http://deb.debian.org/debian \
        >"$work/debootstrap.log" 2>&1 || { tail -3 "$work/debootstrap.log" >&2; fail "debootstrap"; }
    # The tool chain and the downloaded crates of this machine: the build runs without a network.
    sysroot=$(rustc --print sysroot)
    registry=${CARGO_HOME:-$HOME/.cargo}/registry
    cargo fetch --locked --quiet
    mkdir -p "$builder/usr/local/rust" "$builder/root/.cargo"
    cp -a "$sysroot"/{bin,lib} "$builder/usr/local/rust/"
    cp -a "$registry" "$builder/root/.cargo/registry"
    ln -s /usr/local/rust/bin/cargo /usr/local/rust/bin/rustc "$builder/usr/local/bin/"
    import mynah-standin-build "$builder"
    rm -rf "$base" "$builder"
    build_image=mynah-standin-build
    base_image=mynah-standin-base
}

build() {
    local flags=--locked
    if [ "${BASES:-}" = standin ] || ! { docker pull -q "$build_image" && docker pull -q "$base_image"; } >/dev/null 2>&1; then
        stand_ins
        flags="--locked --offline"
    fi
    say "building the image (profile $profile)"
    docker build -q -f docker/Dockerfile -t mynah:local --build-arg BUILD_IMAGE="$build_image" \
        --build-arg BASE_IMAGE="$base_image" --build-arg PROFILE="$profile" --build-arg CARGO_FLAGS="$flags" . >/dev/null
    say "image: $(docker image inspect -f '{{.Size}}' mynah:local) bytes, of which base $(docker image inspect -f '{{.Size}}' "$base_image")"
}

container() { "${compose[@]}" -p "$project" -f docker/compose.yaml ps -q mynah; }

healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container)")" = healthy ]; }

try_it() {
    say "starting the broker of compose.yaml"
    "${compose[@]}" -p "$project" -f docker/compose.yaml up -d --no-build mynah
    until_true 30 healthy || fail "the container is not healthy after 30 s"
    local id password got
    id=$(container)
    [ "$(docker inspect -f '{{.Config.User}}' "$id")" = 65532:65532 ] || fail "runs as root"
    docker exec "$id" /usr/bin/mynah health
    password=$(docker logs "$id" 2>&1 | sed -n 's/.*password is shown only now: //p')
    [ -n "$password" ] || fail "no password in the log of the first start"
    say "first start printed a password"

    mosquitto_pub -p 1883 -t t -m x 2>/dev/null && fail "anonymous was let in"
    mosquitto_pub -p 1883 -u guest -P guest -t t -m x 2>/dev/null && fail "guest was let in"
    mosquitto_pub -p 1883 -u admin -P "$password" -t docker/test -m hello -q 1 -r
    got=$(mosquitto_sub -p 1883 -u admin -P "$password" -t docker/test -C 1 -W 5)
    [ "$got" = hello ] || fail "MQTT: got '$got'"
    got=$(curl -fsS http://127.0.0.1:15692/metrics | grep -c '^mynah_') || fail "no metrics"
    say "published and received over MQTT; $got lines of metrics"

    docker restart -t 10 "$id" >/dev/null
    until_true 30 healthy || fail "not healthy after a restart"
    [ "$(docker logs "$id" 2>&1 | grep -c 'password is shown only now')" = 1 ] || fail "a second password was made"
    mosquitto_pub -p 1883 -u admin -P "$password" -t t -m x || fail "the login did not survive the restart"
    docker stop -t 10 "$id" >/dev/null
    [ "$(docker inspect -f '{{.State.ExitCode}}' "$id")" = 0 ] || fail "exit code after SIGTERM is not 0"
    say "restart keeps the login; SIGTERM ends with exit code 0"
}

bash tests/setup.sh docker
docker compose version >/dev/null 2>&1 && compose=(docker compose)
start_engine
build
try_it
say "ok"
