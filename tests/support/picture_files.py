# SPDX-License-Identifier: GPL-3.0-or-later
"""Picture files written by hand from their specifications, for what our own writer does not write."""

import struct
import zlib

import numpy as np


def grey16_png(values: np.ndarray) -> bytes:
    """A 16-bit grey PNG of ``values`` [H,W], its rows without a filter."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def with_exif(jpeg: bytes, orientation: int, lens_mm: int) -> bytes:
    """``jpeg`` with an Exif segment (2.32, section 4.6) that says how the camera was held and its 35 mm lens."""
    first = struct.pack("<HHHIHHHHIII", 2, 0x0112, 3, 1, orientation, 0, 0x8769, 4, 1, 38, 0)
    second = struct.pack("<HHHIHHI", 1, 0xA405, 3, 1, lens_mm, 0, 0)
    body = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + first + second
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def print_jpeg_head() -> bytes:
    """The beginning of a JPEG of four colours (ITU T.81, B.2.2)."""
    frame = struct.pack(">BHHB", 8, 64, 96, 4) + bytes(sum(((number, 0x11, 0) for number in range(1, 5)), ()))
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"
