# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures and movies that a child Blender makes: frames of the copy that it has open, rendered by Blender's own
engines, and movies of pictures that are there.

The picture is the plain render with the scene's look, or the one that it was told to keep (`scene.colours`): without
dithering (a model would see grain), compositing, Grease Pencil and Freestyle (they come after a take), sequencer,
motion blur (every frame of a tracking video is one moment), border and stamp.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress

import bpy
from mathutils import Matrix

from .. import compat
from ..errors import FirstFrameError
from ..scene import sequencer
from ..scene.camera import active_camera
from ..scene.colours import NO_LOOK, show_plain
from ..scene.named import render_scene

LOGGER = logging.getLogger(__name__)
SAMPLE = re.compile(r"Sample (\d+)/(\d+)")
NOT_IN_PICTURES = (
    "use_border",
    "use_multiview",
    "use_stamp",
    "use_sequencer",
    "use_compositing",
    "use_motion_blur",
    "use_freestyle",
    "use_single_layer",
    "use_render_cache",
)


class Progress:
    """Which of the ``views`` is being rendered, and as a handler of ``render_stats``: how many samples it has."""

    def __init__(self, views: int, say: Callable):
        self._views, self._view, self._say = views, 0, say

    def begin(self, view: int) -> None:
        """The view number ``view``, from 0 on, begins."""
        self._view = view
        self._say(view=view, views=self._views)

    def __call__(self, line, *_):
        """Every engine that samples says how far it is."""
        sample = SAMPLE.search(line)
        if sample:
            self._say(view=self._view, views=self._views, step=int(sample[1]), of=int(sample[2]))


@contextmanager
def _told_of_samples(progress: Progress):
    bpy.app.handlers.render_stats.append(progress)
    try:
        yield
    finally:
        bpy.app.handlers.render_stats.remove(progress)


class Changes:
    """Settings that are other ones for a while, and `undo` gives back."""

    def __init__(self):
        self._before: list[tuple[object, str, object]] = []

    def set(self, owner, name: str, value) -> None:
        """``owner.name = value``.  Raises as Blender does."""
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._before.append((owner, name, before))

    def undo(self) -> None:
        """Everything is as it was, the last change first."""
        # One may need another: an image file's depth its format.  An engine whose add-on this Blender does not have can
        # be read, not chosen.
        for changes in (reversed(self._before), self._before):
            for owner, name, value in changes:
                with suppress(TypeError):
                    setattr(owner, name, value)
        self._before.clear()


@contextmanager
def _as_it_was(changes: Changes):
    """``changes`` are undone at the end."""
    try:
        yield
    finally:
        changes.undo()


def choose_engine(scene, name: str, samples: int, changes: Changes) -> None:
    """Set the render engine and its samples."""
    try:
        changes.set(scene.render, "engine", compat.engine_identifier(name))
    except TypeError as error:
        raise FirstFrameError(f"this Blender has no {name.title()} render engine") from error
    if name == "CYCLES":
        if not hasattr(scene, "cycles"):
            raise FirstFrameError("this Blender has no Cycles render engine")
        changes.set(scene.cycles, "samples", samples)
    elif name == "EEVEE":
        changes.set(scene.eevee, "taa_render_samples", samples)


def use_working_space(name: str) -> None:
    """The scene-linear space of the original file (Blender 5.0 and newer), which a copy of one scene may not have."""
    if name and bpy.data.colorspace.working_space != name:
        bpy.ops.wm.set_working_color_space(working_space=name, convert_colors=False)


@contextmanager
def placed_camera(scene, original, view: dict):
    """For one picture a new camera in the place of ``original``: its lens and focus, the given view, nothing animated.

    The sensor is given per mm of lens.
    """
    now = original.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    lens = original.data.copy()
    lens.animation_data_clear()
    lens.type = "PERSP" if view["ortho_scale"] is None else "ORTHO"
    if view["ortho_scale"] is not None:
        lens.ortho_scale = view["ortho_scale"]
    lens.lens, lens.clip_start, lens.clip_end = now.lens, now.clip_start, now.clip_end
    lens.dof.focus_distance, lens.dof.aperture_fstop = now.dof.focus_distance, now.dof.aperture_fstop
    lens.sensor_fit = "HORIZONTAL"
    lens.sensor_width = view["sensor_width_per_lens"] * lens.lens
    lens.shift_x, lens.shift_y = view["shift"]
    camera = bpy.data.objects.new("First Frame", lens)  # a scene's camera need not be in it
    camera.matrix_world = Matrix(view["matrix_world"])
    changes = Changes()
    try:
        for marker in scene.timeline_markers:
            changes.set(marker, "camera", None)
        changes.set(scene, "camera", camera)
        yield
    finally:
        changes.undo()
        bpy.data.objects.remove(camera)
        bpy.data.cameras.remove(lens)


