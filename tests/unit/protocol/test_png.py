# SPDX-License-Identifier: GPL-3.0-or-later
"""PNG without a library: known bytes, all filters against a plain reading of the specification, and damage."""

import struct
import zlib

import numpy as np
import pytest

from das_blender_addon.errors import FirstFrameError, ProtocolError, SettingsError
from das_blender_addon.protocol.png import (
    alpha_of_png,
    blob_sha,
    decode_png,
    decode_png_with_alpha,
    encode_png,
    has_transparency,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(width, height, colour, rows, *, depth=8, interlace=0, extra=b"", splits=1):
    """A PNG of already filtered ``rows`` (bytes), its pixels in ``splits`` IDAT chunks."""
    packed = zlib.compress(rows)
    size = -(-len(packed) // splits)
    return (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
        + extra
        + b"".join(chunk(b"IDAT", packed[i : i + size]) for i in range(0, len(packed), size))
        + chunk(b"IEND", b"")
    )


def filter_rows(pixels, filters):
    """PNG filtering byte by byte, as section 9.2 of the specification writes it: Filt(x) = Orig(x) - predictor."""
    height, width, channels = pixels.shape
    lines = pixels.reshape(height, -1).astype(int)
    out = b""
    for y, kind in enumerate(filters):
        line = []
        for i in range(width * channels):
            a = lines[y, i - channels] if i >= channels else 0
            b = lines[y - 1, i] if y else 0
            c = lines[y - 1, i - channels] if y and i >= channels else 0
            p = a + b - c
            distances = (abs(p - a), abs(p - b), abs(p - c))
            paeth = (a, b, c)[distances.index(min(distances))]
            line.append((lines[y, i] - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        out += bytes([kind, *line])
    return out


def picture(height=13, width=9, channels=3, seed=7):
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.integers(-3, 4, (height, width, channels)), axis=1) + 100
    return np.where(rng.random((height, width, 1)) < 0.2, rng.integers(0, 256, smooth.shape), smooth).astype(np.uint8)


BLENDER_FILE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000004000000030806000000b4f4aec600000036655849664d4d002a00000018000000480000000100"
    "000048000000010002011a00050000000100000008011b00050000000100000010000000009078efbc000000096f46467300000000000000"
    "0000da2ab6ce000000097048597300000b1200000b1201d2dd7efc0000003e49444154081d013300ccff00c94851ffa6b2defff00013fff1"
    "4c23ff01b1bc08ffc2a8db00f80ac700c14e1700041e592500bbb8fb00dc4bab00950cee00adbc1810decc5e180000000049454e44ae426082"
)
BLENDER_PIXELS = [
    [[201, 72, 81], [166, 178, 222], [240, 0, 19], [241, 76, 35]],
    [[177, 188, 8], [115, 100, 227], [107, 110, 170], [44, 188, 193]],
    [[207, 21, 45], [46, 205, 222], [10, 24, 85], [159, 122, 67]],
]
PILLOW_FILE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000040000000308020000003b963991000000154944415478da63646588129163872026380b9d"
    "03003a6e02d80d9aa4f30000000049454e44ae426082"
)
PILLOW_PIXELS = [[[5 + 20 * (x + y), 30 * (x + y), 90 + 7 * (x + y)] for x in range(4)] for y in range(3)]


@pytest.mark.parametrize(
    ("data", "pixels"), [(BLENDER_FILE, BLENDER_PIXELS), (PILLOW_FILE, PILLOW_PIXELS)], ids=["blender", "pillow"]
)
def test_known_file_of_another_writer_is_read(data, pixels):
    assert decode_png(data).tolist() == pixels


def test_written_file_has_the_bytes_of_the_specification():
    data = encode_png(np.array([[[10, 20, 30], [11, 22, 33]], [[10, 20, 30], [11, 22, 33]]], np.uint8))
    assert data[:33] == SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    assert data[-12:] == chunk(b"IEND", b"")
    (length,) = struct.unpack(">I", data[33:37])
    assert data[37:41] == b"IDAT" and len(data) == 33 + 12 + length + 12
    # the first row as differences from the left, the second from above
    assert zlib.decompress(data[41 : 41 + length]) == bytes([1, 10, 20, 30, 1, 2, 3, 2, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 5), (64, 96)], ids=str)
