# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes of a real shot whose model's frames are the prediction of exact tracking, moved by what is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.shot.tracked import shot_from_geometry
from das_blender_addon.take.cache import LAYOUT, Take, TakeRequest, TakeSettings, take_of, take_request
from das_blender_addon.tracking.resampling import resize_lanczos
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.shots import wall

SIZE, FIRST = (160, 104), 11
STEP_PX = 4
NAMES = ("Wänd", "Wall 2")


def measurable_request(folder: Path, *, num_frames: int = 8, length: int = 5, keys=(), **options) -> TakeRequest:
    """A wall of two objects that moves to the right by `STEP_PX` a frame, in windows of ``length`` that share two
    frames; ``options``: of `plan`."""
    model = model_capability(num_frames=[length], sizes=[list(SIZE)])
    made = plan(range(FIRST, FIRST + num_frames), SIZE, (1.0, 1.0), capabilities_of(model), **options)
    made = plan_with_keys(made, keys)
    geometry = wall(made.render_size, made.frames, step=STEP_PX * 10.0 / SIZE[0])
    geometry = replace(geometry, objects=np.array([0, 1], np.int32), names=NAMES)
    shot = replace(shot_from_geometry(geometry, made), geometry=geometry)
    picture = _textured(np.random.default_rng(2), max(SIZE))[: SIZE[1], : SIZE[0]]
    files = []
    for place in range(len(made.keys)):
        files.append(folder / f"key{place}.png")
        moved = np.roll(picture, STEP_PX * made.keys[place], axis=1)
        files[-1].write_bytes(encode_png(np.ascontiguousarray(moved)))
    return take_request(shot, files[0], TakeSettings(seed=7), folder / "shot", keys=files[1:])


def take_of_frames(request: TakeRequest, frame: Callable[[int, int, np.ndarray], np.ndarray]) -> Take:
    """A take on disk whose windows have ``frame(window, index, prediction)`` [H,W,3] u8 for each frame (0-based)."""
    made, folder, windows, files = request.plan, request.folder, [], {}
    predicted = request.detail.carried(range(len(made.frames)))
    for number, window in enumerate(made.windows):
        part = f"windows/{number + 1:02d}"
        (folder / part).mkdir(parents=True, exist_ok=True)
        for place, index in enumerate(made.made_in(window)):
            picture = frame(number, index, predicted[index])
            (folder / part / f"{place + 1:04d}.png").write_bytes(encode_png(np.ascontiguousarray(picture)))
        windows.append({"part": part})
    said = {
        "layout": LAYOUT, "key": request.key, "job_id": "", "frame_numbers": list(made.frames), "files": files,
        "windows": windows, "report": {"seed": 7, "model": "tiny"}, "timings": {},
    }  # fmt: skip
    (folder / "take.json").write_text(json.dumps(said))
    return take_of(folder, said, cached=False)


def _textured(rng: np.random.Generator, size: int) -> np.ndarray:
    """A square [size,size,3] u8 with structure of several sizes, made without a library of pictures."""
    out = np.zeros((size, size, 3))
    for cells, share in ((size // 12, 0.5), (size // 5, 0.3), (size // 2, 0.2)):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        out += share * resize_lanczos(coarse, (0, 0, cells, cells), (size, size))
    return np.clip((out - 128.0) * 1.6 + 128.0, 0, 255).astype(np.uint8)
