# make demo    one command from a clean clone to a car with its container following it
# make test    all tests, those on real container engines last
# make help    the rest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One profile (release) and one target directory for everything, so that RocksDB compiles once.
# Outside the checkout: a fresh clone of the same machine finds it built.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/blosm/target
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin

BIN := $(CARGO_TARGET_DIR)/release
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH="$$PATH")
SCALE ?= 1

.PHONY: help setup build demo test soak flood screenshot check-dashboards check-dashboard-types lint fmt fmt-fix clippy doc deny arrows clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing (Debian, Ubuntu), or say what to install
	@.ci/setup

build: setup ## both programs, in the release profile
	@if ! compgen -G '$(BIN)/build/librocksdb-sys-*/out/librocksdb.a' >/dev/null; then \
	    echo 'The first build takes 12 to 16 minutes on 2 cores (RocksDB is compiled once); later ones take seconds to minutes.'; \
	fi
	cargo build --release --locked --workspace --bins

demo: build ## three hosts, a driving car, its container following it (ARGS="--json FILE --keep")
	@$(SUDO) $(BIN)/blosm-testnet demo $(ARGS)

test: build ## all tests; those with real engines last
	@.ci/test

soak: setup ## property tests and the simulation at length: SCALE=n thousand cases each, SEED=s to repeat
	@SCALE='$(SCALE)' .ci/soak

screenshot: build ## docs/live.png, the live page in a real browser (needs chromium)
	@.ci/screenshot

flood: setup ## what a flood of invalid gossip costs honest messages and memory
	cargo bench --profile release --locked -p blosm-net --bench flood

check-dashboards: build ## every query of every dashboard, by a real Prometheus over a testnet with load
	promtool check rules grafana/rules.yml
	promtool test rules grafana/rules.test.yml
	promtool check config grafana/prometheus.yml
	$(BIN)/blosm-testnet check-dashboards grafana/dashboards/*.json

check-dashboard-types: ## the dashboards against Grafana's published types (needs npm)
	@if command -v npm >/dev/null; then \
	    mkdir -p '$(CARGO_TARGET_DIR)/dashboard-types'; \
	    cp grafana/types/*.ts grafana/types/*.mjs grafana/types/*.json '$(CARGO_TARGET_DIR)/dashboard-types'; \
	    export DASHBOARDS='$(CURDIR)/grafana/dashboards'; \
	    cd '$(CARGO_TARGET_DIR)/dashboard-types'; \
	    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; \
	    npm run --silent check; \
	    echo 'check-dashboard-types: all dashboards are of their types'; \
	else \
	    echo 'check-dashboard-types: left out, there is no npm here (apt-get install --no-install-recommends npm)'; \
	fi

lint: fmt arrows clippy ## formatting, arrows, clippy

fmt: ## is everything formatted
	cargo fmt --all -- --check

fmt-fix: ## format everything
	cargo fmt --all

clippy: ## clippy with warnings denied
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

doc: ## the API's documentation, broken links denied
	RUSTDOCFLAGS='-D warnings' cargo doc --release --locked --workspace --no-deps

deny: ## licences, advisories, banned crates
	@if cargo deny --version >/dev/null 2>&1; then \
	    cargo deny --locked check; \
	else \
	    echo 'deny: left out, there is no cargo-deny here; get it with: cargo install --locked cargo-deny'; \
	fi

arrows: ## does each crate know only what it may
	@.ci/arrows

clean: ## remove what was built
	cargo clean
