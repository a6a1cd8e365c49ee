# Three commands: `make demo`, `make figures` and `make test`. All set up .venv from the lock file first, once.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/setup-done

.PHONY: setup demo figures figures-full test test-slow lint types benchmark docs clean

demo: $(SETUP)
	$(BIN)/python -m paper_figures fig01_width_consistency

# all figures, quick, on one page: figures/index.html; figures-full takes hours, or a GPU
figures: $(SETUP)
	$(BIN)/python -m paper_figures --all --quick

figures-full: $(SETUP)
	$(BIN)/python -m paper_figures --all --full --folder figures-full

# two processes share two cores: BLAS threads would only get in each other's way
test: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# more cases of what the suite checks
test-slow: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)
	$(BIN)/mypy

benchmark: $(SETUP)
	$(BIN)/python -m benchmarks.march
	$(BIN)/python -m benchmarks.against_networks

# warnings are errors: a page outside of the table of contents, a link to nowhere, a docstring that is not readable
docs: $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -r docs/requirements.txt
	$(BIN)/python -m sphinx -q -a -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

setup: $(SETUP)

# runs again only when what is installed changes
$(SETUP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf .venv figures figures-full results build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
