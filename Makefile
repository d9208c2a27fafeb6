# Thin on purpose: what a target does is in the package. `make demo` and `make test` set up all they need.
PYTHON ?= python3
VENV ?= .venv
# What is never imported need not be compiled: it halves the time of an installation.
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile --editable
# There is no wheel of posix_ipc for the newest Python; what a compiler says for want of itself helps nobody.
FAILED = { if grep -q posix.ipc $(VENV)/pip.log && { ! command -v cc >/dev/null || grep -q Python.h $(VENV)/pip.log; }; \
  then echo "posix_ipc has to be compiled for this Python: as root: apt-get install gcc libc6-dev python3-dev" >&2; \
  else cat $(VENV)/pip.log >&2; fi; exit 1; }

.PHONY: demo test unit test-matrix mutants lint man clean

demo: $(VENV)/.run
	@$(VENV)/bin/mpnet demo $(if $(GUEST),--guest $(GUEST))

test: $(VENV)/.dev
	$(VENV)/bin/pytest $(ARGS)

# What runs anywhere: no part of Debian, no root, nothing compiled.
unit: $(VENV)/.dev
	MPNET_JIT=0 $(VENV)/bin/pytest -m "unit and not compiled" $(ARGS)

# Hours: other releases in roots of their own, and every part of every release; ARGS chooses, as "trixie make demo".
test-matrix: $(VENV)/.dev
	$(VENV)/bin/python -m tests.matrix $(ARGS)

# Small slips in the sources, and whether tests notice them: an hour, and no part of CI.
mutants: $(VENV)/.dev
	$(VENV)/bin/python -m tests.mutants.run $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# After a change of a command's words: the page is shipped as it is.
man: $(VENV)/.dev
	$(VENV)/bin/python -m mpnet.cli.manual > packaging/man/mpnet.1

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { echo "python venvs are missing: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: $(VENV)/bin/pip pyproject.toml
	@echo "Installing mpnet and the packages it needs into $(VENV), once …"
	@$(INSTALL) '.[report]' 2>$(VENV)/pip.log || $(FAILED)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml
	@echo "Installing mpnet and the packages its tests need into $(VENV), once …"
	@$(INSTALL) '.[dev]' 2>$(VENV)/pip.log || $(FAILED)
	@touch $@ $(VENV)/.run
