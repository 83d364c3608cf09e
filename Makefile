# Two commands need nothing but Python 3.11 or newer:  make demo   make test
# Each sets up .venv for itself; `make clean` removes it. PYTHON= chooses the interpreter.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto -rs

.PHONY: demo test nightly cluster lint bench clean

demo: $(VENV)/installed
	$(BIN)/eegsr demo --overwrite

test: lint
	$(PYTEST) -m "not slow and not cluster"

nightly: lint
	$(PYTEST) -m "not cluster"
	$(BIN)/python -m pytest -rs -m cluster tests/cluster

cluster: $(VENV)/installed-dev
	$(BIN)/python -m pytest -rs -m "cluster and not slow" tests/cluster

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/every.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# A stamp is newer than setup.py when what it stands for is installed.
$(VENV)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 on the PATH; say make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	@touch $@

$(VENV)/installed: setup.py | $(VENV)/python
	$(BIN)/python -m pip install -qq --editable .
	@touch $@

$(VENV)/installed-dev: setup.py | $(VENV)/python
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@ $(VENV)/installed
