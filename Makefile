# Two commands are enough: `make run` shows it, `make test` checks it. The rest is for developers.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run test lint packages lock clean bench

run: .venv/run-installed ## Set everything up and show real attacks being found among real customers
	@$(BIN)/modelwarden demo

test: .venv/test-installed ## Lint, check types and layers, and run every test (on a real Kafka too)
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest

lint: .venv/test-installed ## Everything but the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m sinks.schemas --check
	$(BIN)/python -m streams.asyncapi --check
	$(BIN)/python -m streams.settingsdoc --check
	$(BIN)/python -m sinks.metrics --check

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Modelwarden needs Python 3.11, 3.12 or 3.13 with venv; set PYTHON=/path/to/python"; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (about a minute, once)"
	@$(PYTHON) -m venv .venv

.venv/run-installed: requirements.lock pyproject.toml | .venv/bin/python
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test-installed: requirements-test.lock pyproject.toml | .venv/bin/python
	@$(PIP) install --require-hashes -r requirements-test.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/run-installed

packages: ## Install the programs that some tests use: Prometheus, Alertmanager, Chromium, nginx (Debian; needs root)
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends $(PACKAGES)
PACKAGES := prometheus prometheus-alertmanager chromium fonts-dejavu-core nginx-light

bench: .venv/test-installed .venv-bench/installed ## Compare throughput with other consumers on one broker (about 20 minutes)
	$(BIN)/python tests/bench/throughput

.venv-bench/installed: pyproject.toml
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[bench]'
	@touch $@

lock: ## Resolve the dependencies again (needs uv)
	uv pip compile $(LOCK) --extra build pyproject.toml -o requirements.lock
	uv pip compile $(LOCK) --extra build --extra test -c requirements.lock pyproject.toml -o requirements-test.lock
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

clean:
	rm -rf .venv .cache run target
