# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders the alpha of sheets: by Cycles, in a scene of its own that is gone afterwards.

Every surface of the materials' copies shines as much as it is transparent, flat and seen from above; what mixes or adds
surfaces mixes and adds that, as it does with what they let through.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np

from ..named import render_scene
from ..walk import no_new_result
from .shader import HALF
from .sheets import GENERATED, LOCAL, Laid, Rendered, Sheet, lay_out_most
from .steady import ON_COORDINATES

LOGGER = logging.getLogger(__name__)
_WITHIN = ((-0.375, 0.125), (0.125, 0.375), (0.375, -0.125), (-0.125, -0.375))
"""Where texels with hard edges are sampled."""
_FEW = 0.2
_KINDS = {1: "FLOAT", 3: "FLOAT_VECTOR", 4: "FLOAT_COLOR"}
_COORDINATES = {"Generated": GENERATED, "Object": LOCAL}
_JOINTS = ("MIX_SHADER", "ADD_SHADER", "GROUP", "GROUP_INPUT", "REROUTE")


def render_sheets(sheets: list[Sheet], check: Callable[[], None] | None = None) -> Rendered | None:
    """The alpha of ``sheets``, of as many as have room; None where Cycles is missing.  Not inside of a render.

    ``check`` is called before each picture; what it raises passes through.
    """
    chosen, laid = lay_out_most(sheets)
    if laid is None:
        return np.zeros((1, 1), np.uint16), [None] * len(sheets)
    count, sheets = len(sheets), [sheets[number] for number in chosen]
    made: list = []
    try:
        with no_new_result():
            alpha = _rendered(sheets, laid, made, check or (lambda: None))
    except (RuntimeError, AttributeError, TypeError, OSError) as error:
        LOGGER.warning("The alpha of materials could not be rendered (%s).", error)
        return None
    finally:
        for one in reversed(made):
            with suppress(ReferenceError):
                bpy.data.batch_remove([one])
    bounds = np.cumsum([sheet.count for sheet in sheets])[:-1]
    levels = np.rint(alpha * 65535.0).astype(np.uint16)
    places: list[np.ndarray | None] = [None] * count
    for number, own in zip(chosen, np.split((laid.corners / laid.size).astype(np.float32), bounds), strict=True):
        places[number] = own
    return levels, places


def _rendered(sheets: list[Sheet], laid: Laid, made: list, check: Callable[[], None]) -> np.ndarray:
    """[h,w] f32: the alpha; ``made`` gets what is to be removed."""
    scene = bpy.data.scenes.new("Sheets")
    made.append(scene)
    copies: dict[str, object] = {}
    first = 0
    for sheet in sheets:
        for name in sheet.materials:
            if name not in copies:
                copies[name] = _shining(_material(name), made)
        part = slice(first, first + sheet.count)
        _add_mesh(scene, sheet, laid.rectangles[part], laid.shares[part], copies, made)
        first = part.stop
    _look_down(scene, laid.size, made)
    _be_plain(scene)

    def picture(place: tuple[float, float]) -> np.ndarray:
        check()
        return _picture(scene, place)

    alpha = picture((0.0, 0.0))
    if _has_hard_edges(alpha):
        alpha = sum(picture(place) for place in _WITHIN) / np.float32(len(_WITHIN))
    return alpha


def _material(name_full: str):
    """The material with this ``name_full``.  Raises `RuntimeError`."""
    found = next((one for one in bpy.data.materials if one.name_full == name_full), None)
    if found is None:
        raise RuntimeError(f"the material {name_full} is no longer there")
    return found


