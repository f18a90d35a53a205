# SPDX-License-Identifier: GPL-3.0-or-later
"""Held-out scenes for the preview model, built from a seed in the current Blender: eight kinds of motion, and three of
light and shadow that change.

Materials are Blender's own procedural textures in generated coordinates, which stay on a surface that deforms; light is
a sun with shadows and a plain world. No code and no seed is shared with what the model was trained on, the synthetic
generator and `scripts/training_clips.py`; of Blender's textures only the checker occurs in both.
"""

import math

import bpy
import numpy as np
from mathutils import Vector

KINDS = ("rigid", "skinned", "shape_key", "orbit", "dolly_occluder", "low_poly_ground", "crossing", "off_screen_entry")
LIGHT_KINDS = ("moving_light", "lamp_fade", "moving_shadow")
"""Kinds for `preview_relight.py` alone: what they measure is the light, and the model's numbers are of `KINDS`."""


def build_scene(kind: str, seed: int, num_frames: int, width: int, height: int, samples: int = 48) -> bpy.types.Scene:
    """An empty file with one scene of `kind`: frames 1 to `num_frames`, Cycles on the CPU, a camera that renders it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng = np.random.default_rng([seed, (*KINDS, *LIGHT_KINDS).index(kind)])
    scene = bpy.context.scene
    scene["seed"] = seed
    scene.frame_start, scene.frame_end = 1, num_frames
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", samples, 1
    scene.cycles.use_denoising, scene.cycles.max_bounces = False, 3
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.view_settings.view_transform = "Standard"
    _world_and_sun(scene, rng)
    _camera(scene, rng)
    if kind != "off_screen_entry" or rng.random() < 0.5:
        _floor(scene, rng)
    globals()[f"_{kind}"](scene, rng, num_frames)
    for action in bpy.data.actions:
        _linear(action)
    return scene


def _linear(action):
    curves = getattr(action, "fcurves", None)
    if curves is None:  # Blender 5: curves live in slots
        curves = [curve for layer in action.layers for strip in layer.strips for bag in strip.channelbags
                  for curve in bag.fcurves]
    for curve in curves:
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"


def _world_and_sun(scene, rng):
    world = bpy.data.worlds.new("World")
    world.use_nodes = True
    level = rng.uniform(0.25, 0.9)
    world.node_tree.nodes["Background"].inputs[0].default_value = (*(level * rng.uniform(0.8, 1.1, 3)), 1)
    scene.world = world
    sun = bpy.data.lights.new("Sun", "SUN")
    sun.energy, sun.angle = rng.uniform(1.5, 3.5), 0.05
    lamp = _link(scene, "Sun", sun)
    lamp.rotation_euler = (rng.uniform(0.2, 0.9), rng.uniform(-0.4, 0.4), rng.uniform(0, 6.3))


def _camera(scene, rng):
    camera = bpy.data.cameras.new("Camera")
    camera.lens = rng.uniform(32, 55)
    shape = _link(scene, "Camera", camera)
    shape.location = (rng.uniform(-1, 1), -7.0, rng.uniform(1.8, 3.2))
    _aim(shape, (0, 0, 0.9))
    scene.camera = shape


def _aim(shape, target):
    shape.rotation_euler = (Vector(target) - shape.location).to_track_quat("-Z", "Y").to_euler()


def _link(scene, name, data=None):
    shape = bpy.data.objects.new(name, data)
    scene.collection.objects.link(shape)
    return shape


def _material(rng, scale=None):
    """Two colours mixed by one of Blender's procedural textures, or a plain colour."""
    material = bpy.data.materials.new("Material")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = rng.uniform(0.4, 1)
    first, second = rng.uniform(0.05, 0.9, 3), rng.uniform(0.05, 0.9, 3)
    kind = rng.choice(["CHECKER", "NOISE", "VORONOI", "WAVE", "PLAIN"], p=[0.25, 0.25, 0.2, 0.15, 0.15])
    if kind == "PLAIN":
        shader.inputs["Base Color"].default_value = (*first, 1)
        return material
    coordinates = nodes.new("ShaderNodeTexCoord")
    texture = nodes.new({"CHECKER": "ShaderNodeTexChecker", "NOISE": "ShaderNodeTexNoise",
                         "VORONOI": "ShaderNodeTexVoronoi", "WAVE": "ShaderNodeTexWave"}[kind])
    texture.inputs["Scale"].default_value = scale or rng.uniform(3, 7)
    links.new(coordinates.outputs["Generated"], texture.inputs["Vector"])
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.35, 0.65
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*first, 1), (*second, 1)
    output = "Distance" if kind == "VORONOI" else "Fac"
    links.new(texture.outputs[output if output in texture.outputs else 0], ramp.inputs[0])
    links.new(ramp.outputs[0], shader.inputs["Base Color"])
    return material


def _shape(scene, rng, name, build, location, scale=1.0):
    import bmesh

    mesh, shape = bpy.data.meshes.new(name), bmesh.new()
    build(bmesh, shape)
    shape.to_mesh(mesh)
    shape.free()
    thing = _link(scene, name, mesh)
    thing.location, thing.scale = location, (scale,) * 3
    mesh.materials.append(_material(rng))
    return thing


