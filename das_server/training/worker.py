# SPDX-License-Identifier: GPL-3.0-or-later
"""One process of a training run: `python -m das_server.training.worker RECIPE STAGE [--resume]`."""

import argparse
import logging
import os
from pathlib import Path

import torch

from .ranks import join_ranks
from .recipe import load_recipe


def main(arguments: list[str] | None = None) -> int:
    """Run one stage of a recipe as the rank that the environment names."""
    parser = argparse.ArgumentParser(prog="das_server.training.worker")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("stage")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    recipe = load_recipe(options.recipe)
    ranks = join_ranks()
    from . import stages

    stages.run_stage(recipe, options.stage, ranks, options.resume)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
