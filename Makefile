# SPDX-License-Identifier: GPL-3.0-or-later
# Everything from a fresh machine: `make demo`, `make test`.  `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv/bin
FIND_PYTHON = $(or $(shell for p in "$(PYTHON)" python3.11 python3.13 python3 /usr/bin/python3; do [ -n "$$p" ] && "$$p" -c "" 2>/dev/null && echo "$$p" && break; done),$(error no Python found on PATH: install Python 3.11 or 3.13))
# A Python with PyTorch and diffusers, rather one that sees a GPU.
FIND_TORCH = $(or $(shell for want in "assert torch.cuda.is_available()" pass; do for p in "$(PYTHON)" python3 python $(VENV)/python; do [ -n "$$p" ] && "$$p" -c "import torch, diffusers; $$want" 2>/dev/null && echo "$$p" && break 2; done; done),$(error no Python with torch and diffusers found: name one with PYTHON=))
SETUP = $(FIND_PYTHON) scripts/setup_environment.py

ADD_RAY = $(VENV)/python -m pip install -q --disable-pip-version-check -c scripts/constraints.txt -e '.[cluster]'

.PHONY: help setup setup-tests demo demo-footage test test-cluster test-binary lint bench bench-adherence bench-gpu extension preview-model preview-eval clean

help:
	@echo "make demo           render the demo scene through Blender and the server into out/demo/"
	@echo "make demo-footage   a picture with depth, and a clip, become three shots each, into out/demo_footage/"
	@echo "make test           all tests: unit, parity (also as on an old processor), e2e, and Blender 4.2, 4.5, 5.2"
	@echo "make test-cluster   the tests that need Ray, which is added to .venv for them"
	@echo "make test-binary    the built extension in a real Blender: make test-binary BLENDER=/path/to/blender"
	@echo "make lint           ruff"
	@echo "make bench          printed measurements (nothing asserts)"
	@echo "make bench-adherence   whether das-preview, or SERVER=… MODEL=…, follows the animation: six scenes, minutes"
	@echo "make bench-gpu      the full model on this machine's GPU, in six minutes: out/bench_gpu.json and .md"
	@echo "make extension      the installable extension in dist/"
	@echo "make preview-model  train the embedded preview model from nothing (two CPU cores, hours)"
	@echo "make preview-eval   measure it on held-out Blender scenes into out/preview_eval/"
	@echo "make clean          remove environments and outputs"

setup:
	@$(SETUP) main

setup-tests:
	@$(SETUP) main blenders

demo: setup
	@$(VENV)/python scripts/demo.py

demo-footage: setup
	@$(VENV)/python scripts/demo_footage.py

test: setup-tests
	@$(VENV)/python scripts/run_tests.py $(SUITES)

test-cluster: setup
	@$(ADD_RAY)
	@$(VENV)/python -m pytest -q tests/e2e/test_kinds_of_workers.py tests/unit/server/workers/test_ray_crew.py

test-binary: setup
	@$(VENV)/python scripts/run_tests.py binary

lint: setup
	@$(VENV)/ruff check .

bench: setup
	@for script in tests/bench/bench_*.py; do echo; echo "━━ $$script"; $(VENV)/python $$script || exit 1; done

bench-adherence: setup
	@$(VENV)/python tests/bench/bench_adherence.py $(if $(SERVER),--server $(SERVER)) $(if $(MODEL),--model $(MODEL))

bench-gpu:
	@$(FIND_TORCH) tests/bench/gpu_report.py --json out/bench_gpu.json

extension: setup
	@$(VENV)/python build_extension.py

preview-model: setup
	@$(VENV)/python scripts/training_clips.py out/training_clips
	@$(VENV)/das-server train das_server/training/recipes/preview_cpu.toml

preview-eval: setup
	@$(VENV)/python tests/bench/preview_eval.py

clean:
	rm -rf .venv .venv-bpy* build dist out