def test_image_with_alpha_comes_back_equal(size):
    frame = picture(*size, channels=4)
    frame[0, 0, 3] = 0
    data = encode_png(frame)
    assert np.array_equal(decode_png_with_alpha(data), frame) and has_transparency(data)
    assert encode_png(frame.copy()) == data
    black = (frame[..., :3] * frame[..., 3:].astype(int) + 127) // 255
    assert np.array_equal(decode_png(data), black)


def test_opaque_alpha_is_no_channel():
    frame = picture(5, 6)
    opaque = np.concatenate([frame, np.full((5, 6, 1), 255, np.uint8)], axis=2)
    for data in (encode_png(opaque), encode_png(frame)):
        again = decode_png_with_alpha(data)
        assert again.flags.c_contiguous and np.array_equal(again, frame)


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (png_file(2, 1, 4, bytes([0, 9, 128, 8, 255])), [[[9, 9, 9, 128], [8, 8, 8, 255]]]),
        (png_file(2, 1, 0, bytes([0, 7, 9]), extra=chunk(b"tRNS", bytes([0, 7]))), [[[7, 7, 7, 0], [9, 9, 9, 255]]]),
        (
            png_file(2, 1, 3, bytes([0, 0, 1]), extra=chunk(b"PLTE", bytes([2, 1, 5, 4, 5, 6])) + chunk(b"tRNS", b"@")),
            [[[2, 1, 5, 64], [4, 5, 6, 255]]],
        ),
    ],
    ids=["grey", "colour key", "palette"],
)
def test_alpha_of_every_kind_of_image_stays_straight(data, pixels):
    assert decode_png_with_alpha(data).tolist() == pixels


def test_damaged_image_with_alpha_is_the_error_that_was_asked_for():
    with pytest.raises(FirstFrameError, match="The sky cannot be read"):
        decode_png_with_alpha(encode_png(picture(3, 3, 4))[:-20], name="The sky", error=FirstFrameError)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 5), (64, 96)], ids=str)
def test_image_comes_back_equal(size):
    frame = picture(*size)
    data = encode_png(frame)
    assert np.array_equal(decode_png(data), frame)
    assert encode_png(frame.copy()) == data and len(blob_sha(data)) == 64


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (64, 48)])
def test_photographic_image_comes_back_equal_and_packed(size):
    rng = np.random.default_rng(3)
    slope = np.add.outer(np.arange(size[1]), np.arange(size[0]))[..., None] * 2 + rng.integers(0, 3, (*size[::-1], 3))
    picture = slope.astype(np.uint8)

    packed = encode_png(picture, photographic=True)

    np.testing.assert_array_equal(decode_png(packed), picture)
    assert packed == encode_png(picture, photographic=True)
    if picture.size > 1000:
        assert len(packed) < 0.5 * picture.size and packed != encode_png(picture)


def test_alpha_comes_back_equal():
    alpha = np.arange(40, dtype=np.uint8).reshape(5, 8)[..., None] * 6
    data = encode_png(np.concatenate((picture(5, 8), alpha), axis=2))
    assert np.array_equal(alpha_of_png(data), alpha[..., 0]) and has_transparency(data)
    assert alpha_of_png(encode_png(picture(5, 8))) is None
    with pytest.raises(ProtocolError, match="cannot be read"):
        alpha_of_png(data[:60])


def test_view_that_is_not_contiguous_comes_back_equal():
    frame = picture(20, 30)[::-1, ::3]
    assert np.array_equal(decode_png(encode_png(frame)), frame)


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 1, 2], [4, 3, 2, 1, 0, 4, 4, 3]], ids=str)
def test_every_filter_is_undone(kinds, colour, channels):
    pixels = picture(13, 9, channels)
    if channels in (2, 4):
        pixels[..., -1] = 255
    filters = [kinds[y % len(kinds)] for y in range(13)]
    again = decode_png(png_file(9, 13, colour, filter_rows(pixels, filters), splits=3))
    assert np.array_equal(again, np.repeat(pixels[..., :1], 3, -1) if channels < 3 else pixels[..., :3])


def test_average_filter_does_not_overflow():
    pixels = np.full((3, 3, 3), 255, np.uint8)
    assert np.array_equal(decode_png(png_file(3, 3, 2, filter_rows(pixels, [3, 3, 3]))), pixels)


def test_alpha_is_laid_over_black():
    rows = bytes([0, 200, 100, 50, 0, 200, 100, 50, 128, 200, 100, 50, 255])
    assert decode_png(png_file(3, 1, 6, rows)).tolist() == [[[0, 0, 0], [100, 50, 25], [200, 100, 50]]]


