# SPDX-License-Identifier: GPL-3.0-or-later
"""Synthetic clips on disk: one folder of memory-mapped arrays per size, written by several processes.

`<frames>x<height>x<width>/` holds `rgb.npy` and `tracking.npy` `[clips, T, H, W, 3]` u8 and `sources.npy`
`[clips, tokens, SAMPLES]` i16: for random pixels of every transformer token, the first-frame token that shows the same
surface point (-1: none does).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .synthetic import SyntheticClip, make_clip, make_texture_bank

SAMPLES = 8
TOKEN_FRAMES = 4


@dataclass(frozen=True)
class ClipSet:
    """`count` clips of one size, numbered from `seed`; `height` and `width` are multiples of the token size."""

    frames: int
    height: int
    width: int
    count: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


def create_clip_arrays(folder: Path, clip_set: ClipSet, token_size: int) -> None:
    """Create the empty arrays of a set, unless they are there."""
    target = folder / clip_set.name
    if (target / "sources.npy").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    video = (clip_set.count, clip_set.frames, clip_set.height, clip_set.width, 3)
    tokens = (1 + clip_set.frames // TOKEN_FRAMES) * (clip_set.height // token_size) * (clip_set.width // token_size)
    for name, shape, dtype in (("rgb", video, np.uint8), ("tracking", video, np.uint8),
                               ("sources", (clip_set.count, tokens, SAMPLES), np.int16)):
        np.lib.format.open_memmap(target / f"{name}.npy", "w+", dtype, shape).flush()


def open_clips(folder: Path, clip_set: ClipSet, mode: str = "r") -> dict[str, np.ndarray]:
    """The arrays of a set, memory-mapped."""
    return {name: np.load(folder / clip_set.name / f"{name}.npy", mmap_mode=mode)
            for name in ("rgb", "tracking", "sources")}


def render_clips(folder: Path, clip_set: ClipSet, num_textures: int, texture_seed: int, token_size: int, worker: int,
                 workers: int, *, samples: int = 2, only: range | None = None) -> None:
    """Render every `workers`-th clip of a set, from clip `worker` on; what is done already is skipped."""
    bank = make_texture_bank(num_textures, texture_seed)
    arrays = open_clips(folder, clip_set, "r+")
    done_path = folder / clip_set.name / f"done_{worker}_of_{workers}_{only.start if only else 0}.txt"
    done = int(done_path.read_text()) if done_path.exists() else 0
    indices = [index for index in (only or range(clip_set.count)) if index % workers == worker]
    for position, index in enumerate(indices[done:], done + 1):
        clip = make_clip(clip_set.seed + index, bank, clip_set.frames, clip_set.height, clip_set.width, samples=samples)
        arrays["rgb"][index], arrays["tracking"][index] = clip.rgb, clip.tracking
        arrays["sources"][index] = token_sources(clip, token_size, np.random.default_rng(clip_set.seed + index))
        if position % 20 == 0 or position == len(indices):
            done_path.write_text(str(position))


def token_sources(clip: SyntheticClip, token_size: int, rng: np.random.Generator) -> np.ndarray:
    """`[tokens, SAMPLES]` i16 first-frame token of random pixels of each token, -1 where the point was not visible."""
    frames, height, width, _ = clip.first_frame_xy.shape
    groups, rows, columns = 1 + frames // TOKEN_FRAMES, height // token_size, width // token_size
    shape = (groups, rows, columns, SAMPLES)
    group, row, column, _ = np.indices(shape)
    t = np.where(group == 0, 0, 1 + (group - 1) * TOKEN_FRAMES + rng.integers(0, TOKEN_FRAMES, shape))
    y = row * token_size + rng.integers(0, token_size, shape)
    x = column * token_size + rng.integers(0, token_size, shape)
    position = clip.first_frame_xy[t, y, x]
    seen = clip.first_frame_visible[t, y, x]
    position = np.where(seen[..., None], position, 0)
    token = (position[..., 1] // token_size).astype(int) * columns + (position[..., 0] // token_size).astype(int)
    return np.where(seen, token, -1).astype(np.int16).reshape(-1, SAMPLES)
