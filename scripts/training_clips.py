# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's share of what the preview model trains on: small scenes, rendered and exported by the extension itself.

    .venv/bin/python scripts/training_clips.py FOLDER [--count 120] [--first 0] [--size 96 64] [--frames 9]

Every clip is a stretch of one shot made from its number: a table or a room with things on it, textures of Blender's
own, one to three lamps with soft shadows, motion along curves, a camera that swings, goes round, cranes, zooms or
stands still.  Cycles renders it, and key pictures anywhere in the shot; `carried/` has what these show of the stretch,
alpha 0 where they do not.  Clips are added to the folder one by one (lossless, `das.export_dataset`); those that are
there are not made again.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bpy  # noqa: I001  (the others are found once bpy is there)
import addon_utils
import bmesh
from mathutils import Vector

SAMPLES = 24
MOTIONS = ("slide", "roll", "drop", "turn", "grow", "pass", "still")
CAMERAS = ("still", "swing", "round", "round", "crane", "zoom", "ride")
LONGEST = 6
"""Length of the shot in stretches, at most."""
TEXTURES = ("BRICK", "MAGIC", "GRADIENT", "CHECKER", "PLAIN")


def main() -> None:
    """Make the clips that the folder lacks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=9)
    options = parser.parse_args()

    from das_blender_addon import api
    from das_server.training.clips import CARRIED
    from das_server.training.synthetic.keyed import draw_keys

    listed = options.folder / "videos.txt"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    there = {Path(line).name for line in lines}
    for number in range(options.first, options.first + options.count):
        name = f"scene_{number:04d}"
        if name in there:
            continue
        rng = np.random.default_rng([21, number])
        length = options.frames * int(rng.integers(1, LONGEST + 1))
        start = int(rng.integers(0, length - options.frames + 1))
        scene = build_scene(number, length, *options.size)
        write_carried(scene, options.folder / CARRIED / name, draw_keys(rng, length, start, options.frames),
                      range(start, start + options.frames))
        api.export_dataset(
            scene,
            options.folder,
            name=name,
            caption="a small scene of simple things",
            frames=range(start + 1, start + options.frames + 1),
            size=tuple(options.size),
            lossless=True,
            engine="CYCLES",
            samples=SAMPLES,
        )
        print(f"{name} ({number - options.first + 1} of {options.count})", flush=True)


def build_scene(number: int, num_frames: int, width: int, height: int) -> bpy.types.Scene:
    """An empty file with the scene of a number, the extension enabled: frames 1 to ``num_frames``."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    addon_utils.enable("das_blender_addon", default_set=True)
    rng = np.random.default_rng([20, number])
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, num_frames
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.view_settings.view_transform = "Standard"
    scene.cycles.use_denoising, scene.cycles.max_bounces = False, 4
    _stage(scene, rng)
    _lamps(scene, rng)
    for _ in range(int(rng.integers(2, 7))):
        _animate(_thing(scene, rng), rng, num_frames)
    _camera(scene, rng, num_frames)
    return scene


def write_carried(scene: bpy.types.Scene, folder: Path, keys: tuple[int, ...], stretch: range) -> None:
    """What key pictures at the frames ``keys`` show of the frames ``stretch`` (0-based) as PNGs with alpha."""
    from das_blender_addon.jobs.scripting import exported_geometry
    from das_server.training.synthetic.keyed import carried_frames

    size = scene.render.resolution_x, scene.render.resolution_y
    scene.render.engine, scene.cycles.samples = "CYCLES", SAMPLES
    pictures = []
    with tempfile.TemporaryDirectory() as scratch:
        for key in keys:
            scene.frame_set(key + 1)
            scene.render.filepath = str(Path(scratch) / "key.png")
            bpy.ops.render.render(write_still=True)
            pictures.append(np.asarray(Image.open(scene.render.filepath).convert("RGB")))
    scene.frame_set(1)
    frames = tuple(range(scene.frame_start, scene.frame_end + 1))
    with exported_geometry(scene, frames, size, None, None, None) as geometry:
        carried = carried_frames(geometry, keys, pictures, stretch)
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(carried, 1):
        Image.fromarray(frame).save(folder / f"{number:04d}.png")


