# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth out of OpenEXR files that hold more than a picture, written here byte by byte as the format's document says."""

import struct
import zlib

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.footage.exr import depth_of_exr

WIDTH, HEIGHT = 13, 37
DEPTH = np.random.default_rng(3).uniform(1.0, 90.0, (HEIGHT, WIDTH))
CODES = {"none": 0, "RLE": 1, "ZIPS": 2, "ZIP": 3, "PIZ": 4}
TYPES = {np.uint32: 0, np.float16: 1, np.float32: 2}


def exr(parts, *, compression="ZIP", display=None, flags=0) -> bytes:
    """``parts``: (name or "", channel → [H,W]) of one file; the window of the pixels begins at (2, 3)."""
    has_parts = len(parts) > 1
    head = b"\x76\x2f\x31\x01" + struct.pack("<I", 2 | flags | (0x1000 if has_parts else 0))
    blocks, counts = [], []
    for number, (name, channels) in enumerate(parts):
        head += header(name, channels, CODES[compression], display)
        made = list(blocks_of(channels, compression))
        counts.append(len(made))
        blocks += [struct.pack("<I", number) * has_parts + one for one in made]
    head += b"\0" * has_parts
    at, table = len(head) + 8 * len(blocks), b""
    for block in blocks:
        table += struct.pack("<Q", at)
        at += len(block)
    return head + table + b"".join(blocks)


def header(name: str, channels: dict, code: int, display) -> bytes:
    height, width = next(iter(channels.values())).shape
    listed = b"".join(
        key.encode() + b"\0" + struct.pack("<IIII", TYPES[plane.dtype.type], 0, 1, 1)
        for key, plane in sorted(channels.items())
    )
    window = (2, 3, 2 + width - 1, 3 + height - 1)
    values = {
        "channels": ("chlist", listed + b"\0"),
        "compression": ("compression", bytes([code])),
        "dataWindow": ("box2i", struct.pack("<4i", *window)),
        "displayWindow": ("box2i", struct.pack("<4i", *(display or window))),
    }
    if name:
        values |= {"name": ("string", name.encode()), "chunkCount": ("int", struct.pack("<i", 0))}
    made = b""
    for key, (kind, value) in values.items():
        made += key.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
    return made + b"\0"


def blocks_of(channels: dict, compression: str):
    height = len(next(iter(channels.values())))
    step = 16 if compression == "ZIP" else 1
    for top in range(0, height, step):
        rows = range(top, min(top + step, height))
        raw = b"".join(plane[row].tobytes() for row in rows for _, plane in sorted(channels.items()))
        packed = raw if compression in ("none", "PIZ") else folded(raw)
        if compression == "RLE":
            packed = runs(packed)
        elif compression != "none" and compression != "PIZ":
            packed = zlib.compress(packed)
        packed = raw if len(packed) >= len(raw) else packed
        yield struct.pack("<iI", top + 3, len(packed)) + packed


def folded(raw: bytes) -> bytes:
    values = np.frombuffer(raw, np.uint8)
    apart = np.concatenate([values[0::2], values[1::2]]).astype(int)
    return bytes([int(apart[0])]) + bytes(((np.diff(apart) + 128) % 256).tolist())


def runs(values: bytes) -> bytes:
    out, at = b"", 0
    while at < len(values):
        same = at
        while same < min(len(values), at + 120) and values[same] == values[at]:
            same += 1
        if same - at > 2:
            out, at = out + struct.pack("<b", same - at - 1) + values[at : at + 1], same
        else:
            out, at = out + struct.pack("<b", -1) + values[at : at + 1], at + 1
    return out


def plane(kind=np.float32, factor: float = 1.0) -> np.ndarray:
    return (factor * DEPTH).astype(kind)


COLOURS = {key: plane(np.float16, 0.01) for key in "RGBA"}


@pytest.mark.parametrize("compression", ["none", "RLE", "ZIPS", "ZIP"])
@pytest.mark.parametrize(
    ("parts", "exact"),
    [
        ([("", {**COLOURS, "Z": plane()})], np.float32),
        ([("", {"Vista.Combined.R": plane(np.float16, 0.1), "Vista.Depth.Z": plane()})], np.float32),
        ([("", {"beauty.R": plane(np.float16, 0.1), "depth.V": plane(np.float16)})], np.float16),
        ([("", {"beauty.R": plane(np.float16, 0.1), "depth.Z": plane(np.uint32)})], np.uint32),
        ([("", {"Vista.Höhe": plane()})], np.float32),
        ([("Vista.Combined", COLOURS), ("Vista.Depth", {"Z": plane()})], np.float32),
        (
            [("", {**COLOURS, "normal.X": plane(), "normal.Z": plane(), "normal.Y": plane(), "depth": plane()})],
            np.float32,
        ),
    ],
)
def test_depth_is_the_channel_of_that_name_to_the_bit(parts, exact, compression):
    found = depth_of_exr(exr(parts, compression=compression), "The depth file x.exr")
    np.testing.assert_array_equal(found, plane(exact))
    flat = [(name, {key: np.full_like(one, 7) for key, one in channels.items()}) for name, channels in parts]
    assert (depth_of_exr(exr(flat, compression=compression), "x") == 7.0).all()


def test_picture_without_more_is_left_to_whoever_reads_pictures():
    assert depth_of_exr(exr([("", COLOURS)]), "x") is None
    assert depth_of_exr(exr([("", {"Y": plane()})], compression="PIZ"), "x") is None


@pytest.mark.parametrize("display", [(0, 0, 19, 49), (4, 9, 10, 20), (-3, 5, 9, 60)])
def test_pixels_lie_in_the_picture_where_their_window_says(display):
    found = depth_of_exr(exr([("", {**COLOURS, "Z": plane()})], display=display), "x")
    whole = np.zeros((200, 200))
    whole[50 + 3 : 50 + 3 + HEIGHT, 50 + 2 : 50 + 2 + WIDTH] = plane()
    left, top, right, bottom = (50 + side for side in display)
    np.testing.assert_array_equal(found, whole[top : bottom + 1, left : right + 1])


LAYERS = {**COLOURS, "Z": plane()}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (exr([("", {"A.Depth.Z": plane(), "B.Depth.Z": plane()})]), "2 depths (A.Depth.Z, B.Depth.Z)"),
        (exr([("", {"beauty.R": plane(), "normal.Z": plane()})]), "no channel that is called Z or depth"),
        (exr([("", LAYERS)], compression="PIZ"), "has PIZ compression"),
        (exr([("", LAYERS)], flags=0x200), "is made of tiles"),
        (exr([("", LAYERS)], flags=0x800), "is a deep one"),
        (exr([("", LAYERS)])[:-200], "damaged or not whole"),
        (exr([("", LAYERS)])[:90], "damaged or not whole"),
        (exr([("", LAYERS)], display=(0, 0, 1 << 20, 1 << 20)), "another size than its picture's"),
        (b"\x89PNG and no more", "no OpenEXR file"),
    ],
)
def test_what_is_not_read_is_said_in_one_sentence(data, words):
    with pytest.raises(SettingsError, match="The depth file x.exr") as caught:
        depth_of_exr(data, "The depth file x.exr")
    assert words in caught.value.message and caught.value.field == "depth"


def test_damaged_files_end_in_a_sentence():
    whole = exr([("", LAYERS)])
    random = np.random.default_rng(7)
    for _ in range(300):
        broken = bytearray(whole)
        for place in random.integers(4, len(whole), 3):
            broken[place] = random.integers(0, 256)
        try:
            depth_of_exr(bytes(broken), "x")
        except SettingsError:
            continue
