# The two commands: `make run` starts a node, `make test` proves the tree. Both install what is missing first.

.DEFAULT_GOAL := help
.PHONY: help setup run-setup cluster-setup bench-setup run cluster test everything format lint docs simulate soak \
	bench bench-memory bench-hits bench-cluster plots bench-programs

# Everything is built once, with the committed lock file.
CARGO := cargo
LOCKED := --locked
# What the runner of `make run` passes on: make run ARGS="--memory 1GiB --cores 0-1"
ARGS ?=

help:
	@echo "make run     build, and start a node on 127.0.0.1:7400 (ARGS=\"--memory 1GiB\" passes options)"
	@echo "make cluster start etcd and three nodes on loopback, load them, kill one, show them (ARGS=600: for so many seconds)"
	@echo "make test    format, lints, and every test"
	@echo "make simulate   run simulated clusters through faults (SEEDS=7 runs one seed again, SEEDS=0..100000 many)"
	@echo "make bench   measure Quoit beside the echo, memcached and redis, and write benches/README.md"
	@echo "make bench-memory   the memory of an item, beside memcached and redis"
	@echo "make bench-hits     hits with the same resident memory, beside memcached and redis"
	@echo "make bench-cluster  what copies cost, and vnodes that move, beside a cluster without"
	@echo "make plots   draw latency against throughput: benches/latency.svg"
	@echo "make soak    the end-to-end tests that take minutes, on release builds"
	@echo "make setup   install what building and testing need (test does so too; run installs what building needs)"
	@echo "make bench-setup   install what the side-by-side benchmarks need as well"

setup:
	@bash .ci/setup

run-setup:
	@bash .ci/setup run

cluster-setup:
	@bash .ci/setup cluster

bench-setup:
	@bash .ci/setup bench

run: run-setup
	@echo "== building (the first time takes a few minutes)"
	$(CARGO) build $(LOCKED) --release --bin quoit
	@echo
	@echo "== talk to it from another terminal:"
	@echo "     target/release/quoit set greeting hello"
	@echo "     target/release/quoit get greeting"
	@echo "     curl http://127.0.0.1:7401/metrics"
	@echo "   Ctrl-C stops it."
	@echo
	@exec target/release/quoit serve --listen 127.0.0.1:7400 --admin 127.0.0.1:7401 $(ARGS)

# What else runs in this session yields to what is measured; without the right to it, nice says so and goes on.
FIRST := nice -n -19

bench-programs: bench-setup
	$(CARGO) build $(LOCKED) --release -p quoit -p quoit-loadgen --bins

# About nine minutes on two cores; nothing else should run meanwhile. ARGS="--duration 1s" takes five.
bench: bench-programs
	$(FIRST) target/release/quoit-loadgen compare --write benches/README.md $(ARGS)

# About two minutes; nothing else should run meanwhile.
plots: bench-programs
	$(FIRST) target/release/quoit-loadgen plot --write benches/README.md $(ARGS)

# About four minutes each, and 5 GiB of memory. No time is measured: other programs may run meanwhile.
bench-memory: bench-programs
	target/release/quoit-loadgen density --write benches/README.md $(ARGS)

bench-hits: bench-programs
	target/release/quoit-loadgen hits --write benches/README.md $(ARGS)

# About five minutes; nothing else should run meanwhile.
bench-cluster: cluster-setup
	$(CARGO) build $(LOCKED) --release -p quoit -p quoit-loadgen --bins
	$(FIRST) benches/cluster --write benches/README.md $(ARGS)

cluster: cluster-setup
	$(CARGO) build $(LOCKED) --release -p quoit -p quoit-loadgen --bins
	@exec deploy/cluster $(ARGS)

# Two cores take four minutes with everything built, and twenty-five from nothing. What takes longer than this hangs, and
# ends with a message: each binary of tests by itself, and the whole.
TEST_BINARY_TIME_MAX := 20m
TEST_TIME_MAX := 90m
WATCHED := --config 'target."cfg(all())".runner=["$(CURDIR)/.ci/tests", "$(TEST_BINARY_TIME_MAX)"]'

test: setup
	@.ci/within $(TEST_TIME_MAX) $(MAKE) --no-print-directory everything

everything: format lint docs
	@echo "== unit, model and integration tests, and the examples"
	$(CARGO) test $(LOCKED) $(WATCHED) --workspace --all-targets --no-fail-fast
	@echo "== examples in the documentation"
	$(CARGO) test $(LOCKED) $(WATCHED) --workspace --doc
	@echo "== everything passed"

SEEDS ?= 0..10000

simulate:
	@QUOIT_SIM_SEEDS=$(SEEDS) $(CARGO) test $(LOCKED) --quiet -p quoit --test sim histories -- --nocapture

soak: setup
	@echo "== minutes of verified traffic against a node, for each way of eviction"
	$(CARGO) test $(LOCKED) --release -p quoit -p quoit-loadgen --test e2e --test command_line -- --ignored --nocapture

format:
	@echo "== format"
	$(CARGO) fmt --all --check

lint:
	@echo "== lints, on everything"
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

docs:
	@echo "== documentation builds, and its links lead somewhere"
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --quiet
