# Everything is installed into .venv; `make help` lists what there is to do.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A build of PyTorch, by the name of its folder of packages (TORCH=cpu has no CUDA). Nothing else comes from there.
INDEX := --extra-index-url https://download.pytorch.org/whl/$(TORCH)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup quickstart quickstart-colour test test-all fuzz check format docs report bench bench-gpu bench-rules clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

setup: $(READY)  ## Create .venv with everything that is needed (TORCH=cpu: PyTorch without CUDA)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(INSTALL) --no-deps $(INDEX) torch torchvision)
	$(INSTALL) --editable '.[dev]'
	@touch $(READY)

quickstart: $(READY)  ## Get the data, run the main job, write the report (ARGS="--rounds 1" and the like)
	$(BIN)/fl-sim sweep experiments/quickstart.py --fallback-dataset digits $(ARGS)

OWN = --set data.dataset=npz --set data.path=FILE.npz

quickstart-colour: $(READY)  ## The same on photographs: CIFAR-10, or your own (ARGS="--set data.path=...")
	@$(if $(findstring data.path=,$(ARGS)),,$(BIN)/fl-sim data fetch cifar10 || \
	  { echo "or give photographs of your own: make quickstart-colour ARGS='$(OWN)'"; exit 2; })
	$(BIN)/fl-sim sweep experiments/quickstart_colour.py $(ARGS)

test: $(READY)  ## Run the fast tests (and those in a browser, where Chromium is installed)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not ray" $(ARGS)

test-all: $(READY)  ## Run all tests, with more examples: slow ones, and those that start Ray and Flower
	FL_SIM_EXAMPLES=50 $(BIN)/python -m pytest $(ARGS)

fuzz: $(READY)  ## Try damaged and hostile inputs (ARGS="--minutes 5 --seed 0")
	$(BIN)/python -m tests.fuzz $(ARGS)

check: $(READY)  ## Check format, lint, types and the direction of imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## Format the code, and mend what the linter can
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs: $(READY)  ## Build the documentation into site/, and check its links (needs no network)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

report: $(READY)  ## Rebuild the reports of runs/ and the generated pages and tables of the docs
	$(BIN)/fl-sim expected tables
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m fl_sim.report.glossary > docs/glossary.md
	$(BIN)/python -m fl_sim.report.frames docs/frames.md
	@if compgen -G "runs/*/s*y.json" > /dev/null; then $(BIN)/fl-sim report runs; fi

bench: $(READY) $(VENV)/pfl  ## Measure what a round costs, beside a plain loop, Flower and pfl (ARGS="--only W1,W2")
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(READY) $(VENV)/pfl  ## Measure the same on a GPU, with larger noise and audits; exit with 2 without one
	$(BIN)/python -m benchmarks --device cuda $(ARGS)

bench-rules: $(READY) $(VENV)/byzfl  ## Measure what aggregating costs, beside Flower and ByzFL
	$(BIN)/python -m benchmarks.rules

# Folders of their own: what these depend on must not replace ours. Without, their rows are left out.
INTO = -@rm -rf $@.partial && $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --retries 1 --target $@.partial $(1) 2> /dev/null && mv $@.partial $@

$(VENV)/pfl: $(READY)
	$(call INTO,pfl==0.6.0)

$(VENV)/byzfl: $(READY)
	$(call INTO,--no-deps byzfl==0.0.11)

clean:  ## Remove .venv and caches; results in runs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
