# Every target is one line to type; `make` alone lists them.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := gateway router engines cache loadtest tests tools
# pip in a few lines: the large downloads, and where it is. Errors come whole, on standard error; that an index
# of several has not got every project is none.
QUIETLY := 2> >(grep -v "^WARNING: Location '.*' is ignored" >&2)
BRIEFLY := sed -un -e 's/^ *Downloading \(.* MB)\).*/    downloading \1/p' -e 's/^Installing collected.*/    installing/p'

.DEFAULT_GOAL := help
.PHONY: help setup compiled serve dev test check lint audit format e2e bench profile docs schema clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## Make .venv and install Headrace with its llama.cpp engine

compiled: ## Make .compiled: Headrace as in its image, the way of a request compiled (needs a C compiler)
	@rm -rf build/compiled && mkdir -p build/compiled
	@cp -r pyproject.toml README.md LICENSE cache engines gateway loadtest router build/compiled
	@$(PYTHON) -m venv --clear .compiled
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=true .compiled/bin/python -m pip --disable-pip-version-check install --quiet build/compiled $(QUIETLY)
	@.compiled/bin/headrace version

serve: .venv/.installed ## Serve a small real model on http://127.0.0.1:8080/v1 (ARGS="--port 9000")
	@$(BIN)/headrace serve $(ARGS)

dev: .venv/.installed ## Serve three fake engines: no model, no GPU, no network
	@$(BIN)/headrace serve --config examples/dev.yaml $(ARGS)

test: check ## All that must pass: style, types, imports, sizes, tests and their coverage
	@$(BIN)/coverage erase && $(BIN)/coverage run -m pytest -m "not e2e" -n 2 $(ARGS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o - | $(BIN)/python tools/check_coverage.py 90

check: lint ## Style, types, imports, spelling and sizes, without tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lint: .venv/.dev ## Style, spelling and sizes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell --skip '*.raw' $(CODE) docs examples README.md
	@$(BIN)/python tools/check_sizes.py $(CODE)

audit: .venv/.audit ## Bandit, and known vulnerabilities of all that is installed: asks PyPI
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive gateway router engines cache
	@$(BIN)/pip-audit --local --skip-editable --strict --progress-spinner off || { echo "==> pip-audit: something above is vulnerable, or PyPI did not answer for it" >&2; exit 1; }

format: .venv/.dev ## Put the code in its standard form
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

e2e: .venv/.dev ## Slow tests: real engines, other clients, long runs
	@$(BIN)/python -m pytest -m e2e $(ARGS)

bench: .venv/.dev ## What the gateway costs per request and per token
	@$(BIN)/python -m tests.bench $(ARGS)

profile: .venv/.dev ## Where that time goes
	@$(BIN)/python -m tests.bench --profile $(ARGS)

docs: .venv/.installed ## Write the generated parts of the documentation anew
	@$(BIN)/python -m gateway.cli.reference write

schema: .venv/.installed ## Write the configuration's JSON Schema, for editors
	@$(BIN)/headrace schema > docs/reference/headrace.schema.json

clean: ## Remove caches and build outputs; .venv stays
	@rm -rf build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Headrace needs Python 3.11 or newer, and {sys.executable} is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "==> making a virtual environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --quiet --upgrade 'pip>=25.1' $(QUIETLY)
	@touch $@

.venv/.installed: pyproject.toml | .venv/.made
	@echo "==> installing Headrace and its llama.cpp engine into .venv (once, about 60 MB)"
	@$(PIP) install --progress-bar off --editable '.[llamacpp]' $(QUIETLY) | $(BRIEFLY)
	@touch $@

.venv/.dev: .venv/.installed
	@echo "==> installing what the tests need into .venv (once)"
	@$(PIP) install --progress-bar off --group dev $(QUIETLY) | $(BRIEFLY)
	@touch $@

.venv/.audit: .venv/.dev
	@echo "==> installing what looks for vulnerabilities into .venv (once)"
	@$(PIP) install --progress-bar off --group audit $(QUIETLY) | $(BRIEFLY)
	@touch $@
