# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays ⇄ bytes for the wire: C order, little-endian, lossless, never more bytes than the shape says.

Codecs: "raw" (the bytes), "zlib", "zstd" (only where `zstandard` is importable), and "delta-zlib", "delta-zstd": the
same after replacing every element by its difference (modulo 2^bits) from its left neighbour along the last axis but one
of ``[…, W, C]``.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence

import numpy as np

from ..errors import ProtocolError, SettingsError

try:
    import zstandard
except ImportError:  # Blender does not always bring it; zlib always works
    zstandard = None

DTYPES = ("uint8", "uint16", "int32", "float16", "float32", "bool")
"""numpy names of the element types that may travel."""

CODECS = ("zstd", "zlib", "raw", "delta-zstd", "delta-zlib") if zstandard else ("zlib", "raw", "delta-zlib")
"""Codecs that this side writes and reads."""

MAX_ARRAY_BYTES = 1 << 36
"""Largest array that is read, bytes."""

_ZSTD_LEVEL = 3
_ZLIB_LEVEL = 1
_DELTA_DTYPES = ("uint8", "uint16")


def blob_sha(blob: bytes | bytearray | memoryview) -> str:
    """The name of a blob: its SHA-256 in lower-case hex."""
    return hashlib.sha256(blob).hexdigest()


def encode_array(array: np.ndarray, codec: str | None = None) -> tuple[bytes, dict]:
    """``array`` as bytes, and what its reader must know: ``{"dtype", "shape", "codec"}``.

    ``codec`` None takes "zstd", or "zlib" where `zstandard` is missing.  Raises `SettingsError` for a dtype or codec
    that does not travel.
    """
    codec = codec or CODECS[0]
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise SettingsError(f"An array of {dtype} cannot be sent; convert it to one of {', '.join(DTYPES)}.")
    if codec not in CODECS:
        raise SettingsError(f"The codec {codec!r} cannot be written here; use one of {', '.join(CODECS)}.")
    shape = [int(n) for n in array.shape]
    delta, _, method = codec.rpartition("-")
    array = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    if delta:
        array = _delta(array, dtype)
    plain = memoryview(array.reshape(-1).view(np.uint8))
    if method == "zstd":
        blob = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
    elif method == "zlib":
        blob = zlib.compress(plain, _ZLIB_LEVEL)
    else:
        blob = bytes(plain)
    return blob, {"dtype": dtype, "shape": shape, "codec": codec}


def decode_array(blob: bytes | bytearray | memoryview, dtype: str, shape: Sequence[int], codec: str) -> np.ndarray:
    """The array in ``blob``, writable.  Never unpacks more than ``shape`` says; `ProtocolError` if it does not fit."""
    if dtype not in DTYPES:
        raise ProtocolError(f"The dtype {dtype!r} cannot be received; send one of {', '.join(DTYPES)}.", field="dtype")
    if codec not in CODECS:
        raise ProtocolError(f"The codec {codec!r} cannot be read here; send one of {', '.join(CODECS)}.", field="codec")
    if len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise ProtocolError(
            f"The shape {list(shape)!r} is not a list of at most 8 sizes; send the array's own shape.", field="shape"
        )
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    counted_bytes = math.prod(max(1, n) for n in shape) * np.dtype(dtype).itemsize  # as numpy bounds it
    if counted_bytes > MAX_ARRAY_BYTES:
        raise ProtocolError(
            f"The shape {list(shape)} of {dtype} has {counted_bytes} bytes; at most {MAX_ARRAY_BYTES} are read: send a "
            "smaller array.",
            field="shape",
        )
    delta, _, method = codec.rpartition("-")
    try:
        plain = _unpack(memoryview(blob).cast("B"), size_bytes, method)
    except MemoryError as error:
        raise ProtocolError(
            f"An array of {size_bytes} bytes does not fit this machine's memory; send a smaller one."
        ) from error
    if plain is None:
        raise ProtocolError(
            f"The blob does not hold the {size_bytes} bytes of {dtype} {list(shape)} in codec {codec!r}; "
            "send the array again."
        )
    if dtype == "bool" and plain.size and plain.max() > 1:
        raise ProtocolError("A bool array holds values other than 0 and 1; send the array again.", field="dtype")
    array = plain.view(np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype, copy=False)
    if delta:
        if dtype not in _DELTA_DTYPES or array.ndim < 2:
            raise ProtocolError(
                f"The codec {codec!r} is for uint8 and uint16 of 2 or more axes; send {method!r}.", field="codec"
            )
        np.cumsum(array, axis=-2, dtype=array.dtype, out=array)
    return array


def _delta(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype not in _DELTA_DTYPES or array.ndim < 2:
        raise SettingsError(
            f"A delta codec is for uint8 and uint16 of 2 or more axes, not {dtype} of {array.ndim}; use 'zlib'."
        )
    out = array.copy()
    out[..., 1:, :] -= array[..., :-1, :]
    return out


def _unpack(blob: memoryview, size_bytes: int, method: str) -> np.ndarray | None:
    """Exactly ``size_bytes`` of uint8 from ``blob``, or None when it holds fewer, more, or is damaged."""
    if method == "raw":
        return np.frombuffer(blob, np.uint8).copy() if blob.nbytes == size_bytes else None
    if method == "zlib":
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(blob, size_bytes + 1)
        except zlib.error:
            return None
        whole = len(plain) == size_bytes and stream.eof
        return np.frombuffer(bytearray(plain), np.uint8) if whole else None
    # zstandard ignores max_output_size where a blob names a size itself: read it as a stream into a buffer of our size
    plain, filled = np.empty(size_bytes, np.uint8), 0
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(bytes(blob))
        while filled < size_bytes:
            count = reader.readinto(memoryview(plain)[filled:])
            if not count:
                return None
            filled += count
        return plain if not reader.read(1) else None
    except zstandard.ZstdError:
        return None
