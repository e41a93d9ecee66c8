# One virtual environment in .venv, made on first use. `make run` is the main job.
VENV   := .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test test-all test-gpu check bench faults lock clean

run: $(READY)
	$(BIN)/orchestrator run study=rl_vs_sft

# Two processes, one for each core; tests that hold this machine's devices all run in the same one.
test: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadgroup

test-all: $(READY)
	$(BIN)/pytest -q -m 'not gpu'

test-gpu: $(READY)
	$(BIN)/pytest -q -m gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY)
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.scheduling
	$(BIN)/python -m tests.bench.scale

# 200 SIGKILLs against a small study, on Ray and without it; about twenty minutes.
faults: $(READY)
	$(BIN)/python -m tests.faults --kills 200 --cluster node --record
	$(BIN)/python -m tests.faults --kills 200 --cluster ray --record

# Exact versions of everything, from what is installed now.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu$$//; s/+cu[0-9]*$$//' > constraints.txt

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
