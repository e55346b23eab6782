# `make run` and `make test` install what is missing and say what; see scripts/install.sh.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
STAGE := scripts/stage
ARGS ?=
# For `make simulate`: how many seeds, or which one.
SEEDS ?= 100000
SEED ?=
# The binary that tests start: built with the tests, in their profile, so that nothing is compiled twice.
TEST_BIN := $(TARGET)/debug/stillframe

.PHONY: help run test bench simulate load fuzz fmt lint tests browser guest vcsim doc-tests

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: ## install what is missing, build, start the console (ARGS='--listen 127.0.0.1:8443' …)
	@scripts/install.sh run
	@$(STAGE) 'Build (release; a few minutes the first time)' $(CARGO) build --release --locked -p app
	@exec $(TARGET)/release/stillframe serve $(ARGS)

test: ## everything CI runs
	@$(STAGE) 'What tests need' scripts/install.sh test
	@$(MAKE) lint
	@$(MAKE) tests

lint: ## format, layers, licences, lints
	@$(STAGE) 'Format' $(CARGO) fmt --all --check
	@$(STAGE) 'Layers' bash -c 'scripts/check-arrows --self-test && scripts/check-arrows'
	@$(STAGE) 'Committed files' scripts/check-house
	@$(STAGE) 'Licences, banned crates, sources' bash -c '$(CARGO) fetch --locked --quiet && \
		$(CARGO) deny --offline --locked --log-level error check --hide-inclusion-graph licenses bans sources'
	@$(STAGE) 'Lints' $(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings

tests: ## the tests alone, on a machine that has what they need
	@$(STAGE) 'Build' $(CARGO) build --quiet --locked --workspace --bins --tests
	@$(STAGE) 'Guest disk' tests/guest/make-guest.sh
	@$(STAGE) 'vcsim' scripts/build-vcsim.sh
	@$(MAKE) doc-tests
	@$(MAKE) browser
	@$(STAGE) 'Tests' env STILLFRAME_BIN=$(TEST_BIN) $(CARGO) nextest run --locked --workspace --profile ci

doc-tests:
	@$(STAGE) 'Examples in the documentation' $(CARGO) test --quiet --locked --workspace --doc

browser: ## the browser tests; screenshots land in tests/artifacts
	@$(STAGE) 'Browser' env STILLFRAME_BIN=$(TEST_BIN) npm --silent --prefix tests/browser test

guest: ## the bootable disk that tests back up
	@tests/guest/make-guest.sh

vcsim: ## the independent vSphere peer
	@scripts/build-vcsim.sh

simulate: ## simulate crashes of the repository (SEEDS=100000, or SEED=n to see one again, SIMULATE_TRACE=1 to see it all; release build)
	@SIMULATE_SEEDS=$(SEEDS) SIMULATE_SEED=$(SEED) $(CARGO) test --quiet --release --locked -p repository --lib \
		simulation::nothing_committed -- --nocapture

fuzz: ## give hostile bytes to every decoder (FUZZ_SECONDS=60 each, FUZZ_TARGETS='segment map_leaf')
	@scripts/fuzz

bench: ## measure the repository beside restic and borg, then a backup through the simulator (root; RUNS=3 SERIES=30)
	@$(STAGE) 'Peers' scripts/bench/install-peers.sh
	@$(STAGE) 'Build' $(CARGO) build --quiet --release --locked -p app
	@$(STAGE) 'Build the floor' $(CARGO) build --quiet --release --locked -p repository --example floor
	@$(STAGE) 'Images' scripts/bench/make-images.py $(TARGET)/bench/images
	@$(STAGE) 'Self-test with figures' $(TARGET)/release/stillframe selftest $(ARGS)
	@$(STAGE) 'Side by side' scripts/bench/bench.py $(TARGET)/bench/images $(TARGET)/bench/work \
		--stillframe $(TARGET)/release/stillframe --floor $(TARGET)/release/examples/floor \
		--restic .tools/bench/restic --borg .tools/bench/venv/bin/borg

load: ## measure scheduling, leasing and pages while 10 000 machines are backed up (release)
	@$(STAGE) 'Ten thousand machines' $(CARGO) test --quiet --release --locked -p it --test it -- --ignored --nocapture ten_thousand_machines

fmt: ## format the sources
	@$(CARGO) fmt --all
