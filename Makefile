# Targets work from a fresh clone, each on its own. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Without an NVIDIA driver, torch is held to the build that pulls no CUDA packages.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints.txt")

.PHONY: install demo test test-slow mutants lint bench gpu study clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml constraints.txt $(wildcard csrc/* csrc/include/* bindings/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	touch $@

demo: install
	$(BIN)/python examples/demo.py out/demo

test: install
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: install
	$(BIN)/python -m pytest -m slow -s

# Does a test fail when a line is wrong? About an hour; repeat it after an interruption. MUTANTS passes options on.
mutants: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants --report out/mutants.csv $(MUTANTS)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy -p sdk && cd kernels && ../$(BIN)/mypy -p fused

bench: install
	$(BIN)/python -m benchmarks.kernels_cpu
	$(BIN)/python -m pytest -c benchmarks/pytest.ini benchmarks

# On a machine with a GPU: the kernels uninterpreted, then their timings.
gpu: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[gpu]" --no-build-isolation
	$(BIN)/python -m pytest tests/kernels
	$(BIN)/python -m benchmarks.kernels_gpu

study: install
	$(BIN)/python -m benchmarks.study

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
