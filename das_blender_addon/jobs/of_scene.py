# SPDX-License-Identifier: GPL-3.0-or-later
"""Each thing that a user can ask for of a scene, as a recipe that is ready to be driven (`take.recipes`).

Called on the thread that may touch Blender, at the moment at which the job begins: what they read then counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import bpy

from ..child.fitting import check_picture
from ..client.take import JobEvent
from ..errors import FirstFrameError, SceneError, StorageError
from ..scene.camera import active_camera, camera_from_blender, pixel_aspect, render_size
from ..scene.layers import render_layer
from ..scene.named import scene_named
from ..scene.stereo import check_view
from ..shot import scene_shot
from ..shot.findings import ShotReport, refusal, sorted_findings
from ..shot.picture_size import own_picture_size
from ..shot.pictures import Owner, painted_pictures
from ..shot.resolved import KeyChoice, ResolvedSettings
from ..shot.scene_findings import findings_of_scene
from ..shot.server_consent import check_server
from ..shot.settings import stereo_view
from ..shot.shot_folder import check_cache, shot_folder
from ..take import check_recipe, key_recipes, preview_recipe, recipes
from ..take.cache import TakeSettings
from ..take.drive import Recipe, WithEnd
from ..take.recipes import OnReport
from ..take.reporter import OnEvent
from ..take.source import SceneFacts, Source
from . import unchanged
from .main_thread import on_main_thread
from .sources import SharedSource, Step, facts_of, owner_of, source_of, with_strokes

OF_RENDERS = ("scene.colours", "scene.strips")
"""Codes of findings about what Blender itself does with a take's frames, or instead of them."""


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
    on_report: OnReport | None = None,
    after: tuple[str, TakeSettings] | None = None,
    server_named: bool = False,
    in_child: bool | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    source: Source | None = None,
    facts: SceneFacts | None = None,
) -> Recipe:
    """The take of the scene's shot; returns a `FinishedTake`.

    ``step``: for callers inside a render of the scene.  ``view_layer`` "": the first one that renders.
    ``server_named``: a script has named the server; else a file alone must not have chosen it.
    ``on_event``, ``on_report``, ``after``: see `recipes.take`.  ``in_child``, ``should_stop``: see `source_of`.
    ``source``, ``facts``: those that several takes share (`several_takes`).  Raises `FirstFrameError` where the user's
    own cannot be read, `StorageError` where the cache cannot be written to.
    """
    check_view(scene, settings.view)
    check_server(scene, settings.server, named=server_named)
    facts = facts or facts_of(scene, settings, view_layer)
    check_cache(settings.cache_folder, facts.folder)
    settings = _with_strokes(scene, settings, facts.view_layer)
    check_first_frame(facts.folder, facts.owner, settings)
    name, last = scene.name_full, settings.frames[-1]
    known = on_main_thread(lambda: findings_of_scene(scene_named(name), last), should_stop)
    if bpy.app.background:  # a take's files are its own there, whatever the scene's renders become
        known = [finding for finding in known if finding.code not in OF_RENDERS]
    source = source or source_of(
        scene, facts.view_layer, step, in_child=in_child, camera=settings.camera, should_stop=should_stop
    )
    recipe = recipes.take(facts, settings, source, known=known, on_report=on_report, on_event=on_event, after=after)
    return WithEnd(recipe, lambda _error: source.close())


def several_takes(
    scene,
    asked: Sequence[ResolvedSettings],
    *,
    on_report: OnReport | None = None,
    on_event: Callable[[int, JobEvent], None] | None = None,
    in_child: bool | None = None,
) -> list[Recipe]:
    """A recipe for the take of each of ``asked``, all of the scene as it is now; each returns the `Take`.

    They share one source, which closes with the last of them: drive them in turn, or close them all.  ``on_event`` gets
    the number of the take, from 0 on, and its events.
    """
    facts, camera = facts_of(scene, asked[0]), asked[0].camera
    shared = SharedSource(source_of(scene, facts.view_layer, in_child=in_child, camera=camera), len(asked))

    def of(number: int, settings: ResolvedSettings) -> Recipe:
        tell = None if on_event is None else partial(on_event, number)
        one = replace(settings, part=None)
        source = shared.share()
        return recipes.only_take(
            take(scene, one, on_report=on_report, on_event=tell, source=source, facts=facts)
        )

    try:
        return [of(number, settings) for number, settings in enumerate(asked)]
    except BaseException:
        shared.close()
        raise


def prepared(scene, settings: ResolvedSettings) -> tuple[SceneFacts, ResolvedSettings]:
    """What a take with ``settings`` must know of ``scene`` as it is now, and the settings with its unsaved strokes.

    Raises what `take` raises before anything is made.
    """
    check_view(scene, settings.view)
    check_server(scene, settings.server)
    facts = facts_of(scene, settings)
    settings = _with_strokes(scene, settings, facts.view_layer)
    check_first_frame(facts.folder, facts.owner, settings)
    return facts, settings


def check_first_frame(folder: Path, owner: Owner, settings: ResolvedSettings) -> None:
    """Raise `FirstFrameError` where a picture that somebody chose, or the first frame that somebody painted in the
    shot's ``folder``, cannot be read.

    Of several painted ones the scene's geometry decides: then all of them must be unreadable.
    """
    for choice in settings.key_pictures or ():
        check_picture(choice.path, choice.image, choice.frame, f"key picture of frame {choice.frame}")
    if settings.first_frame_path or settings.first_frame_image:
        return check_picture(settings.first_frame_path, settings.first_frame_image, settings.frames[0])
    refusal = None
    for path in painted_pictures(folder, settings.frames[0], owner=owner):
        try:
            return check_picture(path)
        except FirstFrameError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return None


