# SPDX-License-Identifier: GPL-3.0-or-later
"""Cryptomatte: which things each pixel shows, by ids that are hashes of their names, and how much of it each covers.

As the specification has it (Friedman and Jones, "Fully automatic ID mattes with support for motion blur and
transparency", 2015) and as Blender's engines write it: pairs of id and coverage, the largest coverage first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .coverage import SAMPLES
from .drawn import DrawnSurfaces
from .geometry import GeometrySequence
from .passes import NO_OBJECT, Shading
from .projection import pinhole_at
from .seen import seen_surfaces

NOTHING = -1
"""What a sample shows that shows nothing."""


def hash_of(name: str) -> int:
    """MurmurHash3, 32 bits, seed 0, of ``name`` in UTF-8."""
    data = name.encode()
    value, whole = 0, len(data) // 4 * 4
    for start in range(0, whole, 4):
        value ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        value = (_rotated(value, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    if whole < len(data):
        value ^= _scrambled(int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = ((value ^ value >> shift) * factor) & 0xFFFFFFFF
    return value ^ value >> 16


def id_of(number: int) -> np.float32:
    """The hash ``number`` as a float that is a number: neither infinite, nor too small to be normal."""
    exponent = min(max(number >> 23 & 0xFF, 1), 254)
    return np.array(number & 0x807FFFFF | exponent << 23, np.uint32).view(np.float32)[()]


def ids_of(names: Sequence[str]) -> np.ndarray:
    """[K] f32: the ids of ``names``."""
    return np.array([id_of(hash_of(name)) for name in names], np.float32)


def said_in_files(layer: str, names: Sequence[str]) -> dict[str, str]:
    """What a file says of the passes that begin with ``layer`` ("ViewLayer.CryptoObject") and show things with
    ``names``: key → value.
    """
    prefix = f"cryptomatte/{hash_of(layer):08x}"[: len("cryptomatte/") + 7] + "/"
    manifest = {name: f"{hash_of(name):08x}" for name in names}
    return {
        f"{prefix}name": layer,
        f"{prefix}hash": "MurmurHash3_32",
        f"{prefix}conversion": "uint32_to_float32",
        f"{prefix}manifest": json.dumps(manifest, ensure_ascii=False, separators=(",", ":")),
    }


def sampled(
    geometry: GeometrySequence, index: int, shading: Shading, check: Callable[[], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel of the frame ``index`` (0-based) of ``geometry`` shows at `coverage.SAMPLES`.

    Gives [S,H·W] i32 twice: objects, by their number in `GeometrySequence.names`, and their materials, by their number
    in `Shading.material_index`; `NOTHING` for none.  ``shading``: of this frame.  ``check`` is called between chunks of
    work; what it raises passes through.
    """
    camera, surfaces = pinhole_at(geometry.cameras, index), DrawnSurfaces(geometry)
    surface = surfaces.at(index)
    points = surfaces.optical(surface, index, camera)
    found = np.full((2, len(SAMPLES), camera.height * camera.width), NOTHING, np.int32)
    for number, (x, y) in enumerate(SAMPLES):
        shifted = replace(camera, principal_px=(camera.principal_px[0] - x, camera.principal_px[1] - y))
        nearest = seen_surfaces(points, surface.triangles, shifted, check, surface.cut)
        pixels, seen, _ = surface.without_holes(*nearest)
        own = seen if surface.of_shot is None else surface.of_shot[seen]
        objects = surface.objects[seen]
        row = np.where(own >= 0, shading.row[own], NO_OBJECT)
        found[0, number, pixels], found[1, number, pixels] = objects, shading.material_place(row, objects)
    return found[0], found[1]


def ranked(samples: np.ndarray, ids: np.ndarray, levels: int) -> np.ndarray:
    """[P,levels,2] f32: ids and coverages, the largest first, 0 where there are no more.

    ``samples`` [S,P] i32: numbers of things, `NOTHING` for none.  ``ids`` [K] f32: theirs.
    """
    count, pixels = samples.shape
    found = np.zeros((pixels, levels, 2), np.float32)
    uniform = (samples == samples[0]).all(axis=0)
    whole = np.flatnonzero(uniform & (samples[0] != NOTHING))
    found[whole, 0, 0], found[whole, 0, 1] = ids[samples[0, whole]], 1.0
    mixed = np.flatnonzero(~uniform)
    own = np.sort(samples[:, mixed], axis=0)
    alike = own[:, None] == own[None]
    counts = alike.sum(axis=0, dtype=np.int32)
    is_first = ~np.tril(alike.transpose(2, 0, 1), -1).any(axis=2).T
    counts[~is_first | (own == NOTHING)] = 0
    order = np.argsort(-counts, axis=0, kind="stable")[:levels]
    for level, which in enumerate(order):
        number = np.take_along_axis(own, which[None], axis=0)[0]
        share = np.take_along_axis(counts, which[None], axis=0)[0]
        found[mixed, level, 0] = np.where(share > 0, ids[number], 0.0)
        found[mixed, level, 1] = share / np.float32(count)
    return found


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & 0xFFFFFFFF


def _scrambled(value: int) -> int:
    return (_rotated(value * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593) & 0xFFFFFFFF
