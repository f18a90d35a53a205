# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a job gets a scene's geometry and pictures from: `take.source` has the facts and the protocol.

In a Blender with a window it is a copy of the file in a child Blender: the user's scene is read once, to write the
copy, and never touched.  A Blender without a window walks its own scene inside a render, and lets a child render
pictures of a copy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import bpy

from ..child.copy import SceneCopy, write_copy
from ..child.launch import launch
from ..child.open_copy import OpenCopy, PictureOrder
from ..child.scratch import Scratch
from ..client.take import Progress
from ..errors import JobCancelled, SceneError, SettingsError
from ..scene.appearance import shading_digest
from ..scene.camera import active_camera, cameras_at, checked_render_size, pixel_aspect
from ..scene.colours import kept_look
from ..scene.content.sheet_files import read_rendered, write_sheets
from ..scene.content.sheet_render import render_sheets
from ..scene.content.sheets import Rendered, Sheet
from ..scene.content.surfaces import RenderSheets
from ..scene.drivers import check_drivers
from ..scene.export import GeometryExport
from ..scene.layers import layer_apart, render_layer
from ..scene.named import scene_named
from ..scene.simulations import ranging_over, unbaked
from ..scene.walk import step_simulations, walk_in_render
from ..shot.open_pictures import strokes_on
from ..shot.pictures import Owner, first_frame_path
from ..shot.resolved import KeyChoice, ResolvedSettings
from ..shot.scene_shot import frames_per_second
from ..shot.settings import resolve_settings, stereo_view
from ..shot.shot_folder import own_files, shot_folder, take_over_folder, this_file
from ..take.drive import Recipe, in_thread, on_this_thread
from ..take.source import OwnPictures, Report, SceneFacts, Source
from ..tracking.geometry import CameraPath
from ..tracking.spool import SpoolWriter
from .main_thread import on_main_thread

LOGGER = logging.getLogger(__name__)
Step = Callable[[int | None], object]
"""``step(frame)``: sets the scene to a frame and gives its depsgraph, inside a render; None: back to where it was."""


def facts_of(scene, settings: ResolvedSettings, view_layer: str = "") -> SceneFacts:
    """What a job must know of ``scene``.  ``view_layer`` "": the first one that renders.

    What was painted for the scene's own camera counts for another one only where it sees the same.
    Raises `SceneError`.
    """
    layer = view_layer or render_layer(scene).name
    folder = take_over_folder(scene, settings.cache_folder, layer)
    own, seen_by = owner_of(scene, folder), cameras_at(scene.original, settings.frames)
    is_other = bool(settings.camera) and seen_by != ((settings.frames[0], settings.camera),)
    return SceneFacts(
        name=scene.name,
        file=this_file(),
        folder=folder,
        render_size=checked_render_size(scene),
        pixel_aspect=pixel_aspect(scene),
        view_layer=layer,
        layer_apart=layer_apart(scene, layer),
        look=kept_look(scene),
        owner=replace(own, files=(), camera=settings.camera, own_cameras=()) if is_other else own,
        shading=shading_digest(scene.original, scene.original.view_layers[layer]),
        blender=bpy.app.version_string,
        transparent_film=scene.render.film_transparent,
        in_window=not bpy.app.background,
        frames_per_second=frames_per_second(scene),
        cameras=((settings.frames[0], settings.camera),) if settings.camera else seen_by,
        own_pictures=OwnPictures(_given(scene, settings, layer), own) if is_other else None,
        read_at=time.time(),
    )


def _given(scene, settings: ResolvedSettings, view_layer: str) -> tuple[KeyChoice, ...]:
    """The pictures of the user's own that the scene's own camera has, with strokes that were not saved."""
    try:
        own = resolve_settings(scene, environment={})
    except SettingsError:  # of the scene's own shot, which is not asked for
        return ()
    chosen = [with_strokes(scene, settings, one, view_layer) for one in (own.first, *(own.key_pictures or ()))]
    return tuple(one for one in chosen if one.path or one.image)


def with_strokes(scene, settings: ResolvedSettings, choice: KeyChoice, view_layer: str) -> KeyChoice:
    """``choice``, or the image that is its file with strokes that were not saved: a picture is taken as it is seen."""
    image = None if choice.image else strokes_on(picture_file(scene, settings, choice, view_layer))
    return choice if image is None else replace(choice, image=image.name_full)


def owner_of(scene, folder: Path) -> Owner:
    """Whose pictures in the shot's ``folder`` are the scene's; it begins where its own range does, whatever the
    environment says.
    """
    settings = getattr(scene, "das", None)  # a scene has none while the extension is not enabled
    start = settings.shot_start if settings is not None and settings.use_shot_range else scene.frame_start
    bound = {marker.camera.name for marker in scene.timeline_markers if marker.camera is not None}
    cameras = frozenset(bound | ({scene.camera.name} if scene.camera else set()))
    return Owner(start, own_files(folder), own_cameras=cameras)


