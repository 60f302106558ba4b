# The commands of this repository. `make` alone lists them.
PYTHON := .venv/bin/python
CODE := services tests bench spindll

.DEFAULT_GOAL := help
.PHONY: help setup test check fmt proto env lock soak bench

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 9

setup:  ## make .venv with everything the tests need; quick when it is there
	@./spindll setup --dev

test: setup  ## the tests; sets up first (llama.cpp is compiled once: 10 to 20 minutes)
	$(PYTHON) -m pytest -m 'not slow'

check: setup  ## what must hold before a commit: format, lint, types, import rules, tests
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -m 'not slow'

fmt:  ## format the code and mend what ruff can mend
	.venv/bin/ruff format $(CODE)
	.venv/bin/ruff check --fix $(CODE)

soak: setup  ## the long tests: marathons, fuzzers, big files
	$(PYTHON) -m pytest -m slow --timeout 7200

bench: setup  ## our throughput and latency beside the peers'
	$(PYTHON) -m bench.run

proto: setup  ## generate the stubs of protos/*.proto anew
	$(PYTHON) -m tests.repository.stubs

env: setup  ## write .env.example anew from the settings classes
	$(PYTHON) -m tests.repository.env_example > .env.example

lock:  ## resolve the lock files anew from pyproject.toml (needs uv)
	locks/compile
