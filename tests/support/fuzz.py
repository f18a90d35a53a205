# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger's bytes may do to the decoders: give a value or an error of the tree, nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

from das_blender_addon.errors import DasError
from das_blender_addon.protocol.codec import decode, encode, request_of
from das_blender_addon.protocol.frames import CODECS, DTYPES, decode_array, encode_array
from das_blender_addon.protocol.pairing import read_pairing
from das_blender_addon.protocol.png import alpha_of_png, decode_grey16, decode_png, decode_png_with_alpha, encode_png

READERS = (decode_png, decode_png_with_alpha, decode_grey16, alpha_of_png)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def fuzz_one(data: bytes) -> None:
    """One execution: the first byte says which decoder has the others.  Raises what no decoder may raise."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def _message(data: bytes) -> None:
    """A message that is understood can be written, and is the same afterwards."""
    size = data[0] if data else 0
    for frames in ([data], [data[1 : 1 + size], data[1 + size :]]):
        request_of(frames)
        try:
            message, blob = decode(frames)
        except DasError:
            continue
        again, blob_again = decode(encode(message, blob))
        assert again == message and blob_again == blob


def _image(data: bytes) -> None:
    _read_image(data[1:], data[0] if data else 0)


def _image_with_sums(data: bytes) -> None:
    """An image whose checksums and packing are right, so that what is behind them is reached."""
    if len(data) < 6:
        return
    width, height, colour, bits, reader, split = data[0] % 17, data[1] % 17, data[2] % 8, data[3], data[4], data[5]
    header = struct.pack(">IIBBBBB", width, height, 16 if bits & 1 else 8, colour, 0, 0, bits >> 7)
    side, rows = data[6 : 6 + split], data[6 + split :]
    chunks = [(b"IHDR", header), (b"PLTE", side), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    chunks[2:2] = [(b"tRNS", side[: split // 2])] if bits & 2 else []
    _read_image(SIGNATURE + b"".join(_chunk(*one) for one in chunks), reader)


def _read_image(data: bytes, reader: int) -> None:
    try:
        pixels = READERS[reader % len(READERS)](data)
    except DasError:
        return
    assert pixels is None or pixels.dtype in (np.uint8, np.uint16)


def _array(data: bytes) -> None:
    if len(data) < 6:
        return
    codec, dtype = (*CODECS, "")[data[0] % (len(CODECS) + 1)], (*DTYPES, "U9")[data[1] % (len(DTYPES) + 1)]
    shape, content = [*data[3 : 3 + data[2] % 4]], data[6:]
    if data[2] & 8:
        shape.append(1 << (data[2] & 63))
    if data[2] & 64 and "zlib" in codec:
        content = zlib.compress(content, 1)
    try:
        array = decode_array(content, dtype, shape, codec)
    except DasError:
        return
    assert array.dtype == np.dtype(dtype) and list(array.shape) == shape
    if "delta" in codec or dtype not in ("float16", "float32", "float64"):
        assert np.array_equal(decode_array(*_sent(array, codec)), array)


def _sent(array: np.ndarray, codec: str) -> tuple:
    blob, about = encode_array(array, codec)
    return blob, about["dtype"], about["shape"], about["codec"]


def _pairing(data: bytes) -> None:
    try:
        read = read_pairing(data.decode(errors="replace"))
    except DasError:
        return
    assert read_pairing(read.line) == read


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


TARGETS: tuple[Callable[[bytes], None], ...] = (_message, _image, _image_with_sums, _array, _pairing)


def seeds() -> list[bytes]:
    """Inputs that are well formed, to begin with."""
    from tests.support.messages import EXAMPLES

    found = []
    for message in EXAMPLES:
        frames = encode(message)
        found += [b"\0" + bytes(frames[0])] if len(frames) == 1 else [b"\0" + bytes([len(frames[0])]) + frames[0]]
    frame = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    found += [bytes([1, reader]) + encode_png(frame) for reader in range(len(READERS))]
    found += [bytes([2, 4, 5, colour, 0, 0, 9]) + bytes(range(9)) + bytes(80) for colour in (0, 2, 3, 4, 6)]
    for number, codec in enumerate(CODECS):
        blob, _ = encode_array(frame[..., 0], codec)
        found.append(bytes([3, number, DTYPES.index("uint8"), 2, 5, 4, 0]) + blob)
    return [*found, b"\4das-pair:gpu:5599:" + b"0" * 64 + b":" + b"1" * 64]
