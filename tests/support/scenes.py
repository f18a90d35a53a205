# SPDX-License-Identifier: GPL-3.0-or-later
"""Small Blender scenes for tests, built the way a user would."""

import bpy
from mathutils import Vector

CUBE_FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def link(scene, name, data=None):
    """A new object with ``data`` in the scene's master collection."""
    shape = bpy.data.objects.new(name, data)
    scene.collection.objects.link(shape)
    return shape


def add_camera(scene, name="Camera", location=(0.0, -8.0, 0.0), look_at=(0.0, 0.0, 0.0)):
    """A camera that looks at a point and becomes the scene's."""
    camera = link(scene, name, bpy.data.cameras.new(name))
    camera.location = location
    camera.rotation_euler = (Vector(look_at) - Vector(location)).to_track_quat("-Z", "Y").to_euler()
    scene.camera = camera
    return camera


def add_cube(scene, name="Cube", size=1.0, location=(0.0, 0.0, 0.0)):
    """A cube with 8 vertices and 6 quads, vertex i at the signs of i's bits (x = 4, y = 2, z = 1)."""
    mesh = bpy.data.meshes.new(name)
    half = size / 2
    corners = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    mesh.from_pydata(corners, [], CUBE_FACES)
    cube = link(scene, name, mesh)
    cube.location = location
    return cube


def add_grid(scene, name="Grid", cells=4, size=2.0, location=(0.0, 0.0, 0.0)):
    """A square of cells × cells quads in the xy plane."""
    import bmesh

    mesh = bpy.data.meshes.new(name)
    shape = bmesh.new()
    bmesh.ops.create_grid(shape, x_segments=cells, y_segments=cells, size=size / 2)
    shape.to_mesh(mesh)
    shape.free()
    grid = link(scene, name, mesh)
    grid.location = location
    return grid


def key(owner, path, values, index=-1):
    """Keyframes on ``owner.path``: ``values`` is {frame: value}."""
    for frame, value in values.items():
        if index < 0:
            setattr(owner, path, value)
        else:
            getattr(owner, path)[index] = value
        owner.keyframe_insert(path, index=index, frame=frame)


def add_grease_pencil(scene, points, name="Pencil", radius=0.05, colour=(1.0, 1.0, 1.0, 1.0)):
    """One stroke of Grease Pencil through the world places ``points``, not lit, at its depth."""
    material = bpy.data.materials.new(name)
    bpy.data.materials.create_gpencil_data(material)
    material.grease_pencil.color = colour
    kinds = getattr(bpy.data, "grease_pencils_v3", bpy.data.grease_pencils)  # since Blender 4.3; the name until 4.5
    data = kinds.new(name)
    data.materials.append(material)
    frame = data.layers.new(name).frames.new(1)
    if hasattr(frame, "drawing"):
        frame.drawing.add_strokes([len(points)])
        for point, place in zip(frame.drawing.strokes[0].points, points, strict=True):
            point.position, point.radius = place, radius
    else:
        stroke = frame.strokes.new()
        stroke.line_width = int(radius * 2000)  # thousandths of a Blender unit
        stroke.points.add(len(points))
        for point, place in zip(stroke.points, points, strict=True):
            point.co, point.pressure, point.strength = place, 1.0, 1.0
    pencil = link(scene, name, data)
    pencil.use_grease_pencil_lights = False
    pencil.show_in_front = False
    return pencil
