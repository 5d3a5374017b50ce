# The only task runner. Every task does its own set-up in $(VENV); a second run does what has changed.

VENV ?= .venv
BIN := $(VENV)/bin
BUILD := build/dev
SANITIZED := build/sanitize/venv
# Arguments for the tool behind a task, as in `make test ARGS="-k geometry"`.
ARGS ?=
# The Python to build with; empty for the first on the path that will do.
PYTHON ?=

# At least 3.10, able to make virtual environments, and with the headers extension modules need.
SUITABLE := import ensurepip, os, sys, sysconfig, venv; \
	header = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(sys.version_info < (3, 10) or not os.path.exists(header))
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python3.10

CORE_SOURCES := CMakeLists.txt $(shell find csrc -type f)
CPP_FILES = $(shell find csrc -name '*.cpp' -o -name '*.hpp')

define write_stub
	$(BIN)/python -m nanobind.stubgen -q -D -m tconv._core -o $(1)
	$(BIN)/ruff format -q $(1)
endef

.DEFAULT_GOAL := help
.PHONY: help demo test core lint format stub types bench sanitize aarch64 wheel sdist clean
.DELETE_ON_ERROR:

help: ## list the tasks
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.installed $(VENV)/.group-demo ## enlarge photographs by tconv run and by hand, check them, write pictures
	$(BIN)/python examples/bilinear_upsampling.py --out out
	$(BIN)/python examples/super_resolution/demo.py --out out

test: $(VENV)/.installed $(VENV)/.group-test ## run the tests on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

core: $(VENV)/.group-build ## build the C++ module alone, into src/tconv
	$(BIN)/cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build $(BUILD)

lint: $(VENV)/.group-lint ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/.group-lint ## mend format, and what style a tool can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

stub: $(VENV)/.installed $(VENV)/.group-lint ## write the stub of the compiled module anew
	$(call write_stub,src/tconv/_core.pyi)

types: $(VENV)/.installed $(VENV)/.group-lint ## check the types, and that the stub tells those of the compiled module
	$(call write_stub,build/_core.pyi)
	diff src/tconv/_core.pyi build/_core.pyi
	$(BIN)/mypy

bench: $(VENV)/.installed $(VENV)/.group-bench ## time every layer of tests/problems/layers.txt against its peers
	$(BIN)/python benchmarks/layers.py $(ARGS)

# An environment of its own, for the sanitized module would be in the way of everything else.
sanitize: ## run the tests of the engine under the address and undefined-behaviour sanitizers
	$(MAKE) VENV=$(SANITIZED) $(SANITIZED)/.installed $(SANITIZED)/.group-test INSTALL_ARGS="\
		-C build-dir=build/sanitize/{wheel_tag} -C cmake.define.TCONV_SANITIZE=address,undefined"
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		$(SANITIZED)/bin/python -m pytest $(or $(ARGS),tests/test_engine.py)

aarch64: $(VENV)/.group-build ## compile for AArch64, and run the tests of the engine under an emulator
	.ci/aarch64 $(VENV) $(or $(ARGS),tests/test_engine.py)

wheel: $(VENV)/.group-build ## build the source archive and the wheel into dist
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist --sdist --wheel

sdist: $(VENV)/.group-build ## build the source archive into dist
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist --sdist

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis src/tconv/_core*.so

$(BIN)/python:
	@set -e; for python in $(or $(PYTHON),$(PYTHONS)); do \
		if $$python -c '$(SUITABLE)' 2>/dev/null; then $$python -m venv $(VENV); exit; fi; \
	done; \
	echo 'Need Python 3.10 or newer with its venv module and headers (Debian: python3-venv, python3-dev).' >&2; exit 1

$(VENV)/.pip: $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.group-%: pyproject.toml $(VENV)/.pip
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

# Editable, so only C++ is ever built again, and of that only what has changed.
$(VENV)/.installed: pyproject.toml $(CORE_SOURCES) $(VENV)/.group-build
	$(BIN)/python -m pip install --quiet --no-build-isolation $(INSTALL_ARGS) --editable .
	@touch $@
