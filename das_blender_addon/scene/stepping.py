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
changed it also sets back, whoever else changed it in between.  The scene stays changed between two frames: going back
to the user's frame after each would double the work and break simulations that are not baked, which only know how to
go on.  So undo and saving end a walk first (see `is_stepping`), states of the file that Blender keeps without asking
hold a note of what was (see `stepping_note`), and a still of our engine is of the user's frame (`frame_before_walk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import bpy

from ..errors import SceneError
from .stepping_note import Before

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


_walks: list[Before] = []
"""What every walk that goes on found, the first one first."""


def is_stepping() -> bool:
    """Whether a scene is being walked now, with its visibility and frame changed for that time."""
    return bool(_walks)


def frame_before_walk(scene) -> int | None:
    """The frame at which ``scene`` stood before the walk that has it now; None when there is none."""
    return next((before.frame for before in _walks if before.scene == scene), None)


def is_rendering() -> bool:
    """Whether Blender renders in a thread of its own now, which reads what a walk would change."""
    return bpy.app.is_job_running("RENDER")


@contextmanager
def stepping(scene) -> Iterator[Callable[[int], object]]:
    """A function that sets ``scene`` to a frame and gives its evaluated depsgraph; on leaving, all is as it was.

    What was removed in the meantime is left out; everything else is set back all the same.
    """
    layer = render_layer(scene)
    # A scene that no window ever showed has no depsgraph yet; and after a script has removed an object, Blender 4.2's
    # layer still lists it until the next update: touching it there is a crash.
    layer.update()
    name, before = scene.name, Before.of(scene, layer)

    def step(number: int):
        try:
            scene.frame_set(number)
        except ReferenceError as error:
            raise SceneError(f"The scene {name!r} was removed while it was exported.") from error
        walked = scene.view_layers.get(before.layer)
        if walked is None:
            raise SceneError(f"The view layer {before.layer!r} is gone, or has another name now; export again.")
        return walked.depsgraph

    _walks.append(before)
    try:
        _show_what_renders(scene, layer, before)
        before.note()
        yield step
    finally:
        _walks[:] = [other for other in _walks if other is not before]
        before.set_back()


def _show_what_renders(scene, layer, before: Before) -> None:
    """Give every viewport setting its render value; ``before`` remembers what was."""
    # 1. Collections, then objects.
    _show_layer_collections(layer.layer_collection, f"{layer.path_from_id()}.layer_collection", before)
    for collection in bpy.data.collections:
        before.change(collection, "hide_viewport", collection.hide_render)
    for shape in layer.objects:
        if not shape.hide_render and shape.hide_get(view_layer=layer):
            before.unhide(shape, layer)
    for shape in bpy.data.objects:
        # What is hidden is not evaluated and could not show itself again.
        may_change = shape.animation_data is not None
        before.change(shape, "hide_viewport", shape.hide_render and not may_change)

    # 2. What objects are made of.
    for shape in bpy.data.objects:
        for modifier in shape.modifiers:
            before.change(modifier, "show_viewport", modifier.show_render)
            if modifier.type in ("SUBSURF", "MULTIRES"):
                before.change(modifier, "levels", modifier.render_levels)
    for collection, viewport, render in _DATA_TWINS:
        for owner in getattr(bpy.data, collection):
            before.change(owner, viewport, getattr(owner, render))
    for curve in bpy.data.curves:
        for viewport, render in _CURVE_TWINS:
            before.change(curve, viewport, getattr(curve, render) or getattr(curve, viewport))
    for particles in bpy.data.particles:
        before.change(particles, "display_percentage", 100)
    if scene.render.use_simplify:
        for viewport, render in _SIMPLIFY_TWINS:
            before.change(scene.render, viewport, getattr(scene.render, render))


def _show_layer_collections(layer_collection, path: str, before: Before) -> None:
    """Open the eyes of collections in the outliner: a render does not ask them.  Blender does not say their paths."""
    before.change(layer_collection, "hide_viewport", False, path)
    for child in layer_collection.children:
        _show_layer_collections(child, f'{path}.children["{bpy.utils.escape_identifier(child.name)}"]', before)
