# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks a scene's frames outside of a render and leaves the scene as it was.

Inside ``RenderEngine.render`` the engine's own depsgraph (mode RENDER) is used and none of this is needed.  Elsewhere
Blender offers scripts nothing but the viewport's depsgraph.  For the time of the walk it is made to hold what a render
holds:

- objects and collections that are hidden in the viewport and not for rendering are shown; what is hidden for rendering
  is left out by the exporter;
- modifiers, subdivision levels, simplify, particle display, curve and metaball resolutions take their render values.

What remains of the viewport: settings that are animated or driven themselves, node trees that ask *Is Viewport*, and
changes to animated values that were never keyed, which any change of frame forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import bpy

#: (collection of bpy.data, viewport property, render property)
_DATA_TWINS = (
    ("objects", "show_instancer_for_viewport", "show_instancer_for_render"),
    ("metaballs", "resolution", "render_resolution"),
)
_CURVE_TWINS = (("resolution_u", "render_resolution_u"), ("resolution_v", "render_resolution_v"))
_SIMPLIFY_TWINS = (
    ("simplify_subdivision", "simplify_subdivision_render"),
    ("simplify_child_particles", "simplify_child_particles_render"),
)


def render_layer(scene):
    """The view layer that the shot is read from and the first frame is rendered with: the first one that renders."""
    for layer in scene.view_layers:
        if layer.use:
            return layer
    return scene.view_layers[0]


@contextmanager
def stepping(scene) -> Iterator[Callable[[int], object]]:
    """A function that sets ``scene`` to a frame and gives its evaluated depsgraph; on leaving, all is as it was."""
    layer = render_layer(scene)
    frame, subframe, camera = scene.frame_current, scene.frame_subframe, scene.camera
    changed: list[tuple[object, str, object]] = []
    unhidden: list = []

    def step(number: int):
        scene.frame_set(number)
        return layer.depsgraph

    if layer.depsgraph is None:  # a scene that no window ever showed
        layer.update()
    try:
        _show_what_renders(scene, layer, changed, unhidden)
        yield step
    finally:
        for owner, name, value in reversed(changed):
            setattr(owner, name, value)
        for shape in unhidden:
            shape.hide_set(True, view_layer=layer)
        scene.frame_set(frame, subframe=subframe)
        if scene.camera is not camera:  # a marker had bound another one
            scene.camera = camera


def _show_what_renders(scene, layer, changed: list, unhidden: list) -> None:
    """Give every viewport setting its render value; ``changed`` and ``unhidden`` remember what was."""

    def change(owner, name: str, value) -> None:
        before = getattr(owner, name)
        if before != value:
            changed.append((owner, name, before))
            setattr(owner, name, value)

    # 1. Collections, then objects.
    _show_collections(layer.layer_collection, change)
    for shape in layer.objects:
        if not shape.hide_render and shape.hide_get(view_layer=layer):
            unhidden.append(shape)
            shape.hide_set(False, view_layer=layer)
    for shape in scene.objects:
        if not shape.hide_render:
            change(shape, "hide_viewport", False)

    # 2. What objects are made of.
    for shape in bpy.data.objects:
        for modifier in shape.modifiers:
            change(modifier, "show_viewport", modifier.show_render)
            if modifier.type in ("SUBSURF", "MULTIRES"):
                change(modifier, "levels", modifier.render_levels)
    for collection, viewport, render in _DATA_TWINS:
        for owner in getattr(bpy.data, collection):
            change(owner, viewport, getattr(owner, render))
    for curve in bpy.data.curves:
        for viewport, render in _CURVE_TWINS:
            change(curve, viewport, getattr(curve, render) or getattr(curve, viewport))
    for particles in bpy.data.particles:
        change(particles, "display_percentage", 100)
    if scene.render.use_simplify:
        for viewport, render in _SIMPLIFY_TWINS:
            change(scene.render, viewport, getattr(scene.render, render))


def _show_collections(layer_collection, change) -> None:
    if layer_collection.exclude or layer_collection.collection.hide_render:
        return
    change(layer_collection, "hide_viewport", False)
    change(layer_collection.collection, "hide_viewport", False)
    for child in layer_collection.children:
        _show_collections(child, change)