def _random_shape(scene, rng, location, size):
    builders = (lambda b, m: b.ops.create_cube(m, size=1.6),
                lambda b, m: b.ops.create_icosphere(m, subdivisions=3, radius=1),
                lambda b, m: b.ops.create_cone(m, segments=24, radius1=0.8, radius2=0.8, depth=1.8, cap_ends=True),
                lambda b, m: b.ops.create_monkey(m))
    return _shape(scene, rng, "Thing", builders[rng.integers(4)], location, size)


def _tube(scene, rng, location, height=2.0, radius=0.35):
    def build(b, m):
        b.ops.create_cone(m, segments=20, radius1=radius, radius2=radius * 0.8, depth=height, cap_ends=True)
        b.ops.bisect_plane(m, geom=m.verts[:] + m.edges[:] + m.faces[:], plane_co=(0, 0, 0), plane_no=(0, 0, 1))
        for level in np.linspace(-0.45, 0.45, 9):
            b.ops.bisect_plane(m, geom=m.verts[:] + m.edges[:] + m.faces[:], plane_co=(0, 0, level * height),
                               plane_no=(0, 0, 1))
    return _shape(scene, rng, "Tube", build, location)


def _floor(scene, rng):
    def build(b, m):
        b.ops.create_grid(m, x_segments=1, y_segments=1, size=9)

    floor = _shape(scene, rng, "Floor", build, (0, 4, 0))
    floor.data.materials[0] = _material(rng, scale=rng.uniform(8, 20))


def _key(owner, path, frames, values):
    for frame, value in zip(frames, values, strict=True):
        setattr(owner, path, value)
        owner.keyframe_insert(path, frame=frame)


def _things(scene, rng, count):
    return [_random_shape(scene, rng, (rng.uniform(-2.2, 2.2), rng.uniform(-1, 2), rng.uniform(0.5, 1.2)),
                          rng.uniform(0.35, 0.8)) for _ in range(count)]


def _rigid(scene, rng, end):
    for thing in _things(scene, rng, 3):
        start = Vector(thing.location)
        move = Vector((rng.uniform(-1.4, 1.4), rng.uniform(-0.8, 0.8), rng.uniform(0, 0.6)))
        _key(thing, "location", (1, end), (start, start + move))
        _key(thing, "rotation_euler", (1, end), (rng.uniform(0, 6, 3), rng.uniform(0, 6, 3)))


def _skinned(scene, rng, end):
    tube = _tube(scene, rng, (rng.uniform(-1, 1), 0, 1.0))
    armature = bpy.data.armatures.new("Armature")
    rig = _link(scene, "Rig", armature)
    rig.location = tube.location
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    lower, upper = armature.edit_bones.new("lower"), armature.edit_bones.new("upper")
    lower.head, lower.tail = (0, 0, -1), (0, 0, 0)
    upper.head, upper.tail, upper.parent = (0, 0, 0), (0, 0, 1), lower
    bpy.ops.object.mode_set(mode="OBJECT")
    for name, sign in (("lower", -1), ("upper", 1)):
        group = tube.vertex_groups.new(name=name)
        for vertex in tube.data.vertices:
            group.add([vertex.index], float(np.clip(0.5 + sign * vertex.co.z, 0, 1)), "REPLACE")
    tube.modifiers.new("Armature", "ARMATURE").object = rig
    bone = rig.pose.bones["upper"]
    bone.rotation_mode = "XYZ"
    side = rng.choice([-1, 1])
    _key(bone, "rotation_euler", (1, end), ((0, 0, 0), (rng.uniform(-0.4, 0.4), 0.2, side * rng.uniform(0.7, 1.3))))
    _things(scene, rng, 1)


def _shape_key(scene, rng, end):
    ball = _shape(scene, rng, "Ball", lambda b, m: b.ops.create_icosphere(m, subdivisions=4, radius=1),
                  (rng.uniform(-1, 1), 0, 1.0), 0.9)
    ball.shape_key_add(name="Basis")
    target = ball.shape_key_add(name="Target")
    stretch, bend = rng.uniform(0.3, 0.7), rng.uniform(-0.5, 0.5)
    for point, vertex in zip(target.data, ball.data.vertices, strict=True):
        x, y, z = vertex.co
        bump = 0.3 * math.sin(4 * x + 2 * y)
        point.co = (x * (1 + stretch) + bend * z * z, y * (1 + bump), z * (1 - 0.5 * stretch) + 0.3 * bump)
    _key(target, "value", (1, end), (0.0, 1.0))
    _things(scene, rng, 1)


