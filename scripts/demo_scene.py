# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo scene: 73 frames with everything a tracking video has to get right, made by this script alone.

A skinned creature sways, a ball changes its shape (shape keys), a ring rolls in front of the ball and back (occlusion
and return), on a floor and before a wall of two triangles each, seen by a camera that moves and zooms.  No assets, no
chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi, radians, sin
from pathlib import Path

import bpy
from mathutils import Matrix, Vector

from scripts.demo_nodes import MaterialNodes, grey_output, use_nodes

NUM_FRAMES = 73
RESOLUTION = (720, 480)
SAMPLES = 32

CREATURE_HEIGHT, CREATURE_RADIUS, CREATURE_BONES = 2.5, 0.42, 5
CREATURE_PLACE = Vector((-1.35, 0.5, 0.0))
BALL_RADIUS = 0.85
BALL_PLACE = Vector((1.45, 0.9, BALL_RADIUS))
RING_RADIUS, RING_THICKNESS = 0.46, 0.17
RING_FROM, RING_TO, RING_DEPTH = 0.0, 1.55, -0.75

CREAM, CORAL, DEEP_RED = (0.93, 0.86, 0.70), (0.85, 0.20, 0.13), (0.42, 0.05, 0.06)
TEAL, NAVY, SKY = (0.07, 0.42, 0.44), (0.05, 0.09, 0.23), (0.50, 0.66, 0.72)
YELLOW, PLUM, PINK, WHITE = (0.91, 0.62, 0.08), (0.32, 0.07, 0.30), (0.90, 0.36, 0.45), (0.90, 0.90, 0.88)
SAND, STONE = (0.72, 0.60, 0.45), (0.52, 0.40, 0.29)


def build_demo_scene(path: str | Path | None = None):
    """Replace the open file by the demo scene and return it; with ``path``, also save it there as a .blend file.

    The same Blender makes the same scene every time.
    """
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    (scene,) = bpy.data.scenes
    scene.name = "Demo"
    _set_render(scene)
    _add_floor_and_wall(scene)
    _add_creature(scene)
    _add_ball(scene)
    _add_ring(scene)
    _add_camera(scene)
    _add_light(scene)
    scene.frame_set(1)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return scene


def _set_render(scene) -> None:
    render = scene.render
    render.resolution_x, render.resolution_y = RESOLUTION
    render.resolution_percentage = 100
    render.fps = 24
    render.dither_intensity = 0.0
    scene.frame_start, scene.frame_end = 1, NUM_FRAMES
    scene.view_settings.view_transform = "Standard"
    if hasattr(scene, "cycles"):
        render.engine = "CYCLES"
        scene.cycles.device = "CPU"
        scene.cycles.samples = SAMPLES
        scene.cycles.seed = 0
        scene.cycles.use_adaptive_sampling = False
        scene.cycles.use_denoising = False  # not every build has it, and not every version denoises alike
        scene.cycles.max_bounces = 2
    if hasattr(scene, "das"):
        scene.das.first_frame_samples = SAMPLES


# ── The set ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _add_floor_and_wall(scene) -> None:
    """Two triangles each, far larger than the picture."""
    floor = _add_mesh(
        scene, "Floor", [(-14, -14, 0), (14, -14, 0), (14, 5, 0), (-14, 5, 0)], [(0, 1, 2), (0, 2, 3)], smooth=False
    )
    floor.data.materials.append(_floor_material())
    wall = _add_mesh(
        scene, "Wall", [(-14, 5, 0), (14, 5, 0), (14, 5, 14), (-14, 5, 14)], [(0, 1, 2), (0, 2, 3)], smooth=False
    )
    wall.data.materials.append(_wall_material())


def _floor_material():
    """Tiles in two colours, each a little uneven."""
    nodes = MaterialNodes("Tiles")
    tiles = nodes.add("ShaderNodeTexChecker", Scale=1.5, Color1=SAND, Color2=STONE)
    grain = nodes.add("ShaderNodeTexNoise", Scale=3.0, Detail=4.0)
    place = nodes.coordinates("Object")
    nodes.link(place, tiles, "Vector")
    nodes.link(place, grain, "Vector")
    return nodes.finish(nodes.shade(tiles.outputs["Color"], grey_output(grain), 0.75, 1.2), matt=True)


