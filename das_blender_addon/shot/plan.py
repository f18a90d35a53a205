# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot as a model will see it: what is planned (`ShotPlan`) and what was exported (`ShotTracking`).  No Blender in
here.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import ModelError, SceneError, SettingsError, ShotTooLong
from ..protocol.messages import Capabilities, ModelCapability
from ..protocol.sizes import advice, makes_size
from ..tracking.framing import Framing, fit_framing
from ..tracking.geometry import CameraPath, GeometrySequence, TrackingVideo
from ..tracking.video import render_tracking_video


@dataclass(frozen=True)
class ShotPlan:
    """What will be sent for a shot.

    ``frames``: Blender frame numbers, increasing; the first is the first frame.  ``window``: frames that the model
    makes, at least as many.  ``render_size``, ``model_size``: (width, height) in pixels.  ``framing``: where the
    shot's picture lies in the model's.  ``pixel_aspect``: (x, y) of the render's pixels.  ``notes``: all of it in
    words, one sentence each.
    """

    frames: tuple[int, ...]
    window: int
    render_size: tuple[int, int]
    model_size: tuple[int, int]
    framing: Framing
    pixel_aspect: tuple[float, float]
    model: ModelCapability
    notes: tuple[str, ...]


def check_frames(frames: Sequence[int]) -> tuple[int, ...]:
    """``frames`` as a tuple of ints.  Raises `SettingsError` when they are not whole, increasing, or there are none."""
    try:
        numbers = tuple(int(frame) for frame in frames)
        whole = all(number == frame for number, frame in zip(numbers, frames, strict=True))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The frames are {frames!r}; give a list of frame numbers.", field="frames") from error
    if not numbers:
        raise SettingsError("There are no frames; give at least one.", field="frames")
    if not whole or any(after <= before for before, after in zip(numbers, numbers[1:], strict=False)):
        raise SettingsError(f"The frames are {list(frames)!r}; give increasing whole numbers.", field="frames")
    return numbers


def plan(
    frames: Sequence[int],
    render_size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    capabilities: Capabilities,
    *,
    model: str = "",
    size: tuple[int, int] | None = None,
    picture_size: tuple[int, int] | None = None,
    large_if_fast: bool = False,
) -> ShotPlan:
    """Fit a shot to a model of a server: the smallest window that holds it, the size nearest to its shape.

    ``model`` "": the server's default.  ``size`` (width, height): one that the model makes.  None: the
    ``picture_size`` of a first frame of the user's own, where the model makes that; else the size of the model's list
    whose aspect ratio is nearest to the render's: the model's default among those of one shape or, with
    ``large_if_fast`` and where the server says that the model is fast there, the largest.

    Raises `SettingsError` (unknown model, size that the model does not have), `ModelError` (its weights are not
    installed) and `ShotTooLong` (more frames than its longest window).
    """
    frames = check_frames(frames)
    chosen = choose_model(capabilities, model)
    window = _choose_window(chosen, frames)
    follows_picture = size is None and picture_size is not None and makes_size(chosen, *picture_size)
    if follows_picture:
        size = picture_size
    usual_size = _choose_size(chosen, size, render_size, pixel_aspect)
    model_size = usual_size
    if large_if_fast and chosen.is_fast:
        model_size = _choose_size(chosen, size, render_size, pixel_aspect, largest=True)
    framing = fit_framing(render_size, model_size, pixel_aspect=pixel_aspect[0] / pixel_aspect[1])
    return ShotPlan(
        frames=frames,
        window=window,
        render_size=tuple(render_size),
        model_size=model_size,
        framing=framing,
        pixel_aspect=tuple(pixel_aspect),
        model=chosen,
        notes=tuple(
            _notes(
                frames,
                window,
                framing,
                chosen,
                enlarged=model_size != usual_size,
                follows_picture=follows_picture,
            )
        ),
    )


def choose_model(capabilities: Capabilities, name: str) -> ModelCapability:
    """The model ``name`` of a server, "" for its default.

    Raises `SettingsError` for one that it does not have, `ModelError` where its weights are not installed.
    """
    models = {model.name: model for model in capabilities.models}
    name = name or capabilities.default_model
    if name not in models:
        raise SettingsError(
            f"The server has no model {name!r}; it offers {', '.join(sorted(models)) or 'none'}.", field="model"
        )
    if not models[name].installed:
        raise ModelError(f"The weights of the model {name!r} are not installed on the server; install them there.")
    return models[name]


def _choose_window(model: ModelCapability, frames: tuple[int, ...]) -> int:
    fitting = [window for window in model.num_frames if window >= len(frames)]
    if not fitting:
        raise ShotTooLong(
            f"The shot has {len(frames)} frames and {model.label} makes {max(model.num_frames)} at most; shorten the "
            "frame range, or raise the frame step.",
            field="frames",
        )
    return min(fitting)


