# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth without an estimator: a level ground, a back wall, and an upright card for each mask.

The lens and the height of the horizon in the picture say where the ground lies; a card stands where its mask touches
the ground.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import SettingsError
from .plate import EYE_HEIGHT, Plate, focal_px, level_camera

WALL_DISTANCE = 10.0
"""Blender units from the camera to the back wall, where nobody said it."""
BEFORE_WALL = 0.98
"""A card that touches no ground stands at this share of the wall's distance."""

GROUND = "a ground and"
"""How the source of such a plate begins."""


def is_guessed(plate: Plate) -> bool:
    """Whether the depth of ``plate`` is no more than a ground and a wall."""
    return plate.source.startswith(GROUND)


def plane_plate(
    picture: np.ndarray,
    lens_mm: float,
    *,
    horizon: float = 0.5,
    eye_height: float = EYE_HEIGHT,
    wall: float = WALL_DISTANCE,
    masks: dict[str, np.ndarray] | None = None,
) -> Plate:
    """A plate of ``picture`` u8 [H,W,3] from a ground at z = 0 and a wall.

    ``horizon``: its height in the picture, 0 at the top to 1 at the bottom (may lie outside).  ``eye_height``, ``wall``
    in Blender units; ``wall`` 0 for none: the sky begins at the horizon.  ``masks``: name → bool [H,W].  Raises
    `SettingsError`.
    """
    for name, value, low in (("eye height", eye_height, 1e-3), ("distance of the wall", wall, 0.0)):
        if not low <= value < np.inf:
            raise SettingsError(f"The {name} is {value}; give a number of metres from {low:g} on.", field="depth")
    height, width = picture.shape[:2]
    focal = focal_px(lens_mm, (width, height))
    if not abs(horizon - 0.5) * height < 20.0 * focal:
        raise SettingsError(f"The horizon is at {horizon}; 0 is the picture's top, 1 its bottom.", field="horizon")
    pitch = math.degrees(math.atan((0.5 - horizon) * height / focal))
    rays = _rays(width, height, focal) @ level_camera(eye_height, pitch)[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = np.where(rays[..., 2] < 0.0, -eye_height / rays[..., 2], np.inf)
        depth = np.minimum(ground, wall / rays[..., 1]) if wall else ground
    if not np.isfinite(depth).any() or not (rays[..., 1] > 0.0).all():
        raise SettingsError(
            f"With a horizon at {horizon} and no more than a ground the picture shows no surface; add a wall, or move "
            "the horizon.",
            field="horizon",
        )
    farthest = wall or 1000.0 * eye_height
    for mask in (masks or {}).values():
        depth = np.where(mask, _card(mask, ground, rays, farthest), depth)
    valid = np.isfinite(depth) & (depth < 1000.0 * farthest)
    depth = np.where(valid, depth, 0.0).astype(np.float32)
    source = f"{GROUND} {'a wall' if wall else 'no wall'}, horizon at {horizon:g}"
    return Plate(picture, depth, valid, lens_mm, dict(masks or {}), eye_height, pitch, source)


def _rays(width: int, height: int, focal: float) -> np.ndarray:
    """[H,W,3] f64: directions through the pixels' centres in camera space; a step of 1 is a depth of 1."""
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2.0, np.arange(height) + 0.5 - height / 2.0)
    return np.stack([x / focal, -y / focal, -np.ones_like(x)], axis=-1)


def _card(mask: np.ndarray, ground: np.ndarray, rays: np.ndarray, farthest: float) -> np.ndarray:
    """[H,W]: depth of the upright plane that faces along −Y and stands where ``mask`` touches the ground."""
    bottom = np.flatnonzero(mask.any(axis=1))[-1]
    columns = np.flatnonzero(mask[bottom])
    column = columns[len(columns) // 2]
    foot = ground[bottom, column] * rays[bottom, column, 1]
    distance = min(foot, BEFORE_WALL * farthest)
    return distance / rays[..., 1]
