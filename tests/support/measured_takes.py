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
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.layered_clips import textured
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
    picture = textured(np.random.default_rng(2), max(SIZE))[: SIZE[1], : SIZE[0]]
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