def _wall_material():
    """Large soft dots on a plain wall."""
    nodes = MaterialNodes("Wallpaper")
    dots = nodes.add("ShaderNodeTexVoronoi", Scale=0.8, Randomness=0.35)
    nodes.link(nodes.coordinates("Object"), dots, "Vector")
    colour = nodes.ramp(dots.outputs["Distance"], [(0.0, TEAL), (0.26, TEAL), (0.31, SKY), (1.0, SKY)])
    return nodes.finish(colour, matt=True)


# ── The creature: a tube on five bones ──────────────────────────────────────────────────────────────────────────────


def _add_creature(scene) -> None:
    body = _add_tube(scene)
    bones = _add_bones(scene)
    body.parent = bones
    body.modifiers.new("Armature", "ARMATURE").object = bones
    _weigh(body)
    _add_eyes(scene, bones)
    _sway(bones)


def _add_tube(scene):
    """An upright tube with a waist and a round head, striped."""
    rings, sides = 48, 32
    vertices = []
    for ring in range(rings + 1):
        share = ring / rings
        height = CREATURE_HEIGHT * share
        radius = CREATURE_RADIUS * (1.0 - 0.30 * sin(pi * min(share / 0.8, 1.0)) ** 2)
        head = max(0.0, (share - 0.82) / 0.18)
        radius *= max(1.0 - head**2.4, 0.0) ** 0.5
        for side in range(sides):
            angle = 2 * pi * side / sides
            vertices.append((radius * cos(angle), radius * sin(angle), height))
    faces = [
        (
            ring * sides + side,
            ring * sides + (side + 1) % sides,
            (ring + 1) * sides + (side + 1) % sides,
            (ring + 1) * sides + side,
        )
        for ring in range(rings)
        for side in range(sides)
    ]
    body = _add_mesh(scene, "Creature", vertices, faces)
    nodes = MaterialNodes("Stripes")
    stripes = nodes.add("ShaderNodeTexWave", Scale=2.3, Distortion=1.6, Detail=1.0, **{"Detail Scale": 1.2})
    stripes.bands_direction = "Z"
    nodes.link(nodes.coordinates("Generated"), stripes, "Vector")
    colour = nodes.ramp(
        grey_output(stripes), [(0.0, DEEP_RED), (0.18, CORAL), (0.50, CORAL), (0.56, CREAM), (1.0, CREAM)]
    )
    body.data.materials.append(nodes.finish(colour))
    return body


def _add_bones(scene):
    armature = bpy.data.armatures.new("Bones")
    bones = _link(scene, "Bones", armature)
    bones.location = CREATURE_PLACE
    bones.hide_render = True
    with _editing(scene, bones):
        parent = None
        for index in range(CREATURE_BONES):
            bone = armature.edit_bones.new(f"Bone {index}")
            bone.head = (0, 0, CREATURE_HEIGHT * index / CREATURE_BONES)
            bone.tail = (0, 0, CREATURE_HEIGHT * (index + 1) / CREATURE_BONES)
            bone.parent, bone.use_connect = parent, parent is not None
            parent = bone
    return bones


@contextmanager
def _editing(scene, bones) -> Iterator[None]:
    """Edit mode, without which there are no new bones.  All that it needs is named: right after another file was opened
    in a window, the context has no window and no active object.
    """
    layer = scene.view_layers[0]
    layer.objects.active = bones
    with bpy.context.temp_override(scene=scene, view_layer=layer, object=bones, active_object=bones):
        bpy.ops.object.mode_set(mode="EDIT")
        yield
        bpy.ops.object.mode_set(mode="OBJECT")


def _weigh(body) -> None:
    """Smooth weights: every vertex belongs to the bones around its height."""
    groups = [body.vertex_groups.new(name=f"Bone {index}") for index in range(CREATURE_BONES)]
    for vertex in body.data.vertices:
        at = vertex.co.z / CREATURE_HEIGHT * CREATURE_BONES - 0.5
        for index, group in enumerate(groups):
            nearest = min(max(at, 0.0), CREATURE_BONES - 1.0)
            weight = max(0.0, 1.0 - abs(nearest - index))
            if weight > 0.0:
                group.add([vertex.index], weight, "REPLACE")