def set_output(scene, request: dict, changes: Changes) -> None:
    """Whole pictures of the size and with the look asked for, nothing burnt in and nothing after the render."""
    render = scene.render
    width, height = request["size"]
    aspect_x, aspect_y = request["pixel_aspect"]
    wanted = {
        "resolution_x": width,
        "resolution_y": height,
        "resolution_percentage": 100,
        "pixel_aspect_x": aspect_x,
        "pixel_aspect_y": aspect_y,
        "dither_intensity": 0.0,  # the model would see it as grain
        "use_file_extension": False,
    }
    for name, value in (*wanted.items(), *((name, False) for name in NOT_IN_PICTURES)):
        changes.set(render, name, value)
    for owner, name, value in compat.without_grease_pencil(scene):
        changes.set(owner, name, value)
    for layer in scene.view_layers:
        changes.set(layer, "use", layer.name == request["view_layer"])
        changes.set(layer, "samples", 0)  # or it would go before those that were asked for
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5.0 and newer
        changes.set(settings, "media_type", "IMAGE")
    image = {
        "file_format": "PNG",
        "color_mode": "RGB",
        "color_depth": "8",
        "color_management": "FOLLOW_SCENE",
    }
    for name, value in image.items():
        changes.set(settings, name, value)
    view = scene.view_settings
    for name, value in request["look"].items():  # the view transform comes before the looks that it has
        if name == "look" and not compat.offers(view, name, value):
            LOGGER.warning("The view %r has no look %r; the picture is made without.", view.view_transform, value)
            value = NO_LOOK
        if hasattr(view, name):
            changes.set(view, name, value)


def render_pictures(scene, request: dict, say: Callable) -> None:
    """Render the frames of ``request["frames"]``, each into the file that goes with it (see `orders.picture_order`).

    The scene is as it was afterwards.
    """
    frames = request["frames"]
    progress, chosen = Progress(len(frames), say), Changes()
    standing = scene.frame_current, scene.frame_subframe
    with _own_scene(scene) as scene, _as_it_was(chosen), _told_of_samples(progress):
        use_working_space(request["working_space"])
        choose_engine(scene, request["engine"], request["samples"], chosen)
        try:
            for index, (frame, output) in enumerate(frames):
                progress.begin(index)
                scene.frame_set(frame)
                _render_picture(scene, frame, output, request)
        finally:
            scene.frame_set(standing[0], subframe=standing[1])


def _render_picture(scene, frame: int, output: str, request: dict) -> None:
    changes, view = Changes(), request["camera"]
    placed = nullcontext() if view is None else placed_camera(scene, active_camera(scene, frame), view)
    with placed, _as_it_was(changes):
        set_output(scene, request, changes)  # after the frame is set, which may have animated some of it
        changes.set(scene.render, "filepath", output)
        render_scene(scene, write_still=True)


@contextmanager
def _own_scene(scene):
    """``scene``, or a copy of it where it is another file's: that takes no camera of ours."""
    if scene.library is None:
        yield scene
        return
    own = scene.copy()
    window, before = bpy.context.window, bpy.context.scene
    try:
        if window is not None:
            window.scene = own
        yield own
    finally:
        if window is not None:
            window.scene = before
        bpy.data.scenes.remove(own)


# ── Movies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_movies(request: dict, say: Callable) -> None:
    """Encode each of ``request["movies"]``: its ``"frames"``, PNG files of one folder in order, into ``"output"``, with
    the sound of the file ``"sound"``, where it has one.
    """
    for index, movie in enumerate(request["movies"]):
        say(view=index, views=len(request["movies"]))
        scene = bpy.data.scenes.new("Movie")
        render = scene.render
        render.resolution_x, render.resolution_y = request["size"]
        render.resolution_percentage = 100
        render.fps, render.fps_base = request["fps"], request["fps_base"]
        show_plain(scene)  # the pictures' own bytes
        scene.frame_start, scene.frame_end = 1, len(movie["frames"])
        sequencer.add_image_strip(scene, "frames", movie["frames"], frame_start=1)
        if movie.get("sound"):
            sequencer.add_sound_strip(scene, "sound", movie["sound"], frame_start=1)
        compat.set_video_output(scene, with_sound=bool(movie.get("sound")))
        render.filepath = movie["output"]
        bpy.ops.render.render(animation=True, scene=scene.name)
