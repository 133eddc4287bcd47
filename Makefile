# Two commands do all the set-up: `make book` and `make test`.
# They need git, make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
LOWEST ?= python3.11
NEWEST ?= python3.14
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help book offline epub pdf check sphinx release links slides test lowest newest lab figures bench mutants course lint fix lock clean

help: ## list the commands
	@awk -F ':[^#]*## ' '/^[a-z]+:[^#]*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(READY) ## run the chapters that changed, build the pages, say where the first one is
	@$(RUN) -m book.tools book

offline: book ## put the whole book into one archive that opens anywhere, without a network
	@$(RUN) -m book.tools export offline

epub: book ## the whole book as an EPUB
	@$(RUN) -m book.tools export epub

pdf: book ## the whole book as one tagged PDF (needs Chromium)
	@$(RUN) -m book.tools export pdf

check: book ## judge the built book: budgets, errors, claims, alt text, outside resources
	@$(RUN) -m book.tools check

sphinx: book ## build the pages a second time, with Sphinx alone, and compare the two
	@$(RUN) -m book.tools sphinx

release: $(READY) ## write the release branch's tree to _build/release: chapters as notebooks that run anywhere
	@$(RUN) -m book.tools release

links: book ## where the pages' links lead: inside always, outside where there is a network
	@$(RUN) -m book.tools links

slides: book ## slides of every chapter with a teaching plan, with notes, in _build/html/slides
	@$(RUN) -m book.tools slides

test: lint book ## everything CI runs that needs no system package; says what it skipped
	@$(RUN) -m pytest -n 2 --dist loadfile -m "not alone"
	@$(RUN) -m pytest -m alone

# Unit tests alone, in an environment of their own. Old packages warn of each other, so warnings are no errors here.
UNIT = -m pytest -o filterwarnings=default tests --ignore=tests/book --ignore=tests/course --ignore=tests/browser --ignore=tests/benchmarks
OLDEST = import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*(line.replace(">=", "==") for line in project["dependencies"] + project["optional-dependencies"]["cluster"]), sep="\n")

lowest: ## the unit tests with the oldest versions that pyproject.toml allows (LOWEST=python3.11)
	@$(LOWEST) -m venv --clear _build/lowest
	@$(LOWEST) -c '$(OLDEST)' > _build/lowest/oldest.txt
	@_build/lowest/bin/python -m pip install --quiet -c _build/lowest/oldest.txt -e '.[test]'
	@_build/lowest/bin/python $(UNIT)

newest: ## the unit tests with the newest of everything, on the newest Python that PyTorch supports (NEWEST=python3.14)
	@$(NEWEST) -m venv --clear _build/newest
	@_build/newest/bin/python -m pip install --quiet -e '.[test]'
	@_build/newest/bin/python $(UNIT)

lab: $(READY) ## open JupyterLab on the chapters
	@$(RUN) -m book.tools lab

figures: $(READY) ## open the figures that move as apps without code (needs voila)
	@$(RUN) -m book.tools figures

bench: $(READY) ## measure the fleet against ordinary training
	@$(RUN) -m pytest tests/benchmarks --benchmark-enable

mutants: $(READY) ## plant small slips in losses, levels, mechanisms and claims, and count those that a test notices
	@$(RUN) tests/mutants.py

course: book ## write students' edition, assignments and autograders to _build/course
	@$(RUN) -m book.tools course

lint: $(READY) ## formatting, style and types of the code and of the chapters' cells
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(RUN) -m book.tools lint

fix: $(READY) ## repair what lint can repair
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
	@$(RUN) -m book.tools lint --fix

lock: $(READY) ## write the versions installed now to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(RUN) -m pip freeze --exclude-editable | sed -e '/@/d' -e 's/+[a-z0-9.]*$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## delete everything that was built (not the environment, .venv)
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

# What the environment is made from: the pins, and of pyproject.toml only what an installation reads.
MADE_FROM = $(PYTHON) -c 'import json, pathlib, tomllib; \
  whole = tomllib.loads(pathlib.Path("pyproject.toml").read_text("utf8")); project = whole["project"]; \
  names = ("name", "version", "requires-python", "dependencies", "optional-dependencies", "scripts"); \
  print(json.dumps([whole["build-system"], {name: project.get(name) for name in names}, whole["tool"].get("hatch")], indent=1)); \
  print(pathlib.Path("constraints.txt").read_text("utf8"))'

# It is made anew only when that changed. The stamp is written last: a creation that was interrupted has none and starts over.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kdlib needs Python 3.11 or newer; name one like this: make book PYTHON=python3.12" >&2; exit 1; }
	@set -e; made_from=$$($(MADE_FROM)); if [ "$$made_from" = "$$(cat $@ 2>/dev/null)" ]; then touch $@; else \
	  echo "making the environment in $(VENV) (once; some minutes) ..."; rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { echo "no environment: on Debian and Ubuntu, install python3-venv first" >&2; exit 1; }; \
	  $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'; \
	  printf '%s\n' "$$made_from" > $@.new; mv $@.new $@; fi
