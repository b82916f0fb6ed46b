# `make run` and `make test` set up all they need, in .venv, from the hash-pinned lock files.
.PHONY: help run test lint fmt bench storm docs lock
.SUFFIXES:
MAKEFLAGS += --no-print-directory
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
BIN = .venv/bin
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command 'make lock' $(UPGRADE)

help: ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 14

run: .venv/requirements.txt ## Serve on http://localhost:5000; Ctrl-C ends it.
	@exec $(BIN)/hitledger serve

test: .venv/requirements-dev.txt ## Run the default tests; T="-m slow" or T=tests/test_paths.py chooses others.
	@exec $(BIN)/python -m pytest $(T)

lint: .venv/requirements-dev.txt ## Check lint, format and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: .venv/requirements-dev.txt ## Format, and mend what can be mended by itself.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: .venv/requirements-dev.txt ## Measure, beside peers; B="--quick request" chooses.
	@exec $(BIN)/python -m bench $(B)

storm: .venv/requirements-dev.txt ## Attack a real service and count along; S="--seed 7 --seconds 300".
	@exec $(BIN)/python -m tests.storm $(S)

docs: .venv/requirements-dev.txt ## Build the documentation site in docs/_build; a broken link fails.
	@exec $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

lock: .venv/requirements-dev.txt ## Make the lock files anew from pyproject.toml; UPGRADE=--upgrade takes newer releases.
	$(COMPILE) pyproject.toml --extra server --extra dev --extra parquet --extra zstd --extra oidc --extra tracing --group dev --group bench --output-file requirements-dev.txt
	$(COMPILE) pyproject.toml --extra server --extra oidc --extra tracing --constraint requirements-dev.txt --output-file requirements.txt
	$(COMPILE) --group build --constraint requirements-dev.txt --output-file requirements-build.txt

# The stamp of a set-up is the lock file that it was made from.
.venv/%.txt: %.txt requirements-build.txt pyproject.toml
	@sh tools/make-venv $(PYTHON)
	@echo "Installing what $< lists into .venv; this takes a minute the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-build.txt -r $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@cp $< $@
