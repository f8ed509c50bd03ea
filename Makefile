# ipivrs: `make demo` and `make test` do all the set-up they need. `make help` lists the targets.

ifneq ($(firstword $(sort 4 $(MAKE_VERSION))),4)
$(error ipivrs needs GNU make 4 or later, this is make $(MAKE_VERSION))
endif

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter for .venv; empty = the first CPython >= 3.10 that tools/prerequisites.sh finds.
PYTHON ?=
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
MATURIN := env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin
CARGO_PYTHON := PYO3_PYTHON="$(CURDIR)/$(BIN)/python" cargo
RUST_SOURCES := Cargo.toml Cargo.lock $(wildcard build.rs) $(shell find rust/src -type d -o -name '*.rs')
DEMO := examples/linux-boot-long-x2apic-smp2.perf.data examples/linux-boot-long-xapic-smp2.perf.data

# A virtual environment survives neither a move of the checkout nor the loss of its interpreter: make it anew.
ifneq ($(shell cat $(VENV)/location 2>&1; $(BIN)/python -c '' 2>&1),$(CURDIR))
.PHONY: $(VENV)/location
endif

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

.PHONY: build
build: $(VENV)/built ## .venv with a release build of ipivrs in it: .venv/bin/ipivrs

.PHONY: demo
demo: build ## two recorded Linux boots side by side: which IPIs need no VM exit, and why not the others
	@$(BIN)/ipivrs run $(DEMO)
	@$(BIN)/ipivrs run $(firstword $(DEMO)) --report target/demo.html >/dev/null
	@echo && echo 'The first of them, to look at: target/demo.html'

.PHONY: test
test: prerequisites $(VENV)/developed build ## cargo's tests, then pytest
	cargo test --locked
	$(BIN)/pytest

.PHONY: loom
loom: prerequisites ## the lock-free code under every interleaving that loom finds
	RUSTFLAGS="--cfg loom" cargo test --locked --profile loom --target-dir target/loom --lib loom

.PHONY: lint
lint: lint-prerequisites $(VENV)/developed build ## formatting, lints, documentation and types of both languages
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(CARGO_PYTHON) clippy --locked --all-targets --features python -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO_PYTHON) doc --locked --no-deps --features python
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/stubtest ipivrs._core

.PHONY: format
format: lint-prerequisites $(VENV)/developed ## put both languages into shape
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: prerequisites ## criterion's benchmarks
	cargo bench --locked

.PHONY: instructions
instructions: build ## instructions per operation against benches/instructions.toml, UPDATE=1 to write it anew
	$(BIN)/python tools/instructions.py $(if $(UPDATE),--update)

.PHONY: conformance
conformance: $(VENV)/developed build ## every case of every table against the executable specification; docs/conformance.md
	PYTHONPATH=tests $(BIN)/python -m conformance

.PHONY: crosscheck
crosscheck: build ## `ipivrs check` against SPIN, on the whole collection and on every mutation of kvm (a few minutes)
	$(BIN)/python tools/crosscheck.py

.PHONY: fuzz
fuzz: prerequisites ## the parsers and the guest's acts under libFuzzer, SECONDS=60 for each
	tools/fuzz.sh $(SECONDS)

.PHONY: mutants
mutants: prerequisites ## break processor/ and hypervisor/ in every way that cargo-mutants knows (an hour or two): do the tests notice?
	tools/mutants.sh

.PHONY: wheel
wheel: $(VENV)/installed ## a wheel for CPython >= 3.10 in dist/
	$(MATURIN) build --release --strip --locked --out dist

.PHONY: docs
docs: $(VENV)/documented build ## the documentation site in site/; a broken link or anchor is an error
	@tools/quietly.sh 'building the site' $(BIN)/zensical build --clean --strict
	@$(BIN)/python tools/check_site.py site

.PHONY: wheel-test
wheel-test: $(VENV)/developed ## wheel and source package, in clean environments: do they install, build, run?
	rm -rf target/dist
	@tools/quietly.sh 'building the wheel' $(MATURIN) build --release --strip --locked --out target/dist
	@tools/quietly.sh 'packing the source package' $(MATURIN) sdist --out target/dist
	@$(BIN)/python tools/wheel_test.py target/dist

.PHONY: clean
clean: ## remove everything that the other targets made
	rm -rf $(VENV) target dist site .cache python/ipivrs/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -prune -exec rm -rf {} +

.PHONY: prerequisites lint-prerequisites
prerequisites:
	@tools/prerequisites.sh >/dev/null
lint-prerequisites:
	@tools/prerequisites.sh lint >/dev/null

$(VENV)/location:
	@rm -rf $(VENV)
	@python=$$(tools/prerequisites.sh) \
		&& tools/quietly.sh "making $(VENV) with $$($$python --version)" "$$python" -m venv $(VENV) \
		&& tools/quietly.sh 'updating its pip' $(BIN)/python -m pip install --upgrade 'pip>=25.1'
	@echo '$(CURDIR)' >$@

$(VENV)/installed: $(VENV)/location pyproject.toml
	@tools/quietly.sh 'installing maturin' $(BIN)/python -m pip install --group build
	@touch $@

$(VENV)/built: $(VENV)/installed $(RUST_SOURCES)
	@tools/quietly.sh 'building ipivrs (a few minutes the first time)' $(MATURIN) develop --quiet --release --locked --group build
	@touch $@

$(VENV)/developed: $(VENV)/installed pyproject.toml
	@tools/quietly.sh 'installing what tests and lints need' $(BIN)/python -m pip install --group dev
	@touch $@

$(VENV)/documented: $(VENV)/installed pyproject.toml
	@tools/quietly.sh 'installing what the site needs' $(BIN)/python -m pip install --group docs
	@touch $@
