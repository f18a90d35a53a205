# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate as a Blender scene: a camera with the picture's lens, the picture as its background, its layers as meshes
that shine with the picture's own colours.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

from .. import compat
from ..errors import SettingsError
from ..footage.layers import Layers, layers_of
from ..footage.mesh import PlateMesh
from ..footage.plate import SENSOR_MM, Plate
from ..protocol.png import encode_png

CAMERA_FROM_OPTICAL = np.array([1.0, -1.0, -1.0])
"""Signs: Blender's camera axes ↔ +X right, +Y down, +Z forward."""
ROOM_BEHIND = 2.0
"""The camera sees this many times as far as the farthest surface: it may move back."""

MOST_FPS = 1e4


@dataclass(frozen=True)
class Stage:
    """``scene``, its ``camera`` object, ``things``: mask → object.  ``plate``: what it was made from.  ``layers``: the
    meshes that were made.  ``notes``: what to know of it, one sentence each.
    """

    scene: object
    camera: object
    things: dict[str, object]
    plate: Plate
    layers: Layers
    notes: tuple[str, ...] = ()

    @property
    def num_vertices(self) -> int:
        return sum(len(part.mesh.vertices) for part in self.layers.parts)


def stage_plate(
    plate: Plate,
    name: str,
    *,
    size: tuple[int, int] | None = None,
    num_frames: int = 49,
    every: int = 1,
    layers: Layers | None = None,
) -> Stage:
    """A new scene called ``name`` with ``plate`` in it, which the extension's engine renders.

    ``size`` (width, height): the render's, pixels; None for the picture's.  Where its shape is another one it shows the
    middle of the picture.  ``num_frames``: from frame 1 on.  ``every``: pixels along the side of a quad of the meshes.
    ``layers``: those of the plate, where they are there already.
    """
    layers = layers_of(plate, every) if layers is None else layers
    scene = bpy.data.scenes.new(name)
    picture = packed_image(name, plate.picture)
    background = packed_image(f"{name} Background", layers.background) if plate.masks else picture
    shown = shining(name, picture)
    behind = shown if background is picture else shining(f"{name} Background", background)
    camera = plate_camera(scene, plate, picture, size or plate.size, layers.farthest)
    things = {}
    for part in layers.parts:
        material = behind if part.is_filled else shown
        made = layer_object(scene, part.name, part.mesh, plate, material, centred=part.is_thing)
        if part.is_thing:
            things[part.name] = made
    set_render(scene, size or plate.size, num_frames, picture)
    return Stage(scene, camera, things, plate, layers)


def set_render(scene, size: tuple[int, int], num_frames: int, picture) -> None:
    """The render of ``scene``: ``size`` (width, height), frames from 1 on, the first one the image ``picture``."""
    render = scene.render
    render.engine = compat.ENGINE
    render.resolution_x, render.resolution_y = size
    render.resolution_percentage, render.dither_intensity = 100, 0.0  # the picture is shown as it is
    scene.frame_start, scene.frame_end = 1, num_frames
    with contextlib.suppress(TypeError):  # a configuration of colours without it
        scene.view_settings.view_transform = "Standard"
    scene.das.first_frame_image = picture
    scene.das.key_mode = "FIRST"  # a render of the plate from elsewhere shows no more than the picture does


def set_rate(scene, fps: float) -> None:
    """``scene`` plays ``fps`` frames a second.  Raises `SettingsError`."""
    if not 0.0 < fps < MOST_FPS:
        raise SettingsError(f"The shot has {fps} frames a second; give a number above 0.", field="fps")
    whole = max(1, int(np.ceil(fps - 1e-6)))
    scene.render.fps, scene.render.fps_base = whole, whole / fps


def packed_image(name: str, pixels: np.ndarray):
    """An image of the file that holds ``pixels`` [H,W,3] u8 itself, as a PNG."""
    png = encode_png(pixels)
    image = bpy.data.images.new(name, pixels.shape[1], pixels.shape[0])
    image.pack(data=png, data_len=len(png))
    image.source = "FILE"
    return image


def shining(name: str, image):
    """It shines with the picture's own colours, whatever the light."""
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    texture, emission = tree.nodes.new("ShaderNodeTexImage"), tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    texture.image, texture.interpolation, texture.extension = image, "Closest", "EXTEND"
    tree.links.new(texture.outputs["Color"], emission.inputs["Color"])
    tree.links.new(emission.outputs["Emission"], output.inputs["Surface"])
    for place, node in enumerate((texture, emission, output)):
        node.location = (300.0 * place, 0.0)
    return material


def plate_camera(scene, plate: Plate, picture, size: tuple[int, int], farthest: float):
    """The camera that took the plate, active in ``scene``, with the image ``picture`` as its background."""
    lens = bpy.data.cameras.new("Camera")
    camera = bpy.data.objects.new("Camera", lens)
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.matrix_world = Matrix(plate.world_from_camera.tolist())
    lens.lens = plate.lens_mm
    width, height = plate.size
    # The shot lies inside the picture, whatever its shape.
    lens.sensor_fit = "HORIZONTAL" if size[0] * height >= width * size[1] else "VERTICAL"
    lens.sensor_width = SENSOR_MM * width / max(plate.size)
    lens.sensor_height = SENSOR_MM * height / max(plate.size)
    lens.clip_end = max(lens.clip_end, ROOM_BEHIND * farthest)
    lens.clip_start = min(lens.clip_start, 0.1 * float(plate.depth[plate.valid].min())) if plate.valid.any() else 0.1
    lens.show_background_images = True
    shown = lens.background_images.new()
    shown.image, shown.alpha, shown.frame_method, shown.display_depth = picture, 1.0, "CROP", "BACK"
    return camera


def layer_object(scene, name: str, mesh: PlateMesh, plate: Plate, material, *, centred: bool):
    """The layer ``mesh`` as an object; ``centred``: its origin is its median point, else the world's."""
    made, origin = layer_mesh(name, mesh, plate, material, plate.world_from_camera, centred=centred)
    shown = bpy.data.objects.new(name, made)
    shown.location = origin.tolist()
    scene.collection.objects.link(shown)
    return shown


def layer_mesh(name: str, mesh: PlateMesh, plate: Plate, material, camera: np.ndarray, *, centred: bool = False):
    """(the layer ``mesh`` as Blender's, its origin [3]) before the pose ``camera`` [4,4]."""
    world = (mesh.vertices * CAMERA_FROM_OPTICAL) @ camera[:3, :3].T + camera[:3, 3]
    origin = np.median(world, axis=0) if centred else np.zeros(3)
    made = bpy.data.meshes.new(name)
    made.vertices.add(len(world))
    made.vertices.foreach_set("co", (world - origin).astype(np.float32).ravel())
    made.loops.add(mesh.quads.size)
    made.loops.foreach_set("vertex_index", np.ascontiguousarray(mesh.quads, np.int32).ravel())
    made.polygons.add(len(mesh.quads))
    made.polygons.foreach_set("loop_start", np.arange(0, mesh.quads.size, 4, dtype=np.int32))
    made.update(calc_edges=True)
    places = mesh.pixels / np.array(plate.size, np.float32)
    places[:, 1] = 1.0 - places[:, 1]
    made.uv_layers.new(name="Picture").data.foreach_set("uv", places[mesh.quads.ravel()].ravel())
    made.materials.append(material)
    return made, origin
