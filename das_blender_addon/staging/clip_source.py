# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames of a clip: a folder of pictures, or a movie that a child Blender unpacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..child.footage import MovieFacts, movie_facts, unpack_movie
from ..child.launch import launch
from ..child.scratch import Scratch
from ..errors import FirstFrameError, SettingsError
from ..footage.clip import is_clip
from ..footage.cuts import check_no_cut
from ..footage.movie_times import Timing, timing_of
from ..protocol.png import decode_png
from .beside import in_blender
from .picture import read_picture
from .stage import MOST_FPS

MOST_PIXELS = 150_000_000
"""Of all frames together: 49 of 1920×1080 are 102 million."""
FOLDER_FPS = 24.0
"""Of a folder of pictures, where nobody said it."""


@dataclass(frozen=True)
class SourceClip:
    """``pictures`` u8 [T,H,W,3], sRGB-coded, rows top-down.  ``fps``: frames a second.  ``file``: what Blender shows
    behind the scene: the movie, or the first file; None where its frames are not the scene's.  ``notes``: what was done
    to it, one sentence each.
    """

    pictures: np.ndarray
    fps: float
    file: Path | None
    notes: tuple[str, ...]


def is_footage(path: Path) -> bool:
    """Whether ``path`` is a clip: a folder, or a file with a movie's ending."""
    return path.is_dir() or path.suffix.lower() in bpy.path.extensions_movie


def read_clip(
    path: Path, *, first: int = 1, num_frames: int = 0, fps: float = 0.0, should_stop: Callable[[], bool] | None = None
) -> SourceClip:
    """``num_frames`` frames (0: all) from ``first`` (from 1) on of the clip ``path``.  ``fps`` 0: its own.

    A movie whose frames last differently long is taken by time, at its usual rate or at ``fps``, and that is said.
    Raises `FirstFrameError` (no clip that can be read), `SettingsError` (a cut, too large, fewer frames than asked
    for), `JobCancelled`.
    """
    if path.is_dir():
        clip = _of_folder(path, first, num_frames, fps)
    elif path.is_file():
        clip = _of_movie(path, first, num_frames, fps, should_stop)
    else:
        raise FirstFrameError(f"There is no clip {path}.")
    if (clip.pictures == clip.pictures[0, 0, 0]).all():
        raise FirstFrameError(f"The clip {path} has one colour everywhere, so there is nothing to see move.")
    check_no_cut(clip.pictures, str(path), first)
    return clip


def _of_folder(path: Path, first: int, num_frames: int, fps: float) -> SourceClip:
    folder = path / "frames" if is_clip(path) else path
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in bpy.path.extensions_image)
    if not files:
        raise FirstFrameError(f"There are no pictures in the folder {folder}.")
    chosen = _chosen(files, path, first, num_frames)
    pictures, notes = [], []
    for file in chosen:
        made = read_picture(file, may_be_plain=True)
        if pictures and made.pixels.shape != pictures[0].shape:
            (height, width), (high, wide) = made.pixels.shape[:2], pictures[0].shape[:2]
            raise FirstFrameError(
                f"The picture {file.name} of the clip {path} has {width}×{height} pixels and the first one {wide}×"
                f"{high}; give pictures of one size."
            )
        notes += [note for note in made.notes if not notes]
        pictures.append(made.pixels)
        _check_size(made.pixels.shape[1], made.pixels.shape[0], len(chosen), path)
    return SourceClip(np.stack(pictures), fps or FOLDER_FPS, chosen[0], tuple(notes))


def _of_movie(path: Path, first: int, num_frames: int, fps: float, should_stop) -> SourceClip:
    launched, timing = in_blender(launch), timing_of(path)
    try:
        facts = movie_facts(path, launched, should_stop)
    except FirstFrameError as error:
        if timing is None:
            raise
        raise FirstFrameError(
            f"Blender cannot read the movie {path}, although its frames are there; one that a browser or a broken "
            f"recording left says no length: save it anew (ffmpeg -i {path.name} -c copy whole.mkv)."
        ) from error
    frames, rate, file, notes = range(1, facts.count + 1), fps or facts.fps, path, ()
    if timing is not None and not timing.is_even:
        rate = fps or min(timing.rate, facts.fps)  # more than its own Blender does not give
        frames = _by_time(timing, rate, facts)
        file = path if frames == list(range(1, len(frames) + 1)) else None
        notes = (
            f"The movie {path.name} has a variable frame rate (a frame lasts up to {timing.longest:.1f} times as long "
            f"as usual); it is taken by time at {rate:g} frames a second, with pictures repeated where it has none.",
        )
    numbers = _chosen(frames, path, first, num_frames)
    _check_size(*facts.size, len(numbers), path)
    scratch = Scratch("clip")
    try:
        files = unpack_movie(path, numbers, Path(scratch.name), launched, should_stop)
        read = {file: decode_png(file.read_bytes(), name=f"A frame of {path}") for file in set(files)}
        pictures = np.stack([read[file] for file in files])
    finally:
        scratch.cleanup()
    return SourceClip(pictures, rate, file, notes)


def _by_time(timing: Timing, rate: float, facts: MovieFacts) -> list[int]:
    """The movie's frames (from 1) as Blender counts them, by time, at each frame of a ``rate``."""
    if not 0.0 < rate < MOST_FPS:
        raise SettingsError(f"The clip has {rate} frames a second; give a number above 0.", field="fps")
    seconds = np.arange(max(1, round(timing.seconds * rate))) / rate
    return np.clip(np.floor(seconds * facts.fps + 0.5).astype(int) + 1, 1, facts.count).tolist()


def _chosen(frames, path: Path, first: int, num_frames: int):
    if not 1 <= first <= len(frames):
        raise SettingsError(f"The clip {path} has {len(frames)} frames, and {first} is none of them.", field="from")
    chosen = frames[first - 1 : first - 1 + num_frames] if num_frames else frames[first - 1 :]
    if len(chosen) == 1 and num_frames < 2:
        lack = f"frame {first} of {len(frames)} is one picture" if len(frames) > 1 else "it has one frame"
        raise SettingsError(
            f"The clip {path} moves in two frames or more, and {lack}; take more of it, or use the picture itself.",
            field="frames",
        )
    if len(chosen) < num_frames:
        raise SettingsError(
            f"The clip {path} has {len(chosen)} frames from frame {first} on, and {num_frames} are wanted; take fewer "
            "(--frames).",
            field="frames",
        )
    return chosen


def _check_size(width: int, height: int, count: int, path: Path) -> None:
    if width * height * count > MOST_PIXELS:
        fits = MOST_PIXELS // (width * height)
        raise SettingsError(
            f"The clip {path} has {count} frames of {width}×{height} pixels, more than fit; take {fits} of them "
            "(--frames) or save it smaller (1280×720 is more than a model makes).",
            field="frames",
        )
