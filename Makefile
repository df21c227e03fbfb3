# Two commands do all on a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROWS ?= 1000000
SEEDS ?= 200

.PHONY: demo ui test soak lint bench clean
.DEFAULT_GOAL := demo

# Pinned by version in constraints.txt: a preview API of Dagster and an exact PostgreSQL are part of what was proven.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/migration-assets demo --rows $(ROWS)

ui: $(STAMP)
	$(BIN)/migration-assets ui

# Three at a time, each with PostgreSQL servers of its own: tests wait for servers more than they compute.
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Random migrations under traffic, half an hour of them on two idle cores; ONLY=1,2 runs seeds again that failed.
soak: $(STAMP)
	$(BIN)/python -m migration_assets_tests.convergence.soak --seeds $(SEEDS) --only '$(ONLY)'
	$(BIN)/python -m migration_assets_tests.servers.soak
	$(BIN)/python -m migration_assets_tests.servers.losing

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m benchmarks.snapshot
	$(BIN)/python -m benchmarks.cdc
	$(BIN)/python -m benchmarks.archive

# Stops the embedded servers first; their data lies in var/ or, for root, where var/servers.json says.
clean:
	if [ -x $(BIN)/migration-assets ]; then $(BIN)/migration-assets servers remove --yes; fi
	rm -rf var/demo var/dagster var/bench $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
