# SPDX-License-Identifier: GPL-3.0-or-later
"""Time of the export per frame, beside Blender's own evaluation of the same frames, and of the tracking video.

``python tests/bench/bench_export.py`` prints a table; nothing is asserted.  Needs ``bpy``.  Processor time of one
thread where the work is ours, so that a busy machine disturbs it less; the evaluation is Blender's and uses what
threads it likes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.spool import SpoolWriter
from das_blender_addon.tracking.video import render_tracking_video
from scripts.demo_scene import build_demo_scene
from tests.support.content import add_hair_curves
from tests.support.scenes import add_camera, add_cube, add_grid, key

NUM_FRAMES = 8


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def dense_scene():
    """One subdivided cube of 250,000 triangles that a shape key deforms."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    add_camera(scene)
    cube = add_cube(scene)
    cube.shape_key_add(name="Basis")
    tall = cube.shape_key_add(name="Tall")
    for point in tall.data:
        point.co.z *= 2
    key(tall, "value", {1: 0.0, NUM_FRAMES: 1.0})
    subsurf = cube.modifiers.new("Smooth", "SUBSURF")
    subsurf.levels = subsurf.render_levels = 7
    key(cube, "rotation_euler", {1: (0, 0, 0), NUM_FRAMES: (0, 0, 1)})
    return scene


def instance_scene():
    """10,000 cubes on the vertices of a turning grid."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    add_camera(scene)
    grid, cube = add_grid(scene, "Grid", cells=99, size=10), add_cube(scene, size=0.05)
    cube.parent, grid.instance_type = grid, "VERTS"
    key(grid, "rotation_euler", {1: (0, 0, 0), NUM_FRAMES: (0, 0, 1)})
    return scene


def hair_scene(thickness_px: float):
    """50,000 strands of 12 points that fill most of the picture."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    camera = add_camera(scene, location=(0.0, -6.0, 1.5))
    key(camera, "location", {1: (0.0, -6.0, 1.5), NUM_FRAMES: (1.0, -6.0, 1.5)})
    px_per_unit = 720 * camera.data.lens / camera.data.sensor_width / 6.0
    add_hair_curves(scene, 50_000, points=12, radius=thickness_px / 2.0 / px_per_unit, bend=0.3)
    return scene


def forest_scene():
    """10,000 instances of a ball of 1000 triangles; the camera sees about a sixth of them."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    camera = add_camera(scene, location=(0.0, -20.0, 6.0))
    camera.data.lens = 55.0
    key(camera, "location", {1: (0.0, -20.0, 6.0), NUM_FRAMES: (3.0, -20.0, 6.0)})
    bpy.ops.mesh.primitive_uv_sphere_add(segments=32, ring_count=17, radius=0.3)
    ball, grid = bpy.context.object, add_grid(scene, "Grid", cells=99, size=90.0)
    ball.parent, grid.instance_type = grid, "VERTS"
    return scene


def measure(name: str, scene) -> None:
    """One row: median milliseconds per frame after the first."""
    folder = TemporaryDirectory()
    export = GeometryExport(720, 480, spool=SpoolWriter(Path(folder.name)))
    evaluation, ours = [], []
    began = time.perf_counter()

    def visit(frame, depsgraph):
        nonlocal began
        for shape in depsgraph.objects:  # Blender 4.5 and newer evaluate meshes when they are asked for
            if shape.type == "MESH":
                len(shape.data.vertices)
        evaluated, began_ours = time.perf_counter(), time.thread_time()
        export.add(frame, depsgraph)
        evaluation.append(evaluated - began)
        ours.append(time.thread_time() - began_ours)
        began = time.perf_counter()

    walk_in_render(scene, scene.view_layers[0].name, range(1, NUM_FRAMES + 1), visit)
    began = time.thread_time()
    geometry = export.finish()
    finish = (time.thread_time() - began) / NUM_FRAMES
    stamps = [time.thread_time()]
    render_tracking_video(geometry, colours_only=True, progress=lambda done, total: stamps.append(time.thread_time()))
    drawn = np.median(np.diff(stamps)[1:])
    folder.cleanup()
    row = [1e3 * value for value in (np.median(evaluation[1:]), ours[0], np.median(ours[1:]), finish, drawn)]
    say(f"{name:<28}{len(geometry.triangles):>10,}" + "".join(f"{value:>13.1f}" for value in row))


def main() -> None:
    say(f"Blender {bpy.app.version_string}, {NUM_FRAMES} frames, ms per frame")
    words = ("triangles", "Blender's", "ours, first", "ours, others", "finish", "tracking")
    say(f"{'scene':<28}{words[0]:>10}" + "".join(f"{word:>13}" for word in words[1:]))
    measure("demo scene", build_demo_scene())
    measure("one dense mesh, shape key", dense_scene())
    measure("10,000 instances", instance_scene())
    for thickness_px in (0.1, 0.25, 1.0):
        measure(f"50,000 strands, {thickness_px} px", hair_scene(thickness_px))
    measure("10,000 balls of 1000", forest_scene())
    say(f"largest size of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # bpy up to 4.5 crashes or hangs in its own exit code
