# SRMill: `make help` lists the targets. Needs Python 3.11 or newer, make and a C++ compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes: one for the tests of the platform, one for the others.
PYTEST := $(BIN)/python -m pytest -n 2 --ignore=tests/benchmarks

.PHONY: help setup demo up down status backup restore test test-fast test-slow soak test-extras litert bench ablations results lint format lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11." >&2; exit 2; }
	@command -v g++ >/dev/null || { echo "error: DeepSpeed builds a small C++ extension: install g++." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## Install everything into .venv, pinned by constraints.txt

demo: setup ## From embedded photos to a registered, promoted bundle on a local platform (FULL=1: the full one)
	@$(BIN)/python -m infra.local demo $(if $(FULL),--full)

up: setup ## Start the local platform: Ray, MLflow (FULL=1: with PostgreSQL, S3, passwords and TLS, too)
	@$(BIN)/python -m infra.local up $(if $(FULL),--full)

status: setup ## Tell which servers of the local platform answer
	@$(BIN)/python -m infra.local status

down: ## Stop the local platform; results stay
	@if test -x $(BIN)/python; then $(BIN)/python -m infra.local down; else echo "Nothing to stop: not installed."; fi

backup: setup ## Save databases, buckets and secrets of the full platform in the new folder FOLDER
	@$(BIN)/python -m infra.local backup $(if $(FOLDER),--folder "$(FOLDER)")

restore: setup ## Start the full platform anew from the backup in FOLDER, where there is none yet
	@$(BIN)/python -m infra.local restore $(if $(FOLDER),--folder "$(FOLDER)")

test: setup lint ## Lint, then all tests but the slow ones
	$(PYTEST) -m "not slow"

test-fast: setup ## The tests that need no cluster, no server and no training
	$(PYTEST) -m "not slow and not server and not long"

test-slow: setup ## The long proofs
	$(BIN)/python -m pytest -m slow --ignore=tests/benchmarks

soak: setup ## Work on the full platform while a server is killed each minute (MINUTES=60)
	$(BIN)/python -m tests.chaos.soak $(if $(MINUTES),--minutes $(MINUTES))

litert: ## Make .venv-litert, the environment of what converts to LiteRT (2 GB)
	test -x .venv-litert/bin/python || $(PYTHON) -m venv .venv-litert
	grep '^torch==' constraints.txt > .venv-litert/constraints.txt
	.venv-litert/bin/python -m pip install --disable-pip-version-check -q -c .venv-litert/constraints.txt torch 'litert-torch>=0.10'
	@echo 'export SRMILL_LITERT_PYTHON=$(CURDIR)/.venv-litert/bin/python'

test-extras: setup litert ## Tests of optional packages (metrics, spandrel, edge runtimes), in a .venv-extras of their own
	test -x .venv-extras/bin/python || $(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,metrics,spandrel,coreml,executorch,litert,ncnn,openvino,qnn]' torchvision dists-pytorch tree-sitter tree-sitter-kotlin tree-sitter-swift
	SRMILL_LITERT_PYTHON=$$PWD/.venv-litert/bin/python .venv-extras/bin/python -m pytest tests/extras

bench: setup ## Measure speed and quality
	$(BIN)/python -m pytest tests/benchmarks -s --timeout=3600

ablations: setup ## Train and measure the ablations of GRID=edge_sd_sr, rdsr or light_f2srgan (needs SRMILL_DATA and DATA=shards; SEEDS=3)
	$(BIN)/python -m tests.benchmarks.ablations $(or $(GRID),edge_sd_sr) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS))
	@$(BIN)/python -m docs.tools.ablations_table $(or $(GRID),edge_sd_sr)

results: setup ## Write docs/results.md and the tables of docs/edge.md from docs/results
	@$(BIN)/python -m docs.tools.results_page
	@$(BIN)/python -m docs.tools.edge_page

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Let ruff format and mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Write constraints.txt from what .venv holds now
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu//' > constraints.txt

clean: down ## Stop the platform, remove .venv, caches and everything under work/
	rm -rf $(VENV) .venv-extras .venv-litert work .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
