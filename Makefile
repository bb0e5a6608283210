# Every target sets up what it needs, given a CPython >= 3.11, a Rust toolchain and make; scripts/with says how.
#
#   PYTHON=python3.12   chooses the interpreter; otherwise it is the newest that can be found
#   ARGS="..."          goes to the command of demo, test-python, conformance and bench

.DEFAULT_GOAL := help
.PHONY: help demo demo-ha build test test-rust test-python conformance lint fmt protos lock bench docs wheel clean
export PYTHON ARGS

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo 'PYTHON=python3.12 chooses the interpreter; otherwise it is the newest CPython that can be found.'

demo: ## watch 200 gRPC clients while one module of their control plane is slow; ARGS="--nodes 50 --slow-kind gil"
	@scripts/with demo -- atoll demo $(ARGS)

demo-ha: ## watch servers on one etcd take over from each other while clients write; ARGS="--rounds 9"
	@ETCD=$$(scripts/etcd) && export ETCD && scripts/with demo -- atoll demo-ha $(ARGS)

build: ## build Atoll (release) and install it into the virtual environment
	@scripts/with build

test: ## run all tests: Rust, loom, and pytest on the newest CPython and on 3.11
	@scripts/test all

test-rust: ## run the tests of the crates, the mailbox under loom, too
	@scripts/test rust

test-python: ## run pytest; ARGS="-k mailbox" chooses
	@scripts/test python

conformance: ## run other people's gRPC test suites against Atoll; needs Go; ARGS="--server grpcio" for comparison
	@scripts/with test -- python -m conformance $(ARGS)

lint: ## check style, types, stubs, layers and generated code
	@scripts/lint

fmt: ## format all code, and mend what ruff can mend
	@scripts/with lint -- ruff check --quiet --fix-only
	@scripts/with lint -- ruff format
	@scripts/with rust -- cargo fmt --all

protos: ## generate the Python code of the .proto files
	@scripts/with protoc -- python python/atoll_control/api/protos/generate.py

lock: ## resolve the tools in pyproject.toml into requirements/; ARGS=--upgrade takes the newest
	@scripts/with lock -- python scripts/lock.py $(ARGS)

bench: ## measure against the peers, side by side
	@scripts/with bench -- python -m benchmarks $(ARGS)

docs: ## build the documentation into docs/site
	@scripts/with docs -- sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs docs/site
	@echo 'docs/site/index.html'

wheel: ## build the wheel into dist/
	@scripts/with build -- sh -c 'mkdir -p dist && cp build/wheels/"$${VIRTUAL_ENV##*/}"/*.whl dist/ && ls dist/*.whl'

clean: ## remove everything that was built, the virtual environments, too
	rm -rf .venv build dist docs/site target .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
