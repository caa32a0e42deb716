# Sordino from a bare clone. `make help` lists what there is.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.sordino-setup
TESTS ?=
WORKERS ?= auto
PYTEST := "$(BIN)/pytest" --numprocesses $(WORKERS) --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.PHONY: help setup demo test test-full cocotb lint format docs site pins clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it (the other targets do it by themselves)

$(STAMP): pyproject.toml constraints.txt .ci/prerequisites
	@PYTHON="$(PYTHON)" bash .ci/prerequisites
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --editable '.[dev]' --constraint constraints.txt
	@touch "$@"

demo: setup ## compile a trained network, run it on the RTL, report to out/demo.html (sordino demo)
	@mkdir -p out
	"$(BIN)/sordino" demo --output out/demo.html

test: setup ## the tests without the slow ones
	$(PYTEST) $(TESTS)

test-full: setup ## all tests, slow ones too
	$(PYTEST) --slow $(TESTS)

cocotb: setup ## the AXI4-Lite benches alone
	"$(BIN)/pytest" tests/cocotb

lint: setup ## ruff and mypy
	"$(BIN)/ruff" check
	"$(BIN)/ruff" format --check
	"$(BIN)/mypy"

format: setup ## let ruff lay out and mend what it can
	"$(BIN)/ruff" format
	"$(BIN)/ruff" check --fix

docs: setup ## write the generated pages anew
	"$(BIN)/python" docs/generate.py

site: setup ## build the documentation into out/site, with its links checked
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict

pins: ## resolve constraints.txt anew, in a fresh environment
	@PYTHON="$(PYTHON)" bash .ci/prerequisites
	bash .ci/pins "$(PYTHON)"

clean: ## remove what was built, .venv included
	rm -rf "$(VENV)" build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
