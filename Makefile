# make serve: the service at http://127.0.0.1:8000.   make test: lint, types, tests.   HOST, PORT, PYTHON as you like.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test lint types clean

serve: $(VENV)/.serve
	@HOST=$(HOST) PORT=$(PORT) exec $(VENV)/bin/arpg serve

test: lint types
	$(VENV)/bin/pytest

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.test
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) ".[service,embedded]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) ".[service,embedded,train,test]"
	@touch $@ $(VENV)/.serve
