# make book    the whole book, executed and built      (book/_build/html/index.html)
# make test    every check that CI runs
# Options of `make book`: PROFILE=smoke|quick|paper DATA=folder RUN=name SEED=n DEVICE=auto|cpu|cuda

PROFILE ?= quick
DATA ?=
RUN ?=
SEED ?= 0
DEVICE ?= auto
PYTHON ?= $(shell command -v python3.11 || command -v python3)

BIN := .venv/bin
READY := .venv/ready
BUILD := $(BIN)/jupyter-book build . --path-output book
TEST_RUNS := $(CURDIR)/runs/.test

.PHONY: book html setup doctor test lint unit notebooks endtoend clean help
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## install into .venv and convert the language model, once

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m memoir_core.weights
	touch $(READY)

book: setup  ## run all chapters and build the HTML book
	$(BIN)/python -m memoir_core.run --profile "$(PROFILE)" --run "$(RUN)" --data "$(DATA)" \
	  --seed "$(SEED)" --device "$(DEVICE)"
	$(MAKE) --no-print-directory html

doctor: setup  ## look before a run: versions, memory, disk, models, data
	$(BIN)/python -m memoir_core.doctor --profile "$(PROFILE)" --data "$(DATA)" --device "$(DEVICE)"

html: setup  ## build the HTML from the chapters that were run last
	$(BUILD) --quiet
	@echo "The book: $(CURDIR)/book/_build/html/index.html"

test: lint unit notebooks endtoend  ## everything that CI checks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest tests -m "not endtoend" --durations=10

# Every notebook as a reader meets it: default parameters, in order, in a fresh run folder.
notebooks: setup
	rm -rf "$(TEST_RUNS)"
	MEMOIR_RUNS="$(TEST_RUNS)/nbval" $(BIN)/python -m pytest --nbval-lax \
	  --nbval-cell-timeout=600 -p no:cacheprovider notebooks

# The same book through papermill, killed once on the way, and its HTML with warnings as errors.
endtoend: setup
	MEMOIR_TEST_RUNS="$(TEST_RUNS)" $(BIN)/python -m pytest tests -m endtoend -s

clean:  ## delete runs, caches and the built book (not .venv)
	rm -rf runs cache book/_build book/chapters
