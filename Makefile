# Sordino from a bare clone. `make help` lists what there is.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.sordino-setup
TESTS ?=
# not empty: setup installs only files whose hashes constraints.txt holds (the CPU build of torch, see docs/explanation/trust.md)
REQUIRE_HASHES ?=
WORKERS ?= auto
PYTEST := "$(BIN)/pytest" --numprocesses $(WORKERS) --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.PHONY: help setup demo test test-full cocotb lint format docs site pins audit clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it (the other targets do it by themselves)

$(STAMP): pyproject.toml constraints.txt .ci/prerequisites
	@PYTHON="$(PYTHON)" bash .ci/prerequisites
	"$(PYTHON)" -m venv "$(VENV)"
	@sed -n 's/^\([^#=]*==[^ ;]*\).*/\1/p' constraints.txt >"$(VENV)/versions.txt"
	$(if $(REQUIRE_HASHES),"$(BIN)/python" -m pip install --require-hashes --no-deps --requirement constraints.txt)
	"$(BIN)/python" -m pip install --editable '.[dev]' --constraint "$(VENV)/versions.txt"
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

audit: setup ## look every pinned version up among the published advisories (needs the network)
	"$(PYTHON)" -m venv "$(VENV)/audit"
	"$(VENV)/audit/bin/python" -m pip install --quiet pip-audit
	"$(VENV)/audit/bin/pip-audit" --requirement "$(VENV)/versions.txt" --no-deps --disable-pip --strict

clean: ## remove what was built, .venv included
	rm -rf "$(VENV)" build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
