# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot of a Blender scene: its frames, its plan, and its folder."""

from __future__ import annotations

from collections.abc import Sequence

import bpy

from ..errors import SettingsError, ShotTooLong
from ..protocol.messages import Capabilities
from ..scene import camera as cameras
from . import plan as plans
from .plan import ShotPlan

FIRST_FRAME, LAST_FRAME = 0, 1048574
"""What Blender renders lies between them."""
MAX_FRAMES = 10_000
"""More frames than this nobody means: they would not fit a disk."""


def shot_frames(scene) -> tuple[int, ...]:
    """The frames of the scene's shot: its own shot range when that is switched on, else the scene's range and step.

    Raises what `frame_range` raises.
    """
    settings = getattr(scene, "das", None)
    if settings is not None and settings.use_shot_range:
        return frame_range(settings.shot_start, settings.shot_end, scene.frame_step, field="shot_end")
    return frame_range(scene.frame_start, scene.frame_end, scene.frame_step, field="frame_end")


def frame_range(start: int, end: int, step: int = 1, *, field: str = "frames") -> tuple[int, ...]:
    """The frames from ``start`` to ``end``, ``end`` included.  The one rule for every range that somebody states.

    Raises `SettingsError` for the ``field`` when there are none or Blender has no such frames, `ShotTooLong` for more
    than `MAX_FRAMES`.
    """
    if end < start or step < 1:
        raise SettingsError(
            f"The frames {start} to {end} in steps of {step} are none; the end comes after the start, the step is 1 or "
            "more.",
            field=field,
        )
    outside = next((frame for frame in (start, end) if not FIRST_FRAME <= frame <= LAST_FRAME), None)
    if outside is not None:
        raise SettingsError(
            f"There is no frame {outside}; Blender's frames go from {FIRST_FRAME} to {LAST_FRAME}.", field=field
        )
    count = (end - start) // step + 1
    if count > MAX_FRAMES:
        raise ShotTooLong(
            f"The frames {start} to {end} are {count}, and a shot has {MAX_FRAMES} at most; shorten the range, or "
            "raise the frame step.",
            field=field,
        )
    return tuple(range(start, end + 1, step))


def frames_per_second(scene) -> float:
    """How many of the scene's frames, of all of them, are shown in a second."""
    return scene.render.fps / scene.render.fps_base


def plan_shot(
    scene,
    capabilities: Capabilities,
    *,
    frames: Sequence[int] | None = None,
    model: str | None = None,
    size: tuple[int, int] | None = None,
    picture_size: tuple[int, int] | None = None,
    keep_detail: bool | str | None = None,
    model_frames_every: int = 0,
    background: str = plans.BLACK,
    keys: Sequence[int] = (),
) -> ShotPlan:
    """What will be sent for the scene's shot: frames, window, sizes, framing, and all of it in words (``.notes``).

    ``frames`` as in `export_tracking`.  ``model``: a name the server offers, None for its default.  ``size`` (width,
    height): one that the model makes.  None: ``picture_size``, that of a first frame of the user's own, where the model
    makes it; else the one of its list nearest to the render's shape; in a Blender with a window, and where the server
    found itself fast, the largest of that shape.  In the background it is always the model's default, so that the
    machines of a farm agree.  ``keep_detail``, ``model_frames_every``, ``background``: see `plan.plan`.  ``keys``:
    Blender frames of the key pictures besides the first frame.  Cheap: nothing is evaluated.

    Raises `SettingsError` (unknown model, a size it does not make, frames), `ModelError` (not installed), `SceneError`
    (a render without a pixel).
    """
    frames = plans.check_frames(shot_frames(scene) if frames is None else frames)
    outside = next((key for key in keys if key not in frames), None)
    if outside is not None:
        raise SettingsError(
            f"The key picture at frame {outside} is not in the shot, {frames[0]} to {frames[-1]}.",
            field="key_pictures",
        )
    planned = plans.plan(
        frames,
        cameras.checked_render_size(scene),
        cameras.pixel_aspect(scene),
        capabilities,
        model=model or "",
        size=None if size is None else check_size(size),
        picture_size=picture_size,
        large_if_fast=not bpy.app.background,
        keep_detail=keep_detail,
        transparent_film=scene.render.film_transparent,
        model_frames_every=model_frames_every,
        frames_per_second=frames_per_second(scene),
        background=background,
    )
    return plans.plan_with_keys(planned, [frames.index(key) for key in keys])


def check_size(size) -> tuple[int, int]:
    """``size`` as (width, height).  Raises `SettingsError`."""
    try:
        width, height = (int(pixels) for pixels in size)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The size is {size!r}; give (width, height) in pixels.", field="size") from error
    if width < 1 or height < 1:
        raise SettingsError(f"The size is {width}×{height} pixels; both must be at least 1.", field="size")
    return width, height
