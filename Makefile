# The commands of the project. Each sets up what it needs in .venv, from Python, make and PyPI alone.
#
#   make demo          install the package and run its demonstration
#   make test          run all tests                     (ARGS: more arguments for pytest)
#   make differential  compare all ways of running BPF   (N: how many programs each test makes at random)
#   make lint          check style, format and types
#   make bench         measure against other linkers     (ARGS: more arguments for the benchmark)
#   make clean         remove what these have made

PYTHON ?= python3
ARGS ?=
N ?= 20000

BIN := .venv/bin
# A stamp is newer than pyproject.toml when the installation is what it asks for.
STAMP := .venv/installed

.PHONY: demo test differential lint bench clean

demo: $(STAMP)-all
	$(BIN)/jitlink demo

test: $(STAMP)-test
	$(BIN)/python -m pytest -rs -n auto $(ARGS)

differential: $(STAMP)-test
	JITLINK_MUTATIONS=$(N) $(BIN)/python -m pytest -rs -n auto --timeout 0 tests/bpf -k to_the_same $(ARGS)

lint: $(STAMP)-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)-bench
	$(BIN)/python bench/link.py $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

# One rule for each set of extras in pyproject.toml: all, test, lint, bench.
$(STAMP)-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
