# Everything runs in .venv, which is made by itself; PYTHON names another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# Several test processes share two cores well: most of a test's time is compilation, which uses one.
TEST_PROCESSES ?= 2

.PHONY: demo test test-slow lint bench clean

demo: $(READY) demo/data/val.json
	$(RUN) train.py --config configs/quickstart.py --workdir demo/run
	$(RUN) eval.py --config configs/quickstart.py --workdir demo/run

test: $(READY)
	$(RUN) -m pytest -m "not slow" --timeout 600 -n $(TEST_PROCESSES) --dist loadfile --max-worker-restart 0

test-slow: $(READY)
	$(RUN) -m pytest -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(READY) demo/data/val.json
	$(RUN) -m rog_jax.tools.benchmark

demo/data/val.json: $(READY)
	$(RUN) -m rog_jax.tools.make_dataset --out demo/data --workers 2 --overwrite

clean:
	rm -rf $(VENV) demo .cache

# lvis comes without its requirements: they name an OpenCV that needs libGL and would overwrite the headless one.
$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "$(PYTHON) is older than 3.11; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps lvis==0.5.3
	touch $(READY)
