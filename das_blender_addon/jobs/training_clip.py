# SPDX-License-Identifier: GPL-3.0-or-later
"""The training clip of a scene's shot: what was chosen for it, and its recipe (`take.clips`)."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError
from ..scene.camera import pixel_aspect, render_size
from ..scene.colours import kept_look
from ..scene.layers import render_layer
from ..shot.first_frame import check_engine
from ..shot.plan import check_frames
from ..shot.resolved import ResolvedSettings
from ..shot.shot_folder import cut, shot_name
from ..take import clips
from ..take.clip_folder import check_caption, place_of
from ..take.clips import ClipRequest
from ..take.drive import Recipe
from ..take.reporter import OnEvent
from .sources import source_of

NAME_LIMIT = 200
"""Bytes (UTF-8) of file and scene in a clip's name; file systems take 255 in a name, with what is added to it."""


def clip_request(
    scene,
    settings: ResolvedSettings,
    folder: str | Path,
    *,
    name: str = "",
    caption: str = "",
    lossless: bool = False,
) -> ClipRequest:
    """The clip of the scene's shot with ``settings``: their frames, size (None: the render's), engine and samples.

    ``name`` "": `default_name`.  ``caption`` "": the prompt.

    Raises `SettingsError`: a name, caption, engine or size that cannot be used.
    """
    width, height = settings.size or render_size(scene)
    if not lossless and (width % 2 or height % 2):
        raise SettingsError(
            f"The clip's size is {width}×{height} pixels and its video format needs even numbers; choose another size, "
            "or a lossless clip.",
            field="size",
        )
    check_engine(settings.first_frame_engine)
    frames = check_frames(settings.frames)
    step = (frames[-1] - frames[0]) / (len(frames) - 1) if len(frames) > 1 else 1
    return ClipRequest(
        folder=Path(folder).resolve(),
        place=place_of(name or default_name(scene, frames), lossless=lossless),
        caption=check_caption(caption or settings.prompt),
        frames=frames,
        size=(width, height),
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        pixel_aspect=pixel_aspect(scene),
        look=kept_look(scene),
        fps=scene.render.fps,
        fps_base=scene.render.fps_base * step,
    )


def default_name(scene, frames: tuple[int, ...]) -> str:
    """The clip's name where none was given: file, scene and frames."""
    return f"{cut(shot_name(scene), NAME_LIMIT)}_{frames[0]:04d}-{frames[-1]:04d}"


def export_clip(
    scene, request: ClipRequest, *, filmed=None, on_event: OnEvent | None = None, in_child: bool | None = None
) -> Recipe:
    """Make the clip and add it to its dataset, see `take.clips.export_clip`."""
    source = source_of(scene, render_layer(scene).name, in_child=in_child)
    return clips.export_clip(request, source, filmed=filmed, on_event=on_event)
