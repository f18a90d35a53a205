# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of several frames: two takes beside each other, a wipe, their difference; contact sheets.  No Blender in
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..client.files import write_whole
from ..errors import JobCancelled, SettingsError, StorageError
from ..protocol.png import decode_png, encode_png
from ..tracking.resampling import resize_lanczos
from .cache import Take

RENDERED = "rendered"
"""Names, instead of a take, what Blender's own render has written."""
MODES = ("side", "wipe", "difference")
GAP_PX, WIPE_PX, GAIN = 4, 2, 4
"""Between two pictures; of the line of a wipe; how much a difference is brightened."""
GROUND = 24
SHEET_WIDTH_PX, SHEET_COLUMNS, SHEET_FRAMES = 1600, 4, 12


@dataclass(frozen=True)
class Pictures:
    """Frames that are no take's: PNG files and their Blender frames."""

    frames: tuple[Path, ...]
    frame_numbers: tuple[int, ...]


def rendered_files(numbers: Sequence[int], path_of: Callable[[int], Path]) -> Pictures:
    """What Blender's own render has written of the Blender frames ``numbers`` to ``path_of(number)``.

    Raises `SettingsError` where none of them is there as a PNG file.
    """
    found = [(number, path_of(number)) for number in numbers]
    there = [(number, path) for number, path in found if path.suffix.lower() == ".png" and path.is_file()]
    if not there:
        raise SettingsError(
            f"None of the frames {numbers[0]} to {numbers[-1]} is at the scene's output path as a PNG file, as "
            f"{found[0][1]}: render them there with another engine first.",
            field="take",
        )
    return Pictures(tuple(path for _, path in there), tuple(number for number, _ in there))


def compared(first: np.ndarray, second: np.ndarray, mode: str, wipe: float = 0.5) -> np.ndarray:
    """[H,W',3] u8: ``first`` and ``second`` [H,W,3] u8, the second at the first's size, as ``mode`` says.

    "side": beside each other.  "wipe": the first left of the share ``wipe`` of the width, the second right of it.
    "difference": grey where they are equal, brightened `GAIN` times.  Raises `SettingsError`.
    """
    if mode not in MODES:
        raise SettingsError(f"Two takes are not compared as {mode!r}; use {', '.join(MODES)}.", field="mode")
    height, width = first.shape[:2]
    if second.shape != first.shape:
        second = resize_lanczos(second, (0, 0, second.shape[1], second.shape[0]), (width, height))
    if mode == "side":
        gap = np.full((height, GAP_PX, 3), GROUND, np.uint8)
        return np.concatenate([first, gap, second], axis=1)
    if mode == "difference":
        return np.clip(128 + GAIN * (second.astype(np.int16) - first), 0, 255).astype(np.uint8)
    place = int(round(np.clip(wipe, 0.0, 1.0) * width))
    whole = np.concatenate([first[:, :place], second[:, place:]], axis=1)
    whole[:, max(0, place - WIPE_PX // 2) : place + WIPE_PX // 2] = 255
    return whole


def compare_takes(
    first: Take,
    second: Take | Pictures,
    mode: str,
    folder: Path,
    *,
    wipe: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Path]:
    """Write a picture of each frame that both takes have into ``folder``, named by its number.

    Raises `SettingsError` when they have none in common, `StorageError`, `JobCancelled`.
    """
    numbers = [number for number in first.frame_numbers if number in set(second.frame_numbers)]
    if not numbers:
        raise SettingsError(
            f"The takes have no frame in common: one has {_range(first)}, the other {_range(second)}.", field="take"
        )
    files = []
    for done, number in enumerate(numbers):
        if should_stop is not None and should_stop():
            raise JobCancelled("The comparison was cancelled.")
        pictures = [_read(take.frames[take.frame_numbers.index(number)]) for take in (first, second)]
        files.append(folder / f"{number:04d}.png")
        _write(files[-1], compared(*pictures, mode, wipe))
        if progress is not None:
            progress(done + 1, len(numbers))
    return files


def contact_sheet(
    frames: Sequence[Path], *, columns: int = SHEET_COLUMNS, most: int = SHEET_FRAMES, width: int = SHEET_WIDTH_PX
) -> np.ndarray:
    """[H,W,3] u8: at most ``most`` of ``frames`` (PNG files of one size), evenly spread, the first and the last among
    them, in rows of ``columns``, ``width`` pixels wide in all.  Raises `SettingsError`, `StorageError`.
    """
    if not frames or columns < 1 or most < 1:
        raise SettingsError("A contact sheet needs at least one frame, one column and room for one.")
    places = sorted(set(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int).tolist()))
    columns = min(columns, len(places))
    each = max(1, (width - GAP_PX * (columns + 1)) // columns)
    tiles = list(_tiles([frames[place] for place in places], each))
    height = tiles[0].shape[0]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + GAP_PX) + GAP_PX, columns * (each + GAP_PX) + GAP_PX, 3), GROUND, np.uint8)
    for number, tile in enumerate(tiles):
        top = GAP_PX + (number // columns) * (height + GAP_PX)
        left = GAP_PX + (number % columns) * (each + GAP_PX)
        sheet[top : top + height, left : left + each] = tile[:height]
    return sheet


def write_sheet(frames: Sequence[Path], file: Path, *, most: int = SHEET_FRAMES) -> Path:
    """`contact_sheet` of ``frames`` as the PNG ``file``.  Raises `SettingsError`, `StorageError`."""
    _write(file, contact_sheet(frames, most=most))
    return file


def _tiles(files: Sequence[Path], width: int) -> Iterator[np.ndarray]:
    for file in files:
        picture = _read(file)
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        yield resize_lanczos(picture, (0, 0, picture.shape[1], picture.shape[0]), (width, height))


def _read(file: Path) -> np.ndarray:
    try:
        return decode_png(file.read_bytes(), name=f"The frame {file}", error=StorageError)
    except OSError as error:
        raise StorageError(f"The frame {file} cannot be read: {error.strerror}.") from error


def _write(file: Path, picture: np.ndarray) -> None:
    write_whole(file, encode_png(np.ascontiguousarray(picture)))


def _range(take: Take | Pictures) -> str:
    return f"{take.frame_numbers[0]} to {take.frame_numbers[-1]}"
