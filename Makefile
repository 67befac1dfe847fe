# One word per job. Each works on a bare clone: what is missing is installed into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check $(PIP_FLAGS) --constraint constraints.txt
LMMS_EVAL := .venv-lmms-eval
define BESIDE
import pathlib, sys, sysconfig
line = f"import site; site.addsitedir({sys.argv[1]!r})"
pathlib.Path(sysconfig.get_path("purelib"), "beside.pth").write_text(line)
endef
export BESIDE

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "make %-17s %s\n", $$1, $$2}'

quickstart: $(VENV)/installed  ## the main job: train in five stages on the starter data, measure, report, then chat
	$(BIN)/xgenmm quickstart

quickstart-fast: $(VENV)/installed  ## the same, shorter and cruder
	$(BIN)/xgenmm quickstart --fast

test: $(VENV)/installed-dev  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

check: lint types imports all-tests  ## format, lint, types, layers, all tests: what CI runs

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports

all-tests: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not gpu"

lmms-eval: $(VENV)/installed-dev  ## our weights inside lmms-eval, tested in an environment of its own beside ours
	$(BIN)/python -m venv $(LMMS_EVAL)
	$(LMMS_EVAL)/bin/python -c "$$BESIDE" $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
	$(LMMS_EVAL)/bin/pip install --quiet --no-deps --requirement tests/evaluation/lmms_eval.txt
	$(LMMS_EVAL)/bin/python -m pytest tests/evaluation/test_lmms_eval.py -m ""

benchmarks: $(VENV)/installed-dev  ## the figures of docs/performance.md, in half an hour or so
	for one in model_step model_memory pictures idefics2 loss_head planner decode fewshot dpo loader tiles optimizer precision \
		plan cold_start stall; do echo "== $$one"; OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$one.py; done

fix: $(VENV)/installed-dev  ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Modules are compiled when they are first imported, and most of them never are; tests import them in many processes.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --no-compile --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed $@

.PHONY: help quickstart quickstart-fast test check lint types imports all-tests lmms-eval benchmarks fix
