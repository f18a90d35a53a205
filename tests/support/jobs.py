# SPDX-License-Identifier: GPL-3.0-or-later
"""Small but complete requests for the tests of the server."""

from __future__ import annotations

import uuid

import numpy as np

from das_blender_addon.protocol.frames import blob_sha, encode_array, pack_first_frame_xy
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


def correspondences(
    num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT
) -> tuple[np.ndarray, np.ndarray]:
    """(xy f32 ``[T,H,W,2]`` pixels, visible bool ``[T,H,W]``) of a flat picture that slides right by one pixel per
    frame.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    xs = np.stack([x - t for t in range(num_frames)])
    xy = np.stack([xs, np.broadcast_to(y, xs.shape)], axis=-1)
    visible = xs > 0
    xy[~visible] = np.nan
    return xy, visible


def tracking_video(num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8 ``[T,H,W,3]``: the tracking colours of `correspondences`, at constant depth."""
    xy, visible = correspondences(num_frames, width, height)
    colours = np.stack([xy[..., 0] / width, xy[..., 1] / height, np.full(visible.shape, 0.5)], axis=-1)
    return np.where(visible[..., None], np.nan_to_num(colours) * 255, 0).round().astype(np.uint8)


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
    xy, visible = correspondences(*size)
    pairs = [
        array_input("tracking_video", tracking_video(*size)),
        png_input(first_frame(spec.width, spec.height)),
        array_input("first_frame_xy", pack_first_frame_xy(xy, visible)),
    ]
    return [item for item, _ in pairs], {item.sha: blob for item, blob in pairs}
