# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenes of the adherence suite, each built from a fixed seed in the current Blender: a walk, a cloth, an orbit, a
thing that leaves and comes back, a cut between two cameras, and a shot that is longer than a model's window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin

import bpy
import numpy as np

from tests.support import held_out_scenes as scenes

NUM_FRAMES, LONG = 25, 65
SIZE = (240, 160)
VISITOR = "Visitor"


@dataclass(frozen=True)
class SuiteScene:
    """``keys``: Blender frames of the key pictures besides the first, None for as many as the model wants.  ``cuts``:
    its camera does."""

    name: str
    seed: int
    build: Callable
    num_frames: int = NUM_FRAMES
    keys: tuple[int, ...] | None = None
    cuts: bool = False


def build_suite_scene(one: SuiteScene):
    """An empty file with the scene, to be rendered at `SIZE`; the same for the same seed."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)  # the extension stays enabled
    rng, scene = np.random.default_rng([one.seed, 815]), bpy.context.scene
    scene.frame_start, scene.frame_end = 1, one.num_frames
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.render.resolution_percentage, scene.render.fps = 100, 24
    scene.view_settings.view_transform, scene.render.dither_intensity = "Standard", 0.0
    scenes._world_and_sun(scene, rng)
    scenes._camera(scene, rng)
    scenes._floor(scene, rng)
    _paint(scene.objects["Floor"], rng, 18.0)
    wall = scenes._shape(scene, rng, "Wall", lambda b, m: b.ops.create_grid(m, size=9), (0, 6, 3))
    wall.rotation_euler = (radians(90), 0, 0)
    _paint(wall, rng, 14.0)
    one.build(scene, rng, one.num_frames)
    for action in bpy.data.actions:
        scenes._linear(action)
    return scene


def _paint(thing, rng, scale: float) -> None:
    """A material with texture everywhere: patches of five colours."""
    material = bpy.data.materials.new("Patches")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    place, patches = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeTexVoronoi")
    patches.inputs["Scale"].default_value = scale
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.interpolation = "CONSTANT"
    for number in range(3):
        ramp.color_ramp.elements.new(0.25 * (number + 1))
    for element in ramp.color_ramp.elements:
        element.color = (*rng.uniform(0.03, 0.9, 3), 1.0)
    links.new(place.outputs["Generated"], patches.inputs["Vector"])
    links.new(patches.outputs["Color"], ramp.inputs[0])
    links.new(ramp.outputs[0], nodes["Principled BSDF"].inputs["Base Color"])
    thing.data.materials.clear()
    thing.data.materials.append(material)


def _thing(scene, rng, name: str, place, size: float = 0.7):
    thing = scenes._random_shape(scene, rng, place, size)
    thing.name = name
    _paint(thing, rng, 7.0)
    return thing


def _walk(scene, rng, end) -> None:
    """A body on two legs that swing, and arms; the camera goes along."""
    hip = scenes._link(scene, "Hip")
    parts = {
        "Body": ((0, 0, 1.9), 1.0, 0.35), "Leg left": ((0, -0.2, 0.75), 1.4, 0.17),
        "Leg right": ((0, 0.2, 0.75), 1.4, 0.17), "Arm left": ((0, -0.5, 1.9), 1.1, 0.12),
    }  # fmt: skip
    for name, (place, height, radius) in parts.items():
        part = scenes._tube(scene, rng, place, height, radius)
        part.name, part.parent = name, hip
        _paint(part, rng, 6.0)
    for frame in range(1, end + 1):
        swing = 0.5 * sin(2 * np.pi * (frame - 1) / 16)
        hip.location = (-1.5 + 3.0 * (frame - 1) / (end - 1), 0, 0.06 * abs(swing))
        hip.keyframe_insert("location", frame=frame)
        for name, way in (("Leg left", swing), ("Leg right", -swing), ("Arm left", -swing)):
            scene.objects[name].rotation_euler.y = way
            scene.objects[name].keyframe_insert("rotation_euler", frame=frame)
    scene.camera.location.x = 0.0
    start = scene.camera.location.copy()
    scenes._key(scene.camera, "location", (1, end), (start, (1.0, start.y, start.z)))


def _cloth(scene, rng, end) -> None:
    """A cloth that hangs by two corners in the wind, simulated."""
    cloth = scenes._shape(
        scene, rng, "Cloth", lambda b, m: b.ops.create_grid(m, x_segments=16, y_segments=16, size=1.2), (0, 0, 2.0)
    )
    cloth.rotation_euler = (radians(90), 0, 0)
    _paint(cloth, rng, 9.0)
    pinned = cloth.vertex_groups.new(name="Pinned")
    pinned.add([v.index for v in cloth.data.vertices if v.co.y > 1.15 and abs(v.co.x) > 1.0], 1.0, "REPLACE")
    modifier = cloth.modifiers.new("Cloth", "CLOTH")
    modifier.settings.vertex_group_mass, modifier.settings.quality = "Pinned", 4
    modifier.point_cache.frame_start, modifier.point_cache.frame_end = 1, end
    wind = scenes._link(scene, "Wind")
    wind.location, wind.rotation_euler = (0, -3, 1.5), (radians(-90), 0, 0)
    bpy.context.view_layer.objects.active = wind
    bpy.ops.object.forcefield_toggle()
    wind.field.type, wind.field.strength = "WIND", 250.0


def _orbit(scene, rng, end) -> None:
    for number, place in enumerate(((-1.2, 0.3, 0.7), (1.1, -0.4, 0.7), (0.1, 1.6, 0.8))):
        _thing(scene, rng, f"Thing {number + 1}", place)
    for frame in range(1, end + 1):
        turn = radians(-20 + 40 * (frame - 1) / (end - 1))
        scene.camera.location = (7.0 * sin(turn), -7.0 * cos(turn), 2.5)
        scenes._aim(scene.camera, (0, 0, 0.9))
        scene.camera.keyframe_insert("location", frame=frame)
        scene.camera.keyframe_insert("rotation_euler", frame=frame)


def _returns(scene, rng, end) -> None:
    """A thing that is in front of others leaves the picture and comes back."""
    for number, place in enumerate(((-1.0, 0.5, 0.7), (0.9, 0.8, 0.7))):
        _thing(scene, rng, f"Thing {number + 1}", place)
    visitor = _thing(scene, rng, VISITOR, (0, -1.5, 1.0), 0.8)
    x = scene.camera.location.x
    away = (x - 5.0, -1.5, 1.0)
    times = (1, 1 + end // 3, 1 + 2 * end // 3, end)
    scenes._key(visitor, "location", times, ((x, -1.5, 1.0), away, away, (x + 0.3, -1.5, 1.0)))


def _two_cameras(scene, rng, end) -> None:
    """A thing moves through the picture, and the camera cuts in the middle."""
    for number, place in enumerate(((-1.1, 0.4, 0.7), (1.1, 0.9, 0.7))):
        _thing(scene, rng, f"Thing {number + 1}", place)
    mover = _thing(scene, rng, "Mover", (-1.0, -0.8, 0.8))
    scenes._key(mover, "location", (1, end), ((-1.0, -0.8, 0.8), (1.0, -0.8, 0.8)))
    other = scenes._link(scene, "Camera 2", scene.camera.data.copy())
    other.location = (2.5, -6.0, 2.0)
    scenes._aim(other, (0, 0, 0.9))
    for frame, camera in ((1, scene.camera), ((end + 1) // 2, other)):
        scene.timeline_markers.new(camera.name, frame=frame).camera = camera


def _long(scene, rng, end) -> None:
    """Things move slowly while the camera comes nearer: two windows of a model or more."""
    for number, place in enumerate(((-1.2, 0.3, 0.8), (1.2, 0.6, 0.8))):
        thing = _thing(scene, rng, f"Thing {number + 1}", place)
        start = thing.location.copy()
        scenes._key(thing, "location", (1, end), (start, (-0.6 * start.x, start.y, start.z)))
    start = scene.camera.location.copy()
    scenes._key(scene.camera, "location", (1, end), (start, (start.x + 0.8, start.y + 1.2, start.z)))


SUITE = (
    SuiteScene("walk", 1, _walk),
    SuiteScene("cloth", 2, _cloth),
    SuiteScene("orbit", 3, _orbit),
    SuiteScene("leaves and returns", 4, _returns, keys=()),
    SuiteScene("two cameras", 5, _two_cameras, keys=((NUM_FRAMES + 1) // 2,), cuts=True),
    SuiteScene("long shot", 6, _long, LONG),
)
