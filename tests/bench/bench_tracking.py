# SPDX-License-Identifier: GPL-3.0-or-later
"""Time of the tracking video per frame, beside a painted point cloud and a Cycles render of the same triangles.

``python tests/bench/bench_tracking.py`` prints a table; nothing is asserted.  Everything runs on one core at 720×480,
measured in processor time, so that a busy machine disturbs it less.  The painter is what the public reference does
per frame: sort the points by depth, paint a 3×3 square for each in a Python loop.  The Cycles column (one sample, box
filter, emission from a colour attribute, one thread, mesh upload included) appears where ``bpy`` can be imported.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import platform
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.tracking.framing import crop_and_resize, fit_framing
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.rasteriser import rasterise
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import camera_path, ground, look_at, sequence

WIDTH, HEIGHT = 720, 480
NUM_FRAMES = 6
TRIANGLE_COUNTS = (10_000, 250_000, 1_000_000)
MOST_TRIANGLES_FOR_CYCLES = 250_000


def bumpy_ball(num_triangles):
    """Vertices and triangles of a ball with bumps on it, about ``num_triangles``."""
    rings = int((num_triangles / 4) ** 0.5)
    segments = 2 * rings
    longitude, latitude = np.meshgrid(
        np.linspace(0, 2 * np.pi, segments + 1), np.linspace(0.01, np.pi - 0.01, rings + 1)
    )
    radius = 1.5 + 0.12 * np.sin(9 * longitude) * np.sin(7 * latitude)
    points = np.stack(
        [
            radius * np.sin(latitude) * np.cos(longitude),
            radius * np.sin(latitude) * np.sin(longitude),
            radius * np.cos(latitude) + 1.5,
        ],
        axis=-1,
    ).reshape(-1, 3)
    a = (np.arange(rings)[:, None] * (segments + 1) + np.arange(segments)).reshape(-1)
    b, c, d = a + 1, a + segments + 1, a + segments + 2
    return points, np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)])


def bench_scene(num_triangles, size=(WIDTH, HEIGHT)):
    """A turning bumpy ball on a ground of two triangles, seen by a camera that moves; ``size`` of its picture."""
    points, faces = bumpy_ball(num_triangles)
    turned = []
    for angle in np.linspace(0, 0.6, NUM_FRAMES):
        c, s = np.cos(angle), np.sin(angle)
        turned.append(points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]))
    matrices = [look_at((0.4 * t, -5, 2.2), (0, 0, 1.3)) for t in range(NUM_FRAMES)]
    cameras = camera_path(matrices, width=size[0], height=size[1], focal_px=700.0 / HEIGHT * size[1])
    return sequence([(np.stack(turned), faces), ground(50.0)], cameras)


def time_tracking_video(geometry):
    """Milliseconds per frame of the whole tracking video (the fastest frame; processor time, and time on the wall), of
    its colours only, as a take has it, and of its rasteriser alone.
    """
    fastest = []
    for colours_only in (False, True):
        stamps = [(time.process_time(), time.perf_counter())]
        render_tracking_video(
            geometry,
            colours_only=colours_only,
            progress=lambda done, total, own=stamps: own.append((time.process_time(), time.perf_counter())),
        )
        fastest.append((1e3 * np.diff(stamps, axis=0)).min(axis=0))
    (frame_ms, wall_ms), (colours_ms, _) = fastest
    camera = pinhole_at(geometry.cameras, 1)
    points = camera.optical_points(geometry.vertices[1])
    start = time.process_time()
    rasterise(points, geometry.triangles, camera)
    return frame_ms, wall_ms, colours_ms, 1e3 * (time.process_time() - start)


def time_both_cores(geometry, rounds=3):
    """Seconds on the wall of two passes over ``geometry``: one after the other, in two threads, in two processes; the
    fastest of some rounds, taken in turns.  Processes are forked and give nothing back: less than that cannot be.
    """

    def draw():
        render_tracking_video(geometry, colours_only=True, inverse_depth_range=(0.05, 0.3))

    def in_turn():
        draw()
        draw()

    def in_threads():
        threads = [threading.Thread(target=draw) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def in_processes():
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                draw()
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

    ways = [in_turn, in_threads, *([in_processes] if hasattr(os, "fork") else [])]
    seconds = []
    for _ in range(rounds):
        seconds.append([])
        for way in ways:
            start = time.perf_counter()
            way()
            seconds[-1].append(time.perf_counter() - start)
    return np.array(seconds).min(axis=0)


def time_painter():
    """Milliseconds to paint a frame of 720×480 points, 3×3 pixels each, far ones first, in a Python loop."""
    rng = np.random.default_rng(0)
    y, x = (axis.reshape(-1) for axis in np.mgrid[0:HEIGHT, 0:WIDTH])
    place_x, place_y = x + rng.uniform(-3, 3, x.size), y + rng.uniform(-3, 3, x.size)
    depth = rng.uniform(1, 9, x.size)
    colours = rng.integers(0, 256, (x.size, 3), dtype=np.uint8)
    start = time.process_time()
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    columns, rows = place_x.astype(int), place_y.astype(int)
    kept = (columns >= 0) & (columns < WIDTH) & (rows > 0) & (rows < HEIGHT)
    columns, rows, colours, depth = columns[kept], rows[kept], colours[kept], depth[kept]
    for point in np.argsort(-depth):
        column, row, colour = columns[point], rows[point], colours[point]
        for paint_row in range(max(row - 1, 0), min(row + 2, HEIGHT)):
            for paint_column in range(max(column - 1, 0), min(column + 2, WIDTH)):
                frame[paint_row, paint_column] = colour
    return 1e3 * (time.process_time() - start)


def time_cycles(geometry):
    """Milliseconds of one Cycles render of frame 2 with one sample, or None without bpy."""
    try:
        import bpy
    except ImportError:
        return None
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    mesh = bpy.data.meshes.new("shot")
    mesh.from_pydata(geometry.vertices[1].tolist(), [], geometry.triangles.tolist())
    first = geometry.vertices[0]
    span = np.maximum(np.ptp(first, axis=0), 1e-6)
    colour = np.c_[(first - first.min(axis=0)) / span, np.ones(len(first))].astype(np.float32)
    mesh.attributes.new("place", "FLOAT_COLOR", "POINT").data.foreach_set("color", colour.reshape(-1))
    material = bpy.data.materials.new("place")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    attribute, emission = nodes.new("ShaderNodeAttribute"), nodes.new("ShaderNodeEmission")
    output = nodes.new("ShaderNodeOutputMaterial")
    attribute.attribute_name = "place"
    links.new(attribute.outputs["Color"], emission.inputs["Color"])
    links.new(emission.outputs["Emission"], output.inputs["Surface"])
    mesh.materials.append(material)
    scene.collection.objects.link(bpy.data.objects.new("shot", mesh))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.lens = 700.0 / WIDTH * camera.data.sensor_width
    camera.matrix_world = np.linalg.inv(geometry.cameras.camera_from_world[1]).T.tolist()
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 1, False
    scene.cycles.pixel_filter_type, scene.cycles.max_bounces = "BOX", 0
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = WIDTH, HEIGHT, 100
    start = time.process_time()
    bpy.ops.render.render()
    return 1e3 * (time.process_time() - start)


def main():
    print(f"tracking video, {WIDTH}×{HEIGHT}, one core; Python {platform.python_version()}, numpy {np.__version__}")
    painter_ms = time_painter()
    print(f"  painted point cloud (a Python loop over {WIDTH * HEIGHT} points): {painter_ms:8.0f} ms/frame")
    for count in TRIANGLE_COUNTS:
        geometry = bench_scene(count)
        frame_ms, wall_ms, colours_ms, rasteriser_ms = time_tracking_video(geometry)
        line = f"  {len(geometry.triangles):>9,} triangles: {frame_ms:6.0f} ms/frame (colours only {colours_ms:.0f}; "
        line += f"rasteriser {rasteriser_ms:.0f}; on the wall {wall_ms:.0f})"
        line += f"; painter takes {painter_ms / frame_ms:.1f}× as long"
        cycles_ms = time_cycles(geometry) if count <= MOST_TRIANGLES_FOR_CYCLES else None
        if cycles_ms is not None:
            line += f"; Cycles {cycles_ms:.0f} ms, {cycles_ms / frame_ms:.1f}×"
        print(line)
    large_ms, wall_ms, colours_ms, _ = time_tracking_video(bench_scene(250_000, (1920, 1080)))
    for count in TRIANGLE_COUNTS[:2]:
        alone, *both = time_both_cores(bench_scene(count))
        ratios = ", ".join(f"{alone / one:.2f}×" for one in both)
        print(f"  {count:>9,} triangles, both cores by frames (two threads, two processes): {ratios} as fast")
    large = f"{large_ms:6.0f} ms/frame (colours only {colours_ms:.0f}; on the wall {wall_ms:.0f})"
    print(f"  1920×1080, 250,002 triangles: {large}")
    frames = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    start = time.process_time()
    crop_and_resize(frames, fit_framing((1920, 1080), (WIDTH, HEIGHT)))
    print(f"  crop and Lanczos to 1920×1080: {1e3 * (time.process_time() - start) / len(frames):.0f} ms/frame")


if __name__ == "__main__":
    sys.exit(main())
