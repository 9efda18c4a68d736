# make demo    build, install into .venv, compress a model, evaluate before and after
# make test    everything that CI runs
# make check   format, lint, types, import rules, tests, native tests under sanitizers
# make tables  list the tables of README.md and docs/; `make tables NAMES='models codecs'`: measure and write them
# make site    the documentation site, in build/site
# make release  sdist and wheel in dist/, installed and tried in clean environments
# make fuzz    fuzz the native reader for ten minutes (needs clang)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell getconf _NPROCESSORS_ONLN)
SOURCES := $(shell find onnxopt -type f -not -name '*.pyc') pyproject.toml
NATIVE := $(shell find onnxopt/native/include onnxopt/native/src onnxopt/native/quantizer onnxopt/native/tests \
            onnxopt/native/fuzz onnxopt/native/examples onnxopt/native/web/web.cc tests/toys -name '*.cc' -o -name '*.h' -o -name '*.hpp')
FUZZ_SECONDS ?= 600

.PHONY: demo test check lint native-test pytest pytest-all tables engine site release fuzz clean

demo: build/installed
	mkdir -p build/demo
	$(BIN)/onnxopt optimize models/digits.onnx -o build/demo/digits.onnx
	$(BIN)/python tools/demo.py models/digits.onnx build/demo/digits.onnx

test: lint native-test pytest-all

check: lint native-test pytest

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The package itself, with what the demo and the tests need.
build/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[test]'
	mkdir -p build && touch $@

# The same, with what checks need; built once.
build/installed-dev: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[dev]'
	mkdir -p build && touch build/installed $@

lint: build/installed-dev build/native/compile_commands.json
	$(BIN)/ruff format --check onnxopt tests tools
	$(BIN)/ruff check onnxopt tests tools
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	ls onnxopt/native/src/*.cc onnxopt/native/src/codecs/*.cc onnxopt/native/quantizer/*.cc | xargs -n 4 -P $(JOBS) $(BIN)/clang-tidy --quiet -p build/native

build/native/compile_commands.json: onnxopt/native/CMakeLists.txt
	cmake -S onnxopt/native -B build/native -DCMAKE_EXPORT_COMPILE_COMMANDS=ON

native-test:
	cmake -S onnxopt/native -B build/sanitized -DONNXOPT_TESTS=ON -DONNXOPT_WERROR=ON -DONNXOPT_SANITIZE=address,undefined \
	      -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1"
	cmake --build build/sanitized --parallel $(JOBS)
	ctest --test-dir build/sanitized --output-on-failure --parallel $(JOBS)

pytest: build/installed-dev
	$(BIN)/pytest -m "not slow and not alone" -n $(JOBS) --dist worksteal
	$(BIN)/pytest -m "alone and not slow"

pytest-all: build/installed-dev
	$(BIN)/pytest -m "not alone" -n $(JOBS) --dist worksteal --durations=10
	$(BIN)/pytest -m alone --durations=5

# Lists the generated tables with their minutes, or measures and writes those named.
tables: build/installed
	$(BIN)/python tools $(NAMES)

# Rewrites docs/engine.md, tables and figures: an hour of searches and whole test parts.
engine: build/installed
	$(BIN)/python tools docs/engine.md

site: build/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release: build/installed-dev
	rm -rf dist
	ONNXOPT_DIST=dist $(BIN)/pytest -m slow tests/test_package.py
	ls -l dist

fuzz: build/installed
	CC=clang CXX=clang++ cmake -S onnxopt/native -B build/fuzz -DONNXOPT_FUZZ=ON \
	      -DONNXOPT_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/fuzz --parallel $(JOBS)
	$(BIN)/python tools/fuzz_reader.py --seconds $(FUZZ_SECONDS)

clean:
	rm -rf build $(VENV)
