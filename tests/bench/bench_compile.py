# SPDX-License-Identifier: GPL-3.0-or-later
"""The product's own acceleration on a tiny transformer: what it chooses here, what compiling costs, what it changes.

    python tests/bench/bench_compile.py

Prints, never asserts.  The difference from the eager blocks ought to stay below 1e-5 in float32.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from das_server.pipeline.acceleration import accelerate
from tests.support.models import output_of, tiny_inputs, tiny_transformer


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    logging.basicConfig(level="INFO")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = tiny_transformer().to(device)
    inputs = {name: on(device, value) for name, value in tiny_inputs(model).items()}
    expected = output_of(model, inputs)
    used = accelerate(model, device=device, dtype=torch.float32, profile="resident", compile_blocks=True)
    print(f"{device}; torch {torch.__version__}; {used}")
    for which in ("first pass, which compiles", "second pass"):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        difference = (output_of(model, inputs) - expected).abs().max().item()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        print(f"{which}: {wall_s:.2f} s ({cpu_s:.2f} s of this process), largest difference {difference:.1e}")


def on(device: torch.device, value):
    """The value on ``device``; a pair of tensors stays a pair."""
    return tuple(one.to(device) for one in value) if isinstance(value, tuple) else value.to(device)


if __name__ == "__main__":
    main()