def _with_strokes(scene, settings: ResolvedSettings, view_layer: str) -> ResolvedSettings:
    """A picture that is open with strokes that were not saved is taken as it is seen, not as its file is."""

    def seen(choice: KeyChoice) -> KeyChoice:
        return with_strokes(scene, settings, choice, view_layer)

    keys = settings.key_pictures
    return replace(
        settings,
        first_frame_image=seen(settings.first).image,
        key_pictures=None if keys is None else tuple(map(seen, keys)),
    )


def only_take(
    scene,
    settings: ResolvedSettings,
    *,
    on_report: OnReport | None = None,
    on_event: OnEvent | None = None,
    in_child: bool | None = None,
) -> Recipe:
    """`take` where there is no render that wants its tracking video, too; returns the `Take`.  In a window one that
    comes later is answered at once.
    """
    keep = None
    in_window = not bpy.app.background if in_child is None else in_child
    if in_window and not settings.camera:
        keep = partial(unchanged.keep, unchanged.now(scene, render_layer(scene).name, settings))
    one = take(scene, replace(settings, part=None), on_report=on_report, on_event=on_event, in_child=in_child)
    return recipes.only_take(one, keep)


def measured(
    scene,
    settings: ResolvedSettings,
    key: str,
    *,
    server_named: bool = False,
    in_child: bool | None = None,
) -> Recipe:
    """The take ``key``, which was made with ``settings``, measured; returns the `Take`.

    Raises `SettingsError`, before anything is made, where the shot would not give ``key`` any more.
    """
    after = key, TakeSettings.from_resolved(settings)
    settings = replace(settings, measure=True, part=None)
    return recipes.only_take(take(scene, settings, after=after, server_named=server_named, in_child=in_child))


def first_frame_again(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """Render the first frame anew; returns the `FirstFrame`."""
    check_server(scene, settings.server)
    facts = facts_of(scene, settings)
    check_cache(settings.cache_folder, facts.folder)
    source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    return recipes.first_frame_again(facts, settings, source)


def suggested_keys(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """Which frames of the scene's shot should be key pictures; returns `key_recipes.Suggested`."""
    facts = facts_of(scene, settings)
    source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    wanted = [choice.frame for choice in settings.key_pictures or ()]
    return key_recipes.suggested(facts, settings, source, wanted=wanted, most_unseen=scene.das.key_most_unseen / 100.0)


def rendered_keys(
    scene, settings: ResolvedSettings, *, again: Sequence[int] = (), in_child: bool | None = None
) -> Recipe:
    """The shot's key pictures, missing ones rendered; returns [`FirstFrame`], the first frame's first."""
    check_server(scene, settings.server)
    facts = facts_of(scene, settings)
    check_cache(settings.cache_folder, facts.folder)
    settings = _with_strokes(scene, settings, facts.view_layer)
    check_first_frame(facts.folder, facts.owner, settings)
    source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    return key_recipes.rendered_keys(facts, settings, source, again=again)


def carried_key(scene, settings: ResolvedSettings, frame: int, *, in_child: bool | None = None) -> Recipe:
    """A key picture of ``frame`` carried from the others; returns its path."""
    check_server(scene, settings.server)
    facts = facts_of(scene, settings)
    check_cache(settings.cache_folder, facts.folder)
    settings = _with_strokes(scene, settings, facts.view_layer)
    check_first_frame(facts.folder, facts.owner, settings)
    source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    return key_recipes.carried_key(facts, settings, source, frame)


def tracking_preview(
    scene,
    settings: ResolvedSettings,
    *,
    on_files: Callable[[list[Path]], None] | None = None,
    in_child: bool | None = None,
) -> Recipe:
    """The tracking video of the shot as PNG files, and what is to be known of the shot; returns a
    `preview_recipe.Preview`.  ``on_files`` gets the files before the shot is looked at.
    """
    facts = facts_of(scene, settings)
    known = findings_of_scene(scene, settings.frames[-1])
    source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    return preview_recipe.tracking_preview(facts, settings, source, known=known, on_files=on_files)


def checked_shot(scene, settings: ResolvedSettings, *, in_child: bool | None = None) -> Recipe:
    """All that is to be known of the shot before it costs time on a GPU; returns a `ShotReport`."""
    known = findings_of_scene(scene, settings.frames[-1])
    try:
        facts = facts_of(scene, settings)
        settings = _with_strokes(scene, settings, facts.view_layer)
        source = source_of(scene, facts.view_layer, in_child=in_child, camera=settings.camera)
    except SceneError as error:
        return _only(ShotReport(sorted_findings([*known, refusal(error)])))
    for check in (
        lambda: check_cache(settings.cache_folder, facts.folder),
        lambda: check_first_frame(facts.folder, facts.owner, settings),
    ):
        try:
            check()
        except (StorageError, FirstFrameError) as error:
            known.append(refusal(error))
    return check_recipe.checked(facts, settings, source, known)


def _only(result) -> Recipe:
    yield None
    return result


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
        keep_detail=settings.compose,
        model_frames_every=settings.model_frames_every,
        background=settings.background,
        keys=[one.frame for one in settings.key_pictures or ()],
    )


def check_scene(scene):
    """The camera that would render ``scene``'s current frame.

    Raises `SceneError`: stereoscopy, no camera, or one that cannot be tracked.
    """
    check_view(scene, stereo_view(scene))
    camera = active_camera(scene, scene.frame_current)
    camera_from_blender(camera, *render_size(scene), aspect=pixel_aspect(scene))
    return camera
