# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips on disk, synthetic or out of Blender: a folder of memory-mapped arrays per size, written by several processes.

`<frames>x<height>x<width>/` holds `rgb.npy`, `tracking.npy`, `[clips, T, H, W, 3]` u8, `carried.npy`, `[clips, T, H, W,
4]` u8, what key pictures show of the clip, alpha 0 where they do not, and `origin.json`: what decides the clips, by
which a later run knows whether they are its own.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError

from .dataset import TrainingClip, read_dataset, read_frames

_log = logging.getLogger(__name__)

CHANNELS = {"rgb": 3, "tracking": 3, "carried": 4}
ORIGIN = "origin.json"
CARRIED = "carried"
"""Folder of a dataset with what key pictures show of its clips."""


@dataclass(frozen=True)
class ClipSet:
    """`count` clips of one size; `height` and `width` are multiples of 8 pixels.

    Either has a set a `seed`, from which its synthetic clips are numbered, or a `dataset`: then they are the first
    clips of a folder that `scripts/training_clips.py` made.
    """

    frames: int
    height: int
    width: int
    count: int
    seed: int | None = None
    dataset: Path | None = None

    @property
    def name(self) -> str:
        """Name of the set's folder."""
        size = f"{self.frames}x{self.height}x{self.width}"
        return size if self.dataset is None else f"{size}_{self.dataset.name}"


def create_clip_arrays(folder: Path, clip_set: ClipSet, **made_with: int) -> None:
    """Create the empty arrays of a set, unless arrays of the very same clips are there; other ones are removed.

    `made_with`: what decides the clips besides the set itself (`render_clips`)."""
    target = folder / clip_set.name
    shape = (clip_set.count, clip_set.frames, clip_set.height, clip_set.width, 3)
    origin = {"seed": clip_set.seed, "shape": list(shape), **made_with}
    if _read_origin(target) == origin:
        return
    if target.exists():
        _log.info("%s holds other clips, or nobody knows which: rendering anew", target)
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for name, channels in CHANNELS.items():
        np.lib.format.open_memmap(target / f"{name}.npy", "w+", np.uint8, (*shape[:-1], channels)).flush()
    (target / ORIGIN).write_text(json.dumps(origin))


def _read_origin(target: Path) -> dict | None:
    try:
        return json.loads((target / ORIGIN).read_text())
    except (OSError, ValueError):
        return None


def open_clips(folder: Path, clip_set: ClipSet, mode: str = "r") -> dict[str, np.ndarray]:
    """The arrays of a set, memory-mapped."""
    return {name: np.load(folder / clip_set.name / f"{name}.npy", mmap_mode=mode) for name in CHANNELS}


def dataset_clips(clip_set: ClipSet) -> list[TrainingClip]:
    """The clips that a set takes from its dataset. Raises ModelError when those are not there."""
    clips = read_dataset(clip_set.dataset)[:clip_set.count]
    for clip in clips:
        _carried_folder(clip_set, clip)
    if len(clips) < clip_set.count:
        raise ModelError(f"{clip_set.dataset} has {len(clips)} clips, fewer than the recipe's {clip_set.count}; export "
                         "more.")
    return clips


def import_clips(folder: Path, clip_set: ClipSet) -> None:
    """Copy a set's clips out of its dataset. Raises ModelError for clips that are missing or of another size."""
    clips, target = dataset_clips(clip_set), folder / clip_set.name
    target.mkdir(parents=True, exist_ok=True)
    size = (clip_set.frames, clip_set.height, clip_set.width)
    paths = {"rgb": [clip.video for clip in clips], "tracking": [clip.tracking for clip in clips],
             "carried": [_carried_folder(clip_set, clip) for clip in clips]}
    for name, channels in CHANNELS.items():
        array = np.lib.format.open_memmap(target / f"{name}.npy", "w+", np.uint8, (clip_set.count, *size, channels))
        for index, path in enumerate(paths[name]):
            array[index] = read_frames(path, *size, alpha=channels == 4)


def _carried_folder(clip_set: ClipSet, clip: TrainingClip) -> Path:
    """Where a dataset has what key pictures show of a clip: pictures with alpha, beside its videos."""
    path = clip_set.dataset / CARRIED / clip.video.name
    if not path.is_dir():
        raise ModelError(f"{path} is missing: what key pictures show of the clip. scripts/training_clips.py makes it.")
    return path


@lru_cache(maxsize=2)
def _bank(num_textures: int, texture_seed: int) -> np.ndarray:
    """One bank for all sets of a process: a large one takes seconds."""
    from .synthetic import make_texture_bank

    return make_texture_bank(num_textures, texture_seed)


def render_clips(folder: Path, clip_set: ClipSet, num_textures: int, texture_seed: int, worker: int, workers: int,
                 *, samples: int = 2, only: range | None = None) -> None:
    """Render every `workers`-th clip of a set, from clip `worker` on; what is done already is skipped."""
    from .synthetic import make_keyed_clip  # numba and scipy with it, which only who renders waits for

    bank = _bank(num_textures, texture_seed)
    arrays = open_clips(folder, clip_set, "r+")
    done_path = folder / clip_set.name / f"done_{worker}_of_{workers}_{only.start if only else 0}.txt"
    done = int(done_path.read_text()) if done_path.exists() else 0
    indices = [index for index in (only or range(clip_set.count)) if index % workers == worker]
    for position, index in enumerate(indices[done:], done + 1):
        clip = make_keyed_clip(clip_set.seed + index, bank, clip_set.frames, clip_set.height, clip_set.width,
                               samples=samples)
        for name in CHANNELS:
            arrays[name][index] = getattr(clip, name)
        if position % 20 == 0 or position == len(indices):
            done_path.write_text(str(position))