def _stage(scene, rng):
    """A round table before a plain world, or the corner of a room."""
    world = bpy.data.worlds.new("World")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs[0].default_value = (*(rng.uniform(0.1, 0.7) * rng.uniform(0.7, 1, 3)), 1)
    scene.world = world
    if rng.random() < 0.5:
        _mesh(scene, rng, "Table", lambda m: bmesh.ops.create_circle(m, cap_ends=True, segments=48, radius=4.5), 3)
        return
    half = rng.uniform(3, 5)
    _mesh(scene, rng, "Floor", lambda m: bmesh.ops.create_grid(m, size=half), 4)
    for angle, (x, y) in ((0, (0, half)), (math.pi / 2, (-half, 0))):
        wall = _mesh(scene, rng, "Wall", lambda m: bmesh.ops.create_grid(m, size=half), 4)
        wall.location, wall.rotation_euler = (x, y, half), (math.pi / 2, 0, angle)


def _lamps(scene, rng):
    for _ in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(["AREA", "SPOT", "POINT"]))
        lamp = bpy.data.lights.new("Lamp", kind)
        lamp.energy, lamp.color = rng.uniform(100, 400), rng.uniform(0.75, 1, 3)
        if kind == "AREA":
            lamp.size = rng.uniform(0.5, 2.5)
        else:
            lamp.shadow_soft_size = rng.uniform(0.05, 0.5)
        shape = _link(scene, "Lamp", lamp)
        shape.location = (rng.uniform(-3, 3), rng.uniform(-4, 1), rng.uniform(3, 5.5))
        _aim(shape, (0, 0, 0.5))


def _thing(scene, rng):
    """One of five shapes somewhere on the ground; one in three is small."""
    builders = (
        lambda m: bmesh.ops.create_uvsphere(m, u_segments=24, v_segments=12, radius=1),
        lambda m: bmesh.ops.create_cube(m, size=1.5),
        lambda m: bmesh.ops.create_cone(m, cap_ends=True, segments=20, radius1=1, radius2=0, depth=2),
        lambda m: bmesh.ops.create_cone(m, cap_ends=True, segments=6, radius1=0.9, radius2=0.9, depth=1.4),
        lambda m: bmesh.ops.create_icosphere(m, subdivisions=1, radius=1),
    )
    size = rng.uniform(0.15, 0.3) if rng.random() < 0.33 else rng.uniform(0.35, 0.85)
    thing = _mesh(scene, rng, "Thing", builders[rng.integers(len(builders))], rng.uniform(1, 3))
    thing.location = (rng.uniform(-2.3, 2.3), rng.uniform(-1.5, 2), size * rng.uniform(0.8, 1.1))
    thing.scale = size * rng.uniform(0.8, 1.25, 3)
    thing.rotation_euler = (0, 0, rng.uniform(0, 6.3))
    return thing