def first_frame_file(scene, settings: ResolvedSettings | None = None, view_layer: str = "") -> Path:
    """Where the first frame of one of the scene's view layers is, unless it is an image of the file; where there is
    none, the place for one.
    """
    settings = resolve_settings(scene) if settings is None else settings
    return picture_file(scene, settings, settings.first, view_layer)


def picture_file(scene, settings: ResolvedSettings, choice: KeyChoice, view_layer: str = "") -> Path:
    """Where the key picture ``choice`` of one of the scene's view layers is, unless it is an image of the file; where
    there is none, the place for one.
    """
    if choice.path:
        return Path(choice.path)
    folder = shot_folder(scene, settings.cache_folder, view_layer)
    return first_frame_path(folder, choice.frame, owner=owner_of(scene, folder))


def source_of(
    scene,
    view_layer: str,
    step: Step | None = None,
    *,
    in_child: bool | None = None,
    camera: str = "",
    should_stop: Callable[[], bool] = lambda: False,
) -> Source:
    """The source for a job about ``scene``: a copy in a child Blender, written now, or the scene itself.

    ``in_child`` None: where there is a window.  ``camera``: the name of one that sees every frame, in a copy always.
    ``step``: where the caller is inside a render of it; in a window the copy is then written by the main thread as soon
    as no operator holds the scene, until when ``should_stop`` is asked.  Raises `SceneError` (no camera),
    `StorageError`, `JobCancelled`.
    """
    if camera:
        check_camera(scene, camera)
        in_child = True
    else:
        active_camera(scene, scene.frame_current)  # the commonest mistake is told before anything takes time
    if bpy.app.background if in_child is None else not in_child:
        return OwnSource(scene, view_layer, step)
    name = scene.name_full
    return CopySource(on_main_thread(lambda: write_copy(scene_named(name), view_layer, camera), should_stop))


def check_camera(scene, name: str) -> None:
    """Raise `SceneError` unless ``name`` is a camera of ``scene``."""
    found = sorted(shape.name for shape in scene.objects if shape.type == "CAMERA")
    if name not in found:
        there = f"there are {', '.join(map(repr, found))}" if found else "it has none"
        raise SceneError(f"The scene {scene.name!r} has no camera {name!r}; {there}.", field="camera")


class CopySource:
    """A copy of the scene in a child Blender."""

    def __init__(self, copy: SceneCopy):
        self._open = OpenCopy(copy, launch())
        self._simulated: list[str] = []

    def export(self, frames: tuple[int, ...], size: tuple[int, int], report: Report) -> Recipe:
        """See `Source.export`."""

        def work(should_stop, say):
            return self._open.export(frames, size, should_stop, say)

        yield report(Progress("exporting", 0, len(frames), 0.0), "Opening a copy of the scene")
        geometry, self._simulated = yield from in_thread(work, report)
        return geometry

    def pictures(self, order: PictureOrder, report: Report, stage: str) -> Recipe:
        """See `Source.pictures`."""
        return (
            yield from in_thread(lambda should_stop, say: self._open.pictures(order, should_stop, say, stage), report)
        )

    def fitted(self, wanted: dict) -> Recipe:
        """See `Source.fitted`."""
        return (yield from in_thread(lambda should_stop, _say: self._open.fitted(wanted, should_stop)))

    def sound(self, frames: tuple[int, int]) -> Recipe:
        """See `Source.sound`."""
        return (yield from in_thread(lambda should_stop, _say: self._open.sound(frames, should_stop)))

    def sheets(self, sheets: list[Sheet], should_stop: Callable[[], bool] = lambda: False) -> Rendered | None:
        """The alpha of ``sheets``, see `sheet_render.render_sheets`; None, too, where their files cannot be written or
        read.  Raises `SceneError`, `JobCancelled`.
        """
        try:
            return read_rendered(self._open.sheets(lambda file: write_sheets(file, sheets), should_stop))
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            LOGGER.warning("The alpha of materials could not be handed over (%s).", error)
            return None

    def movies(self, request: dict, report: Report) -> Recipe:
        """See `Source.movies`."""
        yield from in_thread(lambda should_stop, say: self._open.movies(request, should_stop, say), report)

    def own_cameras(self) -> CameraPath | None:
        """See `Source.own_cameras`."""
        return self._open.own_cameras

    def simulated(self) -> list[str]:
        """See `Source.simulated`."""
        return self._simulated

    def close(self) -> None:
        """See `Source.close`."""
        self._open.close()


