# Everything here starts from nothing but Python >= 3.11 and make: .venv is made where it is missing,
# filled from setup.py with the versions of constraints.txt, and used. Say `make help`.

VENV ?= .venv
PY := $(VENV)/bin/python

# The interpreter of a .venv that is yet to be made: the first that is new enough.
ifeq ($(wildcard $(PY)),)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
else
PYTHON := $(PY)
endif

# The tests against PyTorch run where torch is installed and are skipped elsewhere. TORCH=1 installs
# it, TORCH=0 does not. On Linux the wheel of the public index brings several GB of CUDA libraries;
# CONTRIBUTING.md says how to have the CPU build.
ifndef TORCH
TORCH := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print(int(sys.version_info[:2] == (3, 11)))' 2>/dev/null))
endif
comma := ,
TEST_EXTRAS := test,docs,notebook$(if $(filter 1,$(TORCH)),$(comma)torch$(comma)onnx)

PYTEST ?= $(PY) -m pytest -q
JOBS ?= 2

.PHONY: help demo demo-long demo-controls demo-metric demo-metric-long demo-encoder test nightly site lint format types clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:  # half a .venv is none

help:
	@echo 'make demo          the whole method on rendered scenes, report in demo/report.html (WEIGHTS=SOURCE adds a released model)'
	@echo 'make demo-long     the same with more pixels, more steps and three seeds'
	@echo 'make demo-controls students that lack one part of the method each, three seeds'
	@echo 'make demo-metric   metres with and without relative depth first, one head, one seed'
	@echo 'make demo-metric-long  the same for both heads, three seeds'
	@echo 'make demo-encoder  pre-train the tiny encoder of the demo again'
	@echo 'make test          lint, format check, types and the default tests'
	@echo 'make nightly       the slow tests'
	@echo 'make site          the documents as pages with search, in site/'
	@echo 'make lint | format | types | clean'
	@echo 'PYTHON=python3.12 chooses the interpreter of a new .venv; TORCH=1 or 0 installs PyTorch for the tests or not'

$(PY):
	@test -n '$(PYTHON)' || { echo 'make: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python >= 3.11 is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of packages, so that a second call starts at once.
$(VENV)/.installed-core: setup.py pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test-$(TORCH): setup.py pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(TEST_EXTRAS)]'
	@touch $(VENV)/.installed-core $@

CORE = $(VENV)/.installed-core
TESTING = $(VENV)/.installed-test-$(TORCH)

demo: $(CORE)
	$(PY) -m depth_anything_jax.demo $(if $(WEIGHTS),--weights=$(WEIGHTS))

demo-long: $(CORE)
	$(PY) -m depth_anything_jax.demo --long --docs=docs $(if $(WEIGHTS),--weights=$(WEIGHTS))

demo-controls: $(CORE)
	$(PY) -m depth_anything_jax.demo --controls --docs=docs

demo-metric: $(CORE)
	$(PY) -m depth_anything_jax.demo.metric

demo-metric-long: $(CORE)
	$(PY) -m depth_anything_jax.demo.metric --long --docs=docs

demo-encoder: $(CORE)
	$(PY) tools/pretrain_encoder.py

test: $(TESTING)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PYTEST) -n $(JOBS)

# Compiles for TPUs without one. Beside the environment: in it, jax would look for a TPU at each start.
$(VENV)/.installed-libtpu: constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt \
	  --upgrade --target $(VENV)/libtpu libtpu
	@touch $@

# Apache Beam holds back versions that the tests pin, so it has an environment of its own.
$(VENV)/.installed-beam: setup.py | $(PY)
	$(PY) -m venv $(VENV)/beam
	$(VENV)/beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[beam]'
	@touch $@

nightly: $(TESTING) $(VENV)/.installed-libtpu $(VENV)/.installed-beam
	$(PYTEST) -m nightly

site: $(TESTING)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

lint: $(TESTING)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(TESTING)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

types: $(TESTING)
	$(PY) -m mypy

# Caches and build output only: .venv, runs/ and demo/ hold hours of work and stay.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
