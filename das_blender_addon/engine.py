# SPDX-License-Identifier: GPL-3.0-or-later
"""The render engine "Diffusion as Shader": Blender asks for one frame, a whole take answers.

The first call of a render job exports the window of the frame and gets its take, from the cache or from the server;
the further calls of that job only read frames.  A call without a job before it (``-f 7``) finds the take of an
earlier job by its content. Everything that fails ends in ``report({'ERROR'})``, the only thing that stops Blender
from writing black frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import bpy
import numpy as np
from bpy.app.handlers import persistent

from . import compat
from .errors import DasError, JobCancelled, SceneError, SettingsError
from .jobs import of_scene, unchanged
from .jobs.kept_sheets import forget_sheets, kept_sheets
from .scene import sequencer
from .scene.blender_passes import VECTOR, render_passes, wanted_passes
from .scene.camera import check_one_view
from .scene.colours import View, colour_warning, set_view, show_plain, unknown_view, working_from_rec709
from .scene.export import GeometryExport
from .scene.layers import render_layer
from .scene.simulations import ranging_over
from .scene.walk import step_simulations
from .scene.written import unwritten
from .shot.findings import NOTE, ShotReport
from .shot.settings import resolve_settings
from .take import drive, recent
from .take.finished import FinishedTake
from .take.last_reports import keeping
from .take.pixels import border, bottom_up, linear_from_srgb, read_frame
from .tracking.coverage import straight_colours

LOGGER = logging.getLogger(__name__)
TRACKING_PASS = "DAS Tracking"
COVERAGE_PASS = "DAS Coverage"

_takes: dict[tuple[str, str], FinishedTake] = {}
"""(scene, view layer) → the take of the render job that runs now."""
_is_animation = False
"""Whether the render job that runs now is one of many frames: no handler is told."""


class DAS_RE_engine(bpy.types.RenderEngine):
    """Gives Blender one frame at a time out of a take.  Has no state of its own: Blender makes a new one for every
    frame.
    """

    bl_idname = compat.ENGINE
    bl_label = "Diffusion as Shader"
    bl_use_preview = False
    bl_use_eevee_viewport = True
    bl_use_postprocess = True
    bl_use_shading_nodes_custom = False  # the first frame's engine has Blender's shader nodes; else their editor goes

    def update_render_passes(self, scene=None, renderlayer=None):
        """Combined, what the tracking video knows of each pixel, and Blender's own passes that the geometry tells."""
        self.register_pass(scene, renderlayer, "Combined", 4, "RGBA", "COLOR")
        self.register_pass(scene, renderlayer, TRACKING_PASS, 3, "RGB", "COLOR")
        self.register_pass(scene, renderlayer, COVERAGE_PASS, 1, "X", "VALUE")
        for one in wanted_passes(scene, renderlayer):
            self.register_pass(scene, renderlayer, one.name, len(one.channels), one.channels, one.kind)

    def render(self, depsgraph):
        """Render the depsgraph's frame; the one place where every error becomes Blender's."""
        global _is_animation
        _is_animation = self.is_animation
        name = "Diffusion as Shader" + _which_layer(depsgraph)
        try:
            self._render(depsgraph)
        except JobCancelled as error:
            if not self.test_break():  # not the user, or nobody would know why there is no frame
                self.report({"ERROR"}, f"{name}: {error}")
        except DasError as error:
            LOGGER.error("render failed: %s %s", error, error.detail)
            self.report({"ERROR"}, f"{name}: {error}")
        except BaseException as error:  # anything else would leave black frames and a success behind
            LOGGER.exception("render failed")
            self.report({"ERROR"}, f"{name}: {type(error).__name__}: {error}")

    def _render(self, depsgraph):
        scene = depsgraph.scene
        frame = scene.frame_current
        check_one_view(scene)
        settings = resolve_settings(scene)
        if frame not in settings.frames:
            raise SceneError(
                f"The frame {frame} is not in the shot ({_in_words(settings.frames)}); "
                "choose a frame of the shot, or change the shot's range."
            )
        if settings.part is not None:
            raise SettingsError("A part of the windows is made by das render, not by a render: unset DAS_WINDOWS.")
        _check_pictures(scene, settings)
        layer = depsgraph.view_layer.name
        take = _takes.get((scene.name, layer))
        if take is None or frame not in take.frames:
            _give_look_back(scene)  # the first frame has it
            take = _takes[scene.name, layer] = self._make_take(depsgraph, scene, settings)
        self._give(depsgraph, take, frame)
        _take_look_away(scene)

    def _make_take(self, depsgraph, scene, settings):
        self._warn(scene)
        layer = depsgraph.view_layer.name
        known = None if bpy.app.background else unchanged.find(scene, layer, settings)
        if known is not None:
            return known

        def show(status: drive.Status):
            self.update_progress(status.fraction)
            self.update_stats("", status.text)
            drive.log_status(status)

        asked, step = unchanged.now(scene, layer, settings), self._step(depsgraph)
        if step is not None and not self.is_animation:
            _look_ahead(scene, settings, step, (self.resolution_x, self.resolution_y))
        made = drive.finish(
            of_scene.take(
                scene, settings, step, view_layer=layer, on_report=_teller(scene), should_stop=self.test_break
            ),
            on_status=show,
            should_stop=self.test_break,
            wait_s=drive.STOP_WAIT_S if bpy.app.background else 0.0,  # a window must not stand still
        )
        if not bpy.app.background:
            unchanged.keep(asked, made)
            for note in made.take.report.get("first_frame_notes", ()):
                self.report({"WARNING"}, f"Diffusion as Shader: {note}")
        if layer == render_layer(scene).name or _renders_one_layer(scene):
            recent.remember_take(scene, made.take)
        return made

    def _step(self, depsgraph):
        """What sets the scene of a Blender without a window to a frame, and back with None; None where there is one."""
        if not bpy.app.background:
            return None
        standing = depsgraph.scene.frame_current, depsgraph.scene.frame_subframe

        def step(number: int | None):
            self.frame_set(*(standing if number is None else (number, 0.0)))
            return depsgraph

        return step

    def _warn(self, scene) -> None:
        words = unknown_view(scene) if bpy.app.background else colour_warning(scene)
        if words:
            self.report({"WARNING"}, f"Diffusion as Shader: {words}.")

    def _give(self, depsgraph, take, frame: int) -> None:
        """Put the frame's pixels into the render result of the view layer; with a render border only its part."""
        scene, layer = depsgraph.scene, depsgraph.view_layer.name
        picture = read_frame(take, frame, (self.resolution_x, self.resolution_y))
        tracking, coverage = take.passes(frame)
        result = self.begin_result(0, 0, self.resolution_x, self.resolution_y, layer=layer)
        part = border(scene.render, picture.shape[1], picture.shape[0], result.resolution_x, result.resolution_y)
        passes = result.layers[0].passes
        combined = np.ones((result.resolution_y, result.resolution_x, 4), np.float32)
        alpha = coverage[part] / np.float32(255.0)
        if scene.render.film_transparent:
            picture = straight_colours(picture, coverage)
        combined[..., :3] = working_from_rec709(linear_from_srgb(picture[part]))
        if scene.render.film_transparent:
            combined *= alpha[..., None]  # premultiplied, as Blender's engines give it
        passes["Combined"].rect.foreach_set(bottom_up(combined))
        for name, values in ((TRACKING_PASS, tracking[part] / np.float32(255.0)), (COVERAGE_PASS, alpha)):
            if name in passes.keys():
                passes[name].rect.foreach_set(bottom_up(values))
        for name, values in self._own_passes(depsgraph, passes.keys()).items():
            passes[name].rect.foreach_set(bottom_up(values[part]))
        self.end_result(result)

    def _own_passes(self, depsgraph, names) -> dict[str, np.ndarray]:
        """Those of Blender's passes that are among ``names``: [H,W,C] f32 of the render's size."""
        wanted = tuple(one for one in wanted_passes(depsgraph.scene, depsgraph.view_layer) if one.name in names)
        if not wanted:
            return {}
        standing = depsgraph.scene.frame_current, depsgraph.scene.frame_subframe

        def step(frame: int | None) -> None:
            self.frame_set(*(standing if frame is None else (frame, 0.0)))

        kept, said = kept_sheets(depsgraph.scene.original, depsgraph.view_layer.name), {}
        size = (self.resolution_x, self.resolution_y)
        found = render_passes(
            depsgraph, size, wanted, step, self._check, lambda sheets: kept.render(sheets, self.test_break), said
        )
        for key, value in said.items():
            self.get_result().stamp_data_add_field(key, value)
        return found

    def _check(self) -> None:
        if self.test_break():
            raise JobCancelled("The render was cancelled.")


