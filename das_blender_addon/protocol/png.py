# SPDX-License-Identifier: GPL-3.0-or-later
"""PNG ⇄ uint8 pixels with numpy and zlib alone (PNG specification, third edition, sections 5, 9 and 11).

The writer chooses per row between the filters Sub and Up, the two whose inverse is a running sum, so that our own
images read back fast.  The reader understands all five filters, of 8-bit grey, RGB, palette, grey + alpha and RGBA
images, not interlaced.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from ..errors import DasError, ProtocolError, SettingsError
from .frames import blob_sha

__all__ = ["MAX_PIXELS", "blob_sha", "decode_grey16", "decode_png", "decode_png_with_alpha", "encode_png"]

MAX_PIXELS = 1 << 26
"""Largest image that `decode_png` reads, pixels (8192 × 8192)."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
_ZLIB_LEVEL = 3


def encode_png(frame: np.ndarray, *, photographic: bool = False) -> bytes:
    """``frame`` ``[H,W,3]`` uint8 (sRGB-coded, rows top-down) as an 8-bit RGB PNG, ``[H,W,4]`` (straight alpha) as an
    8-bit RGBA one, ``[H,W,1]`` as an 8-bit grey one; equal pixels give equal bytes.

    ``photographic``: it repeats nothing but even areas, and no other repetition is looked for: half the time, and a
    rendered picture is not larger for it (a drawing is, by half).
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in _COLOUR_TYPES or 0 in frame.shape:
        raise SettingsError(
            f"A PNG is made of [H,W,1], [H,W,3] or [H,W,4] uint8, not {list(frame.shape)} {frame.dtype}; convert the "
            "frame."
        )
    height, width, channels = frame.shape
    sub = frame.copy()
    sub[:, 1:] -= frame[:, :-1]
    up = frame.copy()
    up[1:] -= frame[:-1]
    cost = [
        np.abs(rows.view(np.int8)).view(np.uint8).reshape(height, -1).sum(axis=1, dtype=np.uint32)  # |−128| is 128
        for rows in (sub, up)
    ]
    use_up = cost[1] < cost[0]
    rows = np.empty((height, 1 + channels * width), np.uint8)
    rows[:, 0] = np.where(use_up, _UP, _SUB)
    rows[:, 1:] = np.where(use_up[:, None], up.reshape(height, -1), sub.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    strategy = zlib.Z_RLE if photographic else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(_ZLIB_LEVEL, strategy=strategy)
    packed = packer.compress(memoryview(rows.reshape(-1))) + packer.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def photographic_png(frame: np.ndarray) -> bytes:
    """`encode_png` of a rendered or painted ``frame``."""
    return encode_png(frame, photographic=True)


def decode_png(
    data: bytes | bytearray | memoryview, *, name: str = "The image", error: type[DasError] = ProtocolError
) -> np.ndarray:
    """The pixels of a PNG as ``[H,W,3]`` uint8, rows top-down; alpha is laid over black.

    ``name`` begins the sentence of ``error`` (a class of `errors.py`), raised for anything that cannot be read.
    """
    try:
        return _decode(memoryview(data).cast("B"))
    except _Unreadable as why:
        raise error(f"{name} cannot be read: {why}; save it as an 8-bit RGB PNG.") from why


def decode_png_with_alpha(
    data: bytes | bytearray | memoryview, *, name: str = "The image", error: type[DasError] = ProtocolError
) -> np.ndarray:
    """As `decode_png`, but ``[H,W,4]`` with straight alpha; ``[H,W,3]`` where every pixel is opaque."""
    try:
        pixels, colour, palette, transparency = _read(memoryview(data).cast("B"))
        rgb, alpha = _to_rgb(pixels, colour, palette), _alpha(pixels, colour, transparency)
    except _Unreadable as why:
        raise error(f"{name} cannot be read: {why}; save it as an 8-bit RGB PNG.") from why
    if alpha is None or (alpha == 255).all():
        return np.ascontiguousarray(rgb)
    return np.concatenate([rgb, alpha[..., None]], axis=2)


def decode_grey16(
    data: bytes | bytearray | memoryview, *, name: str = "The image", error: type[DasError] = ProtocolError
) -> np.ndarray:
    """The values of a PNG with one channel of 16 bits as ``[H,W]`` uint16, rows top-down; errors as `decode_png`."""
    try:
        pixels, colour, _, _ = _read(memoryview(data).cast("B"), bits=16)
        if colour != 0:
            raise _Unreadable(f"it is no grey image but of colour type {colour}")
    except _Unreadable as why:
        raise error(f"{name} cannot be read: {why}; save it as a 16-bit grey PNG.") from why
    return np.ascontiguousarray(pixels).view(">u2")[..., 0].astype(np.uint16)


def has_transparency(data: bytes | bytearray | memoryview) -> bool:
    """Whether some pixel of a PNG that `decode_png` reads is not opaque."""
    alpha = alpha_of_png(data)
    return alpha is not None and bool((alpha != 255).any())


def alpha_of_png(data: bytes | bytearray | memoryview) -> np.ndarray | None:
    """[H,W] uint8, rows top-down; None where nothing in the PNG says that anything is transparent.

    Raises `ProtocolError` for what `decode_png` does not read.
    """
    try:
        pixels, colour, _, transparency = _read(memoryview(data).cast("B"))
        return _alpha(pixels, colour, transparency)
    except _Unreadable as why:
        raise ProtocolError(f"The image cannot be read: {why}; save it as an 8-bit PNG.") from why


class _Unreadable(Exception):
    """Why a PNG cannot be read, as the middle of a sentence."""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _decode(data: memoryview) -> np.ndarray:
    pixels, colour, palette, transparency = _read(data)
    rgb, alpha = _to_rgb(pixels, colour, palette), _alpha(pixels, colour, transparency)
    if alpha is not None:
        rgb = ((rgb * alpha[..., None].astype(np.uint16) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def _read(data: memoryview, bits: int = 8) -> tuple[np.ndarray, int, np.ndarray | None, np.ndarray | None]:
    """(pixels [H,W,C], colour type, palette, what the chunk tRNS holds) of a PNG with ``bits`` per channel: of 16 each
    channel is two bytes, the high one first.
    """
    # 1. header
    chunks = _chunks(data)
    kind, body = next(chunks)
    if kind != b"IHDR" or len(body) != 13:
        raise _Unreadable("it does not begin with a PNG header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if not (width and height) or width * height > MAX_PIXELS:
        raise _Unreadable(f"its size {width}×{height} is not between 1 and {MAX_PIXELS} pixels")
    if depth != bits or colour not in _CHANNELS or compression or filtering:
        raise _Unreadable(f"it has {depth} bits per channel in colour type {colour}")
    if interlace:
        raise _Unreadable("it is interlaced")
    # 2. chunks
    palette, transparency, packed = None, None, []
    for kind, body in chunks:
        if kind == b"PLTE":
            palette = np.frombuffer(body, np.uint8)
        elif kind == b"tRNS":
            transparency = np.frombuffer(body, np.uint8)
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"IEND":
            break
        elif not kind[0] & 0x20:
            raise _Unreadable(f"it has a chunk of an unknown kind {bytes(kind)!r}")
    # 3. rows
    channels = _CHANNELS[colour] * bits // 8
    rows = _inflate(packed, height * (1 + width * channels)).reshape(height, 1 + width * channels)
    pixels = _unfilter(rows[:, 0], rows[:, 1:].reshape(height, width, channels))
    return pixels, colour, palette, transparency


def _chunks(data: memoryview):
    """(kind, body) of every chunk, each with its checksum verified."""
    if bytes(data[:8]) != _SIGNATURE:
        raise _Unreadable("it is not a PNG file")
    at = 8
    while True:
        if at + 12 > len(data):
            raise _Unreadable("it ends too early")
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            raise _Unreadable("it ends too early")
        kind, body = bytes(data[at + 4 : at + 8]), data[at + 8 : at + 8 + length]
        if struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(data[at + 4 : at + 8 + length]):
            raise _Unreadable(f"its chunk {kind!r} is damaged")
        yield kind, body
        at += 12 + length


def _inflate(packed: list[memoryview], size_bytes: int) -> np.ndarray:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(b"".join(packed), size_bytes)
    except zlib.error as error:
        raise _Unreadable(f"its pixels are damaged ({error})") from error
    if len(plain) != size_bytes:
        raise _Unreadable("its pixels end too early")
    return np.frombuffer(plain, np.uint8)


def _unfilter(filters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Undo the row filters (PNG specification, section 9): ``filters`` ``[H]``, ``rows`` ``[H,W,C]`` uint8 → pixels."""
    if filters.max() > _PAETH:
        raise _Unreadable(f"it uses the unknown filter {int(filters.max())}")
    if filters.max() > _UP:
        return _unfilter_diagonally(filters, rows)
    out = np.array(rows)
    for y, kind in enumerate(filters.tolist()):
        if kind == _SUB:
            np.cumsum(out[y], axis=0, dtype=np.uint8, out=out[y])
        elif kind == _UP and y:
            out[y] += out[y - 1]
    return out


