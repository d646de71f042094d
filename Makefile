# Everything a contributor or CI needs. Each target sets up its own .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format docs coverage clean

demo: $(READY)  ## enlarge a photo at three realism levels
	$(BIN)/python tools/demo.py demo

# tests/report drives a real browser; without one they are skipped. On Debian: apt-get install -y --no-install-recommends chromium
test: check  ## lint, types, import order, safety, tests
	$(BIN)/python -m pytest --numprocesses 2

check: $(READY)  ## lint, types, import order, nothing that runs foreign code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python tools/check_safety.py

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(READY)  ## the tests with coverage, subprocesses included: a table, least covered first
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses 2
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --sort=cover

docs: $(READY)  ## the manual as a site, in build/site; any warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python tools/command_reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
