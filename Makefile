# make serve: the service at http://127.0.0.1:8000.   make test: lint, types, tests.   make demo-model: the weights that
# ship, from nothing.   HOST, PORT, MODELS (names or folders, with commas between), PYTHON, MODEL, RUNS as you like.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test load chaos full-size demo-model demo-families lint types clean

serve: $(VENV)/.serve
	@HOST=$(HOST) PORT=$(PORT) $(if $(MODELS),ARPG_MODELS='$(MODELS)') exec $(VENV)/bin/arpg serve

test: lint types
	$(VENV)/bin/pytest

# The published sizes with random weights, 4 GB on disk for a while.
full-size: $(VENV)/.test
	$(VENV)/bin/pytest -m full_size tests/e2e/test_full_size.py

# 200 clients of mixed tasks for 20 minutes, judged; the report is kept. Half an hour, and nothing else beside it.
LOAD ?=
load: $(VENV)/.test
	$(VENV)/bin/python -m tests.load $(LOAD)

# Kills, freezes, cuts and restarts, 300 jobs × 5 seeds; the real engine; and services that break a promise on purpose.
# Ten minutes or so, and nothing else beside it. CHAOS='--only storm --seeds 7 --logs var/chaos' for one of them.
CHAOS ?=
chaos: $(VENV)/.test
	@mkdir -p var
	$(VENV)/bin/python -m tests.chaos --json var/chaos.json $(CHAOS)

# From nothing in MODEL, the state in RUNS; goes on where it was stopped. Hours on two cores, minutes on a GPU.
MODEL ?= engine/weights/demo
RUNS ?= runs
STRIP := rocket house --seed 4
TRAINING = $(VENV)/bin/arpg train --runs $(RUNS) --model $(MODEL)
JUDGING = $(VENV)/bin/arpg judge --runs $(RUNS) --model $(MODEL) --figures $(MODEL)/figures

demo-model: $(VENV)/.test
	$(TRAINING) render
	$(TRAINING) judge
	$(TRAINING) vq
	$(TRAINING) encode
	$(TRAINING) arpg --compile
	$(TRAINING) export
	$(JUDGING) quality
	$(JUDGING) sheet samples --out $(MODEL)/sheet.webp
	$(JUDGING) strip $(STRIP) --out $(MODEL)/strip.png

# The other families on the same tokens.
demo-families: $(VENV)/.test
	for family in llamagen par-4x par-16x; do \
	  $(TRAINING) $$family --compile --steps 3000 && $(VENV)/bin/arpg train --runs $(RUNS) export $$family || exit 1; \
	done

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
	$(INSTALL) ".[service,embedded,hub]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) ".[service,embedded,train,test]"
	@touch $@ $(VENV)/.serve
