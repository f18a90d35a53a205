# SPDX-License-Identifier: GPL-3.0-or-later
"""The running job over the camera's view: its last preview, as large as it fits, and lines with stage, step, time left
and queue.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np

from ..protocol.png import decode_png
from . import session
from .step_preview import preview_path
from .words import said, translated

PNG = ".png"
TEXT_PX, MARGIN_PX = 14, 8

_pictures = None


def followed(shown, *, always: bool = False) -> tuple[Path | None, list[str]]:
    """(the picture of the running job's last step, or None; the lines that are written over it); no lines where nothing
    runs, or nobody follows it in viewports.  ``always``: for who has chosen to follow elsewhere.
    """
    job = session.running_job()
    if job is None or not (always or shown.follow_job) or shown.job_state != "RUNNING":
        return None, []
    name = translated(job.name)
    lines = [f"{name} · {job.about}" if job.about else name, f"{shown.job_line} · {shown.progress:.0%}"]
    waiting = len(session.queue.waiting)
    if waiting:
        lines.append(said("{count} more wait in the queue", count=waiting))
    return preview_path(), lines


def fitted(
    rectangle: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a picture of ``size`` (width, height) amid ``rectangle``, as large as it fits."""
    left, bottom, right, top = rectangle
    width, height = right - left, top - bottom
    scale = min(width / size[0], height / size[1])
    across, up = scale * size[0], scale * size[1]
    x, y = left + (width - across) / 2, bottom + (height - up) / 2
    return x, y, x + across, y + up


def pixels_of(path: Path) -> np.ndarray:
    """[H,W,4] f32 of a picture, the lowest row first; of a JPEG what Blender makes of it for lists, 256 pixels at most.

    Raises `DasError` and `OSError` for a file that is none, or gone.
    """
    if path.suffix == PNG:
        return png_pixels(path)
    name = f"{path}@{path.stat().st_mtime_ns}"
    _collection().clear()
    found = _collection().load(name, str(path), "IMAGE")
    width, height = found.image_size
    if not width or not height:
        raise OSError(f"{path} is no picture")
    return np.array(found.image_pixels_float, np.float32).reshape(height, width, 4)


def png_pixels(path: Path) -> np.ndarray:
    """[H,W,4] f32 of a PNG file, the lowest row first, alpha 1; in any thread.  Raises `DasError` and `OSError`."""
    picture = decode_png(path.read_bytes())[::-1]
    pixels = np.ones((*picture.shape[:2], 4), np.float32)
    pixels[..., :3] = picture[..., :3] * np.float32(1.0 / 255.0)
    return pixels


def write_lines(rectangle: tuple[float, float, float, float], lines: list[str]) -> None:
    """Write ``lines`` into the lower left of ``rectangle``; inside of a draw handler only."""
    import blf

    scale = bpy.context.preferences.system.ui_scale
    blf.size(0, TEXT_PX * scale)
    blf.enable(0, blf.SHADOW)
    blf.shadow(0, 5, 0.0, 0.0, 0.0, 1.0)
    blf.color(0, 1.0, 1.0, 1.0, 1.0)
    for place, line in enumerate(reversed(lines)):
        up = rectangle[1] + (MARGIN_PX + place * TEXT_PX * 1.4) * scale
        blf.position(0, rectangle[0] + MARGIN_PX * scale, up, 0.0)
        blf.draw(0, line)
    blf.disable(0, blf.SHADOW)


_shown_last: tuple = ()
also_shown: list[Callable[[], bool]] = []
"""Whether editors other than viewports follow the job."""


def redraw_views() -> None:
    """Let viewports and other editors show what is new of the job; nothing where nobody follows it, or nothing is new.
    """
    global _shown_last
    shown = bpy.context.window_manager.das
    elsewhere = any(ask() for ask in also_shown)
    if not shown.show_take and not elsewhere:
        return
    now = followed(shown, always=elsewhere)
    path = now[0]
    state = now, None if path is None or not path.exists() else path.stat().st_mtime_ns
    if state == _shown_last:
        return
    _shown_last = state
    tag_viewports(also="IMAGE_EDITOR" if elsewhere else "")


def tag_viewports(also: str = "") -> None:
    """Let all viewports be drawn again, and editors of the type ``also``."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", also):
                area.tag_redraw()


def _collection():
    global _pictures
    if _pictures is None:
        _pictures = bpy.utils.previews.new()
    return _pictures


def register():
    """Nothing yet: pictures are read when there are some."""


def unregister():
    """Forget them."""
    global _pictures
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
        _pictures = None
