# Fresh machine: `make demo` trains and shows a model, `make test` checks everything.
# Needs Python 3.11 or later and make; PYTHON=... chooses another interpreter.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	command -v $$p >/dev/null 2>&1 \
	&& $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test check test-default test-slow format clean

demo: $(INSTALLED)
	@rm -rf runs/demo
	$(BIN)/tessera train digits --out runs/demo
	$(BIN)/tessera evaluate runs/demo digits
	$(BIN)/tessera predict runs/demo digits:test --limit 5 --top-k 3
	@echo "Open runs/demo/report.html to see what it learnt."

test: check test-default

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-default: $(INSTALLED)
	$(BIN)/pytest -n auto

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or later found; hint: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(INSTALLED)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
