# Mynah: what can be done here. `make help` lists it.

# A fresh rustup is not in the PATH of a shell opened before it.
export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CARGO_FLAGS ?= --locked
# Arguments of `make run` and `make bench`: make run ARGS="-c my.yaml"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run build dist lint fmt test test-rust test-blackbox soak fuzz bench bench-peers docker docker-test clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: dist ## build the broker as it is shipped and start it with the built-in defaults (loopback only)
	$(TARGET)/dist/mynah serve $(ARGS)

test: setup lint test-rust test-blackbox ## everything CI runs: format, lints, Rust tests, black-box suites with real clients

setup: ## install what the tests need (apt-get, cargo, pip, npm), or say what to install
	@bash tests/setup.sh test

build: ## build the release binary
	@bash tests/setup.sh build
	cargo build $(CARGO_FLAGS) --release -p mynah-server

dist: ## build the binary as it is shipped (whole-program optimised, stripped)
	@bash tests/setup.sh build
	cargo build $(CARGO_FLAGS) --profile dist -p mynah-server

lint: ## formatting and lints, warnings are errors
	@bash tests/setup.sh lint
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

fmt: ## format the Rust code
	cargo fmt --all

test-rust: ## unit, property and command line tests
	@bash tests/setup.sh build
	cargo test $(CARGO_FLAGS) --workspace

test-blackbox: setup build ## the release binary against real clients; ARGS="-k mqtt" picks some
	MYNAH_BIN=$(TARGET)/release/mynah .venv/bin/python -m pytest tests -q $(ARGS)

soak: setup build ## kill -9 and power cuts for longer, ten million messages in one queue: ROUNDS=500
	ROUNDS=$(or $(ROUNDS),500) MYNAH_BIN=$(TARGET)/release/mynah .venv/bin/python -m pytest tests/durability/test_kill9_confirmed.py -q -o faulthandler_timeout=0 $(ARGS)
	BACKLOG=10000000 MYNAH_BIN=$(TARGET)/release/mynah .venv/bin/python -m pytest tests/durability/test_backlog.py -q -o faulthandler_timeout=0
	ROUNDS=$$(( $(or $(ROUNDS),500) * 40 )) cargo test $(CARGO_FLAGS) --release -p mynah-store powercut

fuzz: ## the fuzz and property tests with many more cases: CASES=100000
	@bash tests/setup.sh build
	PROPTEST_CASES=$(or $(CASES),20000) cargo test $(CARGO_FLAGS) --release --workspace fuzz

bench: dist ## load a running broker: make bench ARGS="run --help"
	$(TARGET)/dist/mynah bench $(or $(ARGS),run --help)

bench-peers: dist ## Mynah beside mosquitto, RabbitMQ, nats-server and rumqttd; writes docs/benchmarks.md and docs/benchmarks-durable.md
	@bash tests/setup.sh peers
	$(TARGET)/dist/mynah bench peers --peers target/peers/bin --only MQTT --only queue --output docs/benchmarks.md $(ARGS)
	$(TARGET)/dist/mynah bench peers --peers target/peers/bin --only Stored --only Durable --output docs/benchmarks-durable.md $(ARGS)

docker: ## build the image mynah:local (needs an engine and its base images)
	docker build -f docker/Dockerfile -t mynah:local .

docker-test: ## build and start the image for real, with stand-in base images when none can be pulled
	@bash docker/test.sh

clean: ## remove what was built
	rm -rf target .venv tests/mqtt/js/node_modules
