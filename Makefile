# Thin on purpose: what a target does is in the package. `make demo` and `make test` set up all they need.
PYTHON ?= python3
VENV ?= .venv
# What is never imported need not be compiled: it halves the time of an installation.
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile --editable

.PHONY: demo test lint clean

demo: $(VENV)/.run
	@$(VENV)/bin/mpnet demo $(if $(GUEST),--guest $(GUEST))

test: $(VENV)/.dev
	$(VENV)/bin/pytest $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { echo "python venvs are missing: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: $(VENV)/bin/pip pyproject.toml
	@echo "Installing mpnet and the packages it needs into $(VENV), once …"
	@$(INSTALL) '.[report]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml
	@echo "Installing mpnet and the packages its tests need into $(VENV), once …"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.run
