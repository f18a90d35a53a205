# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks a scene's frames outside of a render and leaves the scene as it was.

Inside ``RenderEngine.render`` the engine's own depsgraph (mode RENDER) is used and none of this is needed.  Elsewhere
Blender offers scripts nothing but the viewport's depsgraph.  For the time of the walk it is made to hold what a render
holds:

- objects and collections are hidden in the viewport exactly when they are hidden for rendering, so that Blender's own
  rules for instances of hidden objects apply; what may hide and show itself by animation stays in the viewport and the
  exporter leaves it out frame by frame;
- modifiers, subdivision levels, simplify, particle display, curve and metaball resolutions take their render values.

What remains of the viewport: settings that are animated or driven themselves, node trees that ask *Is Viewport*, and
changes to animated values that were never keyed, which any change of frame forgets.  A walk should be short: what it
changed it also sets back, whoever else changed it in between.  Whatever keeps a state of the whole file (undo, saving)
has to end it first: see `is_stepping`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import bpy

LOGGER = logging.getLogger(__name__)

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


_walks = 0


def is_stepping() -> bool:
    """Whether a scene is being walked now, with its visibility and frame changed for that time."""
    return _walks > 0


@contextmanager
def stepping(scene) -> Iterator[Callable[[int], object]]:
    """A function that sets ``scene`` to a frame and gives its evaluated depsgraph; on leaving, all is as it was.

    What was removed in the meantime is left out; everything else is set back all the same.
    """
    global _walks
    layer = render_layer(scene)
    # A scene that no window ever showed has no depsgraph yet; and after a script has removed an object, Blender 4.2's
    # layer still lists it until the next update: touching it there is a crash.
    layer.update()
    frame, subframe, camera = scene.frame_current, scene.frame_subframe, scene.camera
    selected = [shape for shape in layer.objects if shape.select_get(view_layer=layer)]
    active = layer.objects.active
    changed: list[tuple[object, str, object]] = []
    unhidden: list = []

    def step(number: int):
        scene.frame_set(number)
        return layer.depsgraph

    def set_back() -> Iterator[Callable[[], object]]:
        for owner, name, value in reversed(changed):
            yield partial(setattr, owner, name, value)
        for shape in unhidden:
            yield lambda shape=shape: shape.hide_set(True, view_layer=layer)
        yield lambda: scene.frame_set(frame, subframe=subframe)
        yield lambda: _bind_camera(scene, camera)  # a marker had bound another one
        for shape in selected:  # hiding had deselected it
            yield lambda shape=shape: shape.select_set(True, view_layer=layer)
        yield lambda: _activate(layer, active)

    _walks += 1
    try:
        _show_what_renders(scene, layer, changed, unhidden)
        yield step
    finally:
        _walks -= 1
        _do_all(set_back())


def _do_all(steps: Iterator[Callable[[], object]]) -> None:
    """Every one of ``steps``, whatever becomes of the others: what they are about may be gone."""
    failures = []
    for step in steps:
        try:
            step()
        except (ReferenceError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            failures.append(error)
    if failures:
        LOGGER.warning("%d things of the scene are gone and were not set back (%s)", len(failures), failures[0])


def _bind_camera(scene, camera) -> None:
    if scene.camera is not camera:
        scene.camera = camera


def _activate(layer, active) -> None:
    if layer.objects.active is not active:
        layer.objects.active = active


def _show_what_renders(scene, layer, changed: list, unhidden: list) -> None:
    """Give every viewport setting its render value; ``changed`` and ``unhidden`` remember what was."""

    def change(owner, name: str, value) -> None:
        before = getattr(owner, name)
        if before != value:
            changed.append((owner, name, before))
            setattr(owner, name, value)

    # 1. Collections, then objects.
    _show_layer_collections(layer.layer_collection, change)
    for collection in bpy.data.collections:
        change(collection, "hide_viewport", collection.hide_render)
    for shape in layer.objects:
        if not shape.hide_render and shape.hide_get(view_layer=layer):
            unhidden.append(shape)
            shape.hide_set(False, view_layer=layer)
    for shape in bpy.data.objects:
        # What is hidden is not evaluated and could not show itself again.
        may_change = shape.animation_data is not None
        change(shape, "hide_viewport", shape.hide_render and not may_change)

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


def _show_layer_collections(layer_collection, change) -> None:
    """Open the eyes of collections in the outliner: a render does not ask them."""
    change(layer_collection, "hide_viewport", False)
    for child in layer_collection.children:
        _show_layer_collections(child, change)