def _add_eyes(scene, bones) -> None:
    """Two eyes that ride on the topmost bone."""
    white, black = _plain_material("Eye", WHITE), _plain_material("Pupil", (0.02, 0.02, 0.03))
    for side in (-1, 1):
        place = Vector((0.15 * side, -0.36, CREATURE_HEIGHT * 0.84))
        for name, radius, offset, material in (
            ("Eye", 0.125, Vector((0, 0, 0)), white),
            ("Pupil", 0.062, Vector((0.015 * side, -0.088, -0.01)), black),
        ):
            eye = _add_mesh(scene, name, *_sphere(radius, 16, 12))
            eye.data.materials.append(material)
            eye.parent, eye.parent_type, eye.parent_bone = bones, "BONE", f"Bone {CREATURE_BONES - 1}"
            # A child of a bone sits at the bone's tail and is turned with it.
            rest = bones.data.bones[eye.parent_bone]
            tail = rest.matrix_local @ Matrix.Translation((0, rest.length, 0))
            eye.matrix_basis = tail.inverted() @ Matrix.Translation(place + offset)


def _sway(bones) -> None:
    """Bend to one side, to the other, and bow a little: every bone follows the one below."""
    for index in range(CREATURE_BONES):
        bone = bones.pose.bones[f"Bone {index}"]
        bone.rotation_mode = "XYZ"
        for frame, sideways, forward in (
            (1, 0.0, 0.0), (15, -9.0, 3.0), (33, 7.5, 5.0), (49, -1.0, 0.0), (61, -5.0, 2.0), (73, 1.0, 0.0),
        ):
            later = frame if frame in (1, NUM_FRAMES) else frame + index
            bone.rotation_euler = (radians(forward), 0.0, radians(sideways))
            bone.keyframe_insert("rotation_euler", frame=later)


# ── The ball: shape keys ────────────────────────────────────────────────────────────────────────────────────────────


def _add_ball(scene) -> None:
    ball = _add_mesh(scene, "Ball", *_sphere(BALL_RADIUS, 48, 32))
    ball.location = BALL_PLACE
    ball.shape_key_add(name="Basis")
    squash, bumps = ball.shape_key_add(name="Squash"), ball.shape_key_add(name="Bumps")
    for squashed, bumped in zip(squash.data, bumps.data, strict=True):
        place = squashed.co.copy()
        squashed.co = (place.x * 1.22, place.y * 1.22, (place.z + BALL_RADIUS) * 0.66 - BALL_RADIUS)
        direction = place.normalized()
        wave = sin(4.0 * direction.x + 1.0) * sin(4.0 * direction.z) * cos(3.0 * direction.y)
        bumped.co = place * (1.0 + 0.16 * wave)
    for shape, values in (
        (squash, {1: 0.0, 13: 0.85, 25: 0.0, 37: 0.9, 49: 0.15, 61: 0.6, 73: 0.0}),
        (bumps, {1: 0.0, 25: 1.0, 49: 0.35, 73: 0.7}),
    ):
        for frame, value in values.items():
            shape.value = value
            shape.keyframe_insert("value", frame=frame)
    nodes = MaterialNodes("Dots")
    dots = nodes.add("ShaderNodeTexVoronoi", Scale=4.6, Randomness=0.55)
    nodes.link(nodes.coordinates("Generated"), dots, "Vector")
    colour = nodes.ramp(dots.outputs["Distance"], [(0.0, PLUM), (0.27, PLUM), (0.31, YELLOW), (1.0, YELLOW)])
    ball.data.materials.append(nodes.finish(colour))


# ── The ring: a rigid object that passes in front of the ball ───────────────────────────────────────────────────────


