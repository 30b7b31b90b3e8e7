# One virtual environment, .venv, with versions pinned by constraints.txt; every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NATIVE := $(shell find native/CMakeLists.txt native/include native/src -type f)
C_SOURCES := $(shell find native -name '*.[ch]' -o -name '*.cpp' -o -name '*.inc')

.PHONY: demo test bench bench-fidelity bench-pruning bench-onnx bench-gate bench-kernels kernel-cost cross runner lab test-lab format lint types clean

demo: $(VENV)/.demo
	$(BIN)/edgekit quantize tests/assets/sample --device pi4b -o build/demo/sample.gguf
	$(BIN)/edgekit run build/demo/sample.gguf -p "Once upon a time" -n 64
	@echo "report: $(CURDIR)/build/demo/sample.report.html"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open build/demo/sample.report.html; \
	elif [ "$$(uname)" = Darwin ]; then open build/demo/sample.report.html; fi

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo clang-format --dry-run --Werror native/; $(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/mypy -p edgekit
	$(BIN)/python -m pytest

# One GGUF in the native runtime and in llama.cpp, in turns, beside the memory's bandwidth: make bench MODEL=model.gguf;
# BENCH='--rounds 9 --json FILE'; with LLAMA_BENCH=PROGRAM in the environment llama-bench too. On an idle machine.
BENCH_SAMPLE := build/bench/sample.gguf
MODEL ?= $(BENCH_SAMPLE)
bench: $(VENV)/.test $(filter $(BENCH_SAMPLE),$(MODEL))
	$(BIN)/python tests/side_by_side/native_speed.py $(MODEL) $(BENCH)

$(BENCH_SAMPLE): $(VENV)/.test
	mkdir -p $(@D)
	$(BIN)/edgekit quantize tests/assets/sample --bpw 4.5 -o $@

# What quantisation leaves of a checkpoint, judged by llama-perplexity, beside llama-quantize's files:
# make bench-fidelity LLAMA=DIR CALIB=calib.txt TEXT=eval.txt [MODEL=CHECKPOINT] [BENCH='--size 190MB=0.027 --only points'];
# LLAMA is the folder of llama.cpp's programs. What can be used again stays in build/fidelity, or WORK.
FIDELITY_MODEL = $(if $(filter $(BENCH_SAMPLE),$(MODEL)),tests/assets/sample,$(MODEL))
WORK ?= build/fidelity/$(notdir $(FIDELITY_MODEL))
bench-fidelity: $(VENV)/.demo
	@test -n "$(LLAMA)" -a -n "$(CALIB)" -a -n "$(TEXT)" || { echo "LLAMA=DIR, CALIB=FILE and TEXT=FILE are needed"; exit 2; }
	$(BIN)/python tests/side_by_side/fidelity.py $(FIDELITY_MODEL) --tools $(LLAMA) --calib $(CALIB) --text $(TEXT) --work $(WORK) $(BENCH)

# What head pruning leaves of a checkpoint on a text that it never saw, cut alone and made up for:
# make bench-pruning CALIB=calib.txt TEXT=eval.txt [MODEL=CHECKPOINT] BENCH='--heads 0.3 --prune-kv-groups --recover 300'
bench-pruning: $(VENV)/.test
	@test -n "$(CALIB)" -a -n "$(TEXT)" || { echo "CALIB=FILE and TEXT=FILE are needed"; exit 2; }
	$(BIN)/python tests/side_by_side/head_pruning.py $(FIDELITY_MODEL) --calib $(CALIB) --text $(TEXT) \
	  --work build/pruning/$(notdir $(FIDELITY_MODEL)) $(BENCH)

# edgekit's ONNX folder beside the int4 model of ONNX Runtime GenAI's builder, KL and speed of both in one run:
# make bench-onnx CALIB=calib.txt TEXT=eval.txt [MODEL=CHECKPOINT] [BENCH='--threads 1 --json FILE']. On an idle machine.
bench-onnx: $(VENV)/.test
	@test -n "$(CALIB)" -a -n "$(TEXT)" || { echo "CALIB=FILE and TEXT=FILE are needed"; exit 2; }
	$(BIN)/python tests/side_by_side/onnx_builder.py $(FIDELITY_MODEL) --calib $(CALIB) --text $(TEXT) \
	  --work build/onnx/$(notdir $(FIDELITY_MODEL)) $(BENCH)

# How often bench --vs --gate is right on this machine: make bench-gate [BENCH='--rounds 10 --json FILE'].
bench-gate: $(VENV)/.test
	$(BIN)/python tests/side_by_side/gate.py --work build/gate $(BENCH)

# Instructions and a model's cycles of the ARM kernels; needs clang-19, llvm-mca-19 and the AArch64 cross compiler.
kernel-cost: $(VENV)/.native
	$(BIN)/python native/tools/kernel_cost.py --json build/kernel-cost.json

# Every kernel that this machine runs, beside what bounds it; about two minutes, on a machine that does nothing else.
bench-kernels: $(VENV)/.native
	$(BIN)/cmake -S native -B build/bench-kernels -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DEDGEKIT_BENCH=ON
	$(BIN)/cmake --build build/bench-kernels --target bench_kernels
	build/bench-kernels/bench_kernels --json build/bench-kernels.json $(BENCH)

# The library and its tests for AArch64, with each compiler that is here, under qemu.
cross: $(VENV)/.native
	$(PIP) ziglang
	PYTHON=$(BIN)/python native/tools/cross.sh

# The benchmark's program for devices, static: build/runner/edgekit-bench-{aarch64,x86_64}.
runner: $(VENV)/.native
	$(PIP) ziglang
	$(BIN)/python devices/build_runner.py

# What a harness for devices is tried on: Android's adbd, and emulated AArch64 machines with 4 KB and 16 KB pages, in
# build/lab. As root in Debian 12; fetches 200 MB of Debian's packages once.
LAB := build/lab
lab: $(LAB)/adbd/adbd $(LAB)/machine/16k/kernel

$(LAB)/adbd/adbd: tests/lab/adbd.sh tests/lab/debian.sh
	tests/lab/adbd.sh $(@D)

$(LAB)/machine/16k/kernel: tests/lab/machine.sh tests/lab/debian.sh tests/lab/init
	tests/lab/machine.sh $(LAB)/machine

# The harness on those devices and over OpenSSH: every fault, and three minutes of benchmarks one after another.
test-lab: lab runner $(VENV)/.test
	EDGEKIT_LAB=whole $(BIN)/python -m pytest tests/test_lab_*.py

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_SOURCES)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo clang-format --dry-run --Werror native/; $(BIN)/clang-format --dry-run --Werror $(C_SOURCES)

types: $(VENV)/.test
	$(BIN)/mypy -p edgekit

clean:
	rm -rf build $(VENV)

$(VENV)/.pip: constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

# For the C library without the rest.
$(VENV)/.native: $(VENV)/.pip
	$(PIP) cmake ninja
	touch $@

# torch first and alone: a release of its pinned version satisfies whatever the other packages ask for.
$(VENV)/.demo: $(VENV)/.pip pyproject.toml $(NATIVE)
	$(PIP) torch
	$(PIP) --editable '.[quantize]'
	mkdir -p build/demo
	touch $@

# llama-cpp-python is compiled from source: about ten minutes on two cores, once.
$(VENV)/.test: $(VENV)/.demo
	@echo "installing llama-cpp-python and the development tools (compiles llama.cpp, about ten minutes the first time)"
	$(PIP) --group dev
	$(PIP) --editable '.[quantize,onnx,llama-cpp]'
	touch $@
