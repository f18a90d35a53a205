# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes as they lie on disk, made of flat frames, for tests of what is done with them afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from das_blender_addon.protocol.png import blob_sha, encode_png
from das_blender_addon.take.cache import LAYOUT, Take, take_of

SIZE = (12, 8)


def written_take(
    shot: Path, name: str, *, frames=(1, 2, 3), level: int = 100, made: float = 1000.0, size=SIZE, **report
) -> Take:
    """A take in the folder ``shot`` whose frames are ``level``, ``level`` + 1 …; finished at ``made``."""
    key = hashlib.sha256(name.encode()).hexdigest()
    folder, files = Path(shot) / "takes" / key, {}

    def write(path: str, value: int) -> None:
        content = encode_png(np.full((size[1], size[0], 3), value, np.uint8))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        files[path] = blob_sha(content)

    for place in range(len(frames)):
        for part in ("frames", "model", "tracking"):
            write(f"{part}/{place + 1:04d}.png", level + place)
    write("first_frame.png", level)
    told = {"seed": 1, "model": "das-preview", "prompt": "a red vase", "negative_prompt": ""}
    said = {
        "layout": LAYOUT,
        "key": key,
        "job_key": key,
        "job_id": key[:32],
        "frame_numbers": list(frames),
        "files": files,
        "windows": [],
        "report": {
            **told,
            "num_inference_steps": 1,
            "guidance_scale": 1.0,
            "model_size": list(size),
            "frame_numbers": list(frames),
            **report,
        },
        "timings": {},
    }
    (folder / "take.json").write_text(json.dumps(said))
    os.utime(folder / "take.json", (made, made))
    return take_of(folder, said, cached=True)
