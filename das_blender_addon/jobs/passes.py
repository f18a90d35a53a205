# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth, normals, motion vectors and objects of a scene's frames, as arrays; no server, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..errors import JobCancelled
from ..scene import camera as cameras
from ..shot.plan import check_frames
from ..shot.scene_shot import check_size, shot_frames
from ..tracking import passes
from ..tracking.passes import SurfacePasses
from .scripting import exported_geometry
from .sources import Step


def surface_passes(
    scene,
    *,
    frames: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    motion: bool = True,
    step: Step | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, SurfacePasses]]:
    """For each frame its number and what is known of the surface that each pixel of ``scene``'s camera sees.

    The geometry is exported when the first is asked for, and there until the last one is, or `close` is called.  Per
    frame, H × W of ``size``, rows top-down, at pixel centres:

    - ``depth`` [H,W] f32: Blender units along the camera's axis, from the camera; inf where no surface is seen.
    - ``normal`` [H,W,3] f32: of the flat triangle, world space, length 1, towards the camera; 0 for no surface.
    - ``before``, ``after`` [H,W,2] f32: pixels, x right, y down, from where the surface point is to where it was one
      frame (of Blender's) before and will be one after, through the cameras of those frames; NaN where it was not there
      or lies behind the camera; of what is infinitely far away where no surface is seen.  None without ``motion``.
    - ``objects`` [H,W] i32: an index into ``names``, −1 for no surface.

    ``frames``, ``size``, ``step``: as in `export_tracking`.  ``motion`` exports the frames beside each, too.
    ``progress(done, of)`` counts exported frames.  Raises as `export_tracking`; a frame that shows nothing is no error.
    """
    frames = check_frames(shot_frames(scene) if frames is None else frames)
    width, height = check_size(cameras.render_size(scene) if size is None else size)
    beside = (-1, 0, 1) if motion else (0,)
    needed = tuple(sorted({frame + way for frame in frames for way in beside}))
    return _passes(scene, frames, needed, (width, height), motion, step, progress, should_stop)


def _passes(scene, frames, needed, size, motion, step, progress, should_stop) -> Iterator[tuple[int, SurfacePasses]]:
    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The passes were cancelled.")

    with exported_geometry(scene, needed, size, step, progress, should_stop) as geometry:
        places = {frame: index for index, frame in enumerate(needed)}
        for frame in frames:
            check()
            before, after = (places[frame + way] if motion else None for way in (-1, 1))
            yield frame, passes.surface_passes(geometry, places[frame], before=before, after=after, check=check)
