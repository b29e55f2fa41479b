# Needs nothing but python3 (3.11 or newer), a package index and a C++ compiler for the native engine:
# every target makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(wildcard src/kamon/native/src/*)
NPX := npx --yes --prefer-offline --fetch-retries=1 --fetch-timeout=30000
TSC := $(NPX) --package=typescript@5.9.3 tsc

.PHONY: demo test check lint lint-ruff lint-types lint-prose lint-page torture bugs mutants wheel docs clean

demo: .venv/installed        ## train on a real list, print new names
	$(BIN)/kamon train names -o .demo --overwrite

test: .venv/installed-dev lint        ## everything
	$(BIN)/pytest -n auto --dist worksteal

check: .venv/installed-dev lint       ## the fast part, about a minute
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not extra and not torture"

lint: .venv/installed-dev
	@$(MAKE) --no-print-directory -j4 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint-ruff lint-types lint-prose lint-page

lint-ruff:
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint-types:
	$(BIN)/mypy

lint-prose:
	$(BIN)/python dev/check_prose.py

lint-page:
	@if $(TSC) --version >/dev/null 2>&1; then \
	  $(TSC) --project jsconfig.json && \
	  $(NPX) prettier@3.6.2 --cache --cache-location=build/prettier --log-level=warn --print-width=120 \
	    --check 'src/kamon/web/static/*.js' 'tests/web/*.mjs'; \
	else echo "npx cannot run TypeScript here, so the page's JavaScript is not checked" >&2; fi

torture: .venv/installed-dev  ## the tests with random faults, for an hour and a half
	KAMON_TORTURE=1 $(BIN)/pytest -n auto --dist worksteal -m torture

bugs: .venv/installed-dev    ## plant each bug of tests/bugs and see it caught
	KAMON_BUGS=1 $(BIN)/pytest -n auto --dist worksteal tests/test_planted_bugs.py

# In a copy, whose pyproject.toml ends with the section of mutmut: so these two lines belong to it.
TESTS ?= tests/$(patsubst %.py,test_%.py,$(firstword $(subst /, ,$(FILE:src/kamon/%=%))))
mutants: .venv/installed-dev ## change FILE=src/kamon/… at each place that mutmut knows, and list what TESTS=… overlook
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "mutmut>=3.8,<4"
	rm -rf build/mutants && mkdir -p build/mutants && cp -R src tests pyproject.toml build/mutants
	echo 'only_mutate = ["$(FILE)"]' >> build/mutants/pyproject.toml
	echo 'pytest_add_cli_args_test_selection = ["$(TESTS)"]' >> build/mutants/pyproject.toml
	cd build/mutants && $(abspath $(BIN))/mutmut run && $(abspath $(BIN))/mutmut results

# From the source distribution, so that this is tried, too. auditwheel names the oldest C library that will do.
wheel: .venv/installed-dev   ## what a release has: dist/*.tar.gz and, of this platform, dist/*.whl
	rm -rf dist build
	KAMON_NATIVE=1 SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH-$$(git log -1 --format=%ct)} $(BIN)/python -m build --outdir dist
ifeq ($(shell uname -s),Linux)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl
endif

docs: .venv/installed-dev    ## the documentation as a site: docs/_build/html/index.html
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

clean:
	rm -rf .venv .demo src/kamon/native/*.so build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kamon needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml setup.py $(NATIVE) | .venv/bin/python
	@echo "installing Kamon into .venv and compiling it takes a minute or two" >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml setup.py $(NATIVE) | .venv/bin/python
	@echo "installing Kamon into .venv with all that its tests and pages need takes some minutes" >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ .venv/installed
