# Two commands do all the set-up: `make book` and `make test`.
# They need git, make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help book check test lab bench mutants lint fix lock clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

book: $(READY) ## run the chapters that changed, build the pages, say where the first one is
	@$(RUN) -m book.tools book

check: book ## judge the built book: budgets, errors, claims, alt text, outside resources
	@$(RUN) -m book.tools check

test: lint book ## everything CI runs that needs no system package; says what it skipped
	@$(RUN) -m pytest

lab: $(READY) ## open JupyterLab on the chapters
	@$(RUN) -m book.tools lab

bench: $(READY) ## measure the fleet against ordinary training
	@$(RUN) -m pytest tests/benchmarks --benchmark-enable --benchmark-only

mutants: $(READY) ## plant small slips in losses, levels and claims, and count those that a test notices
	@$(RUN) tests/mutants.py

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

# The environment is made anew only when the content of its two files changed. The stamp, a copy of both, is written
# last: a creation that was interrupted has none and starts over.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kdlib needs Python 3.11 or newer; name one like this: make book PYTHON=python3.12" >&2; exit 1; }
	@if cat $^ | cmp -s - $@; then touch $@; else \
	  set -e; echo "making the environment in $(VENV) (once; some minutes) ..."; rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { echo "no environment: on Debian and Ubuntu, install python3-venv first" >&2; exit 1; }; \
	  $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'; \
	  cat $^ > $@.new; mv $@.new $@; fi
