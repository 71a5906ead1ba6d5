# make serve: the service at http://127.0.0.1:8000.   make test: lint, types, tests.   make demo-model: trains the
# shipped weights.   Variables: HOST, PORT, MODELS (names or folders, separated by commas), PYTHON, MODEL, RUNS.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test test-other load chaos abuse dashboards screenshots animation full-size demo-model demo-scenes demo-text demo-families settings imagenet-names \
  lint types clean

serve: $(VENV)/.serve
	@HOST=$(HOST) PORT=$(PORT) $(if $(MODELS),ARPG_MODELS='$(MODELS)') exec $(VENV)/bin/arpg serve

# Three processes on two cores, because tests mostly wait. Each process has a Valkey server, ports and folders of its own;
# a file's tests stay in one process, so that its servers start once. PYTEST='tests/jobs --durations=10': more options.
PROCESSES ?= 3
PYTEST ?=
test: export PYTHONDONTWRITEBYTECODE :=# a hundred processes import the same modules
test: lint types
	$(VENV)/bin/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST)

# The tests that touch Redis on another Python, without torch: asyncio's connections differ between versions.
OTHER_PYTHON ?= python3.13
OTHER := .venv-other
test-other: $(OTHER)/.test
	$(OTHER)/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile tests/jobs tests/auth \
	  tests/server/test_redis_faults.py tests/api/test_streams.py $(PYTEST)

# Loads and draws with the published sizes and random weights: 4 GB on disk while it runs.
full-size: $(VENV)/.test
	$(VENV)/bin/pytest -m full_size --override-ini faulthandler_timeout=3600 tests/e2e/test_full_size.py

# 200 clients with mixed tasks for 20 minutes; writes deploy/load-report. Takes half an hour on an idle machine.
LOAD ?=
load: $(VENV)/.test
	$(VENV)/bin/python -m tests.load $(LOAD)

# Faults against real processes (300 jobs × 5 seeds), the real engine, and mutants that break a promise on purpose.
# Takes ten minutes on an idle machine. One run alone: CHAOS='--only storm --seeds 7 --logs var/chaos'.
CHAOS ?=
chaos: $(VENV)/.test
	@mkdir -p var
	$(VENV)/bin/python -m tests.chaos --json var/chaos.json $(CHAOS)

# One client attacks a service with default settings; the report says what another client saw. Takes twelve minutes on an
# idle machine. One attack alone: ABUSE='--only 2 --json var/abuse.json'. Damaged pictures: ABUSE='fuzz --seconds 600'.
ABUSE ?=
abuse: $(VENV)/.test
	$(VENV)/bin/python -m tests.abuse $(ABUSE)

# A real Prometheus scrapes the service under load, and each panel of the Grafana dashboard is drawn from its data into
# docs/dashboards. Needs Debian's package prometheus. Takes twelve minutes on an idle machine. Shorter:
# DASHBOARDS='--minutes 1 --out var/dashboards'.
DASHBOARDS ?=
dashboards: $(VENV)/.test
	$(VENV)/bin/python -m tests.deploy $(DASHBOARDS)

# Draws with the demo model and takes the pictures of the playground in docs/playground. Needs Chromium.
screenshots: $(VENV)/.test
	$(VENV)/bin/python -m tests.e2e.screenshots

# Trains from nothing into MODEL; keeps its state in RUNS and resumes. Takes hours on two cores, minutes on a GPU.
MODEL ?= engine/weights/demo
RUNS ?= runs
STRIP := rocket house --seed 4
TRAINING = $(VENV)/bin/arpg train --runs $(RUNS) --model $(MODEL)
EVALUATING = $(VENV)/bin/arpg evaluate --runs $(RUNS) --model $(MODEL) --figures $(MODEL)/figures

demo-model: $(VENV)/.test
	$(TRAINING) render
	$(TRAINING) classifier
	$(TRAINING) vq
	$(TRAINING) encode
	$(TRAINING) arpg --compile
	$(TRAINING) export
	$(EVALUATING) quality
	$(EVALUATING) sheet samples --out $(MODEL)/sheet.webp
	$(EVALUATING) strip $(STRIP) --out $(MODEL)/strip.png

# Panoramas, the classifier that judges scenes, and the token maps of their crops; resumes as above.
demo-scenes: $(VENV)/.test
	$(TRAINING) panoramas
	$(TRAINING) scene-classifier
	$(EVALUATING) scene-classifier
	$(TRAINING) scene-codes

# The demo model that takes prompts, and its text encoder, on single pictures and on crops of panoramas. Begins with the
# weights that are there, so that it goes on from the shipped ones. Keeps its state in RUNS and resumes.
TEXT := engine/weights/demo-text
TEXT_EVALUATING = $(VENV)/bin/arpg evaluate --runs $(RUNS) --model $(TEXT) --figures $(TEXT)/figures
demo-text: demo-scenes
	$(TRAINING) render
	$(TRAINING) encode
	$(VENV)/bin/arpg train --runs $(RUNS) arpg-t2i --compile
	$(VENV)/bin/arpg train --runs $(RUNS) export arpg-t2i
	$(TEXT_EVALUATING) score
	$(TEXT_EVALUATING) quality
	$(TEXT_EVALUATING) prompt-sheet --out $(TEXT)/prompts.webp
	$(TEXT_EVALUATING) panoramas --out $(TEXT)/panoramas.webp --sheet $(TEXT)/outpainted.webp
	$(TEXT_EVALUATING) editing

# The animation at the top of the README: unselected samples, seeds 0 to 7.
ANIMATED := "a red mushroom on a green floor" "a purple mug" "a blue house under a sunset" "a yellow star" \
  "an orange rocket" "a green tree and a red chair" "a teal snowman far away" "a pink ring left of a blue cube"
animation: $(VENV)/.test
	$(TEXT_EVALUATING) animation $(ANIMATED) --steps 64 --out docs/decode.webp

# Trains the other families on the same tokens.
demo-families: $(VENV)/.test
	for family in llamagen par-4x par-16x; do \
	  $(TRAINING) $$family --compile --steps 3000 && $(VENV)/bin/arpg train --runs $(RUNS) export $$family || exit 1; \
	done

# The page of all settings, from service/settings.py.
settings: $(VENV)/.test
	$(VENV)/bin/python -m tests.docs.settings

# The class names of the public models, from the lists in timm's wheel; timm itself is not installed.
imagenet-names: $(VENV)/.test
	@mkdir -p $(RUNS)
	$(VENV)/bin/pip download --quiet --no-deps --dest $(RUNS) timm==1.0.31
	$(VENV)/bin/python -m engine.models.imagenet $(RUNS)/timm-1.0.31-py3-none-any.whl

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.test
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(OTHER)

$(OTHER)/.test: pyproject.toml constraints.txt
	$(OTHER_PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable \
	  ".[api,embedded]" pytest pytest-xdist hypothesis httpx
	@touch $@

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) ".[service,cpu,embedded,hub]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) ".[service,cpu,embedded,train,test]"
	@touch $@ $(VENV)/.serve
