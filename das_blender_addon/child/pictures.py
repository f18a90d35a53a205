# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures and movies that a child Blender makes: frames of the copy that it has open, rendered by Blender's own
engines, and movies of pictures that are there.

The picture is the plain render with the scene's look, or the one that it was told to keep (`scene.colours`): without
dithering (a model would see grain), compositing (it comes after a take), sequencer, motion blur (every frame of a
tracking video is one moment), border and stamp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager

import bpy
from mathutils import Matrix

from .. import compat
from ..errors import FirstFrameError
from ..scene import sequencer
from ..scene.camera import active_camera
from ..scene.colours import show_plain

SAMPLE = re.compile(r"Sample (\d+)/(\d+)")


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


def choose_engine(scene, name, samples):
    """Set the render engine and its samples."""
    try:
        scene.render.engine = compat.engine_identifier(name)
    except TypeError as error:
        raise FirstFrameError(f"this Blender has no {name.title()} render engine") from error
    if name == "CYCLES":
        if not hasattr(scene, "cycles"):
            raise FirstFrameError("this Blender has no Cycles render engine")
        scene.cycles.samples = samples
    elif name == "EEVEE":
        scene.eevee.taa_render_samples = samples


def use_working_space(name):
    """The scene-linear space of the original file (Blender 5.0 and newer), which a copy of one scene may not have."""
    if name and bpy.data.colorspace.working_space != name:
        bpy.ops.wm.set_working_color_space(working_space=name, convert_colors=False)


def place_camera(scene, original, view: dict) -> None:
    """A new camera in the place of ``original``: its lens and focus, the given view, nothing animated.

    The sensor is given per mm of lens.
    """
    now = original.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    lens = original.data.copy()
    lens.animation_data_clear()
    lens.type = "PERSP"
    lens.lens, lens.clip_start, lens.clip_end = now.lens, now.clip_start, now.clip_end
    lens.dof.focus_distance, lens.dof.aperture_fstop = now.dof.focus_distance, now.dof.aperture_fstop
    lens.sensor_fit = "HORIZONTAL"
    lens.sensor_width = view["sensor_width_per_lens"] * lens.lens
    lens.shift_x, lens.shift_y = view["shift"]
    camera = bpy.data.objects.new("First Frame", lens)
    scene.collection.objects.link(camera)
    camera.matrix_world = Matrix(view["matrix_world"])
    for marker in scene.timeline_markers:
        marker.camera = None
    scene.camera = camera


def set_output(scene, request):
    """Whole pictures of the size and with the look asked for, nothing burnt in and nothing after the render."""
    render = scene.render
    render.resolution_x, render.resolution_y = request["size"]
    render.resolution_percentage = 100
    render.pixel_aspect_x, render.pixel_aspect_y = request["pixel_aspect"]
    for name in (
        "use_border",
        "use_multiview",
        "use_stamp",
        "use_sequencer",
        "use_compositing",
        "use_motion_blur",
        "use_single_layer",
    ):
        setattr(render, name, False)
    for layer in scene.view_layers:
        layer.use = layer.name == request["view_layer"]
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5.0 and newer
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"
    settings.color_management = "FOLLOW_SCENE"
    render.dither_intensity = 0.0  # the model would see it as grain
    for name, value in request["look"].items():  # the view transform comes before the looks that it has
        if hasattr(scene.view_settings, name):
            setattr(scene.view_settings, name, value)
    render.use_file_extension = False


def render_pictures(scene, request: dict, say: Callable) -> None:
    """Render the frames of ``request["frames"]``, each into the file that goes with it (see `orders.picture_order`)."""
    use_working_space(request["working_space"])
    choose_engine(scene, request["engine"], request["samples"])
    frames = request["frames"]
    progress = Progress(len(frames), say)
    with _told_of_samples(progress):
        for index, (frame, output) in enumerate(frames):
            progress.begin(index)
            scene.frame_set(frame)
            if request["camera"] is not None:
                place_camera(scene, active_camera(scene, frame), request["camera"])
            set_output(scene, request)  # after the frame is set, which may have animated some of it
            scene.render.filepath = output
            bpy.ops.render.render(write_still=True, scene=scene.name)


# ── Movies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_movies(request: dict, say: Callable) -> None:
    """Encode each of ``request["movies"]``: its ``"frames"``, PNG files of one folder in order, into ``"output"``."""
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
        compat.set_video_output(scene)
        render.filepath = movie["output"]
        bpy.ops.render.render(animation=True, scene=scene.name)
