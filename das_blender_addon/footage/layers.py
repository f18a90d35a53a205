# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate's layers: each masked thing, the background with what the things hide filled in, and the sky."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import SettingsError
from .filling import fill_harmonic, nearest_label
from .mesh import PlateMesh, mesh_of_depth
from .plate import Plate

SKY_TIMES = 100.0
"""The sky is this many times as far away as the farthest surface."""
BEHIND = 0.999
"""What is filled in behind a thing is farther away than it: at most this share of its 1/depth."""
BACKGROUND, SKY = "Plate", "Sky"


@dataclass(frozen=True)
class Layer:
    """``name``: `BACKGROUND`, `SKY` or the mask's, which may be called so, too.  ``mesh``: optical space.
    ``is_filled``: it shows `Layers.background`, not the plate's picture.  ``is_thing``: it is a mask's.
    """

    name: str
    mesh: PlateMesh
    is_filled: bool
    is_thing: bool = False


@dataclass(frozen=True)
class Layers:
    """``parts``: the background first.  ``background`` u8 [H,W,3]: the picture with the things painted out.
    ``filled`` bool [H,W]: where.  ``farthest``: Blender units along the view axis.  ``behind`` f32 [H,W]: the depth of
    background and sky.
    """

    parts: tuple[Layer, ...]
    background: np.ndarray
    filled: np.ndarray
    farthest: float
    behind: np.ndarray


def sky_depth_of(plate: Plate) -> float:
    """How far away the sky of ``plate`` is, Blender units."""
    return SKY_TIMES * (float(plate.depth[plate.valid].max()) if plate.valid.any() else 1.0)


def layers_of(plate: Plate, every: int = 1, motion: np.ndarray | None = None) -> Layers:
    """The meshes of ``plate``, one quad for each ``every`` × ``every`` pixels.  ``motion``: as of `mesh_of_depth`; it
    cuts the background where the picture shows it.

    Raises `SettingsError` where a mask is thinner than they are.
    """
    shown = plate.valid
    known_farthest, sky_depth = float(plate.depth[shown].max()) if shown.any() else 1.0, sky_depth_of(plate)
    behind, background = _background(plate)
    parts, focal = [], plate.focal_px
    shared = _motion_behind(plate, motion)
    if behind.valid.any():
        parts.append(
            Layer(BACKGROUND, mesh_of_depth(behind.depth, behind.valid, focal, every, shared), bool(plate.masks))
        )
    if not behind.valid.all():
        far = np.full(plate.depth.shape, sky_depth, np.float32)
        parts.append(Layer(SKY, mesh_of_depth(far, ~behind.valid, focal, every, shared), bool(plate.masks)))
    for name, mask in plate.masks.items():
        depth = np.where(plate.valid, plate.depth, sky_depth)
        mesh = mesh_of_depth(depth, mask, focal, every, motion)
        if not len(mesh.quads):
            raise SettingsError(
                f"The mask of {name!r} falls between quads of {every}×{every} pixels; take smaller ones.", field="every"
            )
        parts.append(Layer(name, mesh, False, is_thing=True))
    filled = np.any(list(plate.masks.values()), axis=0) if plate.masks else np.zeros(shown.shape, bool)
    farthest = sky_depth if not shown.all() else known_farthest
    depth_behind = np.where(behind.valid, behind.depth, np.float32(sky_depth))
    return Layers(tuple(parts), background, filled, farthest, depth_behind)


def _motion_behind(plate: Plate, motion: np.ndarray | None) -> np.ndarray | None:
    """``motion`` with that of the things replaced by what is around them."""
    if motion is None or not plate.masks:
        return motion
    hole = np.any(list(plate.masks.values()), axis=0)
    return fill_harmonic(motion, ~hole, hole)


def _background(plate: Plate) -> tuple[Plate, np.ndarray]:
    """(the plate behind its masks, its picture with them painted out)."""
    if not plate.masks:
        return plate, plate.picture
    hole = np.any(list(plate.masks.values()), axis=0)
    around = ~hole
    surface = nearest_label(plate.valid, hole)
    inverse = np.where(plate.valid, 1.0 / np.where(plate.valid, plate.depth, 1.0), 0.0)
    filled = fill_harmonic(inverse[..., None], around & plate.valid, hole)[..., 0]
    filled = np.where(hole & plate.valid, np.minimum(filled, BEHIND * inverse), filled)
    valid = np.where(hole, surface & (filled > 0.0), plate.valid)
    depth = np.where(valid, 1.0 / np.where(filled > 0.0, filled, 1.0), 0.0).astype(np.float32)
    return replace(plate, depth=depth, valid=valid, masks={}), painted_out(plate.picture, hole)


def painted_out(
    picture: np.ndarray, hole: np.ndarray, shown: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """``picture`` u8 [H,W,3] with its ``hole`` bool [H,W] continued from what is round it.

    ``shown``: colours [H,W,3] of the hole that are known, and bool [H,W] where; they come first.
    """
    # The pixels round a mask are mixed with the thing's own: what is painted begins one pixel farther out.
    wide, values = widened(hole), picture.astype(np.float64)
    known = ~wide
    if shown is not None:
        values, known = np.where((shown[1] & hole)[..., None], shown[0], values), known | (shown[1] & hole)
    painted = fill_harmonic(values, known, wide & ~known) if known.any() else values
    return np.where(hole[..., None], np.rint(np.clip(painted, 0.0, 255.0)), picture).astype(np.uint8)


def widened(mask: np.ndarray) -> np.ndarray:
    """``mask`` bool [H,W] and the pixels that touch it."""
    framed = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([framed[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
