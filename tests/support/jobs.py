# SPDX-License-Identifier: GPL-3.0-or-later
"""Small but complete requests for the tests of the server."""

from __future__ import annotations

import uuid

import numpy as np

from das_blender_addon.protocol.frames import blob_sha, encode_array
from das_blender_addon.protocol.messages import JobInput, JobSpec
from das_blender_addon.protocol.png import encode_png

WIDTH, HEIGHT, NUM_FRAMES = 96, 64, 9
"""Size and window of the smallest job of the preview model."""


def job_id() -> str:
    """A new job id."""
    return uuid.uuid4().hex


def job_spec(**changes) -> JobSpec:
    """A job for the preview model."""
    values = {
        "task": "mesh_to_video",
        "model": "das-preview",
        "prompt": "a red ball",
        "negative_prompt": "",
        "seed": 7,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "num_frames": NUM_FRAMES,
        "kept_frames": NUM_FRAMES,
        "width": WIDTH,
        "height": HEIGHT,
        "tracking_range": "signed",
        "options": {},
    }
    return JobSpec(**values | changes)


def first_frame(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8 ``[H,W,3]``: a colourful gradient with a square in it."""
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], axis=-1).astype(np.uint8)
    frame[height // 4 : height // 2, width // 4 : width // 2] = (230, 40, 30)
    return frame


def slid(num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    """(columns i64 ``[T,W]``, there bool ``[T,W]``) of a flat picture that slides right by one pixel per frame: the
    first frame's column that each column shows, and whether there is one.
    """
    columns = np.arange(width) - np.arange(num_frames)[:, None]
    return columns, columns >= 0


def tracking_video(num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8 ``[T,H,W,3]``: the tracking colours of `slid`, at constant depth."""
    columns, there = slid(num_frames, width, height)
    shape = (num_frames, height, width)
    x = np.broadcast_to(((columns + 0.5) / width)[:, None], shape)
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[None, :, None], shape)
    colours = np.stack([x, y, np.full(shape, 0.5)], axis=-1) * 255
    return np.where(there[:, None, :, None], colours, 0).round().astype(np.uint8)


def carried_video(num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8 ``[T,H,W,3]``: the first frame as it slides, its edge repeated where it shows nothing."""
    columns, _ = slid(num_frames, width, height)
    return np.stack([first_frame(width, height)[:, np.maximum(row, 0)] for row in columns])


def array_input(role: str, array: np.ndarray, codec: str | None = None) -> tuple[JobInput, bytes]:
    """An array as an input and its blob."""
    blob, about = encode_array(array, codec)
    return JobInput(role=role, sha=blob_sha(blob), size_bytes=len(blob), media="array", **about), blob


def png_input(frame: np.ndarray) -> tuple[JobInput, bytes]:
    """A picture as the first frame and its blob."""
    blob = encode_png(frame)
    return JobInput(role="first_frame", sha=blob_sha(blob), size_bytes=len(blob), media="image/png"), blob


def job_inputs(spec: JobSpec) -> tuple[list[JobInput], dict[str, bytes]]:
    """All inputs of a job and their blobs by SHA."""
    size = (spec.num_frames, spec.width, spec.height)
    pairs = [
        array_input("tracking_video", tracking_video(*size)),
        png_input(first_frame(spec.width, spec.height)),
        array_input("carried_video", carried_video(*size)),
    ]
    return [item for item, _ in pairs], {item.sha: blob for item, blob in pairs}
