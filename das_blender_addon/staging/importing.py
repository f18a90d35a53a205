# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture and what is known of it → a plate → a scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..client.connection import ShouldStop
from ..errors import SettingsError
from ..footage.depth_files import read_depth
from ..footage.estimated import AUTO, found_depth, found_masks, is_asked, measure_on
from ..footage.layers import layers_of
from ..footage.masks import read_mask
from ..footage.mesh import check_quads
from ..footage.plane import Room, is_guessed, plane_plate
from ..footage.plate import Plate, check_lens, is_plate, load_plate, save_plate
from ..shot.machine import check_online_access
from .beside import in_blender, tell
from .picture import EXR, read_picture, values_of_exr
from .room import keep_room
from .stage import Stage, stage_plate

PLANE = "plane"
"""In the place of a depth file: a ground and a wall."""


@dataclass(frozen=True)
class PlateWish:
    """What a plate is made from.

    ``picture``: a file.  ``depth``: `PLANE`, `estimated.AUTO` (a server measures it), or a depth file, of which
    ``depth_kind`` and ``depth_scale`` say what it means ("" and 0: itself or its side-car, see `footage.depth_files`).
    ``lens_mm``: of a 36 mm sensor along the longer side; 0 for what the picture's file says.  ``masks``: name → words
    of `footage.masks.read_mask` or of `footage.estimated`.  ``server``: the address of the one that measures, until
    ``should_stop()``; ``timeout_s``: how long it may be silent.
    ``room``: of the plane; its eye height is that of any plate's camera above z = 0.  ``folder``: where the plate is
    kept and found again; None for nowhere.
    """

    picture: Path
    depth: str = PLANE
    depth_kind: str = ""
    depth_scale: float = 0.0
    lens_mm: float = 0.0
    masks: Mapping[str, str] = field(default_factory=dict)
    room: Room = Room()
    folder: Path | None = None
    server: str = ""
    timeout_s: float = 30.0
    should_stop: ShouldStop | None = None


def plate_of(wish: PlateWish) -> tuple[Plate, tuple[str, ...]]:
    """(the plate, what its user should know in sentences); one that was kept in the wish's folder is that of the same
    picture, and only its masks are made anew.

    Raises `FirstFrameError` (the picture), `SettingsError` (all else), `StorageError` (the folder), and as
    `client.estimates.estimate` does where a server is asked.
    """
    source = read_picture(wish.picture)
    shape = source.pixels.shape[:2]
    asks = wish.depth == AUTO or any(is_asked(words) for words in wish.masks.values())
    measure = measure_of(wish.server, asks, wish.should_stop, wish.timeout_s)
    masks = masks_of(found_masks(wish.masks, source.pixels, measure), shape)
    if wish.folder is not None and is_plate(wish.folder):
        plate = _kept(wish, source.pixels, masks)
        used = f"The plate kept in {wish.folder} is used: a lens of {plate.lens_mm:g} mm, depth from {plate.source}."
        return plate, (*source.notes, used)
    lens = wish.lens_mm or source.lens_mm
    if wish.depth == AUTO:
        depth, valid, lens, origin = found_depth(source.pixels, lens, measure, scale=wish.depth_scale)
    if not lens:
        raise SettingsError(
            f"The lens of the picture {wish.picture} is not known: its file does not say it; give its length for a "
            "sensor of 36 mm with --lens (35 is common, phones have about 26).",
            field="lens",
        )
    check_lens(lens)
    if wish.depth == PLANE:
        plate = plane_plate(source.pixels, lens, wish.room, masks=masks)
    elif wish.depth == AUTO:
        plate = Plate(source.pixels, depth, valid, lens, masks, wish.room.eye_height, 0.0, origin)
    else:
        file = Path(wish.depth)
        values = values_of_exr(file) if file.suffix.lower() == EXR else None
        depth, valid = read_depth(file, shape, kind=wish.depth_kind, scale=wish.depth_scale, values=values)
        plate = Plate(source.pixels, depth, valid, lens, masks, wish.room.eye_height, 0.0, f"the file {wish.depth}")
    if wish.folder is not None:
        save_plate(plate, wish.folder)
    return plate, source.notes


def measure_of(server: str, wanted: bool, should_stop: ShouldStop | None, timeout_s: float):
    """What asks the ``server``; None where nothing is ``wanted`` of it, or none is named.  Raises `SettingsError`."""
    if not server or not wanted:
        return None
    in_blender(lambda: check_online_access(server))
    measure = measure_on(server, should_stop, timeout_s)

    def asked(kind, picture, **parameters):
        tell(f"The server measures: {kind}", 0.3)
        return measure(kind, picture, **parameters)

    return asked


def masks_of(wanted: Mapping[str, str | np.ndarray], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Name → bool [H,W]: the ``wanted`` masks for a picture of ``shape`` (H, W), none of which has a pixel of another.
    Raises `SettingsError`.
    """
    masks, taken = {}, np.zeros(shape, bool)
    for name, words in wanted.items():
        masks[name] = read_mask(words, shape)
        if (masks[name] & taken).any():
            raise SettingsError(
                f"The mask of {name} has pixels that another one has, too; let each pixel be of one thing.",
                field="mask",
            )
        taken |= masks[name]
    if masks and taken.all():
        raise SettingsError(
            "The masks together are the whole picture, and nothing is left to stand still; leave one out.", field="mask"
        )
    return masks


def _kept(wish: PlateWish, pixels: np.ndarray, masks: dict[str, np.ndarray]) -> Plate:
    plate = load_plate(wish.folder)
    if not np.array_equal(plate.picture, pixels):
        raise SettingsError(
            f"The plate in {wish.folder} is of another picture than {wish.picture}; name another folder.",
            field="plate",
        )
    chosen = masks or plate.masks
    return Plate(
        pixels, plate.depth, plate.valid, plate.lens_mm, chosen, plate.eye_height, plate.pitch_degrees, plate.source
    )


def import_picture(
    wish: PlateWish, *, size: tuple[int, int] | None = None, num_frames: int = 49, every: int = 1
) -> Stage:
    """`plate_of`, then `stage.stage_plate`, with what is to know of both; errors as `plate_of`."""
    return prepare_picture(wish, size=size, num_frames=num_frames, every=every)()


def prepare_picture(
    wish: PlateWish, *, size: tuple[int, int] | None = None, num_frames: int = 49, every: int = 1
) -> Callable[[], Stage]:
    """All of `import_picture` that takes time; what is returned makes the scene, on the thread that may touch Blender.
    In any thread below `beside.beside_blender`.
    """
    tell("Reading the picture", 0.0)
    for value, what, field_name in ((num_frames, "frames of a shot", "frames"), (every, "pixels of a quad", "every")):
        if value < 1:
            raise SettingsError(f"The {what} are {value}; give at least 1.", field=field_name)
    is_kept = wish.folder is not None and is_plate(wish.folder)
    plate, notes = plate_of(wish)
    check_quads(plate.size, every)
    tell("Making the surfaces", 0.8)
    layers = layers_of(plate, every)
    (width, height), shown = plate.size, size or plate.size
    if shown != plate.size:
        fitted = f"The picture has {width}×{height} pixels and the shot {shown[0]}×{shown[1]}; it is fitted to it."
        notes = (*notes, fitted)

    def finish() -> Stage:
        stage = stage_plate(plate, wish.picture.stem, size=size, num_frames=num_frames, layers=layers)
        if is_guessed(plate) and wish.depth == PLANE and not is_kept:
            keep_room(stage, wish.room, every)
        return replace(stage, notes=notes)

    return finish
