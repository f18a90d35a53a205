# SPDX-License-Identifier: GPL-3.0-or-later
"""What a USD file says of its units: metres to a unit, time codes to a second.  Blender's importer keeps neither.

Read are text files (.usda), binary ones (crate files, .usdc), either as .usd, and the first file of a .usdz.
"""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from .unreadable import UNREADABLE

NAMES = ("metersPerUnit", "timeCodesPerSecond", "framesPerSecond")
SILENT_METRES, SILENT_RATE = 0.01, 24.0
"""What USD itself takes where the file does not say it."""
_CRATE, _TEXT, _DOUBLE = b"PXR-USDC", b"#usda", 9
_INLINED, _PAYLOAD = 1 << 62, (1 << 48) - 1


@dataclass(frozen=True)
class UsdUnits:
    """``metres``: of one unit of length; ``rate``: time codes a second."""

    metres: float
    rate: float


def usd_units(path: Path) -> UsdUnits:
    """Of the USD file ``path``.  Raises `SettingsError` where it is none that can be read."""
    try:
        data = _root_layer(path)
        values = _of_crate(data) if data.startswith(_CRATE) else _of_text(data)
    except (*UNREADABLE, struct.error, IndexError) as error:
        raise SettingsError(f"The USD file {path} cannot be read ({error}); export it again.", field="path") from error
    rate = values.get("timeCodesPerSecond") or values.get("framesPerSecond") or SILENT_RATE
    metres = values.get("metersPerUnit") or SILENT_METRES
    if not (0.0 < rate < 1e5 and 0.0 < metres < 1e6):
        raise SettingsError(
            f"The USD file {path} has {rate} time codes a second and units of {metres} m; export it again.",
            field="path",
        )
    return UsdUnits(metres, rate)


def _root_layer(path: Path) -> bytes:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            return packed.read(packed.infolist()[0])
    return path.read_bytes()


def _of_text(data: bytes) -> dict[str, float]:
    if not data.startswith(_TEXT):
        raise ValueError("it is neither a text nor a crate file")
    said = {}
    for line in data.decode("utf-8", "replace").splitlines()[1:]:
        if re.match(r"\s*(def|over|class)\s", line):
            break
        found = re.match(r"\s*(\w+)\s*=\s*([-+.0-9eE]+)\s*$", line)
        if found and found[1] in NAMES:
            said[found[1]] = float(found[2])
    return said


def _of_crate(data: bytes) -> dict[str, float]:
    """The fields of these names: only a file as a whole has such."""
    sections, (at,) = {}, struct.unpack_from("<q", data, 16)
    for number in range(struct.unpack_from("<Q", data, at)[0]):
        name, start, _ = struct.unpack_from("<16sqq", data, at + 8 + 32 * number)
        sections[name.rstrip(b"\0")] = start
    at = sections[b"TOKENS"]
    _, size, packed = struct.unpack_from("<QQQ", data, at)
    tokens = _unpacked(data[at + 24 : at + 24 + packed], size).split(b"\0")
    at = sections[b"FIELDS"]
    count, packed = struct.unpack_from("<QQ", data, at)
    indices = _integers(_unpacked(data[at + 16 : at + 16 + packed], 5 * count + 64), count)
    at += 16 + packed
    (packed,) = struct.unpack_from("<Q", data, at)
    values = struct.unpack_from(f"<{count}Q", _unpacked(data[at + 8 : at + 8 + packed], 8 * count))
    said = {}
    for index, value in zip(indices, values, strict=True):
        name = tokens[index].decode("utf-8", "replace")
        if name in NAMES and value >> 48 & 0xFF == _DOUBLE:
            place = value & _PAYLOAD
            if value & _INLINED:
                said[name] = struct.unpack("<f", struct.pack("<I", place & 0xFFFFFFFF))[0]
            else:
                said[name] = struct.unpack_from("<d", data, place)[0]
    return said


def _unpacked(data: bytes, most: int) -> bytes:
    """What LZ4 made smaller, in one block or several; ``most``: bytes that it may become."""
    if not data[0]:
        return _block(data[1:], most)
    out, at = b"", 1
    for _ in range(data[0]):
        (size,) = struct.unpack_from("<i", data, at)
        out += _block(data[at + 4 : at + 4 + size], most)
        at += 4 + size
    return out


def _block(data: bytes, most: int) -> bytes:
    """An LZ4 block: literals, then a copy of what came before, in turns."""
    out, at = bytearray(), 0
    while at < len(data):
        token, at = data[at], at + 1
        count, at = _length(data, at, token >> 4)
        out += data[at : at + count]
        at += count
        if at >= len(data):
            break
        back, at = data[at] | data[at + 1] << 8, at + 2
        count, at = _length(data, at, token & 15)
        count += 4
        if not 0 < back <= len(out) or len(out) + count > most:
            raise ValueError("it is damaged")
        for _ in range(count):
            out.append(out[-back])
    return bytes(out)


def _length(data: bytes, at: int, count: int) -> tuple[int, int]:
    if count == 15:
        while True:
            more, at = data[at], at + 1
            count += more
            if more != 255:
                break
    return count, at


def _integers(data: bytes, count: int) -> list[int]:
    """Whole numbers, each told by how far it is from the one before: the most usual step, or 1, 2 or 4 bytes."""
    (usual,) = struct.unpack_from("<i", data, 0)
    codes, at = 4, 4 + (2 * count + 7) // 8
    numbers, number = [], 0
    for place in range(count):
        code = data[codes + place // 4] >> 2 * (place % 4) & 3
        if code:
            number += struct.unpack_from(("<b", "<h", "<i")[code - 1], data, at)[0]
            at += 1 << code - 1
        else:
            number += usual
        numbers.append(number)
    return numbers
