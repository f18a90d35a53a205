# SPDX-License-Identifier: GPL-3.0-or-later
"""Small shots of real geometry: a wall that moves past a camera, planned, tracked, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.plan import ShotPlan
from das_blender_addon.shot.tracked import ShotTracking, shot_from_geometry
from das_blender_addon.take.cache import TakeRequest, TakeSettings, take_request
from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence

DEPTH = 10.0


def wall(
    size: tuple[int, int],
    frames: Sequence[int],
    *,
    depth: float = DEPTH,
    half: float = 100.0,
    step: float = 1.25,
    faster: float = 0.0,
) -> GeometrySequence:
    """A wall in front of a camera, seen in ``size`` (width, height), that moves to the right by ``step`` a frame, an
    eighth of the view, and by ``faster`` more in each.

    ``half``: half of its side, larger than the view.  Blender units.
    """
    count, (width, height) = len(frames), size
    corners = np.array([(-half, -half, -depth), (half, -half, -depth), (half, half, -depth), (-half, half, -depth)])
    way = np.cumsum(step + faster * np.arange(count)) - step
    steps = way[:, None, None] * np.array([1.0, 0, 0])
    cameras = CameraPath(
        camera_from_world=np.repeat(np.eye(4)[None], count, axis=0),
        focal_px=np.full((count, 2), float(width)),
        principal_px=np.tile((width / 2, height / 2), (count, 1)),
        clip_start=np.full(count, 0.1),
        clip_end=np.full(count, np.inf),
        width=width,
        height=height,
    )
    triangles = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    return GeometrySequence(triangles, (corners + steps).astype(np.float32), cameras, tuple(frames))


def wall_shot(plan: ShotPlan, **wall_options) -> ShotTracking:
    """`wall` as ``plan`` has it."""
    return shot_from_geometry(wall(plan.render_size, plan.frames, **wall_options), plan)


def request_of_shot(made: ShotTracking, folder: Path, settings: TakeSettings) -> TakeRequest:
    """`take_request` of the shot ``made`` in ``folder``, with a `pattern` of its own for every key picture."""
    paths = []
    for number, key in enumerate(made.plan.keys):
        paths.append(folder / f"{key}_{made.plan.picture_size[0]}.png")
        paths[-1].write_bytes(encode_png(pattern(made.plan.picture_size, seed=number)))
    return take_request(made, paths[0], settings, folder / "shot", keys=paths[1:])


def pattern(size: tuple[int, int], *, channels: int = 3, seed: int = 1) -> np.ndarray:
    """[H,W,channels] u8 of ``size`` (width, height): coloured squares of two pixels; an alpha is opaque."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(20, 236, (-(-height // 2), -(-width // 2), 3), np.uint8)
    picture = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    if channels == 4:
        picture = np.concatenate([picture, np.full((height, width, 1), 255, np.uint8)], axis=2)
    return np.ascontiguousarray(picture)