def _animate(thing, rng, last):
    """Two or three keys with Blender's own easing, after one of `MOTIONS`."""
    motion = str(rng.choice(MOTIONS))
    start, turn = Vector(thing.location), Vector(thing.rotation_euler)
    aside = Vector((rng.uniform(-1.6, 1.6), rng.uniform(-1.2, 1.2), 0))
    if motion == "slide":
        _key(thing, "location", {1: start, last: start + aside})
    elif motion == "roll":
        _key(thing, "location", {1: start, last: start + aside})
        _key(thing, "rotation_euler", {1: turn, last: turn + Vector((aside.y * 2, aside.x * 2, 0))})
    elif motion == "drop":
        _key(thing, "location", {1: start + Vector((0, 0, rng.uniform(0.8, 2))), (last + 1) // 2: start, last: start})
    elif motion == "turn":
        _key(thing, "rotation_euler", {1: turn, last: turn + Vector((0, 0, rng.uniform(-3, 3)))})
    elif motion == "grow":
        scale = Vector(thing.scale)
        _key(thing, "scale", {1: scale, last: scale * rng.uniform(0.5, 1.6)})
    elif motion == "pass":
        side = rng.choice([-1, 1])
        outside = Vector((side * rng.uniform(3.5, 5), start.y, start.z))
        ends = (outside, start) if rng.random() < 0.5 else (start, outside)
        _key(thing, "location", {1: ends[0], last: ends[1]})


def _camera(scene, rng, last):
    data = bpy.data.cameras.new("Camera")
    data.lens = rng.uniform(28, 60)
    camera = scene.camera = _link(scene, "Camera", data)
    target = _link(scene, "Target")
    target.location = (rng.uniform(-0.5, 0.5), 0, rng.uniform(0.3, 0.9))
    track = camera.constraints.new("TRACK_TO")
    track.target, track.track_axis, track.up_axis = target, "TRACK_NEGATIVE_Z", "UP_Y"
    angle, distance = rng.uniform(-0.6, 0.6), rng.uniform(5, 8)
    start = Vector((math.sin(angle) * distance, -math.cos(angle) * distance, rng.uniform(1.2, 4)))
    camera.location = start
    motion = str(rng.choice(CAMERAS))
    if motion == "swing":
        angle += rng.choice([-1, 1]) * rng.uniform(0.2, 0.6)
        end = Vector((math.sin(angle) * distance, -math.cos(angle) * distance, start.z))
        _key(camera, "location", {1: start, last: end})
    elif motion == "round":
        turn = rng.choice([-1, 1]) * math.radians(rng.uniform(30, 90))
        for frame in range(1, last + 1):
            now = angle + turn * (frame - 1) / max(1, last - 1)
            _key(camera, "location", {frame: Vector((math.sin(now) * distance, -math.cos(now) * distance, start.z))})
    elif motion == "crane":
        _key(camera, "location", {1: start, last: start + Vector((0, 0, rng.choice([-0.8, 1.8])))})
    elif motion == "zoom":
        _key(data, "lens", {1: data.lens, last: data.lens * rng.uniform(0.75, 1.5)})
    elif motion == "ride":
        _key(camera, "location", {1: start, last: start * rng.uniform(0.65, 1.2)})


def _mesh(scene, rng, name, build, texture_scale):
    data, shape = bpy.data.meshes.new(name), bmesh.new()
    build(shape)
    shape.to_mesh(data)
    shape.free()
    data.materials.append(_material(rng, texture_scale))
    return _link(scene, name, data)


def _material(rng, scale):
    """A plain colour, or two mixed by a texture in object coordinates, which stay on the surface."""
    material = bpy.data.materials.new("Material")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = rng.uniform(0.3, 1)
    colours = [(*rng.uniform(0.03, 0.95, 3), 1) for _ in range(2)]
    kind = str(rng.choice(TEXTURES))
    shader.inputs["Base Color"].default_value = colours[0]
    if kind == "PLAIN":
        return material
    texture, mix = nodes.new(f"ShaderNodeTex{kind.title()}"), nodes.new("ShaderNodeMix")
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Object"], texture.inputs["Vector"])
    if "Scale" in texture.inputs:
        texture.inputs["Scale"].default_value = scale
    mix.data_type = "RGBA"
    mix.inputs[6].default_value, mix.inputs[7].default_value = colours
    links.new(texture.outputs["Fac"], mix.inputs[0])
    links.new(mix.outputs[2], shader.inputs["Base Color"])
    return material


def _link(scene, name, data=None):
    shape = bpy.data.objects.new(name, data)
    scene.collection.objects.link(shape)
    return shape


def _aim(shape, target):
    shape.rotation_euler = (Vector(target) - shape.location).to_track_quat("-Z", "Y").to_euler()


def _key(owner, path, keys):
    for frame, value in keys.items():
        setattr(owner, path, value)
        owner.keyframe_insert(path, frame=frame)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code while add-ons are registered
