# `make` lists the targets. The engines (ClickHouse's library, Kafka, Connect, Debezium, PostgreSQL) are installed
# into .engines by deploy/engines/install.sh; no Docker is needed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# rustup's folder, for shells that did not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

PYTHON ?= python3
REQUIREMENTS := $(wildcard tests/python/requirements.txt)
DEMO := .vader/vaderSentiment-3.3.2.tar.gz
# A test's Kafka and Connect live for seconds: code that is compiled for months of them costs more than it saves.
QUICK_JAVA := JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
BINARY := $${CARGO_TARGET_DIR:-target}/debug/platform

.PHONY: help engines airflow up test chaos check bench demo clean cargo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

engines: ## install the engines into .engines (the first time about 850 MB)
	@deploy/engines/install.sh

airflow: .airflow/.stamp ## install Airflow into .airflow, for `make up ARGS=--airflow`

up: cargo engines ## run the whole platform here until Ctrl-C; ARGS='…' go to `platform up`
	@cargo build --locked
	@exec $(BINARY) up $(ARGS)

test: cargo engines airflow $(if $(REQUIREMENTS),.venv/.stamp) $(DEMO) .cron/.stamp ## run all tests; ARGS='…' go to `cargo test`
	@$(QUICK_JAVA) cargo test --locked --features failpoints $(ARGS)

chaos: cargo engines ## random faults: PLATFORM_CHAOS_SECONDS=180, PLATFORM_CHAOS_SEED=… for a plan again
	@PLATFORM_CHAOS_SECONDS=$${PLATFORM_CHAOS_SECONDS:-180} PLATFORM_CHAOS_SEED=$${PLATFORM_CHAOS_SEED:-$$RANDOM} $(QUICK_JAVA) \
		cargo test --locked --features failpoints --test it -- --nocapture end_to_end::chaos::

check: cargo ## formatting, lints and documentation, without a warning
	@cargo fmt --check
	@cargo clippy --all-targets --locked -- -D warnings
	@cargo clippy --all-targets --features failpoints --locked -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked

bench: cargo engines ## run the benchmarks; ARGS='…' go to `cargo bench`
	@cargo bench --locked $(ARGS)

demo: cargo ## real posts that people rated, into the platform that runs here (examples/vader)
	@cargo build --locked --quiet
	@PYTHON=$(PYTHON) examples/vader/demo.sh $(BINARY)

clean: ## remove what was built and installed; data is kept
	@rm -rf target .engines .venv .airflow .vader .cron
	@echo "removed target, .engines, .venv, .airflow, .vader and .cron"
	@[[ ! -e .platform ]] || echo "kept .platform, the data of 'platform up'; to remove it, stop the platform, then:  rm -rf .platform"

cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup, https://rustup.rs (rust-toolchain.toml picks the version)" >&2; exit 1; }

# The Python clients that the tests drive.
.venv/.stamp: $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: Debian packages python3 and python3-venv" >&2; exit 1; }
	@echo "python: installing tests/python/requirements.txt into .venv"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { echo "cannot make a virtual environment: Debian package python3-venv" >&2; exit 1; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Airflow, for `platform up --airflow` and its tests: everything beneath it as constraints.txt has it.
.airflow/.stamp: deploy/airflow/requirements.txt deploy/airflow/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: Debian packages python3 and python3-venv" >&2; exit 1; }
	@echo "airflow: installing deploy/airflow/requirements.txt into .airflow (about a minute, 300 MB)"
	@rm -rf .airflow
	@$(PYTHON) -m venv .airflow || { echo "cannot make a virtual environment: Debian package python3-venv" >&2; exit 1; }
	@.airflow/bin/python -m pip install --quiet --disable-pip-version-check --requirement deploy/airflow/requirements.txt \
		--constraint deploy/airflow/constraints.txt
	@touch $@

# The package of the demo's posts, for its test.
$(DEMO): examples/vader/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: Debian packages python3 and python3-venv" >&2; exit 1; }
	@rm -rf $(@D)
	@PYTHON=$(PYTHON) examples/vader/fetch.sh $(@D)

# Debian's cron for the test of deploy/cron: unpacked, not installed. Its package is found by the machine's own lists, or by
# lists that are fetched for it alone.
.cron/.stamp:
	@command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "the test of deploy/cron runs Debian's cron: apt-get and dpkg are missing" >&2; exit 1; }
	@echo "cron: unpacking Debian's package into .cron"
	@rm -rf .cron
	@mkdir -p .cron/lists/partial .cron/cache/archives/partial
	@cd .cron && get="apt-get -qq -o APT::Sandbox::User=root"; $$get download cron 2>/dev/null || \
		{ get="$$get -o Dir::State::Lists=$$PWD/lists -o Dir::Cache=$$PWD/cache"; $$get update && $$get download cron; }
	@dpkg --extract .cron/cron_*.deb .cron
	@rm -rf .cron/lists .cron/cache
	@touch $@