class SharedSource:
    """One source for several takes of the same moment: it is closed with the last of ``count`` shares, and what was
    exported last is there for the next one.
    """

    def __init__(self, source: Source, count: int):
        self._source, self._open = source, count
        self._exported: tuple | None = None

    def share(self) -> Source:
        """One of its shares, with its own `close`."""
        return _Share(self)

    def export(self, frames: tuple[int, ...], size: tuple[int, int], report: Report) -> Recipe:
        """See `Source.export`."""
        if self._exported is None or self._exported[0] != (frames, size):
            self._exported = None
            geometry = yield from self._source.export(frames, size, report)
            self._exported = (frames, size), geometry
        return self._exported[1]

    def let_go(self) -> None:
        """One share is closed."""
        self._open -= 1
        if self._open == 0:
            self.close()

    def close(self) -> None:
        """Close it for all."""
        self._source.close()

    def __getattr__(self, name: str):
        return getattr(self._source, name)


class _Share:
    def __init__(self, shared: SharedSource):
        self._shared, self._is_closed = shared, False

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._shared.let_go()

    def __getattr__(self, name: str):
        return getattr(self._shared, name)


class OwnSource:
    """The scene of this Blender, which nobody is looking at, or whose render is going on (``step``)."""

    def __init__(self, scene, view_layer: str, step: Step | None):
        self._scene, self._view_layer, self._step = scene, view_layer, step
        self._view = stereo_view(scene)
        self._copy: CopySource | None = None
        self._spool: Scratch | None = None
        self._simulated: list[str] = []

    def export(self, frames: tuple[int, ...], size: tuple[int, int], report: Report) -> Recipe:
        """See `Source.export`."""
        check_drivers(self._scene)
        spool = self._spool_writer()
        builder = GeometryExport(*size, spool=spool, view=self._view)
        try:
            if self._step is not None:
                # Whoever renders has stepped them before the render: nothing simulates inside of one.
                self._simulated = [one.name for one in unbaked(self._scene) if one.start <= frames[-1]]
                try:
                    for done, frame in enumerate(frames):
                        yield report(_exporting(done, frame, frames), _words(done, frame, frames))
                        builder.add(frame, self._step(frame))
                finally:
                    self._step(None)
            else:
                yield from on_this_thread(lambda stop, say: self._walk(frames, builder, stop, say), report)
            check_drivers(self._scene)  # those that only a render runs are known now
            return (yield from on_this_thread(lambda stop, _say: builder.finish(self._sheets_by(stop))))
        finally:
            spool.close()

    def _sheets_by(self, should_stop: Callable[[], bool]) -> RenderSheets:
        """What renders the alpha of materials: this Blender, or a child, since nothing renders inside of a render."""
        def check() -> None:
            if should_stop():
                raise JobCancelled("The export of the scene was cancelled.")

        if self._step is None:
            return lambda sheets: render_sheets(sheets, check)
        return lambda sheets: self._copied().sheets(sheets, should_stop)

    def pictures(self, order: PictureOrder, report: Report, stage: str) -> Recipe:
        """See `Source.pictures`."""
        return (yield from self._copied().pictures(order, report, stage))

    def fitted(self, wanted: dict) -> Recipe:
        """See `Source.fitted`."""
        return (yield from self._copied().fitted(wanted))

    def sound(self, frames: tuple[int, int]) -> Recipe:
        """See `Source.sound`."""
        return (yield from self._copied().sound(frames))

    def movies(self, request: dict, report: Report) -> Recipe:
        """See `Source.movies`."""
        yield from self._copied().movies(request, report)

    def own_cameras(self) -> CameraPath | None:
        """None: no other camera sees the shot."""
        return None

    def simulated(self) -> list[str]:
        """See `Source.simulated`."""
        return self._simulated

    def close(self) -> None:
        """See `Source.close`."""
        if self._copy is not None:
            self._copy.close()
        if self._spool is not None:
            self._spool.cleanup()

    def _walk(self, frames: tuple[int, ...], builder: GeometryExport, should_stop, say) -> None:
        def check_stop() -> None:
            if should_stop():
                raise JobCancelled("The export of the scene was cancelled.")

        def visit(frame: int, depsgraph) -> None:
            check_stop()
            say(_exporting(builder.num_frames, frame, frames))
            builder.add(frame, depsgraph)

        with ranging_over(self._scene, frames):
            self._simulated = step_simulations(self._scene, frames[-1], check_stop)
            walk_in_render(self._scene, self._view_layer, frames, visit)

    def _copied(self) -> CopySource:
        if self._copy is None:
            self._copy = CopySource(write_copy(self._scene, self._view_layer))
        return self._copy

    def _spool_writer(self) -> SpoolWriter:
        self._spool = Scratch("geometry")
        return SpoolWriter(Path(self._spool.name))


def _exporting(done: int, frame: int, frames: tuple[int, ...]) -> Progress:
    return Progress("exporting", done, len(frames), done / len(frames))


def _words(done: int, frame: int, frames: tuple[int, ...]) -> str:
    return f"Exporting frame {frame} ({done + 1}/{len(frames)})"
