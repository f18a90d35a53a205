# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene's frames, seen from inside a render: a tiny engine whose only render steps the frames and reads them.

Only a render's depsgraph has what renders have: render levels of modifiers, visibility for rendering, all particles
and their children.  Outside of a render Blender gives scripts the viewport's.  So a render is made of it, of one view
layer and with nothing before or after it, in a Blender whose scene nobody is looking at: the child that has opened a
copy (`child`), or one in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import bpy

from ..errors import SceneError
from .camera import active_camera
from .guides import guides_in
from .named import render_scene
from .simulations import unbaked

PLAIN_RENDER = {
    "use_sequencer": False,
    "use_compositing": False,
    "use_multiview": False,
    "use_border": False,
    "use_persistent_data": False,
    "use_render_cache": False,  # the walk's empty result would be kept in the place of the artist's
    "use_motion_blur": False,
    "use_freestyle": False,  # which would draw into a result that there is not, and crash
}
"""Settings of a render that is only a walk."""

Visit = Callable[[int, object], None]


def walk_in_render(scene, layer: str, frames: Sequence[int], visit: Visit) -> None:
    """Call ``visit(frame, depsgraph)`` at every one of ``frames``, inside a render of ``scene``'s view layer ``layer``.

    The scene's own settings, its frame and the list of images are as before when it returns.  Raises what ``visit``
    raises, and `SceneError` when Blender cannot render the scene.
    """
    if not frames:
        raise SceneError("The shot has no frames; give it at least one.")
    camera = active_camera(scene, frames[0])
    outcome: list[BaseException | None] = []
    frame, subframe = scene.frame_current, scene.frame_subframe

    def render(engine, depsgraph):
        if depsgraph.view_layer.name != layer:
            return
        try:
            for number in frames:
                engine.frame_set(number, 0.0)
                visit(number, depsgraph)
            outcome.append(None)
        except BaseException as error:  # handed to the caller: Blender would only print it
            outcome.append(error)
        finally:
            engine.frame_set(frame, subframe)

    with _walking_engine(render), _plain_render(scene, camera, layer), guides_in(scene), no_new_result():
        try:
            render_scene(scene, layer=layer)
        except RuntimeError as error:
            if not outcome:
                raise SceneError(f"Blender cannot render the scene {scene.name!r}: {_words(error)}") from error
    if not outcome:
        raise SceneError(
            f"Blender did not render the view layer {layer!r} of the scene {scene.name!r}; turn on its Use for "
            "Rendering."
        )
    if outcome[0] is not None:
        raise outcome[0]


def step_simulations(scene, last: int, should_stop: Callable[[], None] | None = None) -> list[str]:
    """Step ``scene`` from the first frame of its unbaked simulations to ``last``, so that their caches hold the shot.

    Returns their names; the scene stands where it stood.  ``should_stop()`` is called before each frame, and raises.
    """
    wanting = [simulation for simulation in unbaked(scene) if simulation.start <= last]
    if not wanting:
        return []
    frame, subframe = scene.frame_current, scene.frame_subframe
    try:
        for number in range(min(simulation.start for simulation in wanting), last + 1):
            if should_stop is not None:
                should_stop()
            scene.frame_set(number)
    finally:
        scene.frame_set(frame, subframe=subframe)
    return [simulation.name for simulation in wanting]


@contextmanager
def _walking_engine(render: Callable) -> Iterator[None]:
    """The engine DAS_WALK, there for as long as the walk takes, so that nobody can choose it."""

    class DAS_RE_walk(bpy.types.RenderEngine):
        bl_idname = "DAS_WALK"
        bl_label = "Diffusion as Shader Walk"
        bl_use_preview = False

        def render(self, depsgraph):
            render(self, depsgraph)

    bpy.utils.register_class(DAS_RE_walk)
    try:
        yield
    finally:
        bpy.utils.unregister_class(DAS_RE_walk)


@contextmanager
def _plain_render(scene, camera, layer: str) -> Iterator[None]:
    """``scene`` rendered by DAS_WALK and by nothing else, its view layer ``layer`` at most; as before on leaving.

    The operator of a Blender without a window renders all layers, whichever it is told.
    """
    wanted = {**PLAIN_RENDER, "engine": "DAS_WALK"}
    before = {name: getattr(scene.render, name) for name in wanted}
    others = [other for other in scene.view_layers if other.use and other.name != layer]
    camera_before = scene.camera
    try:
        for name, value in wanted.items():
            setattr(scene.render, name, value)
        for other in others:
            other.use = False
        if scene.camera is None:  # its cameras are bound to markers only
            scene.camera = camera
        yield
    finally:
        for name, value in before.items():
            _set_back(scene.render, name, value)
        for other in others:
            other.use = True
        if scene.camera is not camera_before:
            scene.camera = camera_before


@contextmanager
def no_new_result() -> Iterator[None]:
    """Remove the image that shows a render's result, unless it was there before."""
    before = {image.name for image in bpy.data.images if image.type == "RENDER_RESULT"}
    try:
        yield
    finally:
        for image in [image for image in bpy.data.images if image.type == "RENDER_RESULT" and image.name not in before]:
            bpy.data.images.remove(image)


def _set_back(render, name: str, value) -> None:
    try:
        setattr(render, name, value)
    except TypeError:  # an engine whose add-on this Blender does not have: its name can be read, not written
        if name != "engine":
            raise


def _words(error: RuntimeError) -> str:
    return str(error).strip().removeprefix("Error: ").rstrip(".") + "."
