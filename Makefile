# Every target works on a fresh machine with python3 (3.11 to 3.13), make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
export PYTHONWARNINGS ?=

.PHONY: help setup demo cluster cluster-demo test test-slow test-all lint format bench bench-pipeline bench-clients bench-pacing bench-library bench-airflow pins clean

help:
	@echo "make demo      rerank a table made from Python's own documentation, without key or service"
	@echo "make cluster   Airflow with Postgres, Redis and two Celery workers on this machine, until Ctrl-C"
	@echo "make cluster-demo  the demo's table through the nightly DAG on it"
	@echo "make test      the tests, side by side on all cores (under six minutes on two)"
	@echo "make test-all  the tests and the slow ones (crash, large)"
	@echo "make lint      ruff, mypy, import-linter"
	@echo "make bench     benchmarks, one after the other: figures, no verdicts (six minutes)"
	@echo "make bench-library  look-ups in a score library of 100 million pairs (three minutes, 3 GB of disk)"
	@echo "make bench-airflow  what Airflow adds to a run of the demo's table (a minute)"
	@echo "make pins      compile requirements/ again"
	@echo "make clean     remove .venv, the demo and caches"

setup: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml
	@echo "Setting up .venv (once, about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/rerank-jobs demo --folder demo

cluster: $(STAMP)
	@$(BIN)/python -m tests.cluster

cluster-demo: $(STAMP)
	@$(BIN)/python -m tests.cluster demo

test: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m "slow and not alone" -n auto --maxprocesses 4 --dist loadfile
	@$(BIN)/python -m pytest -q -m alone

test-all: test test-slow

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: bench-pipeline bench-clients bench-pacing

bench-pipeline: $(STAMP)
	@echo "== pipeline: a million pairs, stage by stage"
	@$(BIN)/python -m benchmarks.pipeline

bench-clients: $(STAMP)
	@echo "== clients: CPU per request (about two minutes)"
	@$(BIN)/python -m benchmarks.clients

bench-pacing: $(STAMP)
	@echo "== pacing: 1,000 requests a minute (three minutes)"
	@$(BIN)/python -m benchmarks.pacing

bench-library: $(STAMP)
	@echo "== library: a million pairs looked up among 100 million (three minutes, 3 GB of disk)"
	@$(BIN)/python -m benchmarks.library

bench-airflow: $(STAMP)
	@echo "== airflow: the demo's table by the nightly DAG, and by the command's own code (a minute)"
	@$(BIN)/python -m benchmarks.airflow_overhead

COMPILE := $(BIN)/python -m uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	--no-strip-extras --no-header --no-annotate --generate-hashes --quiet

pins: $(STAMP)
	@$(COMPILE) pyproject.toml --extra dev --extra embedded -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra embedded -o requirements/runtime.txt
	@$(COMPILE) pyproject.toml --extra cluster -c requirements/dev.txt -o requirements/cluster.txt
	@echo hatchling | $(COMPILE) - -c requirements/dev.txt -o requirements/build.txt

clean:
	@rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
