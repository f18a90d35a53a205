# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the uncompressed OpenEXR files that Blender writes, single-part and multi-part; for tests."""

import struct
from pathlib import Path

import numpy as np

_PIXEL_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_MULTI_PART = 0x1000


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channel name → [H,W] array, rows top-down."""
    data = path.read_bytes()
    magic, version = struct.unpack_from("<II", data)
    assert magic == 20000630, f"{path} is no OpenEXR file"
    offset, headers = 8, []
    while data[offset]:
        header, offset = _header(data, offset)
        headers.append(header)
        if not version & _MULTI_PART:
            break
    if version & _MULTI_PART:
        offset += 1
    rows = [header["dataWindow"][3] - header["dataWindow"][1] + 1 for header in headers]
    chunks = struct.unpack_from(f"<{sum(rows)}Q", data, offset)
    planes: dict[str, np.ndarray] = {}
    for start in chunks:
        part = 0
        if version & _MULTI_PART:
            (part,) = struct.unpack_from("<I", data, start)
            start += 4
        _scanline(data, start, headers[part], planes)
    return planes


def said_of_mattes(path: Path) -> dict[str, str]:
    """What the header of a file says of Cryptomatte."""
    data, found, at = path.read_bytes(), {}, -1
    while (at := data.find(b"cryptomatte/", at + 1)) >= 0:
        name, kind = data[at:].split(b"\0", 2)[:2]
        if kind == b"string":
            start = at + len(name) + len(kind) + 2
            (size,) = struct.unpack_from("<I", data, start)
            found[name.decode()] = data[start + 4 : start + 4 + size].decode()
    return found


def _header(data: bytes, offset: int) -> tuple[dict, int]:
    header = {}
    while data[offset]:
        name, offset = _text(data, offset)
        kind, offset = _text(data, offset)
        (size,) = struct.unpack_from("<I", data, offset)
        value = data[offset + 4 : offset + 4 + size]
        offset += 4 + size
        if kind == "box2i":
            header[name] = struct.unpack("<4i", value)
        elif kind == "chlist":
            header[name] = _channels(value)
        elif name == "compression":
            assert value[0] == 0, "only uncompressed files are read"
        elif name == "name":
            header[name] = value.decode()
    return header, offset + 1


def _channels(value: bytes) -> list[tuple[str, np.dtype]]:
    channels, offset = [], 0
    while value[offset]:
        name, offset = _text(value, offset)
        channels.append((name, _PIXEL_TYPES[struct.unpack_from("<I", value, offset)[0]]))
        offset += 16
    return channels


def _scanline(data: bytes, start: int, header: dict, planes: dict[str, np.ndarray]) -> None:
    left, top, right, bottom = header["dataWindow"]
    width, height = right - left + 1, bottom - top + 1
    y, _size = struct.unpack_from("<iI", data, start)
    start += 8
    for name, kind in header["channels"]:
        row = np.frombuffer(data, kind, width, start)
        start += width * kind.itemsize
        full = name if "." in name or "name" not in header else f"{header['name']}.{name}"
        planes.setdefault(full, np.zeros((height, width), kind))[y - top] = row


def _text(data: bytes, offset: int) -> tuple[str, int]:
    end = data.index(0, offset)
    return data[offset:end].decode(), end + 1
