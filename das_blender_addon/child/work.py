# SPDX-License-Identifier: GPL-3.0-or-later
"""What a child Blender can be asked for (`TASKS`): open a copy, export its geometry, render pictures of it, make
movies, unpack and solve footage.

Every task is ``task(request, say, check_stop) → what is said at the end``: ``say(**words)`` tells the parent how far it
is, ``check_stop()`` raises `JobCancelled` when the parent wants no more.  Requests hold resolved values only: nothing
in here asks for settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ..client.files import write_whole
from ..errors import SceneError
from ..protocol.png import encode_png
from ..scene.camera import active_camera, camera_from_blender, join_cameras, pixel_aspect
from ..scene.content.sheet_files import read_sheets, write_rendered
from ..scene.content.sheet_render import render_sheets
from ..scene.drivers import check_drivers, check_names
from ..scene.export import GeometryExport
from ..scene.lacking import check_links
from ..scene.named import image_named, scene_named, text_named
from ..scene.relative_paths import make_absolute
from ..scene.simulations import range_over, replay_fluids_in
from ..scene.sound import write_sound
from ..scene.walk import step_simulations, walk_in_render
from ..tracking.spool import SpoolWriter
from .fitting import fitted_picture
from .footage_tasks import movie_facts, solve_clip, unpack_movie
from .pictures import make_movies, render_pictures

_opened: dict[str, object] = {}
"""The copy that is open: its ``file``, whether it ``checks_drivers``, whether its simulation ``zones`` go by its range,
and the names of what was ``simulated`` up to which frame.
"""


def open_copy(request: dict, say, check_stop) -> dict:
    """Open ``request["file"]``, and bring back what no file holds: ``"images"`` and ``"texts"`` that have unsaved
    changes.  Nothing is in Edit Mode afterwards.
    """
    _opened.clear()
    try:
        with _before_evaluation(request):
            bpy.ops.wm.open_mainfile(filepath=request["file"], load_ui=False, use_scripts=request["use_scripts"])
    except RuntimeError as error:
        raise SceneError(f"The copy of the scene cannot be opened: {str(error).strip()}") from error
    check_links(request["missing"])
    for said in request["texts"]:
        text_named(said["name"]).from_string(said["words"])
    for said in request["images"]:
        _give_pixels(image_named(said["name"]), Path(said["pixels"]))
    scene = _scene(request)
    check_names(request["driver_names"])
    own = _see_with(scene, scene.objects[request["camera"]]) if request.get("camera") else None
    _leave_modes()
    if request["checks_drivers"]:
        check_drivers(scene)
    _opened.update(
        file=request["file"],
        checks_drivers=request["checks_drivers"],
        zones=not scene.use_custom_simulation_range,
        simulated_to=None,
        simulated=[],
        own=own,
    )
    return {}


@contextmanager
def _before_evaluation(request: dict) -> Iterator[None]:
    """What has to be done to the copy of a file that is opened meanwhile before it is evaluated for the first time."""

    @persistent
    def prepare(*_):
        make_absolute(request["paths"])
        replay_fluids_in(Path(request["folder"]))

    bpy.app.handlers.load_post.append(prepare)
    try:
        yield
    finally:
        bpy.app.handlers.load_post.remove(prepare)


def _see_with(scene, camera) -> tuple:
    """``camera`` sees every frame, whatever is bound to markers; returns what saw them before."""
    own = scene.camera, [(marker, marker.camera) for marker in scene.timeline_markers]
    for marker, _ in own[1]:
        marker.camera = None  # which lets the scene see with that of another marker
    scene.camera = camera
    return own


class _OwnCameras:
    """The cameras that would see an export's ``frames`` if no other one was asked for; `paths` empty where that is so,
    or where one of them cannot be tracked.
    """

    def __init__(self, scene, frames: list[int], size: list[int], view: str):
        self._size, self.paths = size, []
        self._of = {} if _opened["own"] is None or view else _cameras_before(scene, frames)

    def add(self, frame: int, depsgraph) -> None:
        """See the next frame."""
        camera = self._of.get(frame)
        evaluated = None if camera is None else camera.evaluated_get(depsgraph)
        try:
            if evaluated is None or not evaluated.is_evaluated:  # in no collection that renders
                raise SceneError("It is not there.")
            aspect = pixel_aspect(depsgraph.scene)
            self.paths.append(camera_from_blender(evaluated, *self._size, aspect=aspect, frame=frame))
        except SceneError:
            self._of, self.paths = {}, []

    def told(self) -> dict | None:
        """The fields of a `CameraPath` as lists, but its size."""
        if not self.paths:
            return None
        fields = vars(join_cameras(self.paths)).items()
        values = {name: value for name, value in fields if name not in ("width", "height")}
        return {name: None if value is None else value.tolist() for name, value in values.items()}


def _cameras_before(scene, frames: list[int]) -> dict:
    """Frame → the camera that saw it before `_see_with`."""
    now, (camera, bound) = scene.camera, _opened["own"]
    try:
        scene.camera = camera
        for marker, one in bound:
            marker.camera = one
        return {frame: active_camera(scene, frame) for frame in frames}
    except SceneError:
        return {}
    finally:
        _see_with(scene, now)


def export(request: dict, say, check_stop) -> dict:
    """Spool the geometry of ``request["frames"]`` for a picture of ``"size"`` into the folder ``"spool"``."""
    scene, frames = _scene(request), request["frames"]
    _simulate(scene, frames, check_stop)
    spool = SpoolWriter(Path(request["spool"]))
    builder = GeometryExport(*request["size"], spool=spool, view=request["view"])
    own = _OwnCameras(scene, frames, request["size"], request["view"])

    def visit(frame: int, depsgraph) -> None:
        check_stop()
        say(frame=frame, done=builder.num_frames)
        builder.add(frame, depsgraph)
        own.add(frame, depsgraph)

    try:
        walk_in_render(scene, request["view_layer"], frames, visit)
        if _opened["checks_drivers"]:
            check_drivers(scene)  # those that only a render runs are known now
        builder.finish(lambda sheets: render_sheets(sheets, check_stop))
    finally:
        spool.close()
    return {"simulated": _opened["simulated"], "own_cameras": own.told(), "memory": memory_bytes()}


def pictures(request: dict, say, check_stop) -> dict:
    """Render ``request["frames"]``, see `pictures.render_pictures`."""
    scene = _scene(request)
    _simulate(scene, sorted(frame for frame, _ in request["frames"]), check_stop)
    render_pictures(scene, request, say)
    return {"memory": memory_bytes()}


def fitted(request: dict, say, check_stop) -> dict:
    """Write the picture of `fitting.fitted_picture` to ``request["output"]``."""
    picture, notes = fitted_picture(request, _scene(request))
    write_whole(Path(request["output"]), encode_png(picture))
    return {"notes": notes, "memory": memory_bytes()}


def sheets(request: dict, say, check_stop) -> dict:
    """Render the alpha of the sheets in the file ``"sheets"`` into the file ``"output"``."""
    write_rendered(Path(request["output"]), render_sheets(read_sheets(Path(request["sheets"])), check_stop))
    return {"memory": memory_bytes()}


def movies(request: dict, say, check_stop) -> dict:
    """Encode pictures as movies, see `pictures.make_movies`.  Needs no copy, and leaves none open."""
    _opened.clear()
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    make_movies(request, say)
    return {"memory": memory_bytes()}


def sound(request: dict, say, check_stop) -> dict:
    """Write what is heard at ``request["frames"]`` to ``"output"``, see `scene.sound.write_sound`."""
    is_there = write_sound(_scene(request), request["frames"], Path(request["output"]))
    return {"is_there": is_there, "memory": memory_bytes()}


def _footage(task):
    """``task`` of `footage_tasks`, which needs no copy, and leaves none open."""

    def run(request: dict, say, check_stop) -> dict:
        _opened.clear()
        return {**task(request, say, check_stop), "memory": memory_bytes()}

    return run


TASKS = {
    "open": open_copy,
    "export": export,
    "pictures": pictures,
    "fitted": fitted,
    "sound": sound,
    "sheets": sheets,
    "movies": movies,
    "movie facts": _footage(movie_facts),
    "unpack movie": _footage(unpack_movie),
    "solve clip": _footage(solve_clip),
}


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _scene(request: dict):
    scene = scene_named(request["scene"])
    if bpy.context.window is not None and bpy.context.window.scene is not scene:
        bpy.context.window.scene = scene
    return scene


def _simulate(scene, frames: list[int], check_stop) -> None:
    """Fill the caches of unbaked simulations up to the last of ``frames``, once for all tasks of an open copy."""
    last = frames[-1]
    if _opened["simulated_to"] is None or _opened["simulated_to"] < last:
        range_over(scene, frames, zones=_opened["zones"])
        _opened["simulated"] = step_simulations(scene, last, check_stop)
        _opened["simulated_to"] = last


def _give_pixels(image, path: Path) -> None:
    """The unsaved pixels of an image: a flat array, bytes for byte images; its name ends with width and height.

    It becomes an image that has no file: up to Blender 4.5 Cycles reads a file again, whatever was painted.
    """
    pixels = np.load(path, allow_pickle=False)
    colours, alpha = image.colorspace_settings.name, image.alpha_mode
    image.generated_width, image.generated_height = (int(side) for side in path.stem.split("_")[-2:])
    image.use_generated_float = pixels.dtype != np.uint8
    image.source = "GENERATED"
    image.colorspace_settings.name, image.alpha_mode = colours, alpha
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / np.float32(255.0)
    image.pixels.foreach_set(pixels)
    image.update()


def _leave_modes() -> None:
    """Leave Edit Mode and the like: they show other geometry than a render does."""
    for scene in bpy.data.scenes:
        for layer in scene.view_layers:
            active = layer.objects.active
            if active is not None and active.mode != "OBJECT":
                with bpy.context.temp_override(scene=scene, view_layer=layer, active_object=active, object=active):
                    bpy.ops.object.mode_set(mode="OBJECT")


def memory_bytes() -> int:
    """What this process holds now, bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0