def _orbit(scene, rng, end):
    _things(scene, rng, 4)
    angle = rng.choice([-1, 1]) * rng.uniform(0.3, 0.7)
    start = Vector(scene.camera.location)
    for frame in range(1, end + 1):
        turn = angle * (frame - 1) / (end - 1)
        scene.camera.location = (start.x * math.cos(turn) - start.y * math.sin(turn),
                                 start.x * math.sin(turn) + start.y * math.cos(turn), start.z)
        _aim(scene.camera, (0, 0, 0.9))
        scene.camera.keyframe_insert("location", frame=frame)
        scene.camera.keyframe_insert("rotation_euler", frame=frame)


def _dolly_occluder(scene, rng, end):
    _things(scene, rng, 3)
    start = Vector(scene.camera.location)
    _key(scene.camera, "location", (1, end), (start, start + Vector((rng.uniform(-0.8, 0.8), rng.uniform(0.5, 2), 0))))
    blocker = _random_shape(scene, rng, (0, -2.5, 1.2), 0.55)
    side = rng.choice([-1, 1])
    _key(blocker, "location", (1, (end + 1) // 2, end),
         ((side * 1.2, -2.5, 1.2), (-side * 3.5, -2.5, 1.2), (side * 0.9, -2.5, 1.2)))


def _low_poly_ground(scene, rng, end):
    _things(scene, rng, 2)
    start = Vector(scene.camera.location)
    start.z = rng.uniform(1.0, 1.8)
    move = Vector((rng.uniform(-1, 1), rng.uniform(1.0, 2.5), rng.uniform(-0.2, 0.6)))
    _key(scene.camera, "location", (1, end), (start, start + move))


def _crossing(scene, rng, end):
    for lane, side in ((-1.0, 1), (0.8, -1)):
        thing = _random_shape(scene, rng, (0, lane, 0.9), rng.uniform(0.5, 0.8))
        reach = rng.uniform(1.2, 2.2)
        _key(thing, "location", (1, end), ((side * reach, lane, 0.9), (-side * reach, lane, 0.9)))
        _key(thing, "rotation_euler", (1, end), ((0, 0, 0), (0, 0, rng.uniform(-2, 2))))
    _things(scene, rng, 1)


def _off_screen_entry(scene, rng, end):
    _things(scene, rng, 1)
    for side in (-1, 1)[:int(rng.integers(1, 3))]:
        thing = _random_shape(scene, rng, (0, 0, 1.0), rng.uniform(0.6, 0.9))
        _key(thing, "location", (1, end), ((side * 5.5, rng.uniform(-1, 1), 1.0), (side * rng.uniform(0, 1.5), 0, 1.0)))


def _moving_light(scene, rng, end):
    """The sun goes round: the shadows of a tall thing and of a few others sweep over the ground."""
    _tube(scene, rng, (rng.uniform(-1.2, 1.2), rng.uniform(-0.5, 1), 1.0))
    _things(scene, rng, 2)
    sun = scene.objects["Sun"]
    start = sun.rotation_euler.copy()
    start.x = rng.uniform(0.6, 1.0)
    turn = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
    _key(sun, "rotation_euler", (1, end), (start, (start.x + rng.uniform(-0.3, 0.1), start.y, start.z + turn)))
    thing = scene.objects["Thing"]
    place = Vector(thing.location)
    _key(thing, "location", (1, end), (place, place + Vector((rng.uniform(-0.8, 0.8), rng.uniform(-0.4, 0.4), 0))))


def _lamp_fade(scene, rng, end):
    """A lamp beside the things fades (even seeds) or comes up, while one of them moves; other light is dim."""
    scene.objects["Sun"].data.energy *= 0.3
    level = scene.world.node_tree.nodes["Background"].inputs[0]
    level.default_value = (*(0.4 * value for value in level.default_value[:3]), 1)
    data = bpy.data.lights.new("Lamp", "POINT")
    data.shadow_soft_size = 0.2
    lamp = _link(scene, "Lamp", data)
    lamp.location = (rng.choice([-1, 1]) * rng.uniform(1.5, 3), rng.uniform(-3, -1), rng.uniform(2.0, 3.5))
    bright = rng.uniform(500, 900)
    _key(data, "energy", (1, end), (bright, 0.1 * bright) if scene["seed"] % 2 == 0 else (0.1 * bright, bright))
    thing = _things(scene, rng, 3)[0]
    place = Vector(thing.location)
    _key(thing, "location", (1, end), (place, place + Vector((rng.uniform(-1.2, 1.2), rng.uniform(-0.5, 0.5), 0))))


def _moving_shadow(scene, rng, end):
    """Things hover over a sunlit ground, and their shadows sweep over it: what the tracking video does tell."""
    sun = scene.objects["Sun"]
    sun.data.energy = rng.uniform(3, 5)
    sun.rotation_euler.x = rng.uniform(0.3, 0.7)
    for side in (-1, 1):
        thing = _random_shape(scene, rng, (0, rng.uniform(-1.5, 1), rng.uniform(1.2, 1.8)), rng.uniform(0.5, 0.8))
        start = Vector((side * rng.uniform(0.4, 2.2), thing.location.y, thing.location.z))
        move = Vector((-side * rng.uniform(1.0, 2.4), rng.uniform(-0.8, 0.8), 0))
        _key(thing, "location", (1, end), (start, start + move))
