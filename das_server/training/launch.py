# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the worker processes of a recipe's stages, in order, and wait for them."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

from das_blender_addon.errors import WorkerLost

from .recipe import FineTuneRecipe, PreviewRecipe, load_recipe

_log = logging.getLogger(__name__)

CPU_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33),
                 "MALLOC_TOP_PAD_": str(2**28)}
"""glibc gives every large tensor back to the system and takes zeroed pages for the next; kept, they cost nothing."""
BESIDE = {"autoencoder": "render_rest", "transformer": "encode_rest"}
"""Work that one more process does while a stage trains."""


def run(recipe: Path, resume: bool = False) -> int:
    """Train `recipe`; with `resume`, from its first unfinished stage. 0 when everything ended well.

    Raises ModelError for a bad recipe and WorkerLost when a stage's process fails."""
    settings = load_recipe(recipe)
    if isinstance(settings, FineTuneRecipe):
        _wait(recipe, "finetune", _start(recipe, settings, "finetune", settings.processes, resume))
        return 0
    for stage in ("render_first", "autoencoder", "encode_first", "transformer", "decoder", "assemble"):
        if resume and _finished(settings, stage):
            continue
        second = BESIDE.get(stage)
        beside = _start(recipe, settings, second, 1, resume) if second else []
        count = 1 if stage == "assemble" else settings.processes
        _wait(recipe, stage, _start(recipe, settings, stage, count, resume))
        if second:
            _wait(recipe, second, beside)
        _mark(settings, stage).touch()
    return 0


def _mark(settings: PreviewRecipe, stage: str) -> Path:
    return settings.folder / f"{stage}.done"


def _finished(settings: PreviewRecipe, stage: str) -> bool:
    return _mark(settings, stage).exists()


def _start(recipe: Path, settings, stage: str, count: int, resume: bool) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "das_server.training.worker", str(recipe), stage, *(["--resume"] * resume)]
    settings.folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(count):
        environment = {**CPU_ALLOCATOR, **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank),
                       "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "OMP_NUM_THREADS": str(settings.threads), "NUMBA_NUM_THREADS": "1"}
        with (settings.folder / f"{stage}.{rank}.log").open("a") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    _log.info("%s: %s process(es) of stage %s", settings.name, count, stage)
    return processes


def _wait(recipe: Path, stage: str, processes: list[subprocess.Popen]) -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        raise WorkerLost(f"stage {stage!r} of {recipe} ended with {codes}; see its log files, then resume.")
