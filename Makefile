# `make run` and `make test`. Without make, the two lines under `run` do the same:
#   python3 hub_site/bootstrap.py
#   .venv/bin/python manage.py serve

PYTHON ?= python3
PY = .venv/bin/python
PYTEST = $(PY) -m pytest

# Processes that share the tests; with JOBS=1 pytest runs plainly in one, as for --pdb and -s.
JOBS ?= auto
shared_by = $(if $(filter 1,$(JOBS)),,-n $(JOBS) --dist $(1))

.PHONY: run test test-slow lint types format environment environment-dev clean

run: environment
	@exec $(PY) manage.py serve

test: environment-dev
	$(PYTEST) -m "not slow" $(call shared_by,worksteal) $(ARGS)

test-slow: environment-dev
	$(PYTEST) -m slow $(call shared_by,loadscope) $(ARGS)

lint: environment-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: environment-dev
	$(PY) -m mypy

format: environment-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

environment:
	@$(PYTHON) hub_site/bootstrap.py

environment-dev:
	@$(PYTHON) hub_site/bootstrap.py --dev

# Caches only: the site's data in var/ and the environment stay.
clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.venv/*' -not -path './var/*' -prune -exec rm -rf {} +
