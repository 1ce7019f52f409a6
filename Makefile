# mpo: the few commands that a developer, and CI, use. `make` alone lists them.
# Needed beforehand: python3 >= 3.11 with venv, and make. Everything else goes into .venv/.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WHEEL  := $(CURDIR)/build/wheel-under-test
ARGS   ?=

# Small networks run fastest on one thread each; the figures of a run name the threads they used.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup check format test fuzz cov demo data bench gpu-check docs clean

help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv with mpo (editable) and all it needs, in tested versions
	@echo "ready: $(VENV), with the command $(BIN)/mpo"

$(READY): pyproject.toml constraints.txt
	@echo "setup: $(VENV) from $$($(PYTHON) --version 2>&1), packages pinned by constraints.txt; the first time takes minutes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: mpo needs Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment with pip in it." >&2; \
	  echo "hint: on Debian or Ubuntu: apt-get install python3-venv, then again: make setup" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip check
	@touch $@

check: setup ## lint, format, types, floors and the house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p mpo
	$(BIN)/mypy tests
	$(BIN)/mypy examples
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -P -m pytest -q tests/house

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel comes out of the source archive, so both are proved to be complete.
test: setup ## build the wheel, install it apart, run all tests against it (ARGS= for pytest)
	@echo "test: building the source archive and, from it, the wheel"
	@rm -rf build/dist $(WHEEL) && mkdir -p build
	$(BIN)/python -m build --outdir build/dist . > build/build.log 2>&1 || { cat build/build.log; exit 1; }
	$(BIN)/python -m pip install --quiet --no-deps --target $(WHEEL) build/dist/*.whl
	@echo "test: pytest against $(WHEEL)"
	PATH="$(WHEEL)/bin:$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$(WHEEL)" MPO_WHEEL_UNDER_TEST="$(WHEEL)" \
	  $(BIN)/python -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

gpu-check: setup ## on a machine with an NVIDIA GPU: build, run, compare and time engines
	mkdir -p build
	$(BIN)/mpo doctor --json > build/gpu-doctor.json
	$(BIN)/python -P -m pytest -q -m gpu tests/exporters/test_engines.py --junitxml=build/gpu-check.xml
	$(BIN)/python benchmarks/gpu_engines.py --out build/gpu-bench.json

# A finding is printed as base64: add it to tests/fuzz/corpus/TARGET/*.json with the fix.
FUZZED := onnx bundle manifest arrays signature der fail_on budget address answer name

fuzz: setup ## fuzz the parsers of untrusted input, a minute each (ARGS='onnx --seconds 3600' for one)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'atheris>=3.0'
	@set -e; if [ -n "$(ARGS)" ]; then $(BIN)/python tests/fuzz/run.py $(ARGS); else \
	  for target in $(FUZZED); do $(BIN)/python tests/fuzz/run.py $$target --seconds 60; done; fi

cov: setup ## run the tests on the checkout with branch coverage
	$(BIN)/coverage erase
	$(BIN)/python -P -m coverage run -m pytest -q $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

demo: setup ## optimize the embedded example: ResNet-56 on digits, into runs/digits
	@echo "demo: a trained ResNet-56 (examples/digits) is cut to at most 60 % of its parameters"
	$(BIN)/mpo optimize examples/digits/subject.py --budget params=60% -o runs/digits --overwrite
	@echo "demo: done. Read runs/digits/report.html in a browser, or runs/digits/report.md"

data: setup ## fetch what the other examples need (about 140 MB), train the sentiment example
	@echo "data: fetching into $${MPO_DATA:-data/} (what is there already is left alone)"
	$(BIN)/python examples/fetch.py
	$(BIN)/python examples/sentiment/train.py

# gate_trials.py and kills.py take long, bundle_*.py need bundles and bare Pythons: they are run by
# hand. networks.py and shared.py only hold what others use.
BY_HAND := benchmarks/gate_trials.py benchmarks/kills.py benchmarks/bundle_%.py
bench: setup ## run benchmarks/*.py (needs `make data`); raw results go to benchmarks/results
	@ls benchmarks/*.py >/dev/null 2>&1 || { echo "bench: benchmarks/ holds no script yet"; exit 2; }
	@set -e; for script in $(filter-out $(BY_HAND),$(wildcard benchmarks/*.py)); do echo "bench: $$script"; $(BIN)/python $$script $(ARGS); done

docs: setup ## write docs/cli.md from the command line itself, docs/faults.md from the tests; check links
	$(BIN)/python docs/generate.py
	$(BIN)/python -P -m pytest -q tests/house/test_docs.py tests/house/test_faults.py

clean: ## remove what was built (not .venv, not data/, not runs/)
	rm -rf build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
