# `make run` serves, `make test` tests; each does all of its own set-up. What is up to date is not done again.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes

.PHONY: help run test fuzz attack check format bench pages lock schema wheel clean

help:
	@echo 'make run     serve on http://127.0.0.1:8000, with database and worker'
	@echo 'make test    run the tests'
	@echo 'make check   formatter, linter, types, import rules, schema, migrations'
	@echo 'make fuzz    live random lives of uploads, and process files changed at random, for minutes'
	@echo 'make attack  send generated GraphQL for ten minutes, or SECONDS=…'
	@echo 'make bench   measure speed and memory'
	@echo 'make format  format the code            make lock    renew the locks (needs uv)'
	@echo 'make schema  export the schema          make wheel   build dist/*.whl'
	@echo 'make pages   build the browser pages    make clean   remove what was made, but no data'

run: $(VENV)/run.stamp pages
	@exec $(BIN)/python -m app.cli serve

# Three of xdist's workers for two cores: tests wait for processes about as much as they compute.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2)')
# The other is `stock`, graphql-core's own: every test passes with it too.
EXECUTOR ?= plain
test: $(VENV)/dev.stamp pages
	@HEIRLOOM_EXECUTOR=$(EXECUTOR) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q $(ARGS)

check: $(VENV)/dev.stamp pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m app.cli export-schema | diff -u graphql_schema/schema.graphql - \
		|| { echo 'The schema has changed: look at the difference, then run "make schema".'; exit 1; }
	$(BIN)/python -m tests.migrations_are_current

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .

fuzz: $(VENV)/dev.stamp
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/app/test_upload_life.py \
		tests/app/test_media_events.py::test_uploads_of_many_writers_are_told_once_each_whatever_is_cut_off \
		tests/app/test_read_cache.py::test_whatever_is_done_and_read_in_any_order \
		tests/processing/test_mutations.py tests/graphql_schema/test_execution.py -q -x $(ARGS)

SECONDS ?= 600
attack: $(VENV)/dev.stamp
	@ATTACK_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/graphql_schema/test_schemathesis.py -q -s $(ARGS)

bench: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.bench $(ARGS)

schema: $(VENV)/run.stamp
	$(BIN)/python -m app.cli export-schema graphql_schema/schema.graphql

wheel: $(VENV)/dev.stamp pages
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Node builds the pages. A machine without a fitting one gets it from the Python package index.
pages: $(VENV)/run.stamp
	@$(BIN)/python web/build.py || { [ $$? -eq 3 ] && echo 'Doing the latter …' \
		&& $(PIP) -r requirements-web.lock && $(BIN)/python web/build.py; }

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock:
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) pyproject.toml --group dev -o requirements-dev.lock
	$(LOCK) --group web -o requirements-web.lock

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Heirloom needs Python 3.11 or newer; name one with "make PYTHON=…".'; exit 1; }
	@echo 'Setting up $(VENV) …'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Python makes this one too, at the end: unless it was killed before.
$(BIN)/pip: | $(VENV)/bin/python
	@$(BIN)/python -m ensurepip --default-pip >/dev/null

$(VENV)/run.stamp: requirements.lock | $(BIN)/pip
	@$(PIP) -r requirements.lock
	@touch $@

# The lock for development holds all that the other does.
$(VENV)/dev.stamp: requirements-dev.lock | $(BIN)/pip
	@$(PIP) -r requirements-dev.lock
	@touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) app/static dist web/node_modules tests/web/uppy/node_modules tests/web/clients/node_modules tests/bench/sharp/node_modules tests/bench/yoga/node_modules tests/bench/postgraphile/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
