# SPDX-License-Identifier: GPL-3.0-or-later
"""A room built in Blender, its picture, and how far away each pixel's surface is, by Blender's own ray casting."""

import bpy
import numpy as np
from mathutils import Matrix, Vector

from das_blender_addon.footage.plate import level_camera
from das_blender_addon.scene.camera import camera_from_blender
from tests.support.raycast import camera_rays
from tests.support.scenes import add_cube, add_grid


def add_room(scene, *, eye_height=1.6, lens=28.0):
    """A floor, a back wall, side walls and three boxes before a camera that looks along +Y; returns the camera.

    The box called Parcel stands free before the wall.
    """
    floor = add_grid(scene, "Floor", size=12.0, location=(0.0, 5.0, 0.0))
    wall = add_grid(scene, "Wall", size=12.0, location=(0.0, 8.0, 0.0))
    wall.rotation_euler = (np.pi / 2, 0.0, 0.0)
    sides = []
    for name, x in (("Left", -3.5), ("Right", 3.5)):
        side = add_grid(scene, name, size=14.0, location=(x, 5.0, 0.0))
        side.rotation_euler = (0.0, np.pi / 2, 0.0)
        sides.append(side)
    ceiling = add_grid(scene, "Ceiling", size=14.0, location=(0.0, 5.0, 3.2))
    parcel = add_cube(scene, "Parcel", size=1.0, location=(0.2, 4.0, 0.5))
    parcel.rotation_euler = (0.0, 0.0, 0.4)
    cupboard = add_cube(scene, "Cupboard", size=2.0, location=(-1.8, 6.3, 1.0))
    lamp = add_cube(scene, "Lamp", size=0.6, location=(1.6, 5.0, 1.9))
    lamp.rotation_euler = (0.5, 0.3, 0.2)
    data = bpy.data.cameras.new("Camera")
    data.lens = lens
    camera = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(camera)
    camera.matrix_world = Matrix(level_camera(eye_height, 0.0).tolist())
    scene.camera = camera
    assert all((floor, wall, sides, ceiling, cupboard))
    return camera


def seen(scene) -> tuple[np.ndarray, np.ndarray]:
    """(depth f32 [H,W] along the view axis, inf where nothing is; name of the object [H,W], "") of the scene now."""
    width, height = scene.render.resolution_x, scene.render.resolution_y
    depsgraph = bpy.context.evaluated_depsgraph_get()
    path = camera_from_blender(scene.camera.evaluated_get(depsgraph), width, height)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    origin, rays = camera_rays(path, 0, x.ravel(), y.ravel())
    depth, names = np.full(len(rays), np.inf), np.full(len(rays), "", dtype=object)
    for number, ray in enumerate(rays):
        hit, place, _, _, thing, _ = scene.ray_cast(depsgraph, Vector(origin), Vector(ray))
        if hit:
            depth[number] = (np.array(place) - origin) @ ray / (ray @ ray)
            names[number] = thing.name
    return depth.reshape(height, width).astype(np.float32), names.reshape(height, width)


def painted(names: np.ndarray) -> np.ndarray:
    """u8 [H,W,3]: a picture in which each thing has a colour and every pixel differs a little."""
    height, width = names.shape
    things = {name: number for number, name in enumerate(sorted(set(names.ravel())))}
    base = np.vectorize(things.get)(names)[..., None] * np.array([37, 61, 89]) % 200
    grain = np.random.default_rng(7).integers(0, 40, (height, width, 3))
    return (base + grain).astype(np.uint8)
