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

    ``tracking_video`` ``[T,H,W,3]`` uint8.  ``first_frame_png``: the bytes of a PNG.  ``first_frame_xy`` ``[T,H,W,2]``
    f32 pixels and ``first_frame_visible`` ``[T,H,W]`` bool: where each pixel's point lies in the first frame and
    whether it is seen there; sent only to models that read them.
    """

    spec: JobSpec
    tracking_video: np.ndarray
    first_frame_png: bytes
    first_frame_xy: np.ndarray | None = None
    first_frame_visible: np.ndarray | None = None


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
    if model is not None and "first_frame_xy" in model.inputs and request.first_frame_xy is not None:
        shape = (spec.num_frames, spec.height, spec.width)
        _check_shape("first-frame positions", request.first_frame_xy, (*shape, 2), np.float32)
        visible = request.first_frame_visible
        visible = np.isfinite(request.first_frame_xy).all(axis=-1) if visible is None else visible
        _check_shape("first-frame visibility", visible, shape, np.bool_)
        packed = frames.pack_first_frame_xy(request.first_frame_xy, visible)
        add_array("first_frame_xy", packed, "delta-zstd", "delta-zlib", "zstd", "zlib")
        if "first_frame_visible" in model.inputs:
            add_array("first_frame_visible", visible, "zstd", "zlib")
    return blobs, inputs


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise SettingsError(
            f"The {name} is {list(array.shape)} {array.dtype}, the job's settings ask for {list(shape)} "
            f"{np.dtype(dtype)}; export it at the model's size and window."
        )
