# SPDX-License-Identifier: GPL-3.0-or-later
"""The station of a recipe that touches the scene: its frames are walked, one between two yields, while the user and
Blender's own renders go on.
"""

from __future__ import annotations

from collections.abc import Callable

import bpy

from ..client.take import Progress
from ..errors import SceneError
from ..take.drive import Recipe, Status
from ..ui import session
from .export import GeometryExport
from .stepping import is_rendering, stepping

Step = Callable[[int], object]
Report = Callable[[Progress, str], Status]


def finder(scene) -> Callable[[], object]:
    """What finds ``scene`` again after a wait: undo and redo make new scenes of old ones.  Raises `SceneError` then,
    when there is none of its name.
    """
    name = scene.name

    def find():
        found = bpy.data.scenes.get(name)
        if found is None:
            raise SceneError(f"The scene {name!r} was removed or renamed in the meantime; start again.")
        return found

    return find


def export(find: Callable[[], object], frames, size: tuple[int, int], step: Step | None, report: Report) -> Recipe:
    """The scene's `GeometrySequence` at ``frames`` for a picture of ``size`` (width, height) pixels.

    ``find``: see `finder`.  ``step``: sets the scene to a frame and gives its depsgraph; without one the scene is
    walked and left as it was.  ``report(event, words)``: the `Status` of a `Progress` of "exporting".  Raises what
    `GeometryExport` raises.
    """
    if step is not None:
        return (yield from _walk(frames, size, step, report, waits=False))
    yield from _let_renders_pass(Progress("exporting", 0, len(frames), 0.0), report)
    with stepping(find()) as step:
        return (yield from _walk(frames, size, step, report, waits=True))


def _walk(frames, size: tuple[int, int], step: Step, report: Report, *, waits: bool) -> Recipe:
    builder = GeometryExport(*size)
    for done, frame in enumerate(frames):
        event = Progress("exporting", done, len(frames), done / len(frames))
        yield report(event, f"Exporting frame {frame} ({done + 1}/{len(frames)})")
        if waits:
            yield from _let_renders_pass(event, report, frames[done - 1] if done else None)
        builder.add(frame, step(frame))
    return builder.finish()


def _let_renders_pass(event: Progress, report: Report, frame: int | None = None) -> Recipe:
    """A window's job changes no scene while Blender renders; whoever else drives a recipe would wait for itself.

    ``frame``: where the walk has the scene.  Our engine knows the user's frame (`stepping.frame_before_walk`); others
    can only be told of.
    """
    is_told = False
    while is_rendering() and session.running_job() is not None:
        if not is_told:
            beside = "" if frame is None else f"; a still by another engine shows frame {frame}, where the export is"
            yield report(event, f"Waiting for Blender's render to end{beside}")
            is_told = True
        yield None
