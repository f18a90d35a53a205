# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides how a first frame looks and lies in files and arrays, as short digests: states of files, packed files,
strokes that no file has, attributes of meshes and hair.
"""

from __future__ import annotations

import hashlib
import os

import bpy
import numpy as np

SAMPLED_BYTES = 4 << 20
"""Packed files up to this size are read whole, of larger ones evenly spaced pieces."""
_ATTRIBUTES = {
    # data type of an attribute: (its property, numpy type, numbers for each element)
    "FLOAT": ("value", np.float32, 1),
    "INT": ("value", np.int32, 1),
    "BOOLEAN": ("value", np.bool_, 1),
    "FLOAT_VECTOR": ("vector", np.float32, 3),
    "FLOAT2": ("vector", np.float32, 2),
    "FLOAT_COLOR": ("color", np.float32, 4),
    "BYTE_COLOR": ("color", np.float32, 4),
    "QUATERNION": ("value", np.float32, 4),
    "INT8": ("value", np.int32, 1),
    "INT16_2D": ("value", np.int32, 2),
    "INT32_2D": ("value", np.int32, 2),
}


def file_state(path: str, item) -> tuple:
    """Name, size and time of a file; its folder does not count, which machines of a farm may call differently."""
    try:
        status = os.stat(bpy.path.abspath(path, library=item.library if item is not None else None))
        return os.path.basename(path), status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return (os.path.basename(path),)


def image_files(image, *, with_strokes: bool) -> list:
    """What an image's pixels come from, besides the path that its properties name; ``with_strokes``: those that were
    never saved, too.
    """
    packed = [one.packed_file for one in image.original.packed_files]
    found: list = [(one.size, _sampled_sha(one.data)) for one in packed if one is not None]
    if image.source == "TILED":
        numbers = [tile.number for tile in image.tiles]
        found += [(number, file_state(image.filepath.replace("<UDIM>", str(number)), image)) for number in numbers]
    if with_strokes and image.original.is_dirty and image.original.has_data:
        found.append(_strokes(image.original))
    return found


def _strokes(image) -> str:
    """A digest of pixels that no file has yet."""
    pixels = np.empty(image.size[0] * image.size[1] * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    return _sampled_sha(pixels.tobytes())


def _sampled_sha(content: bytes) -> str:
    if len(content) <= SAMPLED_BYTES:
        return hashlib.sha256(content).hexdigest()
    step, piece = len(content) // 64, SAMPLED_BYTES // 64
    digest = hashlib.sha256(content[-piece:])
    for start in range(0, len(content), step):
        digest.update(content[start : start + piece])
    return digest.hexdigest()


def attributes(data, *, with_positions: bool = False) -> str:
    """A digest of the attributes that a material may read; geometry itself is read elsewhere."""
    digest = hashlib.blake2b(digest_size=16)
    for attribute in sorted(data.attributes, key=lambda one: one.name):
        known = _ATTRIBUTES.get(attribute.data_type)
        if known is None or attribute.name.startswith(".") or (attribute.name == "position" and not with_positions):
            continue
        name, dtype, width = known
        values = np.empty(len(attribute.data) * width, dtype)
        attribute.data.foreach_get(name, values)
        digest.update(f"{attribute.name} {attribute.domain} {attribute.data_type}".encode())
        digest.update(values)
    return digest.hexdigest()
