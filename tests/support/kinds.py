# SPDX-License-Identifier: GPL-3.0-or-later
"""One small scene for every kind of content that renders, each with how its truth is found."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from das_blender_addon.scene.content.sheet_render import render_sheets
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.content import add_cut_out, add_hair_curves, add_particle_hair, add_points, add_volume, harden
from tests.support.scenes import add_camera, add_cube, add_grid, key, link
from tests.support.truth import Truth, by_cycles, by_rays
from tests.support.waves import kept_points, waving_suzanne

FRAMES = (1, 3, 6)
SURFACES, HAIR_AND_POINTS = 0.998, 0.95
"""Least share of the pixels that either covers, that both cover."""
MEAN_LEVELS, P99_LEVELS, OCCLUSION = 0.5, 1.0, 0.001
"""Of 255; share of pixels that are wrongly said to be hidden, or shown, in the first frame."""


@dataclass(frozen=True)
class Kind:
    """``make(scene)`` fills a scene; ``truth``: "rays" or "cycles"; ``coverage``: the least share;
    ``before_truth(scene)``: what is done to it before its truth is found.
    """

    name: str
    make: Callable
    truth: str = "rays"
    coverage: float = SURFACES
    before_truth: Callable | None = None


@dataclass(frozen=True)
class Measured:
    """Of a kind: errors of colours in levels of 255, shares of pixels; ``published``: the mean error of vertex colours,
    None where the published script shows nothing of it; ``first``: bytes of the first frame that differ from their own
    place, of red and green.
    """

    mean: float
    p99: float
    coverage: float
    occlusion: float | None
    published: float | None
    first: int

    def missed(self, kind: Kind) -> list[str]:
        """Which aims are not met."""
        found = {
            "mean": self.mean > MEAN_LEVELS,
            "p99": self.p99 > P99_LEVELS,
            "coverage": self.coverage < kind.coverage,
            "occlusion": self.occlusion is not None and self.occlusion > OCCLUSION,
            "identity": self.first > 0,
        }
        return [name for name, is_missed in found.items() if is_missed]


def measure(kind: Kind, scene, folder: Path) -> Measured:
    """Make ``kind`` in the empty ``scene`` and compare its tracking video with the truth."""
    kind.make(scene)
    size = (scene.render.resolution_x, scene.render.resolution_y)
    export = GeometryExport(*size)
    walk_in_render(scene, scene.view_layers[0].name, FRAMES, export.add)
    video = render_tracking_video(export.finish(render_sheets))
    if kind.before_truth is not None:
        kind.before_truth(scene)
    truth = by_rays(scene, FRAMES) if kind.truth == "rays" else by_cycles(scene, FRAMES, folder)
    return compare(video, truth)


def compare(video, truth: Truth) -> Measured:
    both, either = video.coverage & truth.coverage, video.coverage | truth.coverage
    error = np.abs(video.video[both] - truth.colours[both])
    occlusion = published = None
    if truth.visible is not None:
        occlusion = float((video.first_frame_visible != truth.visible)[both].mean())
        published = float(np.abs(truth.by_vertices - truth.colours)[truth.coverage].mean())
    height, width = video.coverage.shape[1:]
    y, x = np.nonzero(video.coverage[0])
    own = np.rint(255.0 * np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=1))
    first = int(np.count_nonzero(video.video[0, y, x, :2] != own))
    return Measured(
        float(error.mean()), float(np.percentile(error, 99)), both.sum() / either.sum(), occlusion, published, first
    )


# ── Scenes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _camera(scene, moves=True):
    camera = add_camera(scene, location=(0.0, -8.0, 2.2))
    if moves:
        key(camera, "location", {1: (-0.5, -8.0, 2.2), 6: (0.9, -7.4, 2.6)})
        key(camera.data, "lens", {1: 46.0, 6: 52.0})
    return camera


def _ground(scene, **placed):
    return add_grid(scene, "Ground", cells=1, size=14.0, location=(0.0, 1.0, -1.2), **placed)


def _turning(shape, turn=0.9):
    key(shape, "rotation_euler", {1: tuple(shape.rotation_euler), 6: (0.2, 0.1, turn)})
    x, y, z = shape.location
    key(shape, "location", {1: (x, y, z), 6: (x + 0.5, y, z + 0.2)})
    return shape


def _rigid(scene):
    _camera(scene)
    _ground(scene)
    cube = add_cube(scene, size=1.6, location=(-1.4, 0.0, 0.0))
    cube.rotation_euler = (0.1, -0.05, 0.15)
    _turning(cube)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24, radius=0.9, location=(1.4, 0.0, 0.1))
    _turning(bpy.context.object)


def _deforming(scene):
    _camera(scene)
    _ground(scene)
    cloth = add_grid(scene, "Cloth", cells=40, size=3.0, location=(0.0, 0.0, 0.3))
    cloth.rotation_euler[0] = 0.9
    cloth.shape_key_add(name="Basis")
    bent = cloth.shape_key_add(name="Bent")
    for point in bent.data:
        point.co.z += 0.45 * np.sin(3.0 * point.co.x) * np.cos(2.0 * point.co.y)
    key(bent, "value", {1: 0.0, 6: 1.0})
    wave = cloth.modifiers.new("Wave", "WAVE")
    wave.height, wave.width, wave.narrowness, wave.speed, wave.time_offset = 0.2, 1.0, 1.5, 0.05, -40


def _room(scene):
    """Six walls of two triangles each, and the camera inside."""
    camera = add_camera(scene, location=(0.0, -2.6, 0.2), look_at=(0.4, 3.0, 0.0))
    camera.data.lens = 22.0
    key(camera, "rotation_euler", {1: tuple(camera.rotation_euler), 6: (1.5, 0.05, -0.5)})
    add_cube(scene, "Room", size=6.0)
    _turning(add_cube(scene, "Box", size=0.9, location=(0.4, 0.3, -0.6)))


def _orthographic(scene):
    _rigid(scene)
    scene.camera.data.type = "ORTHO"
    key(scene.camera.data, "ortho_scale", {1: 6.0, 6: 7.0})


def _shifted(scene):
    _rigid(scene)
    scene.camera.data.shift_x, scene.camera.data.shift_y = 0.12, -0.08
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = 1.0, 1.5


def _curves(scene):
    _camera(scene)
    _ground(scene)
    words = bpy.data.curves.new("Words", "FONT")
    words.body, words.extrude, words.bevel_depth, words.align_x = "Wave", 0.1, 0.02, "CENTER"
    text = link(scene, "Words", words)
    text.rotation_euler = (1.4, 0.0, 0.0)
    text.scale = (1.5, 1.5, 1.5)
    key(text, "rotation_euler", {1: (1.4, 0.0, -0.2), 6: (1.3, 0.1, 0.4)})
    bpy.ops.curve.primitive_bezier_circle_add(radius=1.6, location=(0.0, 0.5, 0.4))
    ring = bpy.context.object
    ring.data.bevel_depth, ring.data.bevel_resolution = 0.15, 3
    key(ring, "rotation_euler", {1: (1.0, 0.2, 0.0), 6: (1.5, 0.0, 0.6)})


def _metaballs(scene):
    _camera(scene)
    _ground(scene)
    data = bpy.data.metaballs.new("Balls")
    data.resolution = data.render_resolution = 0.12
    for place in ((0, 0, 0), (0.9, 0.1, 0.2), (0.2, 0.3, 0.9)):
        data.elements.new().co = place
    _turning(link(scene, "Balls", data))


def _instances(scene):
    """A mirrored, turned collection twice, on the vertices of a grid and by itself."""
    _camera(scene)
    _ground(scene)
    parts = bpy.data.collections.new("Parts")
    for name, size, place in (("One", 0.5, (0.0, 0.0, 0.0)), ("Two", 0.3, (0.4, 0.1, 0.3))):
        cube = add_cube(scene, name, size=size, location=place)
        scene.collection.objects.unlink(cube)
        parts.objects.link(cube)
    for number, (place, scale) in enumerate((((-1.6, 0, 0), (1.2, 1, 1)), ((-0.2, 0.5, 0.3), (-1.4, 0.8, 1.1)))):
        empty = link(scene, f"Group {number}")
        empty.instance_type, empty.instance_collection = "COLLECTION", parts
        empty.location, empty.scale = place, scale
        _turning(empty, 1.3)
    leaf = add_cube(scene, "Leaf", size=0.25)
    host = add_grid(scene, "Host", cells=4, size=2.2, location=(1.7, 0.0, 0.4))
    host.rotation_euler = (1.1, 0.0, 0.0)
    leaf.parent, host.instance_type, host.show_instancer_for_render = host, "VERTS", False
    host.show_instancer_for_viewport = False
    _turning(host, 0.5)


def _far_and_fine(scene):
    """Most triangles are smaller than a pixel."""
    _camera(scene)
    _ground(scene)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=192, ring_count=96, radius=1.3, location=(0.0, 0.0, 0.2))
    ball = bpy.context.object
    for vertex in ball.data.vertices:
        vertex.co *= 1.0 + 0.04 * np.sin(9 * vertex.co.x) * np.sin(8 * vertex.co.y + 3 * vertex.co.z)
    _turning(ball)


def _hair_curves(scene):
    _camera(scene)
    _turning(add_hair_curves(scene, 60, radius=0.05), 0.3)


def _particle_hair(scene):
    _camera(scene)
    scalp, settings = add_particle_hair(scene)
    settings.count, settings.child_type, settings.rendered_child_count, settings.child_percent = 40, "SIMPLE", 4, 1
    settings.radius_scale, scalp.scale = 0.12, (1.5, 1.5, 1.5)
    _turning(scalp, 0.3)


def _points(scene):
    """They do not turn: a point has no sides."""
    _camera(scene)
    points = add_points(scene, cells=14, radius=0.07)
    points.scale = (1.6, 1.6, 1.6)
    key(points, "location", {1: (0.0, 0.0, 0.0), 6: (0.5, 0.0, 0.2)})


def _cut_outs(scene):
    _camera(scene)
    _ground(scene)
    card = add_cut_out(scene, size=3.0)
    card.rotation_euler[0] = 1.2
    _turning(card, 0.5)


def _noise(scene):
    """Cut out by a texture at generated coordinates."""
    _cut_outs(scene)
    tree = bpy.data.materials["Leaf"].node_tree
    texture = next(node for node in tree.nodes if node.type == "TEX_IMAGE")
    noise = tree.nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = 4.0
    tree.links.new(noise.outputs[0], tree.nodes["Principled BSDF"].inputs["Alpha"])
    tree.nodes.remove(texture)


def _volume(scene):
    """It is before what is seen."""
    _rigid(scene)
    add_volume(scene, size=1.8, location=(0.0, -2.0, 0.2))


def _harden(_scene):
    """To Cycles, alpha is a matter of chance."""
    harden(bpy.data.materials["Leaf"])


def _without_volume(scene):
    bpy.data.objects.remove(scene.objects["Cloud"])


KINDS = (
    Kind("rigid meshes", _rigid),
    Kind("deforming mesh", _deforming),
    Kind("camera in a room", _room),
    Kind("orthographic camera", _orthographic),
    Kind("shifted lens, oblong pixels", _shifted),
    Kind("text and curves", _curves),
    Kind("metaballs", _metaballs),
    Kind("instances", _instances),
    Kind("triangles below a pixel", _far_and_fine),
    Kind("volume before surfaces", _volume, before_truth=_without_volume),
    Kind("alpha cut-outs", _cut_outs, "cycles", before_truth=_harden),
    Kind("alpha of a texture", _noise, "cycles", before_truth=_harden),
    Kind("hair curves", _hair_curves, "cycles", HAIR_AND_POINTS),
    Kind("particle hair", _particle_hair, "cycles", HAIR_AND_POINTS),
    Kind("points", _points, "cycles", HAIR_AND_POINTS),
)


def changing_topology(scene, frames) -> tuple[float, float]:
    """Of a remeshed, waving Suzanne at the last of ``frames``: the share of its visible points that have a place in the
    first, and of those that have it within a pixel.
    """
    suzanne = waving_suzanne(scene)

    def geometry():
        export = GeometryExport(scene.render.resolution_x, scene.render.resolution_y)
        walk_in_render(scene, scene.view_layers[0].name, frames, export.add)
        return export.finish()

    remeshed = geometry()
    suzanne.modifiers.remove(suzanne.modifiers["Remesh"])
    kept = kept_points(remeshed, geometry())
    return kept.placed, kept.within_a_pixel
