# SPDX-License-Identifier: GPL-3.0-or-later
"""What a picture's file says besides its pixels: how the camera was held, its lens, whether it is for print.

Exif 2.32 in a JPEG's APP1 segment, a PNG's chunk eXIf, a WebP's chunk EXIF or a TIFF itself; only what is asked for is
read, and what is damaged is as if it were not there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

_ORIENTATION, _EXIF_PART, _FOCAL_35MM, _COLOURS = 0x0112, 0x8769, 0xA405, 0x0106
_INKS = 5
"""Of a TIFF's colours: those of print."""
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame, with the number of its colours."""


@dataclass(frozen=True)
class PictureTags:
    """``orientation``: 1 to 8 as in Exif, 1 is upright.  ``lens_mm``: length of the lens on 36 × 24 mm film, 0 where it
    is not said.  ``is_print``: four inks (CMYK) instead of three lights.
    """

    orientation: int = 1
    lens_mm: float = 0.0
    is_print: bool = False


def tags_of(data: bytes) -> PictureTags:
    """The tags of the file whose bytes are ``data``, of any format."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _of_jpeg(data)
        if data.startswith(_PNG):
            return _of_png(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return PictureTags(*_of_exif(data), _first(data).get(_COLOURS) == _INKS)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _of_webp(data)
    except (struct.error, IndexError):
        return PictureTags()
    return PictureTags()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """``pixels`` [H,W,…] as they are to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _of_jpeg(data: bytes) -> PictureTags:
    at, orientation, lens, colours = 2, 1, 0.0, 3
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation, lens = _of_exif(body[6:])
        elif marker in _FRAMES:
            colours = body[5]
        elif marker == 0xDA:
            break
        at += 2 + length
    return PictureTags(orientation, lens, colours == 4)


def _of_png(data: bytes) -> PictureTags:
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return PictureTags(*_of_exif(data[at + 8 : at + 8 + length]))
        at += 12 + length
    return PictureTags()


def _of_webp(data: bytes) -> PictureTags:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            body = data[at + 8 : at + 8 + length]
            return PictureTags(*_of_exif(body.removeprefix(b"Exif\0\0")))
        at += 8 + length + length % 2
    return PictureTags()


def _of_exif(body: bytes) -> tuple[int, float]:
    """(orientation, lens in mm) of a TIFF header with its directories."""
    order, first = _order(body), _first(body)
    more = _directory(body, order, first[_EXIF_PART]) if _EXIF_PART in first else {}
    orientation = first.get(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1, float(more.get(_FOCAL_35MM, 0))


def _order(body: bytes) -> str:
    return {b"II": "<", b"MM": ">"}.get(bytes(body[:2]), "")


def _first(body: bytes) -> dict[int, int]:
    """The first directory of a TIFF header."""
    order = _order(body)
    return _directory(body, order, struct.unpack_from(order + "I", body, 4)[0]) if order else {}


def _directory(body: bytes, order: str, at: int) -> dict[int, int]:
    """The whole numbers of a directory."""
    found = {}
    (count,) = struct.unpack_from(order + "H", body, at)
    for entry in range(min(count, 512)):
        tag, kind, amount = struct.unpack_from(order + "HHI", body, at + 2 + 12 * entry)
        if amount == 1 and kind in (3, 4, 13):  # two or four bytes, the place of a directory
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), body, at + 10 + 12 * entry)[0]
    return found
