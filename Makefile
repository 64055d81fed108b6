# make demo: from nothing to a labelled picture.    make test: the test suite.    make docs: the manual, in site/.
#
# All make a virtual environment in .venv and install what they need; when it is there already, they start at once.
# PIP_ARGS goes to pip, for instance to choose a build of torch: make demo PIP_ARGS="--extra-index-url <an index of CPU builds>"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: demo test lint docs clean

demo: $(INSTALLED)
	$(VENV)/bin/python tools/demo.py

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n auto

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

docs: $(INSTALLED_DOCS)
	$(VENV)/bin/python docs/blocks.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(INSTALLED_DOCS): $(INSTALLED)
	$(VENV)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[test,backbones]'
	touch $@

clean:
	rm -rf $(VENV) out site
