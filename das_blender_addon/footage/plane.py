# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth without an estimator: a level ground, a back wall, side walls and a ceiling where somebody says them, and an
upright card for each mask.

The lens and the height of the horizon in the picture say where the ground lies; a card stands where its mask touches
the ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

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


@dataclass(frozen=True)
class Room:
    """What a picture without depth is taken for, Blender units.

    ``horizon``: its height in the picture, 0 at the top to 1 at the bottom (may lie outside).  ``eye_height``: of the
    camera above the ground; ``wall``: distance of the wall that faces it, 0 for none: the sky begins at the horizon.
    ``left``, ``right``: from the camera to a wall on that side, ``ceiling``: from the ground to it; 0 for none.
    """

    horizon: float = 0.5
    eye_height: float = EYE_HEIGHT
    wall: float = WALL_DISTANCE
    left: float = 0.0
    right: float = 0.0
    ceiling: float = 0.0


def room_of(wish) -> Room:
    """What ``wish`` says of it in fields of the same names."""
    return Room(**{one.name: getattr(wish, one.name) for one in fields(Room)})


def pitch_of(horizon: float, lens_mm: float, size: tuple[int, int]) -> float:
    """Degrees that a camera of ``lens_mm`` is turned down, whose picture of ``size`` (width, height) has its
    ``horizon`` so far from the top, 0 to 1.
    """
    return math.degrees(math.atan((0.5 - horizon) * size[1] / focal_px(lens_mm, size)))


def plane_plate(
    picture: np.ndarray, lens_mm: float, room: Room | None = None, *, masks: dict[str, np.ndarray] | None = None
) -> Plate:
    """A plate of ``picture`` u8 [H,W,3] that shows no more than a ``room``, the ground of which is z = 0, and cards:
    ``masks``, name → bool [H,W].  Raises `SettingsError`.
    """
    room = room or Room()
    _check(room)
    height, width = picture.shape[:2]
    focal = focal_px(lens_mm, (width, height))
    if not abs(room.horizon - 0.5) * height < 20.0 * focal:
        raise SettingsError(f"The horizon is at {room.horizon}; 0 is the picture's top, 1 its bottom.", field="horizon")
    pitch = pitch_of(room.horizon, lens_mm, (width, height))
    rays = _rays(width, height, focal) @ level_camera(room.eye_height, pitch)[:3, :3].T
    right, away, up = np.moveaxis(rays, -1, 0)
    ground = _met(-up, room.eye_height)
    depth = ground
    above = room.ceiling and room.ceiling - room.eye_height
    for along, distance in ((away, room.wall), (-right, room.left), (right, room.right), (up, above)):
        depth = np.minimum(depth, _met(along, distance)) if distance else depth
    if not np.isfinite(depth).any() or not (away > 0.0).all():
        raise SettingsError(
            f"With a horizon at {room.horizon} and no more than a ground the picture shows no surface; add a wall, or "
            "move the horizon.",
            field="horizon",
        )
    farthest = room.wall or 1000.0 * room.eye_height
    for mask in (masks or {}).values():
        depth = np.where(mask, _card(mask, ground, rays, farthest), depth)
    valid = np.isfinite(depth) & (depth < 1000.0 * farthest)
    depth = np.where(valid, depth, 0.0).astype(np.float32)
    told = [name for name in ("left", "right", "ceiling") if getattr(room, name)]
    also = f" ({', '.join(told)} too)" if told else ""
    source = f"{GROUND} {'a wall' if room.wall else 'no wall'}{also}, horizon at {room.horizon:g}"
    return Plate(picture, depth, valid, lens_mm, dict(masks or {}), room.eye_height, pitch, source)


def _check(room: Room) -> None:
    wanted = (
        ("eye height", room.eye_height, 1e-3),
        ("distance of the wall", room.wall, 0.0),
        ("distance of the left wall", room.left, 0.0),
        ("distance of the right wall", room.right, 0.0),
        ("height of the ceiling", room.ceiling, 0.0),
    )
    for name, value, low in wanted:
        if not low <= value < np.inf:
            raise SettingsError(f"The {name} is {value}; give a number of metres from {low:g} on.", field="depth")
    if 0.0 < room.ceiling <= room.eye_height:
        raise SettingsError(
            f"The ceiling is {room.ceiling:g} above the ground and the camera {room.eye_height:g}; it must be higher.",
            field="ceiling",
        )


def _met(along: np.ndarray, distance: float) -> np.ndarray:
    """Depth at which rays that go ``along`` an axis by so much meet a plane at ``distance``; inf where never."""
    with np.errstate(divide="ignore"):
        return np.where(along > 0.0, distance / along, np.inf)


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
