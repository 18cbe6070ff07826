# Every command of the project. `make train` and `make test` are the two to begin with.
DEVICE ?= cpu
NPROC ?= 2
CONFIG ?= configs/quickstart.yaml
CENSUS ?= data/census
VARIANT := $(if $(filter cuda,$(DEVICE)),gpu,cpu)
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
OVERRIDES := --device=$(DEVICE)
NIGHTS := -c configs/quickstart.yaml -c configs/kuairand/retrain.yaml $(OVERRIDES) --retrain.processes=$(NPROC) \
	--tracking.uri=sqlite:///runs/nightly/mlflow.db --tracking.artifact_location=runs/nightly/artifacts

export OMP_NUM_THREADS ?= 1
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR = false
export MLFLOW_DISABLE_TELEMETRY = true
# The first that answers: a docker client without its daemon builds nothing.
ENGINE = $(shell for engine in docker podman buildah; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)
TARGETS ?= cpu gpu serving mlflow scheduler

# Not better (3), or waits for approval (4): the gate did its work.
DECIDED := case $$? in 3|4) ;; *) exit 1 ;; esac

.DEFAULT_GOAL := help
.PHONY: help train demo-retrain test faults studies-fast fast-simulated fast-kuairand fast-census check check-text check-structure bench schema docs images clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

train: .venv/$(VARIANT)  ## prepare, check, train, register and promote (DEVICE=cuda NPROC=8 CONFIG=...)
	$(RUN) pipelines.prepare -c $(CONFIG) $(OVERRIDES)
	$(RUN) pipelines.doctor -c $(CONFIG) $(OVERRIDES)
	$(RUN) pipelines.launch --standalone --nproc-per-node $(NPROC) -m pipelines.train -c $(CONFIG) $(OVERRIDES)
	$(RUN) pipelines.promote -c $(CONFIG) $(OVERRIDES) || $(DECIDED)
	$(RUN) pipelines.report -c $(CONFIG) $(OVERRIDES)

demo-retrain: .venv/$(VARIANT)  ## three nights of retraining on real days, ending in runs/nightly/summary.html
	mkdir -p runs/nightly
	test -d data/kuairand/days || $(RUN) pipelines.prepare $(NIGHTS)
	$(RUN) pipelines.retrain $(NIGHTS) --backfill 2022-05-05:2022-05-07 || $(DECIDED)
	$(RUN) pipelines.registry history $(NIGHTS)

test: .venv/dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

faults: .venv/dev  ## the fault campaign: 500 injections into real jobs, docs/reliability.json and its page (COUNT=... SEED=...)
	$(BIN)/python -m tests.faults.campaign --count $(or $(COUNT),500) --seed $(or $(SEED),1) --json docs/reliability.json; \
		code=$$?; $(BIN)/python docs/reliability.py && exit $$code

FAST = -c configs/$(1)/study.yaml -c configs/$(1)/fast.yaml
SIMULATED := -c configs/synthetic/architectures.yaml -c configs/synthetic/architectures_fast.yaml
studies-fast: .venv/$(VARIANT)  ## every study, small, two at a time: runs/studies-fast (CENSUS=directory of the publisher's files)
	$(MAKE) --no-print-directory --jobs 2 fast-census fast-kuairand fast-simulated

fast-simulated:
	$(RUN) pipelines.study synthetic $(call FAST,synthetic)
	$(RUN) pipelines.study impressions $(SIMULATED)
	$(RUN) pipelines.study live $(SIMULATED)

fast-kuairand:
	$(RUN) pipelines.study kuairand $(call FAST,kuairand)

fast-census:
	if [ -d $(CENSUS) ]; then $(RUN) pipelines.study census $(call FAST,census) --source=$(CENSUS); \
	else echo "census: skipped, $(CENSUS) is missing; expected the publisher's files, see configs/census/study.yaml"; fi

check: .venv/dev  ## ruff, mypy --strict, the architecture, the configuration schema and docker/
	$(MAKE) --no-print-directory --jobs 2 --output-sync check-text check-structure

check-text:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/yamllint --strict --config-file docker/.yamllint.yaml docker
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/mypy

check-structure:
	$(BIN)/python -m pytest tests/test_architecture.py tests/docker

ROUNDED = $(BIN)/python -m benchmarks.$(1) $(if $(ROUNDS),--rounds $(ROUNDS))

bench: .venv/bench  ## every benchmark: ratios to peers and bare loops, benchmarks/results/*.json (ROUNDS=... turns, or seeds)
	$(call ROUNDED,throughput) --sides rechub "rechub, medium" --processes 1 --precision fp32 --name throughput_rechub
	for name in step throughput scaling parts loader checksums checkpoint serving settings precision; do $(call ROUNDED,$$name) || exit; done
	$(if $(filter cuda,$(DEVICE)),$(call ROUNDED,gpu))
	$(BIN)/python -m benchmarks.document
	$(BIN)/python docs/reliability.py

schema: .venv/$(VARIANT)  ## write configs/schema.json
	$(BIN)/python -c "from ranking.config import json_schema; print(json_schema(), end='')" > configs/schema.json

docs: .venv/$(VARIANT)  ## copy report and figures of runs/quickstart to docs/quickstart, fill README
	$(RUN) pipelines.report -c configs/quickstart.yaml --publish docs/quickstart
	$(BIN)/python docs/readme.py

images:  ## container images with docker, podman or buildah (TARGETS="cpu serving" BASE=...)
	@test -n "$(ENGINE)" || { echo "error: images: found no docker, podman or buildah that works" >&2; exit 2; }
	for target in $(TARGETS); do \
		$(ENGINE) build --file docker/Dockerfile --target $$target $(if $(BASE),--build-arg BASE=$(BASE)) \
			--build-arg REVISION="$$(git describe --always --exclude '*' --dirty=+dirty 2>/dev/null)" \
			--tag ranking:$$target . || exit; \
	done

clean:  ## remove what commands made, except the virtual environment
	rm -rf runs data mlflow.db mlruns mlartifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A job imports thousands of modules: where the shell keeps Python from writing bytecode, each would compile them. By all
# cores here, by one in pip; some packages bring a file that no Python reads.
PIP := $(BIN)/pip install --quiet --no-compile
COMPILE := $(BIN)/python -m compileall -q ranking pipelines && { $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true; }

.venv/cpu: requirements/torch-cpu.txt requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(PIP) --no-deps -r requirements/torch-cpu.txt
	$(PIP) --no-deps -r requirements/cpu.txt
	$(PIP) --no-deps --no-build-isolation -e .
	$(COMPILE)
	touch $@

.venv/gpu: requirements/torch-gpu.txt requirements/gpu.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(PIP) -r requirements/torch-gpu.txt
	$(PIP) --no-deps -r requirements/gpu.txt
	$(PIP) --no-deps --no-build-isolation -e .
	$(COMPILE)
	touch $@

.venv/bench: .venv/dev requirements/bench.txt
	$(PIP) --no-deps -r requirements/bench.txt
	$(COMPILE)
	touch $@

.venv/dev: .venv/$(VARIANT) requirements/dev.txt
	$(PIP) --no-deps -r requirements/dev.txt
	$(COMPILE)
	touch $@
