# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth that another program wrote: NPY, NPZ (``depth``, perhaps ``mask`` and ``kind``) or a 16-bit grey PNG; of other
kinds of files whoever asks has read the values.

What the values mean is said by whoever asks, by a side-car ``<file>.json`` beside the file ({"kind": "inverse",
"scale": 1.0}) or by the NPZ itself; never guessed:

    metric      distance along the view axis; ``scale`` metres each (a PNG must say it)
    relative    the same without a unit: the middle of the picture is put `MEDIAN_DEPTH` units away, unless ``scale`` is
                given
    inverse     1/distance without a unit, likewise

No depth, the sky, is 0, negative, infinite or NaN, or outside of ``mask``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import SettingsError
from ..protocol.png import decode_grey16
from .unreadable import UNREADABLE

KINDS = ("metric", "relative", "inverse")
ENDINGS = (".npy", ".npz", ".png")
MEDIAN_DEPTH = 5.0
"""Blender units at which the median of a depth without a unit lies."""
NEAREST, MOST = 1e-4, 1e6
"""Blender units at which the middle of a picture may be."""
FARTHEST = 1000.0
"""Times the median; what lies beyond is sky."""


def read_depth(
    path: Path,
    shape: tuple[int, int],
    *,
    kind: str = "",
    scale: float = 0.0,
    values: np.ndarray | None = None,
    frames: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(depth f32 [H,W] in Blender units, valid bool [H,W]) of the file ``path`` for a picture of ``shape`` (H, W).

    ``frames`` (first from 1, count): of a clip; depth and valid are then [T,H,W], or [1,H,W] where the file holds no
    more; one of another number of frames than ``count`` is that of the whole clip.  ``kind`` "" and ``scale`` 0: as the
    side-car or the file says.  ``values`` [H,W]: what the file holds, None to read it here.

    Raises `SettingsError`: a file that cannot be read, has another size, holds no depth, or of which nobody says what
    it means.
    """
    if values is None:
        values, mask, own_kind = _values(path)
    else:
        mask, own_kind = np.ones(values.shape, bool), ""
    said = _side_car(path)
    kind, scale = kind or said.get("kind", "") or own_kind, scale or said.get("scale", 0.0)
    if kind not in KINDS:
        raise SettingsError(
            f"The depth file {path} does not say what its values mean{f' ({kind!r} is unknown)' if kind else ''}; say "
            f"it with --depth-kind {'|'.join(KINDS)}, or in {path.name}.json.",
            field="depth_kind",
        )
    if not isinstance(scale, int | float) or not 0.0 <= scale < np.inf:
        raise SettingsError(f"The scale of the depth file {path} is {scale!r}; give a number above 0.", field="depth")
    if frames is not None:
        values, mask = (_frames_of(array, frames, path) for array in (values, mask))
    if values.ndim != (2 if frames is None else 3) or values.shape[-2:] != shape:
        has = "×".join(str(side) for side in values.shape[::-1])
        raise SettingsError(
            f"The depth file {path} has {has} values and the picture {shape[1]}×{shape[0]} pixels; give a depth of the "
            "picture's size.",
            field="depth",
        )
    if kind == "metric" and not scale:
        if path.suffix.lower() == ".png":
            raise SettingsError(
                f"The depth file {path} holds whole numbers; say with --depth-scale how many metres one of them is.",
                field="depth",
            )
        scale = 1.0
    return _distances(values, mask, kind, scale, path)


def _frames_of(values: np.ndarray, frames: tuple[int, int], path: Path) -> np.ndarray:
    first, count = frames
    if values.ndim == 2:
        return values[None]
    if values.ndim == 3 and len(values) not in (1, count):
        if len(values) < first - 1 + count:
            raise SettingsError(
                f"The depth file {path} has {len(values)} frames and the shot goes to frame {first - 1 + count} of the "
                "clip; give all of them, or the first one's alone.",
                field="depth",
            )
        return values[first - 1 : first - 1 + count]
    return values


def _distances(values, mask, kind: str, scale: float, path: Path) -> tuple[np.ndarray, np.ndarray]:
    valid = np.isfinite(values) & (values > 0.0) & mask
    if not valid.any():
        raise SettingsError(f"The depth file {path} holds no depth anywhere; choose another.", field="depth")
    depth = np.where(valid, values, 1.0).astype(np.float64)
    if kind == "inverse":
        depth = 1.0 / depth
    depth *= scale or MEDIAN_DEPTH / float(np.median(depth[valid]))
    middle = float(np.median(depth[valid]))
    if not NEAREST <= middle <= MOST:
        raise SettingsError(
            f"The middle of the depth file {path} is {middle:g} metres away, with a scale of {scale:g}; give the scale "
            f"that makes it {NEAREST:g} to {MOST:g}.",
            field="depth_scale",
        )
    valid &= depth <= FARTHEST * float(np.median(depth[valid]))
    return np.where(valid, depth, 0.0).astype(np.float32), valid


def _values(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """(values [H,W], mask [H,W] bool, kind or "") as the file has them."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SettingsError(
            f"The depth file {path} is of no kind that can be read; give one of {', '.join(ENDINGS)}, .exr.",
            field="depth",
        )
    if not path.is_file():
        raise SettingsError(f"There is no depth file {path}.", field="depth")
    try:
        if ending == ".png":
            values = decode_grey16(path.read_bytes(), name=f"The depth file {path}", error=SettingsError)
            return values.astype(np.float64), np.ones(values.shape, bool), ""
        loaded = np.load(path)
        if ending == ".npy":
            values, mask, kind = loaded, None, ""
        else:
            with loaded:
                values = loaded["depth"]
                mask = loaded["mask"].astype(bool) if "mask" in loaded.files else None
                kind = str(loaded["kind"]) if "kind" in loaded.files else ""
        if values.dtype.kind not in "fiu":
            raise ValueError("pickle or no numbers")
        values = np.squeeze(values).astype(np.float64)
    except UNREADABLE as error:
        reason = "it holds no array of numbers" if "pickle" in str(error) else error
        reason = "it has no array depth" if isinstance(error, KeyError) else reason
        raise SettingsError(f"The depth file {path} cannot be read ({reason}).", field="depth") from error
    mask = np.ones(values.shape, bool) if mask is None else np.squeeze(mask)
    if mask.shape != values.shape:
        raise SettingsError(f"In the depth file {path} the mask is not of the depth's size.", field="depth")
    return values, mask, kind


def _side_car(path: Path) -> dict:
    side_car = path.with_name(path.name + ".json")
    if not side_car.is_file():
        return {}
    try:
        said = json.loads(side_car.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{side_car} cannot be read ({error}).", field="depth") from error
    return said if isinstance(said, dict) else {}
