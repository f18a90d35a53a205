# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage in a child Blender (`footage_tasks`), asked for from outside.  No Blender in here: any thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DasError, FirstFrameError, SceneError
from .process import ChildBroke, Launch
from .scratch import Scratch
from .warm import give_back, take_child

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class MovieFacts:
    """``size`` (width, height) in pixels, ``count`` frames, ``fps`` of them a second."""

    size: tuple[int, int]
    count: int
    fps: float


@dataclass(frozen=True)
class Solved:
    """What Blender's tracker found: ``tracks`` f32 [T,N,2] in pixels, NaN where not followed; ``visible`` bool [T,N];
    ``cameras`` f64 [T,4,4], camera → world (no unit), and the solver's ``error_px``, None where not asked for.
    """

    tracks: np.ndarray
    visible: np.ndarray
    cameras: np.ndarray | None
    error_px: float | None


def movie_facts(movie: Path, launched: Launch, should_stop: ShouldStop | None = None) -> MovieFacts:
    """Raises `FirstFrameError` where it is no movie, `JobCancelled`."""
    said = _ask({"task": "movie facts", "movie": str(movie)}, launched, FirstFrameError, should_stop)
    return MovieFacts(tuple(said["size"]), said["count"], said["fps"])


def unpack_movie(
    movie: Path, numbers: Sequence[int], folder: Path, launched: Launch, should_stop: ShouldStop | None = None
) -> list[Path]:
    """The frames ``numbers`` (from 1, some perhaps more than once) as PNG files in ``folder``, a file for each number.
    Raises `FirstFrameError`, `JobCancelled`.
    """
    request = {"task": "unpack movie", "movie": str(movie), "numbers": list(numbers), "folder": str(folder)}
    _ask(request, launched, FirstFrameError, should_stop)
    files = [folder / f"{number:07d}.png" for number in numbers]
    if not all(file.is_file() for file in files):
        raise FirstFrameError(f"Blender gives no pictures of the movie {movie}; save it as a folder of PNG files.")
    return files


def solve_clip(
    frames: list[Path],
    lens_mm: float,
    sensor_mm: float,
    launched: Launch,
    *,
    solve: bool = True,
    should_stop: ShouldStop | None = None,
) -> Solved:
    """Blender's own tracker on ``frames`` (files of one folder, in order), and its solver.  ``sensor_mm``: across
    the picture's width.  Raises `SceneError` (too few features), `JobCancelled`.
    """
    scratch = Scratch("clip")
    try:
        output = Path(scratch.name) / "solved.npz"
        request = {"task": "solve clip", "frames": [str(frame) for frame in frames], "solve": solve}
        request |= {"lens_mm": lens_mm, "sensor_mm": sensor_mm, "output": str(output)}
        _ask(request, launched, SceneError, should_stop)
        with np.load(output) as found:
            cameras = found["cameras"] if "cameras" in found.files else None
            error = float(found["error_px"]) if "error_px" in found.files else None
            return Solved(found["tracks"], found["visible"], cameras, error)
    finally:
        scratch.cleanup()


def _ask(request: dict, launched: Launch, error_class: type[DasError], should_stop: ShouldStop | None) -> dict:
    try:
        child, _ = take_child(launched)
        try:
            done = child.ask(request, should_stop=should_stop, can_stop=False)
        except DasError:
            give_back(child)
            raise
        give_back(child, done.get("memory", 0))
        return done
    except ChildBroke as broke:
        raise error_class(
            f"The child Blender that looks at the clip broke ({broke}); try again, or give its tracks and cameras.",
            detail=broke.detail,
        ) from broke