def _picture(scene, place: tuple[float, float]) -> np.ndarray:
    """[h,w] f32: the alpha at ``place`` (x, y), texels from the middle of each."""
    camera = scene.camera
    size = scene.render.resolution_x, scene.render.resolution_y
    camera.location = (size[0] / 2.0 + place[0], size[1] / 2.0 + place[1], 1.0)
    with tempfile.TemporaryDirectory(prefix="das-sheets-") as folder:
        scene.render.filepath = str(Path(folder) / "alpha.exr")
        render_scene(scene, write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        try:
            image.colorspace_settings.name = "Non-Color"
            pixels = np.empty((size[1], size[0], image.channels), np.float32)
            image.pixels.foreach_get(pixels.reshape(-1))
        finally:
            bpy.data.images.remove(image)
    return np.clip(1.0 - pixels[..., :3].mean(axis=2), 0.0, 1.0)


def _has_hard_edges(alpha: np.ndarray) -> bool:
    """Whether ``alpha`` [h,w], 0 to 1, jumps where it is a half: more than a few texels do at the rectangles' ends."""
    jumps = crossings = 0
    for axis in (0, 1):
        low, high = (np.take(alpha, np.arange(start, alpha.shape[axis] - 1 + start), axis) for start in (0, 1))
        crosses = (low < HALF) != (high < HALF)
        crossings += np.count_nonzero(crosses)
        jumps += np.count_nonzero(crosses & (np.abs(high - low) > HALF))
    return jumps > _FEW * crossings


def _add_mesh(scene, sheet: Sheet, rectangles: np.ndarray, shares: np.ndarray, copies: dict, made: list) -> None:
    data = bpy.data.meshes.new("Sheet")
    made.append(data)
    count = len(rectangles)
    places = np.zeros((4 * count, 3), np.float32)
    places[:, :2] = rectangles.reshape(-1, 2)
    data.vertices.add(4 * count)
    data.loops.add(4 * count)
    data.polygons.add(count)
    data.vertices.foreach_set("co", places.reshape(-1))
    data.loops.foreach_set("vertex_index", np.arange(4 * count, dtype=np.int32))
    data.polygons.foreach_set("loop_start", np.arange(0, 4 * count, 4, dtype=np.int32))
    for name in sheet.materials:
        data.materials.append(copies[name])
    data.polygons.foreach_set("material_index", sheet.which.astype(np.int32))
    for name, values in sheet.values.items():
        there = np.einsum("bqc,bck->bqk", shares, values).astype(np.float32).reshape(4 * count, -1)
        if there.shape[1] == 2:
            attribute, field = data.attributes.new(name, "FLOAT2", "CORNER"), "vector"
        else:
            kind = _KINDS[there.shape[1]]
            attribute = data.attributes.new(name, kind, "POINT")
            field = {"FLOAT": "value", "FLOAT_VECTOR": "vector", "FLOAT_COLOR": "color"}[kind]
        attribute.data.foreach_set(field, there.reshape(-1))
    data.update(calc_edges=True)
    if sheet.uv_map in data.uv_layers:
        data.uv_layers[sheet.uv_map].active_render = True
    shape = bpy.data.objects.new("Sheet", data)
    made.append(shape)
    scene.collection.objects.link(shape)


def _look_down(scene, size: tuple[int, int], made: list) -> None:
    """A camera whose pixels are the texels."""
    lens = bpy.data.cameras.new("Sheets")
    camera = bpy.data.objects.new("Sheets", lens)
    made += [lens, camera]
    scene.collection.objects.link(camera)
    lens.type, lens.ortho_scale, lens.clip_end = "ORTHO", max(size), 2.0
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = size
    scene.render.resolution_percentage = 100


def _be_plain(scene) -> None:
    render, cycles = scene.render, scene.cycles
    render.engine, render.dither_intensity = "CYCLES", 0.0
    render.use_sequencer = render.use_compositing = render.use_motion_blur = False
    cycles.device, cycles.samples, cycles.seed = "CPU", 1, 0
    cycles.use_denoising = cycles.use_adaptive_sampling = cycles.use_auto_tile = False
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01  # the texels' centres
    cycles.max_bounces = cycles.sample_clamp_direct = cycles.sample_clamp_indirect = 0
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5.0 and newer
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGB", "32"
    settings.exr_codec = "NONE"


# ── Materials ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _shining(material, made: list):
    """A copy of ``material`` whose surface shines as much as it is transparent."""
    copy = material.copy()
    made.append(copy)
    tree = copy.node_tree
    output = tree.get_output_node("CYCLES")
    for each in tree.nodes:
        if each.type == "OUTPUT_MATERIAL":
            each.is_active_output = each == output
    for name in ("Volume", "Displacement"):
        for wire in list(output.inputs[name].links):
            tree.links.remove(wire)
    _change(tree, made, {})
    copy.cycles.emission_sampling = "NONE"
    return copy


def _change(tree, made: list, known: dict) -> None:
    """Surfaces shine and coordinates are attributes, in ``tree`` and in copies of its groups, ``known`` by original."""
    for node in list(tree.nodes):
        if node.type == "GROUP" and node.node_tree is not None:
            original = node.node_tree
            if original.name_full not in known:
                inner = known[original.name_full] = original.copy()
                made.append(inner)
                _change(inner, made, known)
            node.node_tree = known[original.name_full]
        elif node.type == "TEX_COORD":
            for name, attribute in _COORDINATES.items():
                targets = [wire.to_socket for wire in node.outputs[name].links]
                for target in targets:
                    tree.links.new(_attribute(tree, attribute), target)
        elif node.type in ON_COORDINATES and not node.inputs["Vector"].links:
            tree.links.new(_attribute(tree, GENERATED), node.inputs["Vector"])
        elif node.outputs and node.outputs[0].type == "SHADER" and node.type not in _JOINTS and not node.mute:
            _let_shine(tree, node)


def _attribute(tree, name: str):
    """The socket with the vector of the attribute ``name``."""
    node = tree.nodes.new("ShaderNodeAttribute")
    node.attribute_type, node.attribute_name = "GEOMETRY", name
    return node.outputs["Vector"]


def _let_shine(tree, node) -> None:
    """An emission takes the place of ``node``, a surface."""
    light = tree.nodes.new("ShaderNodeEmission")
    light.inputs["Strength"].default_value = 1.0
    colour = light.inputs["Color"]
    colour.default_value = (1.0, 1.0, 1.0, 1.0) if node.type == "HOLDOUT" else (0.0, 0.0, 0.0, 1.0)
    if node.type == "BSDF_TRANSPARENT":
        _take_over(tree, node.inputs["Color"], colour)
    elif node.type == "BSDF_PRINCIPLED":
        rest = tree.nodes.new("ShaderNodeMath")
        rest.operation, rest.use_clamp, rest.inputs[0].default_value = "SUBTRACT", True, 1.0
        _take_over(tree, node.inputs["Alpha"], rest.inputs[1])
        tree.links.new(rest.outputs[0], colour)
    for wire in list(node.outputs[0].links):
        tree.links.new(light.outputs[0], wire.to_socket)


def _take_over(tree, source, target) -> None:
    """``target`` gets the value that ``source`` has."""
    if source.links:
        tree.links.new(source.links[0].from_socket, target)
    else:
        target.default_value = source.default_value
