# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the worker processes of a recipe's stages, in order, and wait for them."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from das_blender_addon.errors import ModelError, WorkerLost
from das_server.models.lean import lean_imports

from .recipe import FineTuneRecipe, PreviewRecipe, load_recipe

_log = logging.getLogger(__name__)

CPU_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33),
                 "MALLOC_TOP_PAD_": str(2**28)}
"""glibc gives every large tensor back to the system and takes zeroed pages for the next; kept, they cost nothing."""
BESIDE = {"autoencoder": "render_rest", "transformer": "encode_rest"}
"""Work that one more process does while a stage trains."""
RENDERING = "render_"
"""Stages that begin so need no accelerator: several of their processes may share a machine that has one."""
HELPS_ONLY = "encode_rest"
"""Work beside a stage that is of use while that stage trains: what is left of it then is not done. The decoder's stage
takes what is there."""
RESULTS = {PreviewRecipe: ("autoencoder", "latents", "transformer", "decoder", "checkpoint", "text"),
           FineTuneRecipe: ("last", "last.new", "last.old")}
"""Folders that a run would go on from, or mix with its own. Rendered clips stay: `create_clip_arrays` judges those."""
GRACE_S = 20
"""How long a process may take to end when it is told to."""


def run(recipe: Path, resume: bool = False) -> int:
    """Train `recipe`; with `resume`, from its first unfinished stage, else anew: what an earlier run left in the
    recipe's folder is removed. 0 when everything ended well.

    Raises ModelError for a bad recipe and WorkerLost when a stage's process fails."""
    settings = load_recipe(recipe)
    if not resume:
        _check_datasets(settings)
        _remove_results(settings)
    if isinstance(settings, FineTuneRecipe):
        _wait(recipe, {"finetune": _start(recipe, settings, "finetune", settings.processes, resume)})
        return 0
    for stage in ("render_first", "autoencoder", "encode_first", "transformer", "decoder", "assemble"):
        if resume and _finished(settings, stage):
            continue
        counts = {stage: 1 if stage == "assemble" else settings.processes}
        if stage in BESIDE:
            counts[BESIDE[stage]] = 1
        if settings.render_processes is not None:
            counts |= {name: settings.render_processes for name in counts if name.startswith(RENDERING)}
        _wait(recipe, {name: _start(recipe, settings, name, count, resume) for name, count in counts.items()})
        _mark(settings, stage).touch()
    return 0


def dry_run(recipe: Path) -> list[str]:
    """What a fine-tuning recipe will take, in lines; nothing is begun. Raises ModelError."""
    settings = load_recipe(recipe)
    if not isinstance(settings, FineTuneRecipe):
        raise ModelError(f'{recipe} is of kind "preview"; a plan is made of recipes of kind "finetune".')
    with lean_imports(compiler=False):
        from .plan import describe

    return describe(settings)


def _check_datasets(settings: PreviewRecipe | FineTuneRecipe) -> None:
    """Clips out of Blender that are missing are told at the start and not after an hour."""
    from .clips import dataset_clips

    for clip_set in getattr(settings, "clip_sets", ()):
        if clip_set.dataset is not None:
            dataset_clips(clip_set)


def _remove_results(settings: PreviewRecipe | FineTuneRecipe) -> None:
    for mark in settings.folder.glob("*.done"):
        mark.unlink()
    for name in RESULTS[type(settings)]:
        if (settings.folder / name).exists():
            _log.info("%s: removing %s of an earlier run", settings.name, settings.folder / name)
            shutil.rmtree(settings.folder / name)


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
                       "OMP_NUM_THREADS": str(settings.threads), "NUMBA_NUM_THREADS": "1",
                       **({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if stage.startswith(RENDERING) else {})}
        with (settings.folder / f"{stage}.{rank}.log").open("a") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    _log.info("%s: %s process(es) of stage %s", settings.name, count, stage)
    return processes


def _wait(recipe: Path, running: dict[str, list[subprocess.Popen]]) -> None:
    """Return when all processes of `running`, stage to processes, have ended well, but for `HELPS_ONLY`.

    One that fails ends the others, which would otherwise wait for it, or go on writing beside the next run. Raises
    WorkerLost."""
    try:
        while True:
            codes = {stage: [process.poll() for process in processes] for stage, processes in running.items()}
            failed = {stage: ended for stage, ended in codes.items() if any(ended)}
            if failed or not any(None in ended for stage, ended in codes.items() if stage != HELPS_ONLY):
                break
            time.sleep(0.1)
    finally:
        _end([process for processes in running.values() for process in processes])
    if failed:
        stage, ended = next(iter(failed.items()))
        raise WorkerLost(f"stage {stage!r} of {recipe} ended with {ended}; see its log files, then resume.")


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