def _unfilter_diagonally(filters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """As `_unfilter`, for Average and Paeth too, whose pixels depend on left, up and up-left: diagonal by diagonal.

    All pixels with the same ``x + y`` are computed at once.  Line ``d`` of the sheared image holds pixel ``(y, d - y)``
    at ``y``.
    """
    height, width, channels = rows.shape
    y, x = np.mgrid[0:height, 0:width]
    sheared = np.zeros((height + width - 1, height, channels), np.int16)
    sheared[x + y, y] = rows
    # out[d + 2, y + 1]: two lines and one column of zeros stand for what lies outside the image
    out = np.zeros((height + width + 1, height + 1, channels), np.int16)
    is_sub, is_up, is_average, is_paeth = (filters[:, None] == kind for kind in (_SUB, _UP, _AVERAGE, _PAETH))
    for d in range(height + width - 1):
        low, high = max(0, d - width + 1), min(height, d + 1)
        left = out[d + 1, low + 1 : high + 1]
        above = out[d + 1, low:high]
        corner = out[d, low:high]
        up, across = above - corner, left - corner  # Paeth's guess is left + up, or above + across
        to_left, to_above, to_corner = abs(up), abs(across), abs(up + across)
        predicted = np.where(to_above <= to_corner, above, corner)
        predicted = np.where((to_left <= to_above) & (to_left <= to_corner), left, predicted)
        predicted *= is_paeth[low:high]
        for chosen, value in ((is_sub, left), (is_up, above), (is_average, (left + above) >> 1)):
            np.copyto(predicted, value, where=chosen[low:high])
        out[d + 2, low + 1 : high + 1] = (sheared[d, low:high] + predicted) & 255
    return out[x + y + 2, y + 1].astype(np.uint8)


def _to_rgb(pixels: np.ndarray, colour: int, palette: np.ndarray | None) -> np.ndarray:
    if colour == 3:
        if palette is None or palette.size % 3 or pixels.max() >= palette.size // 3:
            raise _Unreadable("its palette does not cover its pixels")
        return palette.reshape(-1, 3)[pixels[..., 0]]
    return np.repeat(pixels[..., :1], 3, axis=2) if colour in (0, 4) else pixels[..., :3]


def _alpha(pixels: np.ndarray, colour: int, transparency: np.ndarray | None) -> np.ndarray | None:
    """[H,W] uint8, None where nothing says that anything is transparent."""
    if colour in (4, 6):
        return pixels[..., -1]
    if transparency is None:
        return None
    if colour == 3:  # alpha of the first colours of the palette
        of_index = np.full(256, 255, np.uint8)
        of_index[: transparency.size] = transparency[:256]
        return of_index[pixels[..., 0]]
    key = transparency[1::2]  # one colour, two bytes per channel
    if transparency.size != 2 * pixels.shape[2]:
        raise _Unreadable("its transparent colour does not have its channels")
    return np.where((pixels == key).all(axis=2), 0, 255).astype(np.uint8)
