# Needs Python 3.11, pip, gcc, make and git; everything else is set up in .venv.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# Of `make gpu`, which installs nothing: what stands in .venv if there is one, else what `python3` has.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)
GPU_OUT ?= build/gpu

.PHONY: demo test check docs package format nightly bench gpu clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,bench,docs]"
	touch $@

demo: $(READY)  ## compare every solver on the built-in weights
	$(BIN)/tmask compare --all-solvers --pattern 2:4 --pattern 4:8 --seconds-per-solver 1

test: $(READY)
	$(BIN)/pytest --numprocesses auto

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)  ## the site, into build/docs; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs build/docs

package: $(READY)  ## sdist and wheel, into build/package, each tried in an environment of its own
	rm -rf build/package
	$(BIN)/hatchling build -d build/package
	$(BIN)/python -m bench.package build/package

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

gpu:  ## on a machine with a GPU: its tests, a sanitizer and both benchmarks, at most 6 minutes
	PYTHONPATH=.:solvers:$$PYTHONPATH $(GPU_PYTHON) -m bench.gpu_all --out $(GPU_OUT)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
