# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate: a picture, how far away each of its pixels is, and the lens that saw it.

Its folder, which any program can write:

    picture.png    8-bit RGB, [H,W]
    plate.npz      ``depth`` f32 [H,W], ``valid`` bool [H,W], ``mask_<name>`` bool [H,W] for each mask
    plate.json     {"format": "das-plate", "version": 1, "lens_mm": 35.0, "eye_height": 1.6, "pitch_degrees": 0.0,
                    "source": "where the depth comes from"}

Depth is the distance along the view axis in Blender units (1 is a metre where it is metric), not the distance to the
camera's centre.  Where ``valid`` is False there is no surface: the sky.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..client.files import write_whole
from ..errors import FirstFrameError, SettingsError, StorageError
from ..protocol.png import decode_png, encode_png
from .unreadable import UNREADABLE

SENSOR_MM = 36.0
"""Along the picture's longer side, as Blender's own default sensor."""
EYE_HEIGHT = 1.6
"""Blender units of the camera above the ground, where nobody said it."""
SHORTEST_LENS, LONGEST_LENS = 4.0, 2000.0
FORMAT, VERSION = "das-plate", 1
_PICTURE, _ARRAYS, _VALUES = "picture.png", "plate.npz", "plate.json"
_MASK = "mask_"


@dataclass(frozen=True)
class Plate:
    """A picture as a surface.

    ``picture`` u8 [H,W,3] (sRGB-coded, rows top-down); ``depth`` f32 [H,W], Blender units along the view axis, and
    ``valid`` bool [H,W]: elsewhere is sky.  ``lens_mm``: of a sensor of `SENSOR_MM` along the longer side.  ``masks``:
    name → bool [H,W], the things that can move.  ``eye_height``: Blender units of the camera above z = 0;
    ``pitch_degrees``: how far it looks down.  ``source``: where the depth comes from, in words.

    Raises `SettingsError` for arrays that do not fit together, or values that mean nothing.
    """

    picture: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    lens_mm: float
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    eye_height: float = EYE_HEIGHT
    pitch_degrees: float = 0.0
    source: str = ""

    def __post_init__(self):
        shape = self.picture.shape[:2]
        if self.picture.dtype != np.uint8 or self.picture.ndim != 3 or self.picture.shape[2] != 3 or 0 in shape:
            raise SettingsError(
                f"A plate's picture is [H,W,3] uint8 and this is {list(self.picture.shape)} {self.picture.dtype}."
            )
        for name, array in (("depth", self.depth), ("valid", self.valid), *self.masks.items()):
            if array.shape != shape:
                raise SettingsError(
                    f"The plate's {name} is {_size(array.shape)} and its picture {_size(shape)}; they must be equal.",
                    field="depth",
                )
        check_lens(self.lens_mm)
        there = self.depth[self.valid]
        if there.size and not (np.isfinite(there).all() and (there > 0.0).all()):
            raise SettingsError(
                "The plate's depth has values that are no distance (0, negative or not a number) where it is said to "
                "be valid; mark them as not valid.",
                field="depth",
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.picture.shape[1], self.picture.shape[0]

    @property
    def focal_px(self) -> float:
        """Focal length in pixels; the principal point is the picture's middle."""
        return focal_px(self.lens_mm, self.size)

    @property
    def world_from_camera(self) -> np.ndarray:
        """[4,4] f64: Blender's camera (looks along −Z, +Y up) → world; it looks along +Y, turned down by the pitch."""
        return level_camera(self.eye_height, self.pitch_degrees)


def focal_px(lens_mm: float, size: tuple[int, int]) -> float:
    """Pixels, of a lens in mm before a sensor of `SENSOR_MM` along the longer side of ``size`` (width, height)."""
    return lens_mm / SENSOR_MM * max(size)


def check_lens(lens_mm: float) -> float:
    """``lens_mm`` when a lens can have it.  Raises `SettingsError`."""
    if not (isinstance(lens_mm, int | float) and SHORTEST_LENS <= lens_mm <= LONGEST_LENS):
        raise SettingsError(
            f"The lens is {lens_mm} mm; give the length of one for a sensor of 36 mm, {SHORTEST_LENS:g} to "
            f"{LONGEST_LENS:g} (35 is common, phones have about 26).",
            field="lens",
        )
    return float(lens_mm)


def level_camera(eye_height: float, pitch_degrees: float) -> np.ndarray:
    """[4,4] f64: camera → world of a camera that looks along +Y from ``eye_height``, ``pitch_degrees`` down."""
    down = math.radians(90.0 - pitch_degrees)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[math.cos(down), -math.sin(down)], [math.sin(down), math.cos(down)]]
    matrix[2, 3] = eye_height
    return matrix


def check_colours(picture: np.ndarray, name: str) -> None:
    """Raise `FirstFrameError` where ``picture`` [H,W,3] u8 has one colour everywhere; ``name`` begins the sentence."""
    if (picture == picture[0, 0]).all():
        raise FirstFrameError(f"{name} has one colour everywhere, so there is nothing to see move; choose another.")


def save_plate(plate: Plate, folder: Path) -> None:
    """Write ``plate`` into ``folder``, which is made.  Raises `StorageError`."""
    arrays = io.BytesIO()
    masks = {f"{_MASK}{name}": mask for name, mask in plate.masks.items()}
    np.savez_compressed(arrays, depth=plate.depth.astype(np.float32), valid=plate.valid, **masks)
    values = {
        "format": FORMAT,
        "version": VERSION,
        "lens_mm": plate.lens_mm,
        "eye_height": plate.eye_height,
        "pitch_degrees": plate.pitch_degrees,
        "source": plate.source,
    }
    write_whole(folder / _PICTURE, encode_png(plate.picture))
    write_whole(folder / _ARRAYS, arrays.getvalue())
    write_whole(folder / _VALUES, json.dumps(values, indent=1).encode())


def is_plate(folder: Path) -> bool:
    """Whether a plate was kept in ``folder``."""
    return (folder / _VALUES).is_file()


def load_plate(folder: Path) -> Plate:
    """The plate that was kept in ``folder``.  Raises `StorageError` where it cannot be read, `SettingsError` where its
    parts do not fit together.
    """
    try:
        values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
            raise ValueError(f"{_VALUES} is not of the format {FORMAT}, version {VERSION}")
        picture = decode_png((folder / _PICTURE).read_bytes(), name=f"The picture of the plate {folder}")
        with np.load(folder / _ARRAYS) as arrays:
            masks = {name[len(_MASK) :]: arrays[name].astype(bool) for name in arrays.files if name.startswith(_MASK)}
            depth, valid = arrays["depth"].astype(np.float32), arrays["valid"].astype(bool)
        lens, eye, pitch = (float(values[name]) for name in ("lens_mm", "eye_height", "pitch_degrees"))
    except UNREADABLE as error:
        raise StorageError(f"The plate in {folder} cannot be read ({error}); make it again.") from error
    return Plate(picture, depth, valid, lens, masks, eye, pitch, str(values.get("source", "")))


def _size(shape) -> str:
    return f"{shape[1]}×{shape[0]}" if len(shape) == 2 else str(list(shape))
