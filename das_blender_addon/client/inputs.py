# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job is made of, and the blobs in which it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SettingsError
from ..protocol import frames
from ..protocol.messages import Capabilities, JobInput, JobSpec


@dataclass(frozen=True)
class JobRequest:
    """A job's settings and inputs, all of ``T = spec.num_frames`` frames at ``spec.width`` × ``spec.height``.

    ``tracking_video`` ``[T,H,W,3]`` uint8.  ``first_frame_png``: the bytes of a PNG.  ``carried_video`` ``[T,H,W,3]``
    uint8: what key pictures show of every frame; sent only to models that read it.  ``carried_holes`` ``[T,H,W]``
    uint8: 255 where that is nothing.  ``references`` ``[K,H,W,3]`` uint8: key pictures of other frames.  These, too.
    """

    spec: JobSpec
    tracking_video: np.ndarray
    first_frame_png: bytes
    carried_video: np.ndarray | None = None
    carried_holes: np.ndarray | None = None
    references: np.ndarray | None = None


def job_inputs(request: JobRequest, capabilities: Capabilities) -> tuple[dict[str, bytes], list[JobInput]]:
    """The blobs of ``request`` by sha, in codecs that the server reads, and their descriptions."""
    spec = request.spec
    _check_shape("tracking video", request.tracking_video, (spec.num_frames, spec.height, spec.width, 3), np.uint8)
    model = next((model for model in capabilities.models if model.name == spec.model), None)
    blobs: dict[str, bytes] = {}
    inputs: list[JobInput] = []

    def add(role: str, blob: bytes, media: str, **array: Any) -> None:
        sha = frames.blob_sha(blob)
        blobs[sha] = blob
        inputs.append(JobInput(role, sha, len(blob), media, **array))

    def add_array(role: str, array: np.ndarray, *preferred: str) -> None:
        usable = [name for name in preferred if name in frames.CODECS and name in capabilities.codecs]
        blob, description = frames.encode_array(array, usable[0] if usable else "raw")
        add(role, blob, "array", **description)

    add_array("tracking_video", request.tracking_video, "zstd", "zlib")
    if not request.first_frame_png:
        raise SettingsError("The first frame is an empty file; render it again.", field="first_frame")
    add("first_frame", request.first_frame_png, "image/png")
    clip = (spec.num_frames, spec.height, spec.width)
    for role, array, shape, codecs in (
        ("carried_video", request.carried_video, (*clip, 3), ("delta-zstd", "delta-zlib", "zstd", "zlib")),
        ("carried_holes", request.carried_holes, clip, ("zstd", "zlib")),
        ("references", request.references, (None, *clip[1:], 3), ("zstd", "zlib")),
    ):
        if model is not None and role in model.inputs and array is not None:
            _check_shape(role.replace("_", " "), array, (shape[0] or len(array), *shape[1:]), np.uint8)
            add_array(role, array, *codecs)
    return blobs, inputs


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise SettingsError(
            f"The {name} is {list(array.shape)} {array.dtype}, the job's settings ask for {list(shape)} "
            f"{np.dtype(dtype)}; export it at the model's size and window."
        )
