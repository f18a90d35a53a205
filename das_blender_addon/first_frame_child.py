# SPDX-License-Identifier: GPL-3.0-or-later
"""What the child Blender of `first_frame` runs: open a copy of the file, render one frame as one camera sees it, leave.

A script of its own that imports nothing of the package, so that it runs in any Blender binary (``-b --python``) and in
any Python with the `bpy` module.  The last argument is a JSON file of `first_frame._child_request`.  Says lines that
begin with
``DAS `` and hold JSON: ``{"step", "of"}`` while it renders, ``{"error"}`` when it fails.  When standard input closes,
because whoever started it is no more, it leaves at once.
"""

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


def say_progress(line, *_):
    """Handler of ``render_stats``: every engine that samples says how far it is."""
    sample = SAMPLE.search(line)
    if sample:
        say(step=int(sample[1]), of=int(sample[2]))


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


def place_camera(scene, request):
    """A new camera in the place of the scene's: its lens and focus, the request's view, nothing animated."""
    original = bpy.data.objects[request["camera"]] if request["camera"] in bpy.data.objects else scene.camera
    now = original.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    lens = original.data.copy()
    lens.animation_data_clear()
    lens.type = "PERSP"
    lens.lens, lens.clip_start, lens.clip_end = now.lens, now.clip_start, now.clip_end
    lens.dof.focus_distance, lens.dof.aperture_fstop = now.dof.focus_distance, now.dof.aperture_fstop
    lens.sensor_fit = "HORIZONTAL"
    lens.sensor_width = request["sensor_width_per_lens"] * lens.lens
    lens.shift_x, lens.shift_y = request["shift"]
    camera = bpy.data.objects.new("First Frame", lens)
    scene.collection.objects.link(camera)
    camera.matrix_world = Matrix(request["matrix_world"])
    for marker in scene.timeline_markers:
        marker.camera = None
    scene.camera = camera


def set_output(scene, request):
    """A whole picture of the model's size with the look asked for, nothing burnt in and nothing after the render."""
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
    render.filepath = request["output"]


def render(request):
    """The whole recipe."""
    bpy.ops.wm.open_mainfile(filepath=request["file"], load_ui=False, use_scripts=request["use_scripts"])
    scene = bpy.data.scenes[request["scene"]]
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    use_working_space(request["working_space"])
    choose_engine(scene, request["engine"], request["samples"])
    scene.frame_set(request["frame"])
    place_camera(scene, request)
    set_output(scene, request)
    bpy.app.handlers.render_stats.append(say_progress)
    bpy.ops.render.render(write_still=True, scene=scene.name)


def leave_with_parent():
    """Wait until standard input closes, then end this process without another word."""
    sys.stdin.buffer.read()
    os._exit(1)


def main():
    """Render and leave at once: bpy up to 4.5 crashes or hangs in its own exit code while add-ons are registered."""
    if sys.stdin is not None:  # Blender for Windows may have none
        threading.Thread(target=leave_with_parent, daemon=True).start()
    status = 0
    try:
        with open(sys.argv[-1], encoding="utf-8") as file:
            render(json.load(file))
    except BaseException as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