def _add_ring(scene) -> None:
    around, across = 64, 24
    vertices = []
    for step in range(around):
        angle = 2 * pi * step / around
        for turn in range(across):
            inner = 2 * pi * turn / across
            radius = RING_RADIUS + RING_THICKNESS * cos(inner)
            vertices.append((radius * cos(angle), RING_THICKNESS * sin(inner), radius * sin(angle)))
    faces = [
        (
            step * across + turn,
            step * across + (turn + 1) % across,
            (step + 1) % around * across + (turn + 1) % across,
            (step + 1) % around * across + turn,
        )
        for step in range(around)
        for turn in range(across)
    ]
    ring = _add_mesh(scene, "Ring", vertices, faces)
    nodes = MaterialNodes("Sectors")
    # The gradient runs once around z: turn the ring's own axis, y, there.
    turned = nodes.add("ShaderNodeMapping", Rotation=(radians(90), 0.0, 0.0))
    nodes.link(nodes.coordinates("Object"), turned, "Vector")
    sector = nodes.add("ShaderNodeTexGradient")
    sector.gradient_type = "RADIAL"
    nodes.link(turned.outputs["Vector"], sector, "Vector")
    colours = (PINK, WHITE, TEAL, WHITE, YELLOW, WHITE, NAVY, WHITE)
    stops = [(index / len(colours), colour) for index, colour in enumerate(colours)]
    ring.data.materials.append(nodes.finish(nodes.ramp(grey_output(sector), stops, interpolation="CONSTANT")))

    outer = RING_RADIUS + RING_THICKNESS
    for frame, x in ((1, RING_FROM), (25, RING_TO), (49, RING_FROM + 0.15), (73, RING_FROM + 0.7)):
        ring.location = (x, RING_DEPTH, outer)
        ring.rotation_euler = (0.0, (x - RING_FROM) / outer, radians(8.0))
        ring.keyframe_insert("location", frame=frame)
        ring.keyframe_insert("rotation_euler", frame=frame)


# ── Camera and light ────────────────────────────────────────────────────────────────────────────────────────────────


def _add_camera(scene) -> None:
    """Comes nearer in an arc while it zooms in: what the first frame does not show stays rare."""
    camera = _link(scene, "Camera", bpy.data.cameras.new("Camera"))
    target = Vector((0.05, 0.4, 1.12))
    for frame, place, lens in (
        (1, Vector((0.60, -7.7, 2.75)), 42.0),
        (25, Vector((0.10, -7.3, 2.45)), 45.0),
        (49, Vector((-0.40, -7.0, 2.25)), 48.0),
        (73, Vector((-0.85, -7.1, 2.10)), 47.0),
    ):
        camera.location = place
        camera.rotation_euler = (target - place).to_track_quat("-Z", "Y").to_euler()
        camera.data.lens = lens
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
        camera.data.keyframe_insert("lens", frame=frame)
    scene.camera = camera


def _add_light(scene) -> None:
    """A wide soft sun and a bright sky: shadows stay faint, for the first frame's do not move with their objects."""
    sun = _link(scene, "Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy, sun.data.angle = 2.4, radians(30)
    sun.rotation_euler = (radians(42), radians(-16), radians(-18))
    world = bpy.data.worlds.new("Sky")
    use_nodes(world)
    background = world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (0.82, 0.90, 1.0, 1.0)
    background.inputs["Strength"].default_value = 0.75
    scene.world = world


# ── Objects ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _link(scene, name: str, data):
    shape = bpy.data.objects.new(name, data)
    scene.collection.objects.link(shape)
    return shape


def _add_mesh(scene, name: str, vertices, faces, *, smooth: bool = True):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    mesh.polygons.foreach_set("use_smooth", [smooth] * len(mesh.polygons))
    mesh.update()
    return _link(scene, name, mesh)


def _sphere(radius: float, sides: int, rings: int):
    """Vertices and faces of a sphere with its poles on z."""
    vertices = [(0.0, 0.0, radius)]
    for ring in range(1, rings):
        polar = pi * ring / rings
        for side in range(sides):
            angle = 2 * pi * side / sides
            flat = radius * sin(polar)
            vertices.append((flat * cos(angle), flat * sin(angle), radius * cos(polar)))
    vertices.append((0.0, 0.0, -radius))
    last = len(vertices) - 1
    faces = [(0, 1 + side, 1 + (side + 1) % sides) for side in range(sides)]
    for ring in range(rings - 2):
        above, below = 1 + ring * sides, 1 + (ring + 1) * sides
        for side in range(sides):
            after = (side + 1) % sides
            faces.append((above + side, below + side, below + after, above + after))
    top = 1 + (rings - 2) * sides
    faces += [(last, top + (side + 1) % sides, top + side) for side in range(sides)]
    return vertices, faces


def _plain_material(name: str, colour):
    nodes = MaterialNodes(name)
    return nodes.finish(nodes.colour(colour), roughness=0.35)
