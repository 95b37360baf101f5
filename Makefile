# Needs Python 3.11, pip, gcc, make and git; everything else is set up in .venv.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test check format nightly bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,bench]"
	touch $@

demo: $(READY)  ## compare every solver on the built-in weights
	$(BIN)/tmask compare --all-solvers --pattern 2:4 --pattern 4:8 --seconds-per-solver 1

test: $(READY)
	$(BIN)/pytest --numprocesses auto

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nightly: $(READY)  ## long checks against OR-Tools
	$(BIN)/pytest -m nightly --numprocesses auto

bench: $(READY)  ## regenerate bench/results (about 18 minutes on 2 cores)
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.report
	$(BIN)/python -m bench.matrix
	$(BIN)/python -m bench.matrix_report

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
