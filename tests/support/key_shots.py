# SPDX-License-Identifier: GPL-3.0-or-later
"""Shots for the bench of key pictures: `python -m tests.support.key_shots FOLDER` renders each, once.

Written per shot: `<name>/<width>x<height>/f001.png …` (Cycles, the key frames and frames between them) and
`<name>/geometry.npz` (what the exporter gives, cameras at the largest size).  The orbits are built here: textured
things on a floor or in a room, a camera that goes round them; "outdoor" has more sky than ground, and clouds in it;
the others are the held-out scenes and the demo.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from math import cos, pi, radians, sin
from pathlib import Path

import numpy as np

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence

NUM_FRAMES = 49
#: Rendered frames: key pictures at 1, 25 and 49, and frames between that are measured.
RENDERED = (1, 7, 13, 19, 25, 31, 37, 43, 49)
SIZES = ((384, 256), (720, 480))
SAMPLES = 24
#: name → (kind, seed); "orbit…" and "outdoor" are built here, "demo" is the demo scene, the rest is held out.
SHOTS = {
    "orbit40_a": ("orbit40", 1),
    "orbit40_b": ("orbit40", 2),
    "orbit40_c": ("orbit40", 3),
    "orbit90_a": ("orbit90", 4),
    "outdoor_turn": ("outdoor", 5),
    "outdoor_walk": ("outdoor", 6),
    "demo": ("demo", 0),
    "skinned": ("skinned", 0),
    "crossing": ("crossing", 2),
    "moving_shadow": ("moving_shadow", 1),
    "moving_light": ("moving_light", 0),
}
_CAMERA_ARRAYS = ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end")


def build_orbit(seed: int, degrees: float, num_frames: int):
    """An orbit of ``degrees`` around textured things; even seeds stand in a room, odd ones on a floor under the sky."""
    import bpy
    from mathutils import Vector

    from tests.support import held_out_scenes as scenes

    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng = np.random.default_rng([seed, 4711])
    scene = bpy.context.scene
    scenes._world_and_sun(scene, rng)
    scenes._camera(scene, rng)
    scenes._floor(scene, rng)
    if seed % 2 == 0:
        _walls(scene, rng, scenes)
    for turn in np.linspace(0, 2 * pi, 5, endpoint=False) + rng.uniform(0, 1.2):
        reach = rng.uniform(0.6, 1.9)
        thing = scenes._random_shape(
            scene, rng, (reach * cos(turn), reach * sin(turn), rng.uniform(0.5, 1.0)), rng.uniform(0.35, 0.75)
        )
        thing.rotation_euler = rng.uniform(0, 6, 3)
    start = Vector((0.0, -6.0, rng.uniform(1.8, 2.8)))
    scene.camera.data.lens = 38.0
    for frame in range(1, num_frames + 1):
        turn = radians(degrees) * ((frame - 1) / (num_frames - 1) - 0.5)
        place = Vector((-start.y * sin(turn), start.y * cos(turn), start.z))
        scene.camera.location = place
        scenes._aim(scene.camera, (0, 0, 0.8))
        scene.camera.keyframe_insert("location", frame=frame)
        scene.camera.keyframe_insert("rotation_euler", frame=frame)
    for action in bpy.data.actions:
        scenes._linear(action)
    return scene


def build_outdoor(seed: int, num_frames: int):
    """Things on a small floor under clouds: odd seeds turn the camera by 36°, even ones walk and turn by 20°."""
    import bpy

    from tests.support import held_out_scenes as scenes

    scene = build_orbit(2 * seed + 1, 20.0, num_frames)  # odd: no room
    rng = np.random.default_rng([seed, 815])
    nodes, links = scene.world.node_tree.nodes, scene.world.node_tree.links
    place, noise, ramp = (nodes.new(f"ShaderNode{kind}") for kind in ("TexCoord", "TexNoise", "ValToRGB"))
    noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = rng.uniform(5, 9), 4.0
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.4, 0.65
    ramp.color_ramp.elements[0].color = (0.12, 0.28, 0.75, 1.0)
    ramp.color_ramp.elements[1].color = (0.95, 0.93, 0.9, 1.0)
    links.new(place.outputs["Generated"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], ramp.inputs["Fac"])
    background = next(node for node in nodes if node.type == "BACKGROUND")
    links.new(ramp.outputs["Color"], background.inputs["Color"])
    background.inputs["Strength"].default_value = 0.8
    camera = scene.camera
    camera.animation_data_clear()
    camera.data.lens = 28.0
    turn, walk = (radians(36.0), 0.0) if seed % 2 else (radians(20.0), 2.5)
    for frame in range(1, num_frames + 1):
        share = (frame - 1) / (num_frames - 1) - 0.5
        camera.location = (walk * share, -6.5 + walk * share, 1.6)
        camera.rotation_euler = (radians(97.0 + 6.0 * share), 0.0, -turn * share)
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
    for action in bpy.data.actions:
        scenes._linear(action)
    return scene


def _walls(scene, rng, scenes) -> None:
    """Three textured walls behind and beside the things, open towards the camera."""

    def build(b, m):
        b.ops.create_grid(m, x_segments=1, y_segments=1, size=7)

    places = ((0, 5, 3), 0), ((-7, 0, 3), pi / 2), ((7, 0, 3), -pi / 2)
    for place, turn in places:
        wall = scenes._shape(scene, rng, "Wall", build, place)
        wall.rotation_euler = (pi / 2, 0, turn)
        wall.data.materials[0] = scenes._material(rng, scale=rng.uniform(6, 14))
    for light in (thing for thing in scene.objects if thing.type == "LIGHT"):
        light.rotation_euler = (0.5, 0.3, 0.2)


def build_shot(name: str):
    """The Blender scene of the shot ``name``, to be rendered by Cycles."""
    kind, seed = SHOTS[name]
    if kind.startswith("orbit4") or kind.startswith("orbit9"):
        scene = build_orbit(seed, float(kind[5:]), NUM_FRAMES)
    elif kind == "outdoor":
        scene = build_outdoor(seed, NUM_FRAMES)
    elif kind == "demo":
        from scripts.demo_scene import build_demo_scene

        scene = build_demo_scene()
    else:
        from tests.support.held_out_scenes import build_scene

        scene = build_scene(kind, seed, NUM_FRAMES, *SIZES[-1])
    scene.frame_start, scene.frame_end = 1, NUM_FRAMES
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", SAMPLES, 1
    scene.cycles.max_bounces, scene.cycles.use_adaptive_sampling = 3, False
    scene.cycles.use_denoising = True
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.use_persistent_data = True
    scene.view_settings.view_transform = "Standard"
    scene.render.dither_intensity = 0.0
    scene.render.resolution_percentage = 100
    return scene


def render_shot(folder: Path, name: str, sizes=SIZES, frames=RENDERED) -> None:
    """Render ``name`` and export its geometry into ``folder``; what is there is kept."""
    import bpy

    from das_blender_addon.jobs.scripting import exported_geometry

    wanted = [(size, frame) for size in sizes for frame in frames if not picture_path(folder, size, frame).exists()]
    if not wanted and (folder / "geometry.npz").exists():
        return
    scene = build_shot(name)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "geometry.npz").exists():
        scene.render.resolution_x, scene.render.resolution_y = SIZES[-1]
        with exported_geometry(scene, tuple(range(1, NUM_FRAMES + 1)), SIZES[-1], None, None, None) as geometry:
            np.savez(
                folder / "geometry.npz",
                triangles=geometry.triangles,
                vertices=np.asarray(geometry.vertices),
                **{array: getattr(geometry.cameras, array) for array in _CAMERA_ARRAYS},
            )
    for size, frame in wanted:
        scene.render.resolution_x, scene.render.resolution_y = size
        scene.frame_set(frame)
        scene.render.filepath = str(picture_path(folder, size, frame))
        bpy.ops.render.render(write_still=True)


def picture_path(folder: Path, size: tuple[int, int], frame: int) -> Path:
    return folder / f"{size[0]}x{size[1]}" / f"f{frame:03}.png"


def load_geometry(folder: Path, size: tuple[int, int]) -> GeometrySequence:
    """The shot's geometry with its cameras at ``size``."""
    with np.load(folder / "geometry.npz") as arrays:
        said = {name: arrays[name] for name in arrays.files}
    cameras = CameraPath(**{name: said[name] for name in _CAMERA_ARRAYS}, width=SIZES[-1][0], height=SIZES[-1][1])
    frames = tuple(range(1, NUM_FRAMES + 1))
    return GeometrySequence(said["triangles"], said["vertices"], resized(cameras, size), frames)


def resized(cameras: CameraPath, size: tuple[int, int]) -> CameraPath:
    """The same view in ``size`` (width, height) pixels."""
    scale = np.array([size[0] / cameras.width, size[1] / cameras.height])
    return replace(
        cameras,
        focal_px=cameras.focal_px * scale,
        principal_px=cameras.principal_px * scale,
        width=size[0],
        height=size[1],
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SHOTS), default=list(SHOTS))
    parser.add_argument("--sizes", nargs="+", default=[f"{width}x{height}" for width, height in SIZES])
    parser.add_argument("--frames", nargs="+", type=int, default=RENDERED)
    options = parser.parse_args()
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    for name in options.only:
        render_shot(options.folder / name, name, sizes, options.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