def test_palette_is_looked_up():
    data = png_file(3, 1, 3, bytes([0, 1, 0, 1]), extra=chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])))
    assert decode_png(data).tolist() == [[[4, 5, 6], [1, 2, 3], [4, 5, 6]]]


def test_transparent_colours_of_a_palette_lie_over_black():
    extra = chunk(b"PLTE", bytes([200, 100, 50, 4, 5, 6])) + chunk(b"tRNS", bytes([128]))
    data = png_file(2, 1, 3, bytes([0, 0, 1]), extra=extra)
    assert decode_png(data).tolist() == [[[100, 50, 25], [4, 5, 6]]] and has_transparency(data)


@pytest.mark.parametrize(("colour", "key"), [(0, bytes([0, 7])), (2, bytes([0, 7, 0, 7, 0, 7]))])
def test_colour_that_stands_for_transparency_is_black(colour, key):
    channels = 1 if colour == 0 else 3
    rows = bytes([0, *[7] * channels, *[9] * channels])
    data = png_file(2, 1, colour, rows, extra=chunk(b"tRNS", key))
    assert decode_png(data).tolist() == [[[0, 0, 0], [9, 9, 9]]] and has_transparency(data)
    with pytest.raises(ProtocolError, match="transparent colour"):
        decode_png(png_file(2, 1, colour, rows, extra=chunk(b"tRNS", b"\0")))


@pytest.mark.parametrize(
    ("data", "is_transparent"),
    [
        (png_file(1, 1, 6, bytes([0, 1, 2, 3, 254])), True),
        (png_file(1, 1, 6, bytes([0, 1, 2, 3, 255])), False),
        (png_file(1, 1, 4, bytes([0, 1, 0])), True),
        (png_file(1, 1, 2, bytes([0, 1, 2, 3])), False),
    ],
)
def test_transparency_is_what_some_pixel_has(data, is_transparent):
    assert has_transparency(data) == is_transparent


def test_unimportant_chunks_are_skipped():
    assert decode_png(png_file(1, 1, 0, b"\x00\x07", extra=chunk(b"tEXt", b"a\0b"))).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 JFIF", "not a PNG"),
        (SIGNATURE, "ends too early"),
        (SIGNATURE + chunk(b"IEND", b""), "does not begin with a PNG header"),
        (png_file(1, 1, 2, bytes(7), depth=16), "16 bits per channel"),
        (png_file(8, 1, 0, bytes(2), depth=1), "1 bits per channel"),
        (png_file(1, 1, 5, bytes(4)), "colour type 5"),
        (png_file(1, 1, 2, bytes(4), interlace=1), "interlaced"),
        (png_file(0, 1, 2, b""), "size 0×1"),
        (png_file(1 << 20, 1 << 20, 2, b""), "is not between"),
        (png_file(2, 2, 2, bytes(13)), "pixels end too early"),
        (png_file(1, 1, 2, b"\x05\x00\x00\x00"), "unknown filter 5"),
        (png_file(1, 1, 3, b"\x00\x02", extra=chunk(b"PLTE", bytes(6))), "palette"),
        (png_file(1, 1, 3, b"\x00\x00"), "palette"),
        (png_file(1, 1, 0, b"\x00\x07", extra=chunk(b"ABCD", b"")), "unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_image_that_cannot_be_read_is_refused_in_a_sentence(data, words):
    with pytest.raises(ProtocolError, match=words) as caught:
        decode_png(data)
    assert caught.value.message.startswith("The image cannot be read: ")
    with pytest.raises(
        FirstFrameError, match=r"^The first frame a\.png cannot be read: .*save it as an 8-bit RGB PNG\.$"
    ):
        decode_png(data, name="The first frame a.png", error=FirstFrameError)


def test_every_truncation_and_every_flipped_bit_is_noticed():
    data = encode_png(picture(6, 5))
    for cut in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_png(data[:cut])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(ProtocolError):
            decode_png(bytes(damaged))


def test_bomb_is_not_unpacked_beyond_the_size():
    assert decode_png(png_file(2, 1, 2, bytes(1 << 24))).tolist() == [[[0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((0, 2, 3), "u1"),
        np.zeros((2, 0, 4), "u1"),
    ],
    ids=lambda frame: f"{frame.shape} {frame.dtype}",
)
def test_array_that_is_no_frame_is_refused(frame):
    with pytest.raises(SettingsError, match=r"made of \[H,W,1\], \[H,W,3\] or \[H,W,4\] uint8"):
        encode_png(frame)
