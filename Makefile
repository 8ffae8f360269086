# make demo   set up .venv and run the main job on MovieLens-100k
# make test   set up .venv and run the tests
# make check  format, lint, types, import contracts, tests: what continuous integration runs
# GPU: the constraint file pins the torch version that is tested; any torch >= 2.10 works. Set CONSTRAINTS= to lift it.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= -c constraints/cpu.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check clean

demo: $(VENV)/.installed-demo
	$(BIN)/llm-rec demo $(ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(MAKE) test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(VENV)/bin/python pyproject.toml constraints/cpu.txt
	$(PIP) install --quiet $(CONSTRAINTS) -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
