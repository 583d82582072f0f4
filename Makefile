# make demo | demo-seg | demo-cls | test | test-slow | test-full | lint | docs | check-gpu | setup      sets up what is missing, then runs
#   STACK=onedl     the maintained onedl packages instead of the original mmengine, mmdet and mmsegmentation
#   MMCV=compiled   mmcv with its operators compiled here, instead of mmcv-lite with ours
#   ARGS='...'      options of pytest for the tests, or of check-gpu
STACK  ?= openmmlab
MMCV   ?= lite
PYTHON ?= python3

ifeq ($(STACK),openmmlab)
  COMPILED := mmcv==2.1.0
else ifeq ($(STACK),onedl)
  COMPILED := onedl-mmcv==2.3.6
  # pip would take an earlier build of it, with operators or without.
  NO_CACHE := --no-cache-dir
else
  $(error STACK is '$(STACK)'; choose openmmlab or onedl)
endif
ifeq ($(filter $(MMCV),lite compiled),)
  $(error MMCV is '$(MMCV)'; choose lite or compiled)
endif

VENV  := .venv$(STACK:openmmlab=)$(MMCV:lite=)
VENV  := $(subst .venvonedl,.venv-onedl,$(subst compiled,-compiled,$(VENV)))
PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.done
# Many small tests: several workers with one thread each are faster than one with all threads.
TEST  := OMP_NUM_THREADS=1 $(PY) -m pytest tests --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

.PHONY: help setup lint docs test test-slow test-full demo demo-seg demo-cls check-gpu
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(STAMP)-mmcv-$(MMCV)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m mypy

# The site, in site/. It needs Python 3.11 or newer and no torch: the API reference is read from the source.
docs: $(STAMP)-docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

test: setup
	@$(TEST) -m 'not slow and not full'

test-slow: setup
	@$(TEST) -m 'slow and not full'

test-full: setup
	@$(TEST) -m full

demo: setup
	@$(PY) tools/demo/demo.py

demo-cls: setup
	@$(PY) tools/demo/demo.py configs/classification/mambavision_demo.py

demo-seg: setup
	@$(PY) tools/demo/demo.py configs/upernet_mambavision_demo.py

check-gpu: setup
	@$(PY) tools/benchmarks/check_gpu.py --quick $(ARGS)

$(STAMP)-venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 to 3.13 is needed: make ... PYTHON=python3.11"; exit 1; }
	@echo "[1/4] a virtual environment in $(VENV) (seconds)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(STAMP)-torch: $(STAMP)-venv requirements.txt
	@echo "[2/4] torch and torchvision (1 to 10 minutes, 3 GB)"
	@$(PIP) $$(grep ^torch requirements.txt)
	@touch $@

$(STAMP)-docs: $(STAMP)-venv pyproject.toml
	@$(PIP) $$(sed -n 's/^docs = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	@touch $@

$(STAMP)-package: $(STAMP)-torch requirements.txt pyproject.toml setup.py
	@echo "[3/4] this package and the $(STACK) packages (a minute)"
	@sed 's/openmmlab/$(STACK)/' requirements.txt > $(VENV)/requirements.txt
	@$(PIP) $(NO_CACHE) --requirement $(VENV)/requirements.txt
	@touch $@

$(STAMP)-mmcv-lite: $(STAMP)-package
	@echo "[4/4] mmcv's operators on torchvision's (seconds)"
	@$(PY) -c 'import mmcv._ext' 2> /dev/null || $(PY) -m mmmambavision.openmmlab.mmcv_ops --install
	@touch $@

# mmcv's own set-up imports torch, psutil and pkg_resources, and setuptools 81 removed pkg_resources.
$(STAMP)-mmcv-compiled: $(STAMP)-package
	@echo "[4/4] $(COMPILED), its operators compiled here (10 minutes on 2 cores; seconds when pip has it in its cache)"
	@$(PIP) setuptools==80.8.0 wheel ninja psutil
	@$(PY) -m pip uninstall --quiet --yes mmcv mmcv-lite onedl-mmcv
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MMCV_WITH_OPS=1 $(PIP) $(NO_CACHE) --no-build-isolation $(COMPILED)
	@$(PY) -c 'import mmcv._ext'
	@touch $@