def _teller(scene) -> Callable[[ShotReport], None]:
    """What a take of ``scene`` tells before its jobs: to the panel, or to the log where there is none."""
    if not bpy.app.background:
        return keeping(scene)

    def log(report: ShotReport) -> None:
        for finding in report.findings:
            if finding.level != NOTE:
                LOGGER.warning("%s %s", finding.words, finding.remedy)

    return log


def _look_ahead(scene, settings, step, size: tuple[int, int]) -> None:
    """What is wrong with the shot's first frame or the one that is asked for is told before all of it is exported."""
    asked, export = scene.frame_current, GeometryExport(*size)
    try:
        for frame in sorted({settings.frames[0], asked}):
            export.add(frame, step(frame))
    finally:
        step(None)


def _rendering_layers(scene) -> list[str]:
    """Names of the view layers that a render job makes, as far as the scene tells."""
    return [layer.name for layer in scene.view_layers if layer.use]


def _renders_one_layer(scene) -> bool:
    """Whether a window renders only its own view layer; Blender without a window renders all of them nevertheless."""
    return scene.render.use_single_layer and not bpy.app.background


def _which_layer(depsgraph) -> str:
    """The view layer, for a message, where several render."""
    several = len(_rendering_layers(depsgraph.scene)) > 1
    return f", view layer {depsgraph.view_layer.name!r}" if several else ""