def _choose_size(
    model: ModelCapability,
    size: tuple[int, int] | None,
    render_size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    *,
    largest: bool = False,
) -> tuple[int, int]:
    if size is not None:
        if not makes_size(model, *size):
            raise SettingsError(
                f"The model {model.name!r} does not make {size[0]}×{size[1]} pixels; {advice(model, *size)}.",
                field="size",
            )
        return int(size[0]), int(size[1])
    sizes = [(int(width), int(height)) for width, height in model.sizes]
    shape = math.log(render_size[0] * pixel_aspect[0] / (render_size[1] * pixel_aspect[1]))

    def distance(pair: tuple[int, int]) -> float:
        return round(abs(math.log(pair[0] / pair[1]) - shape), 6)

    nearest = [pair for pair in sizes if distance(pair) == min(map(distance, sizes))]
    return max(nearest, key=math.prod) if largest else nearest[0]


def _notes(
    frames: tuple[int, ...],
    window: int,
    framing: Framing,
    model: ModelCapability,
    *,
    enlarged: bool,
    follows_picture: bool,
) -> Iterator[str]:
    count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
    yield f"{count} ({frames[0]} to {frames[-1]}) for {model.label}."
    if window > len(frames):
        held = window - len(frames)
        yield f"The last frame is held {held} times to fill the model's window of {window}; those are cut."
    model_width, model_height = framing.model_size
    if framing.is_exact:
        yield f"The model's picture of {model_width}×{model_height} is the render's."
    else:
        wider, higher = framing.overscan_scale
        sees = "sees what the shot sees"
        if max(wider, higher) > 1.0:
            side = "width" if wider > higher else "height"
            sees = f"sees {max(wider, higher):.2f} times the {side} of the shot"
        yield (
            f"The model makes {model_width}×{model_height} and {sees}; the result is cropped to the shot and resized "
            f"(Lanczos) to {framing.render_size[0]}×{framing.render_size[1]}."
        )
    if follows_picture:
        yield f"The automatic size is {model_width}×{model_height}, the first frame's that is there."
    if enlarged:
        yield "The server was fast enough for the largest size; in the background the automatic size is smaller."
    if not model.uses_prompt:
        yield "This model ignores the prompt."


@dataclass(frozen=True)
class ShotTracking:
    """A shot's tracking video at the model's size.

    ``cameras``: the overscanned cameras, at ``plan.model_size``.  ``digest``: SHA-256 (hex) of what decides the first
    frame's view: its geometry, camera and size.  ``appearance``: digest of what else decides how it looks (materials,
    lights, world …), "" where that is not known.  ``timings``: seconds per station.
    """

    plan: ShotPlan
    tracking: TrackingVideo
    cameras: CameraPath
    digest: str
    timings: dict[str, float] = field(default_factory=dict)
    appearance: str = ""


def shot_from_geometry(
    geometry: GeometrySequence,
    plan: ShotPlan,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ShotTracking:
    """Geometry exported at ``plan.render_size`` → the shot's tracking video, seen by the overscanned cameras.

    Raises `SceneError` when the first frame shows no surface, `JobCancelled`; see `render_tracking_video`.
    """
    started = time.perf_counter()
    seen = GeometrySequence(
        triangles=geometry.triangles,
        vertices=geometry.vertices,
        cameras=plan.framing.overscan(geometry.cameras),
        frames=geometry.frames,
        appearance=geometry.appearance,
    )
    tracking = render_tracking_video(seen, progress=progress, should_stop=should_stop)
    check_in_view(tracking)
    return ShotTracking(
        plan=plan,
        tracking=tracking,
        cameras=seen.cameras,
        digest=first_frame_digest(seen),
        timings={"tracking": time.perf_counter() - started},
        appearance=geometry.appearance,
    )


def check_in_view(tracking: TrackingVideo) -> None:
    """Raise `SceneError` when the first frame shows no surface."""
    if not tracking.coverage[0].any():
        raise SceneError(
            f"No surface is in view in the first frame (frame {tracking.frames[0]}): point the camera at the subject "
            "or start the shot at a frame that shows it."
        )


def first_frame_digest(geometry: GeometrySequence) -> str:
    """SHA-256 (hex) of the first frame's geometry, camera, picture size and frame number.

    What comes only in later frames (NaN vertices in the first) does not count: the first frame can be exported alone.
    """
    cameras, vertices = geometry.cameras, geometry.vertices[0]
    there = np.isfinite(vertices).all(axis=1)
    triangles = geometry.triangles[there[geometry.triangles].all(axis=1)]
    digest = hashlib.sha256(f"{geometry.frames[0]} {cameras.width}x{cameras.height}".encode())
    for array in (
        (np.cumsum(there, dtype=np.int64) - 1)[triangles],
        vertices[there],
        cameras.camera_from_world[0],
        cameras.focal_px[0],
        cameras.principal_px[0],
        cameras.clip_start[:1],
        cameras.clip_end[:1],
    ):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
