# The commands of this repository. `make` alone lists them.
PYTHON := .venv/bin/python
CODE := services tests bench tools macos spindll

.DEFAULT_GOAL := help
.PHONY: help setup test check check-all check-mlx lint fmt proto env lock soak bench

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 11

setup:  ## create .venv with everything the tests need; quick when it is up to date
	@./spindll setup --dev

lint: setup  ## format, lint, types and import rules
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)
	.venv/bin/mypy
	.venv/bin/lint-imports

check: lint  ## everything that CI runs: lint, then the tests with their coverage
	$(PYTHON) -m pytest -m 'not slow' --cov --cov-report=term

test: setup  ## the tests alone; llama.cpp is compiled once if there is no wheel (10 to 20 minutes)
	$(PYTHON) -m pytest -m 'not slow'

check-all: check  ## check, then the tests under Python 3.12 and 3.13 where they are installed
	.ci/other-pythons

check-mlx:  ## the tests of the MLX engine, in a .venv of their own with the extra `mlx`
	.ci/mlx

fmt:  ## format the code and fix what ruff can fix
	.venv/bin/ruff format $(CODE)
	.venv/bin/ruff check --fix $(CODE)

soak: setup  ## the long tests: marathons, fuzzers, large files
	$(PYTHON) -m pytest -m slow --timeout 7200

bench: setup  ## throughput and latency beside other servers
	$(PYTHON) -m bench.run

proto: setup  ## regenerate the stubs of protos/*.proto
	$(PYTHON) -m tests.repository.stubs

env: setup  ## regenerate .env.example from the settings classes
	$(PYTHON) -m tests.repository.env_example > .env.example

lock:  ## regenerate the lock files from pyproject.toml (needs uv)
	locks/compile