def _check_pictures(scene, settings) -> None:
    """One picture cannot be the first frame, or a key picture, of several layers.  Raises `SettingsError`."""
    layers = _rendering_layers(scene)
    if len(layers) < 2 or _renders_one_layer(scene):
        return
    first = settings.first
    for choice in (first, *(settings.key_pictures or ())):
        chosen = choice.path or choice.image
        if chosen:
            what = "first frame" if choice is first else f"key picture of frame {choice.frame}"
            remedy = "turn off the other layers" if bpy.app.background else "turn on Render Single Layer"
            raise SettingsError(
                f"{len(layers)} view layers render and the {what} {chosen} is one picture; clear "
                f"it, so that each layer renders its own, or {remedy}.",
                field="first_frame_path" if choice is first else "key_pictures",
            )


def _in_words(frames: tuple[int, ...]) -> str:
    if len(frames) == 1:
        return f"only {frames[0]}"
    step = frames[1] - frames[0]
    return f"{frames[0]} to {frames[-1]}" + (f" in steps of {step}" if step > 1 else "")


# ── Files without a window: a look is in the first frame and not applied once more ──────────────────────────────────

_looks: dict[str, View] = {}
"""Scene → the look that it gets back, while its view is the plain one."""


def _take_look_away(scene) -> None:
    """From now on Blender writes the bytes of the take's frames; in a window the scene stays as its user sees it.

    Called for every frame: an animation sets its values again.
    """
    if bpy.app.background:
        look = show_plain(scene)
        _looks.setdefault(scene.name, look)


def _give_look_back(scene) -> None:
    set_view(scene, _looks.pop(scene.name, []))


@persistent
def save_with_look(*_):
    """A file that is saved in the middle of a render job has its look."""
    for name, look in _looks.items():
        set_view(bpy.data.scenes[name], look)


@persistent
def go_on_without_look(*_):
    """The file is saved."""
    for name in _looks:
        show_plain(bpy.data.scenes[name])


@persistent
def forget_looks(*_):
    """Another file is opened: its scenes are other scenes."""
    _looks.clear()
    forget_sheets()
    _during_render.pop_all()


# ── Once per render job ─────────────────────────────────────────────────────────────────────────────────────────────


_during_render = ExitStack()
"""What is undone when the render job is over."""


@persistent
def forget_takes(scene, *_):
    """A render job begins: the scene may have changed since the last one (also fired by renders of other engines)."""
    if scene.render.engine != compat.ENGINE:
        return
    _takes.clear()
    _during_render.close()
    forget_sheets()
    _give_look_back(scene)
    if bpy.app.background:
        _simulate(scene)
    if sequencer.hides_engine(scene):
        LOGGER.warning(
            "The scene %r has strips and Blender renders those instead; turn off Post Processing › Sequencer.",
            scene.name,
        )


def _simulate(scene) -> None:
    """Without a window the scene is exported from inside its own render, where nothing simulates: do it before."""
    try:
        frames = resolve_settings(scene).frames
    except DasError:  # the render itself will say it
        return
    last = frames[-1]
    if any(layer.use and getattr(layer, VECTOR.setting) for layer in scene.view_layers):
        last += 1  # to where the last frame's points move
    _during_render.enter_context(ranging_over(scene, (*frames, last)))
    stepped = step_simulations(scene, last)
    if stepped:
        LOGGER.info("simulations without a bake were stepped to frame %d: %s", last, ", ".join(stepped))


@persistent
def tell_unwritten(scene, *_):
    """A frame was saved, as Blender says."""
    words = unwritten(scene, is_animation=_is_animation) if scene.render.engine == compat.ENGINE else ""
    if words:
        LOGGER.error("%s", words)


@persistent
def release_takes(scene, *_):
    """The render job is over: nothing of it is kept in memory."""
    if scene.render.engine == compat.ENGINE:
        _takes.clear()
        _during_render.close()
        forget_sheets()
        _give_look_back(scene)


_HANDLERS = (
    ("render_init", forget_takes),
    ("render_write", tell_unwritten),
    ("render_complete", release_takes),
    ("render_cancel", release_takes),
    ("save_pre", save_with_look),
    ("save_post", go_on_without_look),
    ("load_pre", forget_looks),
)


def register():
    """Register the engine and its handlers."""
    bpy.utils.register_class(DAS_RE_engine)
    for name, handler in _HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)


def unregister():
    """Undo `register`."""
    for name, handler in reversed(_HANDLERS):
        getattr(bpy.app.handlers, name).remove(handler)
    _takes.clear()
    _looks.clear()
    bpy.utils.unregister_class(DAS_RE_engine)
