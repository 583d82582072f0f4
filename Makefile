# make demo | make demo-seg | make test      set up what is missing, then run; STACK=onedl for the maintained onedl packages
STACK  ?= openmmlab
PYTHON ?= python3

ifeq ($(STACK),openmmlab)
  VENV := .venv
  MMCV := mmcv==2.1.0
else ifeq ($(STACK),onedl)
  VENV := .venv-onedl
  MMCV := onedl-mmcv==2.3.6
else
  $(error STACK is '$(STACK)'; choose openmmlab or onedl)
endif

# Pinned as a pair: each torchvision fits one torch only, and an unpinned one would replace it.
TORCH := torch==2.11.0 torchvision==0.26.0
# mmcv's own set-up imports torch, psutil and pkg_resources, the last gone from setuptools 81 on.
BUILD := setuptools==80.9.0 wheel ninja psutil

PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.done

.PHONY: help setup test demo demo-seg
.DELETE_ON_ERROR:

help:
	@sed -n 1p Makefile

setup: $(STAMP)-package

test: setup
	@$(PY) -m pytest tests

demo: setup
	@$(PY) tools/demo.py

demo-seg: setup
	@$(PY) tools/demo.py configs/upernet_mambavision_demo.py

$(STAMP)-venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10, 3.11 or 3.12 is needed: make ... PYTHON=python3.11"; exit 1; }
	@echo "[1/5] a virtual environment in $(VENV) (seconds)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(STAMP)-torch: $(STAMP)-venv
	@echo "[2/5] $(TORCH) (1 to 10 minutes, 3 GB)"
	@$(PIP) $(BUILD) $(TORCH)
	@touch $@

$(STAMP)-mmcv: $(STAMP)-torch
	@echo "[3/5] $(MMCV), its operators compiled here (10 minutes on 2 cores; seconds when pip has it in its cache)"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MMCV_WITH_OPS=1 $(PIP) --no-build-isolation $(MMCV)
	@$(PY) -c 'import mmcv.ops'
	@touch $@

$(STAMP)-requirements: $(STAMP)-mmcv requirements.txt requirements-$(STACK).txt
	@echo "[4/5] requirements-$(STACK).txt (a minute)"
	@$(PIP) $(TORCH) -r requirements-$(STACK).txt
	@touch $@

$(STAMP)-package: $(STAMP)-requirements setup.py
	@echo "[5/5] mmmambavision itself (seconds)"
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@
