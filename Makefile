# The only task entry. Build output stays outside the checkout, so that the next clone is fast.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/weir/target
export CARGO_TERM_COLOR ?= auto
# RocksDB is compiled by .ci/rocksdb, many files at a time; cargo alone would compile it file by file, which takes six times as long.
ROCKSDB = $(HOME)/.cache/weir/rocksdb
export ROCKSDB_LIB_DIR ?= $(ROCKSDB)
export ROCKSDB_STATIC ?= 1
BIN = $(CARGO_TARGET_DIR)/debug
STAGE = .ci/stage
# One build that lints: `cargo clippy` would have every dependency checked besides being compiled. The separator is clippy-driver's own.
LINTED = RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__

.PHONY: help setup build demo compiled test soak fuzz model bench bench-cluster generate e2e e2e-smoke tools

help:
	@echo "make demo      watch a job lose a worker and end exact"
	@echo "make test      formatting, lints, tests and the demo; .ci/run adds e2e-smoke and skips nothing"
	@echo "make e2e       all cases on a kind cluster"
	@echo "make e2e-smoke some of them on a cluster of plain processes"
	@echo "make soak      the long tests in their full length: a hundred kills, also of Kafka's broker"
	@echo "make fuzz      made-up scripts, objects, frames and files, ten minutes of each"
	@echo "make model     the exhaustive checker with larger bounds"
	@echo "make bench     build for release and measure"
	@echo "make bench-cluster  the same on a cluster: recoveries, many jobs, what the controller costs"
	@echo "make generate  regenerate the generated files"

setup:
	@.ci/setup
	@[ "$(ROCKSDB_LIB_DIR)" != "$(ROCKSDB)" ] || .ci/rocksdb "$(ROCKSDB)"

build: setup
	@$(LINTED) cargo build --workspace --bins

# Only what the demo runs.
demo: setup
	@cargo build -p weir-controller -p weir-worker --bins
	@PATH="$(BIN):$$PATH" examples/flights/demo.sh

# Fast stages first.
compiled: setup
	@$(STAGE) format cargo fmt --all --check
	@$(STAGE) build env $(LINTED) cargo build --workspace --all-targets --quiet

test: compiled
	@$(STAGE) tests env $(LINTED) cargo test --workspace --quiet
	@$(STAGE) demo env PATH="$(BIN):$$PATH" examples/flights/demo.sh

# What the clusters are made of. The first time takes a quarter of an hour.
tools:
	@$(STAGE) tools e2e/cluster/tools.sh cluster

e2e: build tools
	@$(STAGE) e2e env $(LINTED) e2e/cluster/run.sh kind run --tier all

e2e-smoke: build tools
	@$(STAGE) e2e-smoke env WEIR_E2E_PLATFORM=1 $(LINTED) e2e/cluster/run.sh cluster run --tier smoke

# What tests do a few times, often. Seeds and results are printed.
soak: build
	@$(STAGE) soak-kills env $(LINTED) WEIR_KILLS=100 cargo test -p weir-e2e-local --test kills --test kafka --test oracle -- --nocapture

# Seeds are printed; WEIR_SEED repeats one.
fuzz: export WEIR_FUZZ_SECONDS ?= 600
fuzz: setup
	@cargo test -p weir-protocol --test fuzz -- --nocapture --test-threads 1
	@cargo test -p weir-engine --test fuzz_frames -- --nocapture
	@cargo test -p weir-connectors --lib fuzz_tests -- --nocapture --test-threads 1
	@cargo test -p weir-worker --test fuzz_plan -- --nocapture

model:
	@cargo test --release -p weir-controller --test model -- --nocapture --include-ignored
	@WEIR_SCHEDULES=1000000 cargo test --release -p weir-controller --test simulation -- --nocapture
	@WEIR_SCHEDULES=100000 cargo test --release -p weir-connectors --lib commit_simulation -- --nocapture

bench: setup
	@cargo build --release -p weir-worker -p weir-controller -p weir-bench
	@$(CARGO_TARGET_DIR)/release/weir-bench

# BENCH holds more arguments, such as `--only stubs`.
bench-cluster: setup tools
	@cargo build --release -p weir-worker -p weir-controller -p weir-e2e
	@WEIR_E2E_PROFILE=release e2e/cluster/run.sh cluster bench $(BENCH)

generate:
	@UPDATE=1 cargo test --workspace --quiet --test schema
	@UPDATE=1 cargo test --workspace --quiet --test it --test documented --test rendered
	@cargo fmt --all
