# Every command of the project. `make train` and `make test` are the two to begin with.
DEVICE ?= cpu
NPROC ?= 2
CONFIG ?= configs/quickstart.yaml
VARIANT := $(if $(filter cuda,$(DEVICE)),gpu,cpu)
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
OVERRIDES := --device=$(DEVICE)

export OMP_NUM_THREADS ?= 1
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR = false
export MLFLOW_DISABLE_TELEMETRY = true

.DEFAULT_GOAL := help
.PHONY: help train test check schema docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

train: .venv/$(VARIANT)  ## prepare, check, train, register and promote (DEVICE=cuda NPROC=8 CONFIG=...)
	$(RUN) pipelines.prepare -c $(CONFIG) $(OVERRIDES)
	$(RUN) pipelines.doctor -c $(CONFIG) $(OVERRIDES)
	$(BIN)/torchrun --standalone --nproc-per-node $(NPROC) -m pipelines.train -c $(CONFIG) $(OVERRIDES)
	$(RUN) pipelines.promote -c $(CONFIG) $(OVERRIDES) || [ $$? -eq 3 ]
	$(RUN) pipelines.report -c $(CONFIG) $(OVERRIDES)

test: .venv/dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

check: .venv/dev  ## ruff, mypy --strict, the architecture and the configuration schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

schema: .venv/cpu  ## write configs/schema.json
	$(BIN)/python -c "from ranking.config import json_schema; print(json_schema(), end='')" > configs/schema.json

docs: .venv/cpu  ## copy report and figures of runs/quickstart to docs/quickstart
	$(RUN) pipelines.report -c configs/quickstart.yaml --publish docs/quickstart

clean:  ## remove what commands made, except the virtual environment
	rm -rf runs data mlflow.db mlruns mlartifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/cpu: requirements/torch-cpu.txt requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements/torch-cpu.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/gpu: requirements/torch-gpu.txt requirements/gpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements/torch-gpu.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/gpu.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: .venv/$(VARIANT) requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/dev.txt
	touch $@
