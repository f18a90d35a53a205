# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays on the wire: lossless there and back, and never more bytes than the shape says."""

import tracemalloc
import zlib

import numpy as np
import pytest

from das_blender_addon.errors import ProtocolError, SettingsError
from das_blender_addon.protocol import frames

DELTA_CODECS = [codec for codec in frames.CODECS if codec.startswith("delta-")]
"""Half a step of the fixed-point positions, plus float32 rounding."""


def ramp(dtype, shape=(3, 5, 7, 2)):
    values = np.random.default_rng(4).integers(0, 2 if dtype == "bool" else 200, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("codec", frames.CODECS)
@pytest.mark.parametrize("dtype", frames.DTYPES)
def test_array_comes_back_equal(dtype, codec):
    if codec in DELTA_CODECS and dtype not in ("uint8", "uint16"):
        with pytest.raises(SettingsError, match="delta codec"):
            frames.encode_array(ramp(dtype), codec)
        return
    array = ramp(dtype)
    blob, description = frames.encode_array(array, codec)
    assert description == {"dtype": dtype, "shape": [3, 5, 7, 2], "codec": codec}
    again = frames.decode_array(blob, **description)
    assert again.dtype == array.dtype and again.flags.writeable and np.array_equal(again, array)


@pytest.mark.parametrize("codec", frames.CODECS)
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (2, 0, 3), (1, 300)], ids=str)
def test_odd_shapes_come_back_equal(shape, codec):
    array = ramp("uint16", shape)
    again = frames.decode_array(*(lambda blob, d: (blob, *d.values()))(*frames.encode_array(array, codec)))
    assert again.shape == shape and np.array_equal(again, array)


def test_array_that_is_not_contiguous_comes_back_equal():
    array = ramp("uint8")[:, ::-1, ::2].transpose(2, 0, 1, 3)
    blob, description = frames.encode_array(array)
    assert np.array_equal(frames.decode_array(blob, **description), array)


def test_big_endian_array_travels_little_endian():
    blob, description = frames.encode_array(np.array([1, 2], ">u2"), "raw")
    assert blob == b"\x01\x00\x02\x00" and description["dtype"] == "uint16"


def test_zlib_is_always_there_and_zstd_where_it_is_importable():
    assert {"zlib", "raw", "delta-zlib"} <= set(frames.CODECS)
    assert ("zstd" in frames.CODECS) == (frames.zstandard is not None)


@pytest.mark.parametrize("codec", frames.CODECS)
def test_truncated_or_longer_blob_is_refused(codec):
    blob, description = frames.encode_array(ramp("uint8"), codec)
    for cut in range(len(blob)):
        with pytest.raises(ProtocolError, match="does not hold the 210 bytes"):
            frames.decode_array(blob[:cut], **description)
    for shape in ([3, 5, 7, 1], [3, 5, 7, 3], [210], [2, 105]):
        if np.prod(shape) != 210:
            with pytest.raises(ProtocolError, match="send the array again"):
                frames.decode_array(blob, "uint8", shape, codec)


@pytest.mark.parametrize("codec", frames.CODECS)
def test_random_bytes_are_refused(codec):
    rng = np.random.default_rng(5)
    for size in range(1, 200):
        with pytest.raises(ProtocolError):
            frames.decode_array(rng.bytes(size), "uint8", [1000], codec)


@pytest.mark.parametrize("codec", [codec for codec in frames.CODECS if codec != "raw"])
def test_bomb_is_not_unpacked_beyond_the_shape(codec):
    bomb, _ = frames.encode_array(np.zeros((1 << 13, 1 << 13), np.uint8), codec)  # 64 MiB of zeros
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="does not hold the 1000 bytes"):
            frames.decode_array(bomb, "uint8", [10, 100], codec)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("object", [1], "raw"), "dtype 'object'"),
        (("float64", [1], "raw"), "dtype 'float64'"),
        (("uint8", [1], "pickle"), "codec 'pickle'"),
        (("uint8", [-1], "raw"), "shape"),
        (("uint8", [1.0], "raw"), "shape"),
        (("uint8", [True], "raw"), "shape"),
        (("uint8", [1] * 9, "raw"), "shape"),
        (("uint8", [1 << 30], "raw"), "does not hold"),
        *((("uint8", [1 << 40, 1 << 40], codec), "at most 68719476736 are read") for codec in frames.CODECS),
        (("bool", [0, 1, 10, 1 << 63], "raw"), "at most 68719476736 are read"),
        (("float32", [1 << 50], "zlib"), "at most 68719476736 are read"),
    ],
    ids=str,
)
def test_description_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ProtocolError, match=words):
        frames.decode_array(zlib.compress(b"x") if arguments[2] == "zlib" else b"x", *arguments)


def test_bool_array_with_other_values_is_refused():
    with pytest.raises(ProtocolError, match="other than 0 and 1"):
        frames.decode_array(b"\x00\x02", "bool", [2], "raw")


def test_dtype_or_codec_that_does_not_travel_is_refused():
    with pytest.raises(SettingsError, match="float64"):
        frames.encode_array(np.zeros(3))
    with pytest.raises(SettingsError, match="object"):
        frames.encode_array(np.array([object()]))
    with pytest.raises(SettingsError, match="'lzma'"):
        frames.encode_array(np.zeros(3, np.uint8), "lzma")


def test_delta_makes_smooth_positions_smaller():
    y, x = np.mgrid[0:64, 0:96]
    smooth = np.stack([64 * x + 19, 64 * y + 45], -1)[None].astype(np.uint16)
    assert len(frames.encode_array(smooth, "delta-zlib")[0]) < 0.5 * len(frames.encode_array(smooth, "zlib")[0])


def test_blob_sha_is_sha256():
    assert frames.blob_sha(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert frames.blob_sha(memoryview(b"abc")) == frames.blob_sha(bytearray(b"abc"))
