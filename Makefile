# Targets work from a fresh clone, each on its own. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs

# Without an NVIDIA driver, torch is held to the build that pulls no CUDA packages.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints.txt")

.PHONY: install demo docs test test-slow lint bench gpu study clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml constraints.txt $(wildcard csrc/* csrc/include/* bindings/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	touch $@

# The package is there already: this adds what its extra `docs` names.
$(DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) "personalizer-sdk[docs]"
	touch $@

demo: install
	$(BIN)/python examples/demo.py out/demo

# Into out/site; a broken link, anchor or reference and a page that is nowhere in the menu are errors (with --quiet not).
docs: $(DOCS)
	$(BIN)/python docs/_build/prepare.py out/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo out/site/index.html

test: install
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: install $(DOCS)
	$(BIN)/python -m pytest -m slow -s

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
