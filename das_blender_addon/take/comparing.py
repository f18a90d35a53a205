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
from ..protocol.png import blob_sha, decode_png, encode_png
from ..shot.pictures import place_for
from ..tracking.resampling import resize_lanczos
from .cache import Take

RENDERED, KEYS = "rendered", "keys"
"""Name, instead of a take, what Blender's own render has written, and the key pictures that a take was made of."""
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


def key_pictures_of(take: Take, folder: Path) -> Pictures:
    """The key pictures that ``take`` was made of, as they lie in its shot's cache, cut to the render's picture, as PNG
    files in ``folder``.

    Raises `SettingsError` where none of them is there any more, `StorageError`.
    """
    wanted = {one["sha256"]: one["frame"] for one in take.report.get("key_pictures", ()) if isinstance(one, dict)}
    found = {}
    for file in sorted(place_for(take.folder.parent.parent, 0).parent.glob("*.png")):
        png = _bytes(file)
        frame = wanted.get(blob_sha(png))
        if frame is not None and frame not in found:
            picture = decode_png(png, name=f"The key picture {file}", error=StorageError)
            found[frame] = folder / f"{frame:04d}.png"
            _write(found[frame], _seen_by_render(picture, take.report))
    if not found:
        raise SettingsError(
            f"None of the {len(wanted)} key pictures that the take was made of is in the shot's cache any more: they "
            "were painted over, rendered anew, or are pictures of your own from elsewhere.",
            field="take",
        )
    frames = sorted(found)
    return Pictures(tuple(found[frame] for frame in frames), tuple(frames))


def _seen_by_render(picture: np.ndarray, report: dict) -> np.ndarray:
    """The part of a key picture [H,W,3] that the take shows: it is seen a little wider where shapes differ."""
    width, height = report.get("render_size") or picture.shape[1::-1]
    beyond_x, beyond_y = (picture.shape[1] - width) // 2, (picture.shape[0] - height) // 2
    if report.get("keep_detail") and beyond_x >= 0 and beyond_y >= 0:
        return picture[beyond_y : beyond_y + height, beyond_x : beyond_x + width]
    whole = (0, 0, picture.shape[1], picture.shape[0])
    return resize_lanczos(picture, tuple(report.get("crop") or whole), (width, height))


def in_common(first: Take, second: Take | Pictures) -> list[int]:
    """The Blender frames that both have.  Raises `SettingsError` when there are none."""
    numbers = [number for number in first.frame_numbers if number in set(second.frame_numbers)]
    if not numbers:
        raise SettingsError(
            f"The takes have no frame in common: one has {_range(first)}, the other {_range(second)}.", field="take"
        )
    return numbers


def in_step(first: Take, second: Take | Pictures) -> tuple[int, list[Path], list[Path]]:
    """(place in ``first`` of the first frame that both have, files of the first, files of the second): one of each for
    each frame of ``first`` from there to the last that both have; at a frame that the second lacks both stay.

    Raises `SettingsError` when they have none in common.
    """
    common = set(in_common(first, second))
    places = [place for place, number in enumerate(first.frame_numbers) if number in common]
    stays = [max(place for place in places if place <= at) for at in range(places[0], places[-1] + 1)]
    others = dict(zip(second.frame_numbers, second.frames, strict=True))
    return (
        places[0], [first.frames[place] for place in stays], [others[first.frame_numbers[place]] for place in stays]
    )  # fmt: skip


def compared(first: np.ndarray, second: np.ndarray, mode: str, wipe: float = 0.5) -> np.ndarray:
    """[H,W',3] u8: ``first`` and ``second`` [H,W,3] u8, the second at the first's size, as ``mode`` says.

    "side": beside each other.  "wipe": the first left of the share ``wipe`` of the width, the second right of it.
    "difference": grey where they are equal, brightened `GAIN` times.  Raises `SettingsError`.
    """
    if mode not in MODES:
        raise SettingsError(f"Two takes are not compared as {mode!r}; use {', '.join(MODES)}.", field="mode")
    if not 0.0 <= wipe <= 1.0:
        raise SettingsError(f"The place of the wipe is {wipe:g}; it is between 0 (left) and 1.", field="wipe")
    height, width = first.shape[:2]
    if second.shape != first.shape:
        second = resize_lanczos(second, (0, 0, second.shape[1], second.shape[0]), (width, height))
    if mode == "side":
        gap = np.full((height, GAP_PX, 3), GROUND, np.uint8)
        return np.concatenate([first, gap, second], axis=1)
    if mode == "difference":
        return np.clip(128 + GAIN * (second.astype(np.int16) - first), 0, 255).astype(np.uint8)
    place = int(round(wipe * width))
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
    numbers, files = in_common(first, second), []
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
    return decode_png(_bytes(file), name=f"The frame {file}", error=StorageError)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"The frame {file} cannot be read: {error.strerror}.") from error


def _write(file: Path, picture: np.ndarray) -> None:
    write_whole(file, encode_png(np.ascontiguousarray(picture)))


def _range(take: Take | Pictures) -> str:
    return f"{take.frame_numbers[0]} to {take.frame_numbers[-1]}"
