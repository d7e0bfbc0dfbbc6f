# make demo, make test, make bench: each needs only python3 (>= 3.10) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-shell demo-console test mutate bench client lint clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/orphans demo

demo-shell: .venv/installed
	$(BIN)/orphans demo-shell

demo-console: .venv/installed
	$(BIN)/orphans demo-console

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Breaks every rule in every small way: something must turn red each time. Not in CI.
mutate: .venv/installed
	$(BIN)/python tests/python/mutations.py

# How fast it is, against floors of the same run: make bench DRIVERS=1000000 DAYS=30 KEEP=1
# Also ORPHANS, EVENTS, ROUNDS; BENCH='--part views --no-growth' for what --help shows.
bench: .venv/installed-bench
	PYTHONPATH=scripts $(BIN)/python -m bench $(BENCH) \
		$(if $(DRIVERS),--drivers $(DRIVERS)) $(if $(ORPHANS),--orphans $(ORPHANS)) \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(DAYS),--days $(DAYS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(KEEP),--keep)

# The console's API for other programs: its OpenAPI, and the TypeScript client made from it (npm).
client: .venv/installed
	$(BIN)/python -m ct4_orphans.console.openapi > clients/typescript/openapi.json
	cd clients/typescript && npm install --no-fund --no-audit --no-package-lock \
		&& npm run generate && npm run check

# sqlfluff needs a database to compile against: tests/python/test_style.py runs it.
lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "python3 is too old: 3.10 or newer is needed. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --editable '.[embedded,console,dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv .embedded target logs output
