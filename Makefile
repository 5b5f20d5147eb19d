# `make run` and `make test` set everything up by themselves. VENV=path uses an environment of your own, with the torch
# that is in it; PYTHON=python3.12 picks the interpreter of a new one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.segkernel-ready
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')
EMULATION := $(shell find tests/cuda_emulation -name '*.h' -o -name '*.cpp' -o -name '*.cu')
SANITIZED := build/sanitized
# Operator tests that neither start other libraries nor depend on the host's instruction set run on every kind of build.
OP_TESTS := $(filter-out tests/ops/test_isa.py tests/ops/test_fake_cuda.py tests/ops/test_cuda.py tests/ops/test_bad_input.py \
	tests/ops/test_losses.py tests/ops/test_location_normalize.py,$(wildcard tests/ops/test_*.py))
# The NumPy extension has its own copy of the CPU kernels.
EMULATED_TESTS := $(filter-out tests/ops/test_numpy.py,$(OP_TESTS)) tests/ops/test_bad_input.py tests/ops/test_cuda.py

TORCHES ?= 2.10.0 2.13.0 2.15.0

.PHONY: run test test-emulated lint format sanitize sanitize-emulated experiment bench gpu-check wheels wheel-check clean

run: $(READY)
	$(BIN)/python -m examples.capitals

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
	$(MAKE) test-emulated

# The operators' tests on the CUDA kernels, which run on the host: no GPU is needed.
test-emulated: $(READY)
	library=$$($(BIN)/python -m tests.cuda_emulation.build) && SEGKERNEL_LIBRARY=$$library \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(EMULATED_TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES) $(EMULATION)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES) $(EMULATION)

# The operators' tests on kernels built with AddressSanitizer and UBSan. Python itself leaks by design.
WITH_SANITIZERS := LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	OMP_NUM_THREADS=1

sanitize: $(READY)
	SEGKERNEL_CUDA=0 SEGKERNEL_DEBUG_BUILD=1 $(BIN)/python setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	$(WITH_SANITIZERS) PYTHONPATH=$(SANITIZED)/lib $(BIN)/pytest -q -n auto -m "not compiles" $(OP_TESTS)

sanitize-emulated: $(READY)
	library=$$($(BIN)/python -m tests.cuda_emulation.build --sanitize) && SEGKERNEL_LIBRARY=$$library \
	$(WITH_SANITIZERS) $(BIN)/python -m pytest -q -n auto -m "not compiles" $(EMULATED_TESTS)

# What each method buys, on all cores; goes on where it was stopped. QUICK=1 takes minutes and leaves the results be.
experiment: $(READY)
	$(BIN)/python -m benchmarks.experiments $(if $(QUICK),--quick)

bench: $(READY)
	$(BIN)/python -m benchmarks.report

# On a machine with a GPU, in under 8 minutes: builds for the card, tests, sanitizes, measures. Installs nothing: uses
# $(VENV) where it is there, else $(PYTHON) as it is. DRY=1 rehearses all but the build without a GPU.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu.check --tests "$(EMULATED_TESTS)" \
		$(if $(DRY),--rehearse)

# A source distribution, the wheel for the CPU, and one per toolkit named: make wheels CUDA="13.0 13.2".
wheels: $(READY)
	$(BIN)/python -m build_support.wheels --cuda "$(CUDA)"

# Installs the wheels in dist/ beside the oldest torch, one without CUDA where pip has it, and the newest.
wheel-check: $(READY)
	$(BIN)/python -m build_support.wheel_check --torch "$(TORCHES)"

clean:
	rm -rf build dist *.egg-info segkernel/*.so segkernel/_cuda.json

# torch 2.13.0 only where there is no torch yet: one that is there is never replaced.
$(READY): pyproject.toml setup.py build_support/cuda.py $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q "setuptools>=77" "pybind11>=2.13" wheel
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[dev]"
	touch $@
