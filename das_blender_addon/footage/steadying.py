# SPDX-License-Identifier: GPL-3.0-or-later
"""Points of a clip that stand still, as far as can be told, do so exactly."""

from __future__ import annotations

import numpy as np

from .clip import SOLVER, ClipPlate
from .lifting import OPTICAL, Lifted, camera_path_of, inside
from .plate import focal_px
from .standing import moving_tracks
from .triangulation import triangulated

STILL_SHARE = 0.004
"""A point whose track is no farther from where it would be if it stood still than this share of the picture stands."""


def steadied(clip: ClipPlate, lifted: Lifted) -> Lifted:
    """``lifted``, which is all of ``clip`` that its first picture shows, with what stands still where it is: the noise
    of its depth is no motion.  Where the depth itself was found with the solved camera, that is all that could stand
    somewhere in front of it and is no part of a masked thing: its distance may be wrong, and it does not move for that.

    Only for a clip whose camera is known; ``lifted`` otherwise.
    """
    if clip.cameras is None:
        return lifted
    height, width = clip.depth.shape[1:]
    focal = focal_px(clip.lens_mm, (width, height))
    views = np.linalg.inv(OPTICAL @ camera_path_of(clip) @ OPTICAL)

    def projected(places):
        seen = np.einsum("tij,tnj->tni", views[:, :3, :3], places) + views[:, None, :3, 3]
        return focal * seen[..., :2] / np.maximum(seen[..., 2:], 1e-9)

    here = np.broadcast_to(lifted.places[:1], lifted.places.shape)
    apart = np.where(lifted.seen, np.linalg.norm(projected(lifted.places) - projected(here), axis=2), 0.0)
    still = apart.max(axis=0) <= STILL_SHARE * max(width, height)
    if clip.source == SOLVER:
        still |= _could_stand(clip, lifted)
    places = np.where(still[None, :, None], here, lifted.places)
    return Lifted(lifted.at, lifted.inverse, places, lifted.seen)


def _could_stand(clip: ClipPlate, lifted: Lifted) -> np.ndarray:
    """Bool [N]: which of the points of ``lifted`` no ray speaks against, and no mask."""
    height, width = clip.depth.shape[1:]
    first = clip.visible[0] & inside(clip.tracks[0], width, height)
    followed, size = (clip.tracks[:, first], clip.visible[:, first]), (width, height)
    points = triangulated(*followed, clip.cameras, clip.lens_mm, size)
    moves = moving_tracks(points, *followed, clip.pictures, clip.cameras, clip.lens_mm, clip.depth[0])
    x, y = np.floor(lifted.at).astype(int).T
    masked = np.any(list(clip.masks.values()), axis=0) if clip.masks else np.zeros((height, width), bool)
    return ~moves & ~masked[y, x]
