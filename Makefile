# Every target sets up .venv by itself, with plain venv and pip.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -q -c constraints.txt

.PHONY: help install run test test-all lint format bench docs docs-serve clean

help:              ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: .venv/installed   ## set up .venv with what Penjing needs

run: .venv/compiled        ## train a tokenizer and a chat model from nothing, evaluate it, talk to it (some ten minutes)
	$(BIN)/penjing run tiny-chat

test: .venv/installed-dev  ## the default tests, two at a time
	$(BIN)/pytest -n 2 --dist loadfile

test-all: .venv/installed-dev ## the default tests and the slow ones
	$(BIN)/pytest -m ''

lint: .venv/installed-dev  ## style, format, docstrings, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev ## side by side with the peers: tokenizer, training, generation
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/generation.py

docs: .venv/installed-docs ## build the learning path into site/
	$(BIN)/mkdocs build --strict

docs-serve: .venv/installed-docs ## read the learning path in a browser
	$(BIN)/mkdocs serve

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Penjing needs Python 3.11 or later; this is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing into .venv (torch is large: a few minutes the first time)"
	$(PIP) -e .
	@touch $@

.venv/compiled: .venv/installed
	@echo "Compiling the inner loops (a minute or two, once)"
	$(BIN)/penjing doctor --compile
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps mup   # what else it asks for is for its plots
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) -e '.[docs]'
	@touch $@

clean:             ## remove what was built (not runs/)
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache
