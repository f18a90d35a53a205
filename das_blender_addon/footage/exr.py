# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth in an OpenEXR file that holds more than a picture: layers, render passes, parts, a channel called Z.

Read are files of rows (not of tiles, not deep ones), without compression or with RLE, ZIPS or ZIP, of half, float or
whole numbers.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError

_MAGIC = b"\x76\x2f\x31\x01"
_TILED, _LONG_NAMES, _DEEP, _PARTS = 0x200, 0x400, 0x800, 0x1000
_TYPES = (np.dtype("<u4"), np.dtype("<f2"), np.dtype("<f4"))
_KINDS = {
    "none": 1,
    "RLE": 1,
    "ZIPS": 1,
    "ZIP": 16,
    "PIZ": 32,
    "PXR24": 16,
    "B44": 32,
    "B44A": 32,
    "DWAA": 32,
    "DWAB": 256,
}
"""Compression, in the order of their numbers → rows of a block."""
_NAMES, _ROWS = tuple(_KINDS), tuple(_KINDS.values())
_READ = 4
"""So many kinds of compression are read, the first ones."""
_COLOURS = {"R", "G", "B", "A", "Y", "RY", "BY"}
_DEPTHS = {"Z", "V", "DEPTH"}
MAX_PIXELS = 1 << 28


@dataclass(frozen=True)
class _Part:
    """``channels``: (name, place in `_TYPES`) in the order of the file; ``window``, ``display``: left, top, right,
    bottom, inclusive; ``plain``: whether its channels have all of its pixels."""

    name: str
    channels: tuple[tuple[str, int], ...]
    window: tuple[int, int, int, int]
    display: tuple[int, int, int, int]
    compression: int
    plain: bool

    def full(self, channel: str) -> str:
        """The channel's name with its part's."""
        return channel if not self.name or channel.startswith(self.name) else f"{self.name}.{channel}"


def depth_of_exr(data: bytes, name: str) -> np.ndarray | None:
    """[H,W] f64, rows top-down: the depth channel of the file ``data``, 0 where it has no pixels; None for one that is
    no more than a picture.  ``name`` begins the sentences.

    Raises `SettingsError`: several depths, none, or a kind of file that is not read.
    """
    if data[:4] != _MAGIC:
        raise SettingsError(f"{name} cannot be read, it is no OpenEXR file.", field="depth")
    try:
        version, parts, start = _headers(data)
        channels = [(number, part.full(one), one) for number, part in enumerate(parts) for one, _ in part.channels]
        if all(full.upper() in _COLOURS for _, full, _ in channels):
            return None
        number, full, channel = _chosen(channels, name)
        part = parts[number]
        how = _unread(version, part)
        if how:
            raise SettingsError(
                f"{name} {how}, which is not read; save it in rows with ZIP compression, or its depth as a .npy.",
                field="depth",
            )
        return _pixels(data, start, parts, number, channel, bool(version & _PARTS))
    except (struct.error, ValueError, IndexError, zlib.error, KeyError) as error:
        raise SettingsError(f"{name} cannot be read, it is damaged or not whole.", field="depth") from error


def _chosen(channels: list[tuple[int, str, str]], name: str) -> tuple[int, str, str]:
    """Of (part, full name, own name) the one that is a depth."""
    depths = [one for one in channels if _is_depth(one[1])]
    if len(channels) == 1:
        return channels[0]
    if len(depths) == 1:
        return depths[0]
    names = ", ".join(full for _, full, _ in (depths or channels)[:12])
    if depths:
        raise SettingsError(
            f"{name} has {len(depths)} depths ({names}); save the one that is meant alone.", field="depth"
        )
    raise SettingsError(
        f"{name} has no channel that is called Z or depth (it has {names}); save its depth alone, as an .exr or .npy.",
        field="depth",
    )


def _is_depth(full: str) -> bool:
    *layers, last = full.upper().split(".")
    if last == "Z" and not layers:
        return True
    return last in _DEPTHS and (last == "DEPTH" or layers[-1] in _DEPTHS) if layers else last == "DEPTH"


def _unread(version: int, part: _Part) -> str:
    if version & _DEEP:
        return "is a deep one"
    if version & _TILED:
        return "is made of tiles"
    if part.compression >= _READ:
        return f"has {_NAMES[part.compression]} compression"
    width, height = _size(part.window)
    if not part.plain or not 0 < width * height <= MAX_PIXELS or not 0 < np.prod(_size(part.display)) <= MAX_PIXELS:
        return "has channels of another size than its picture's"
    return ""


def _headers(data: bytes) -> tuple[int, list[_Part], int]:
    """(version and flags, the parts, where the table of blocks begins)."""
    (version,) = struct.unpack_from("<I", data, 4)
    parts, at = [], 8
    while data[at]:
        part, at = _header(data, at)
        parts.append(part)
        if not version & _PARTS:
            return version, parts, at
    return version, parts, at + 1


def _header(data: bytes, at: int) -> tuple[_Part, int]:
    found: dict[str, bytes] = {}
    while data[at]:
        name, at = _text(data, at)
        _, at = _text(data, at)
        (size,) = struct.unpack_from("<I", data, at)
        found[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    channels, place, plain = [], 0, True
    listed = found["channels"]
    while listed[place]:
        name, place = _text(listed, place)
        kind, _, across, down = struct.unpack_from("<IIII", listed, place)
        channels.append((name, kind))
        plain &= across == down == 1 and kind < len(_TYPES)
        place += 16
    window, display = (struct.unpack("<4i", found[name]) for name in ("dataWindow", "displayWindow"))
    own = found.get("name", b"").decode("utf-8", "replace")
    return _Part(own, tuple(channels), window, display, found["compression"][0], plain), at + 1


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8", "replace"), end + 1


def _size(window: tuple[int, int, int, int]) -> tuple[int, int]:
    return window[2] - window[0] + 1, window[3] - window[1] + 1


def _pixels(data: bytes, start: int, parts: list[_Part], number: int, channel: str, has_parts: bool) -> np.ndarray:
    """[H,W] f64 of the display window."""
    part = parts[number]
    (width, height), (wide, high) = _size(part.window), _size(part.display)
    blocks = [-(-_size(one.window)[1] // _ROWS[one.compression]) for one in parts]
    table = struct.unpack_from(f"<{blocks[number]}Q", data, start + 8 * sum(blocks[:number]))
    row_bytes = [_TYPES[kind].itemsize * width for _, kind in part.channels]
    place = [name for name, _ in part.channels].index(channel)
    first, kind = sum(row_bytes[:place]), _TYPES[part.channels[place][1]]
    plane = np.zeros((height, width))
    for at in table:
        y, size = struct.unpack_from("<iI", data, at + 4 * has_parts)
        at += 8 + 4 * has_parts
        row = y - part.window[1]
        rows = min(_ROWS[part.compression], height - row)
        whole = _unpacked(data[at : at + size], part.compression, rows * sum(row_bytes)).reshape(rows, -1)
        values = np.ascontiguousarray(whole[:, first : first + row_bytes[place]]).view(kind)
        plane[row : row + rows] = values
    out = np.zeros((high, wide))
    left, top = part.window[0] - part.display[0], part.window[1] - part.display[1]
    inner = plane[max(-top, 0) : high - top, max(-left, 0) : wide - left]
    top, left = max(top, 0), max(left, 0)
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def _unpacked(block: bytes, compression: int, size: int) -> np.ndarray:
    """u8 [size]"""
    if compression == 0 or len(block) == size:
        return np.frombuffer(block, np.uint8, size)
    packed = np.frombuffer(_runs(block) if compression == 1 else zlib.decompress(block), np.uint8, size)
    steps = packed.astype(np.int64)
    steps[1:] -= 128
    summed = np.cumsum(steps).astype(np.uint8)
    out = np.empty(size, np.uint8)
    half = (size + 1) // 2
    out[0::2], out[1::2] = summed[:half], summed[half:]
    return out


def _runs(block: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(block):
        (count,) = struct.unpack_from("<b", block, at)
        if count < 0:
            out += block[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += block[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(out)
