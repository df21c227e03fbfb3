# Two commands do all on a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROWS ?= 1000000
SEEDS ?= 200
LIVES ?= 200

# Each worker has PostgreSQL servers of its own. Whole files go to a worker: their tests share what is dear to make.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
TESTS := $(BIN)/python -m migration_assets_tests

.PHONY: demo ui docs reference test test-long soak soak-suite soak-kills soak-servers soak-seeds soak-enemies lint bench clean
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

# The documentation as pages in site/; needs no network once installed.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d site/.trees docs site
	@echo "open site/index.html"

# What of the documentation is made from the code: the reference and two pictures.
reference: $(STAMP)
	$(TESTS).documentation.reference
	$(TESTS).documentation.pictures

# Of long sweeps a few telling cases, and of the longest tests some. Three at a time, since tests wait for servers.
test: $(STAMP)
	$(PYTEST)

# Also the longest tests, twice or three times the time: before a change is handed on.
test-long: $(STAMP)
	$(PYTEST) --long

# Everything, hours of it; `make -k soak` goes on after a failure.
soak: soak-suite soak-kills soak-servers soak-seeds soak-enemies

# The suite with all cases of its sweeps.
soak-suite: $(STAMP)
	$(PYTEST) --soak

# kill -9 of every step at every statement, of the servers at every state, and again and again under load.
soak-kills: $(STAMP)
	$(TESTS).crashes.full
	$(TESTS).crashes.retiring
	for kind in cutover rehearsal rollback; do $(TESTS).cutover.every_kill --kind $$kind || exit 1; done
	$(TESTS).cutover.test_servers_killed
	$(TESTS).cutover.many --seeds 20
	$(TESTS).cutover.many --seeds 10 --killed

# Random migrations under traffic, half an hour of them on two idle cores; ONLY=1,2 runs seeds again that failed.
soak-seeds: $(STAMP)
	$(TESTS).convergence.soak --seeds $(SEEDS) --only '$(ONLY)'

# Servers that come back as others, and answers to commits that get lost, at every commit of every step.
soak-servers: $(STAMP)
	$(TESTS).servers.soak
	$(TESTS).servers.losing

# Lives among enemies, then each sabotage, some 90 minutes on two idle cores; ENEMIES=1,2 runs seeds again that failed.
soak-enemies: $(STAMP)
	$(TESTS).adversarial.soak --lives $(LIVES) --only '$(ENEMIES)'

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
