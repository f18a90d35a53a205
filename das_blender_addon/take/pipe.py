# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages between a process and its helpers, over pipes: plain values, arrays, and what a shot is made of; nothing
that is read can do more than be one of these.  No Blender in here.

A message is JSON, and after it the bytes of its arrays.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..protocol.messages import ModelCapability, SizeRange
from ..shot.plan import ShotPlan
from ..shot.windows import Window
from ..tracking.changes import Changes, FiledArrays
from ..tracking.cut_outs import AlphaPicture, CutOuts
from ..tracking.framing import Framing
from ..tracking.geometry import CameraPath, GeometrySequence, Note
from ..tracking.light import Casters, Light
from ..tracking.spool import Blocks, SpooledVertices
from .detail import KeyPicture

LENGTH_BYTES = 8
_RECORDS = {
    kind.__name__: kind
    for kind in (
        AlphaPicture, Blocks, CameraPath, Casters, Changes, CutOuts, Framing, GeometrySequence, KeyPicture, Light,
        ModelCapability, Note, ShotPlan, SizeRange, Window,
    )
}  # fmt: skip
_FILED = {kind.__name__: kind for kind in (FiledArrays, SpooledVertices)}


def send(stream: BinaryIO, message: Any) -> None:
    """Write ``message``.  Raises TypeError for what cannot be sent, OSError, ValueError where the stream is closed."""
    buffers: list[Any] = []
    said = _apart(message, buffers)
    head = json.dumps([said, [len(buffer) for buffer in buffers]]).encode()
    stream.write(len(head).to_bytes(LENGTH_BYTES, "little"))
    stream.write(head)
    for buffer in buffers:
        stream.write(buffer)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """The next message.  Raises EOFError at the end, OSError, and what is raised by what is no message."""
    head, sizes = json.loads(_read(stream, int.from_bytes(_read(stream, LENGTH_BYTES), "little")))
    return _together(head, [_read(stream, size) for size in sizes])


def _read(stream: BinaryIO, size: int) -> bytearray:
    found = bytearray(size)
    view, done = memoryview(found), 0
    while done < size:
        count = stream.readinto(view[done:])
        if not count:
            raise EOFError
        done += count
    return found


def _apart(value: Any, buffers: list[Any]) -> Any:
    """``value`` for JSON: what JSON has as it is, the rest as a list that begins with its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        buffers.append(value.tobytes() if value.size == 0 else memoryview(np.ascontiguousarray(value)).cast("B"))
        return ["array", value.dtype.str, list(value.shape), len(buffers) - 1]
    if isinstance(value, bytes | bytearray | memoryview):
        buffers.append(value)
        return ["bytes", len(buffers) - 1]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, tuple | list):
        return ["tuple" if isinstance(value, tuple) else "list", *(_apart(part, buffers) for part in value)]
    name = type(value).__name__
    if _RECORDS.get(name) is type(value):
        return ["record", name, {one.name: _apart(getattr(value, one.name), buffers) for one in fields(value)}]
    if _FILED.get(name) is type(value):
        return ["filed", name, *(_apart(part, buffers) for part in value.parts)]
    raise TypeError(f"{type(value).__name__!r} cannot be sent")


def _together(said: Any, buffers: list[bytearray]) -> Any:
    if not isinstance(said, list):
        return said
    kind, *parts = said
    if kind == "array":
        dtype, shape, number = parts
        return np.frombuffer(buffers[number], np.dtype(dtype)).reshape(shape)
    if kind == "bytes":
        return bytes(buffers[parts[0]])
    if kind == "path":
        return Path(parts[0])
    if kind in ("tuple", "list"):
        whole = [_together(part, buffers) for part in parts]
        return tuple(whole) if kind == "tuple" else whole
    name, *parts = parts
    if kind == "record":
        return _RECORDS[name](**{field: _together(part, buffers) for field, part in parts[0].items()})
    if kind == "filed":
        return _FILED[name](*(_together(part, buffers) for part in parts))
    raise ValueError(f"there is no kind {kind!r}")
