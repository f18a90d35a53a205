# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips on disk in the public layout: `prompt.txt`, `videos.txt`, `trackings.txt`, one line per clip in each.

Lines are captions and paths relative to the folder. A path is a video file, or a folder of numbered PNG frames
(lossless: what exact tracks deserve). The extension's export (`das_blender_addon/dataset_folder.py`) adds clips one by
one; one that it has not finished adding does not count.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from das_blender_addon.errors import ModelError

LISTS = ("prompt.txt", "videos.txt", "trackings.txt")
UNFINISHED = ".appending.json"
"""Note of an export that is adding a clip, or died over it; its `count` is the number of clips before."""


@dataclass(frozen=True)
class TrainingClip:
    """A caption, and the paths of a colour and a tracking video."""

    prompt: str
    video: Path
    tracking: Path


def read_dataset(folder: Path) -> list[TrainingClip]:
    """All clips of a folder. A blank line inside a list is refused: dropping it would shift the lists.

    Raises ModelError for missing lists, lists of different length, blank lines and missing files."""
    finished = _finished_clips(folder)
    columns = []
    for name in LISTS:
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{folder} is not a training folder: {name} is missing; it needs {', '.join(LISTS)}.")
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise ModelError(f"{path}, line {number} is blank; every clip needs a line in each list.")
        columns.append([line.strip() for line in lines][:finished])
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(f"{name} {len(column)}" for name, column in zip(LISTS, columns, strict=True))
        raise ModelError(f"the lists of {folder} differ in length: {counts}.")
    if not columns[0]:
        raise ModelError(f"{folder} has no finished clip yet; export one into it.")
    clips = [TrainingClip(prompt, folder / video, folder / tracking)
             for prompt, video, tracking in zip(*columns, strict=True)]
    for clip in clips:
        for path in (clip.video, clip.tracking):
            if not path.exists():
                raise ModelError(f"{path}, named in {folder}, does not exist.")
    return clips


def _finished_clips(folder: Path) -> int | None:
    """How many clips count, None for all that are listed."""
    try:
        return int(json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))["count"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / UNFINISHED} is no note of an export ({error}); remove it.") from error


def read_frames(path: Path, num_frames: int, height: int, width: int, *, alpha: bool = False) -> np.ndarray:
    """`[num_frames, height, width, 3]` u8: the clip's frames, sampled evenly over its whole length; of a folder of
    pictures with `alpha` 4 channels.

    Raises ModelError for a clip that is too short or of another size: nothing is stretched or repeated silently."""
    frames = _read_folder(path, "RGBA" if alpha else "RGB") if path.is_dir() else _read_video(path)
    if len(frames) < num_frames:
        raise ModelError(f"{path} has {len(frames)} frames, fewer than the recipe's {num_frames}.")
    if frames[0].shape[:2] != (height, width):
        found = f"{frames[0].shape[1]}x{frames[0].shape[0]}"
        raise ModelError(f"{path} is {found} pixels, the recipe asks for {width}x{height}; resize the clips first.")
    chosen = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
    return np.stack([frames[index] for index in chosen])


def _read_folder(path: Path, mode: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(file).convert(mode)) for file in sorted(path.glob("*.png"))]


def _read_video(path: Path) -> list[np.ndarray]:
    try:
        import imageio.v3 as imageio

        return list(imageio.imread(path))
    except (ImportError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Install imageio[ffmpeg], or give folders of PNG frames.") \
            from error
