# One virtual environment in .venv, made on first use. `make run` is the main job.
VENV   := .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test test-all test-gpu check bench bench-peers faults lock clean

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

# This project against a shell loop, Hydra's Ray launcher and Ray Tune on one study; about half an hour on a quiet
# machine of two cores. It goes on where it was stopped. ARGS="--systems ours,tune_asha --repeats 1" does a part of it.
bench-peers: $(READY) $(VENV)/peers
	$(BIN)/python -m tests.bench.peers --packages $(VENV)/peers $(ARGS)

# Beside the environment and without its dependencies: its pins (cloudpickle<3, boto3) are for its AWS launcher, and the
# first of them is not what this project and mlflow run with.
$(VENV)/peers: $(READY)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ hydra-ray-launcher==1.2.2
	touch $@

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
