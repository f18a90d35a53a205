# SPDX-License-Identifier: GPL-3.0-or-later
"""What the child of `child_blender` runs: open a copy of the file and render frames of it, or make movies of pictures
that are there; then leave.

A script of its own, so that it runs in any Blender binary (``-b --python``) and in any Python with the `bpy` module.
The last argument is a JSON file with ``"task"``, one of `TASKS`, and what that reads.  Says lines that begin with
``DAS `` and hold JSON: ``{"view", "views"}`` when it begins one of them (frames or movies), the same with
``"step", "of"`` while that renders, ``{"error"}`` when it fails.  When standard input closes, because whoever started
it is no more, it leaves at once.
"""

import importlib.util
import json
import os
import re
import sys
import threading
import traceback

import bpy
from mathutils import Matrix

SAMPLE = re.compile(r"Sample (\d+)/(\d+)")
ENGINES = {
    "CYCLES": ("CYCLES",),
    "EEVEE": ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE"),  # the first one in Blender 4.2 to 4.5
    "WORKBENCH": ("BLENDER_WORKBENCH",),
}


def say(**words):
    """Tell the parent process."""
    sys.stdout.write(f"\nDAS {json.dumps(words)}\n")
    sys.stdout.flush()


class Progress:
    """Which of the ``views`` is being rendered, and as a handler of ``render_stats``: how many samples it has."""

    def __init__(self, views):
        self._views, self._view = views, 0

    def begin(self, view):
        """The view number ``view``, from 0 on, begins."""
        self._view = view
        say(view=view, views=self._views)

    def __call__(self, line, *_):
        """Every engine that samples says how far it is."""
        sample = SAMPLE.search(line)
        if sample:
            say(view=self._view, views=self._views, step=int(sample[1]), of=int(sample[2]))


def choose_engine(scene, name, samples):
    """Set the render engine and its samples."""
    for identifier in ENGINES[name]:
        try:
            scene.render.engine = identifier
            break
        except TypeError:
            continue
    else:
        raise RuntimeError(f"this Blender has no {name.title()} render engine")
    if name == "CYCLES":
        if not hasattr(scene, "cycles"):
            raise RuntimeError("this Blender has no Cycles render engine")
        scene.cycles.samples = samples
    elif name == "EEVEE":
        scene.eevee.taa_render_samples = samples


def use_working_space(name):
    """The scene-linear space of the original file (Blender 5.0 and newer), which a copy of one scene may not have."""
    if name and bpy.data.colorspace.working_space != name:
        bpy.ops.wm.set_working_color_space(working_space=name, convert_colors=False)


def place_camera(scene, view):
    """A new camera in the place of the scene's ``view["name"]``: its lens and focus, the given view, nothing animated.

    The sensor is given per mm of lens.
    """
    original = bpy.data.objects[view["name"]] if view["name"] in bpy.data.objects else scene.camera
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


def render_frames(request):
    """Render the frames of ``request["frames"]``, each into the file that goes with it (see
    `child_blender.render_request`).
    """
    bpy.ops.wm.open_mainfile(filepath=request["file"], load_ui=False, use_scripts=request["use_scripts"])
    scene = bpy.data.scenes[request["scene"]]
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    use_working_space(request["working_space"])
    choose_engine(scene, request["engine"], request["samples"])
    frames = request["frames"]
    progress = Progress(len(frames))
    bpy.app.handlers.render_stats.append(progress)
    for index, (frame, output) in enumerate(frames):
        progress.begin(index)
        scene.frame_set(frame)
        if request["camera"] is not None:
            place_camera(scene, request["camera"])
        set_output(scene, request)  # after the frame is set, which may have animated some of it
        scene.render.filepath = output
        bpy.ops.render.render(write_still=True, scene=scene.name)


# ── Movies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def extension():
    """The package that this script lies in, for what needs no add-on to be enabled, under a name of its own."""
    name, folder = "das_extension", os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return tuple(importlib.import_module(f"{name}.{part}") for part in ("compat", "scene.sequencer"))


def make_movies(request):
    """Encode each of ``request["movies"]``: its ``"frames"``, PNG files of one folder in order, into ``"output"``."""
    compat, sequencer = extension()
    for index, movie in enumerate(request["movies"]):
        say(view=index, views=len(request["movies"]))
        scene = bpy.data.scenes.new("Movie")
        render = scene.render
        render.resolution_x, render.resolution_y = request["size"]
        render.resolution_percentage = 100
        render.fps, render.fps_base = request["fps"], request["fps_base"]
        render.dither_intensity = 0.0
        scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"  # the pictures' own bytes
        scene.frame_start, scene.frame_end = 1, len(movie["frames"])
        sequencer.add_image_strip(scene, "frames", movie["frames"], frame_start=1)
        compat.set_video_output(scene)
        render.filepath = movie["output"]
        bpy.ops.render.render(animation=True, scene=scene.name)


TASKS = {"render": render_frames, "movies": make_movies}


def leave_with_parent():
    """Wait until standard input closes, then end this process without another word."""
    sys.stdin.buffer.read()
    os._exit(1)


def main():
    """Do the task and leave at once: Blender up to 4.5 as a module crashes or hangs in its own exit code while add-ons
    are registered.
    """
    if sys.stdin is not None:  # Blender for Windows may have none
        threading.Thread(target=leave_with_parent, daemon=True).start()
    status = 0
    try:
        with open(sys.argv[-1], encoding="utf-8") as file:
            request = json.load(file)
        TASKS[request["task"]](request)
    except BaseException as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
