# SPDX-License-Identifier: GPL-3.0-or-later
"""Each thing that a user can ask for of a scene, as a recipe that is ready to be driven (`take.recipes`).

Called on the thread that may touch Blender, at the moment at which the job begins: what they read then counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import bpy

from ..scene.camera import active_camera, camera_from_blender, check_one_view, pixel_aspect, render_size
from ..scene.layers import render_layer
from ..shot import scene_shot
from ..shot.open_pictures import strokes_on
from ..shot.picture_size import own_picture_size
from ..shot.resolved import ResolvedSettings
from ..shot.server_consent import check_server
from ..shot.shot_folder import shot_folder
from ..take import recipes
from ..take.drive import Recipe
from ..take.reporter import OnEvent
from . import unchanged
from .sources import Step, facts_of, first_frame_file, owner_of, source_of


def hello(scene, settings: ResolvedSettings) -> Recipe:
    """Ask the server what it is; returns its `Welcome`.  Raises `SettingsError` (see `check_server`)."""
    check_server(scene, settings.server)
    return recipes.hello(settings)


def take(
    scene,
    settings: ResolvedSettings,
    step: Step | None = None,
    *,
    view_layer: str = "",
    on_event: OnEvent | None = None,
    server_named: bool = False,
    in_child: bool | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Recipe:
    """The take of the scene's shot; returns a `FinishedTake`.

    ``step``: for callers inside a render of the scene.  ``view_layer`` "": the first one that renders.
    ``server_named``: a script has named the server; else a file alone must not have chosen it.
    ``in_child``, ``should_stop``: see `source_of`.
    """
    check_one_view(scene)
    check_server(scene, settings.server, named=server_named)
    facts = facts_of(scene, settings, view_layer)
    settings = _with_strokes(scene, settings, facts.view_layer)
    source = source_of(scene, facts.view_layer, step, in_child=in_child, should_stop=should_stop)
    return recipes.take(facts, settings, source, on_event=on_event)


def _with_strokes(scene, settings: ResolvedSettings, view_layer: str) -> ResolvedSettings:
    """A first frame that is open with strokes that were not saved is taken as it is seen, not as its file is."""
    if settings.first_frame_image:
        return settings
    image = strokes_on(first_frame_file(scene, settings, view_layer))
    return settings if image is None else replace(settings, first_frame_image=image.name)


def only_take(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """`take` where there is no render that wants its tracking video, too; returns the `Take`.  In a window one that
    comes later is answered at once.
    """
    keep = None
    if not bpy.app.background if in_child is None else in_child:
        keep = partial(unchanged.keep, unchanged.now(scene, render_layer(scene).name, settings))
    return recipes.only_take(take(scene, settings, in_child=in_child), keep)


def first_frame_again(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """Render the first frame anew; returns the `FirstFrame`."""
    check_server(scene, settings.server)
    facts = facts_of(scene, settings)
    return recipes.first_frame_again(facts, settings, source_of(scene, facts.view_layer, in_child=in_child))


def tracking_preview(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """The tracking video of the shot as PNG files; returns their paths."""
    facts = facts_of(scene, settings)
    return recipes.tracking_preview(facts, settings, source_of(scene, facts.view_layer, in_child=in_child))


def plan_shot(scene, settings: ResolvedSettings, capabilities):
    """What will be sent, as a `ShotPlan`."""
    folder = shot_folder(scene, settings.cache_folder)
    frame, owner = settings.frames[0], owner_of(scene, folder)
    return scene_shot.plan_shot(
        scene,
        capabilities,
        frames=settings.frames,
        model=settings.model,
        size=settings.size,
        picture_size=own_picture_size(folder, frame, owner, settings.first_frame_path),
    )


def check_scene(scene):
    """The camera that would render ``scene``'s current frame.

    Raises `SceneError`: stereoscopy, no camera, or one that cannot be tracked.
    """
    check_one_view(scene)
    camera = active_camera(scene, scene.frame_current)
    camera_from_blender(camera, *render_size(scene), aspect=pixel_aspect(scene))
    return camera
