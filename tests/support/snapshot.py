# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything of a user's session that a job could change, as plain values to be compared."""

from __future__ import annotations

import hashlib
import os
import tempfile

import bmesh
import bpy
import numpy as np

PLAIN = (bool, int, float, str)
DERIVED = ("dimensions",)
"""Follows from the mesh, which every saving, the automatic one too, brings up to date with Edit Mode."""


def snapshot(scene) -> dict[str, object]:
    """The state of the open file and of the session: nothing in it is changed by looking."""
    context = bpy.context
    active = context.view_layer.objects.active
    return {
        "blocks": sorted((block.id_type, block.name_full, block.users) for block in bpy.data.user_map()),
        "frame": (scene.frame_current, scene.frame_subframe),
        "active": active.name if active else None,
        "mode": context.mode,
        "file": (bpy.data.filepath, bpy.data.is_dirty),
        "undo": undo_steps(),
        "scene": _values(scene) | _values(scene.render) | _values(scene.view_settings),
        "settings": _values(scene.das),
        "objects": {shape.name: _object(shape) for shape in bpy.data.objects},
        "edit meshes": {mesh.name: _edit_mesh(mesh) for mesh in bpy.data.meshes if mesh.is_editmode},
        "images": {image.name: _image(image) for image in bpy.data.images},
        "texts": {text.name: (text.as_string(), text.is_dirty) for text in bpy.data.texts},
        "layers": {
            layer.name: {one.name: _values(one) for one in _collections(layer.layer_collection)}
            for layer in scene.view_layers
        },
    }


def differences(before: dict, now: dict, path: str = "") -> dict[str, tuple]:
    """Where two snapshots differ: path → (before, now); {} where nowhere."""
    found = {}
    for name in before.keys() | now.keys():
        old, new, place = before.get(name), now.get(name), f"{path}/{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, place)
        elif old != new:
            found[place] = old, new
    return found


def undo_steps() -> str:
    """Blender's own list of undo steps, with the one that it stands at; it is printed by C, past Python."""
    return _printed_by_c(bpy.context.window_manager.print_undo_steps)


def _printed_by_c(work) -> str:
    import ctypes

    library = ctypes.CDLL(None)
    library.fflush(None)
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            work()
            library.fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode()


def _object(shape) -> dict[str, object]:
    return _values(shape) | {
        "matrix": np.array(shape.matrix_world).tobytes(),
        "basis": np.array(shape.matrix_basis).tobytes(),
        "selected": shape.select_get(),
        "eye": shape.hide_get(),
        "modifiers": [_values(modifier) for modifier in shape.modifiers],
        "keys": [[tuple(point.co) for point in curve.keyframe_points] for curve in _curves(shape)],
    }


def _curves(shape) -> list:
    action = shape.animation_data.action if shape.animation_data else None
    if action is None:
        return []
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    bags = [bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags]
    return [curve for bag in bags for curve in bag.fcurves]


def _edit_mesh(mesh) -> list[tuple]:
    shape = bmesh.from_edit_mesh(mesh)
    return [(tuple(vertex.co), vertex.select, vertex.hide) for vertex in shape.verts] + [
        edge.select for edge in shape.edges
    ]


def _image(image) -> tuple:
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    return image.is_dirty, tuple(image.size), image.source, image.filepath, hashlib.sha256(pixels.tobytes()).hexdigest()


def _collections(layer_collection):
    yield layer_collection
    for child in layer_collection.children:
        yield from _collections(child)


def _values(owner) -> dict[str, object]:
    """Every plain property of a Blender structure."""
    found = {}
    for name in owner.bl_rna.properties.keys():
        value = getattr(owner, name, None) if name not in DERIVED else None
        if isinstance(value, PLAIN):
            found[name] = value
        elif type(value).__name__ in ("bpy_prop_array", "Vector", "Euler", "Quaternion", "Color"):
            found[name] = tuple(value)
    return found
