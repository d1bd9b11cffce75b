# Everything runs in a virtual environment of its own: Python 3.11 or newer with pip is all that has to be there.
# `make demo PYTHON=python3.13` picks another interpreter, `make test VENV=/tmp/venv` another place.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= runs/demo
bin := $(VENV)/bin
# mypy finds a package by its folder's name: show it integrations/ and experiments/ where their import names say they are.
types := build/types

.PHONY: help demo test check check-format lint types docs site format clean

help:
	@echo 'make demo    train a small network dense, thinner and compressed, and compare them'
	@echo 'make test    run the tests'
	@echo 'make check   formatting, lint, types, and a strict build of the documentation'
	@echo 'make docs    build the documentation into docs/_build/html'
	@echo 'make site    build the documentation, and check its pages in Chromium, which has to be installed'
	@echo 'make format  format the code, and repair what lint can'
	@echo 'make clean   remove the virtual environment and everything that was built'

demo: $(VENV)/demo.stamp
	$(bin)/python -m shapeshift.experiments.demo --output $(OUTPUT)

test: $(VENV)/dev.stamp
	$(bin)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

check: check-format lint types docs

site: docs $(VENV)/browser.stamp
	$(bin)/python -m pytest tests/test_site.py

check-format: $(VENV)/dev.stamp
	$(bin)/ruff format --check .

lint: $(VENV)/dev.stamp
	$(bin)/ruff check .

types: $(VENV)/dev.stamp
	rm -rf $(types)
	mkdir -p $(types)/shapeshift
	ln -s $(CURDIR)/shapeshift/* $(CURDIR)/integrations $(CURDIR)/experiments $(types)/shapeshift/
	ln -s $(CURDIR)/benchmarks $(types)/
	cd $(types) && $(abspath $(bin))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

docs: $(VENV)/dev.stamp
	$(bin)/python -m sphinx -b html -W -n --keep-going -q docs docs/_build/html

format: $(VENV)/dev.stamp
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean:
	rm -rf $(VENV) build docs/_build .mypy_cache .pytest_cache .ruff_cache

# One stamp per set of extras, made anew when the requirements change.
$(VENV)/%.stamp: pyproject.toml setup.cfg | $(bin)/python
	$(bin)/python -m pip install --quiet --editable '.[$*]'
	touch $@

$(bin)/python:
	$(PYTHON) -m venv $(VENV)
