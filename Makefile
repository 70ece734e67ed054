# The only task entry. Build output stays outside the checkout, so that the next clone is fast.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/weir/target
export CARGO_TERM_COLOR ?= auto
BIN = $(CARGO_TARGET_DIR)/debug
STAGE = .ci/stage

.PHONY: help setup build demo test model bench generate

help:
	@echo "make demo      watch a job lose a worker and end exact"
	@echo "make test      everything that CI runs"
	@echo "make model     the exhaustive checker with larger bounds"
	@echo "make bench     build for release and measure"
	@echo "make generate  write the generated files anew"

setup:
	@.ci/setup

build: setup
	@cargo build --workspace --bins

demo: build
	@PATH="$(BIN):$$PATH" examples/flights/demo.sh

# Fast stages first.
test: setup
	@$(STAGE) format cargo fmt --all --check
	@$(STAGE) lint cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(STAGE) build cargo build --workspace --all-targets --quiet
	@$(STAGE) tests cargo test --workspace --quiet
	@$(STAGE) demo env PATH="$(BIN):$$PATH" examples/flights/demo.sh

model:
	@cargo test --release -p weir-controller --test model -- --nocapture --include-ignored

bench: setup
	@cargo build --release -p weir-worker -p weir-controller -p weir-bench
	@$(CARGO_TARGET_DIR)/release/weir-bench

generate:
	@UPDATE=1 cargo test --workspace --quiet --test schema --test it --test documented --test rendered
	@cargo fmt --all
