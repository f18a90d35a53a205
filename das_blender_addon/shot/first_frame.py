# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the first frame comes from: a file of the user's own, one painted, one that was rendered before, or a new
render.

`pictures` tells how they lie in the shot's folder.  One that we rendered is fresh while the digest (`render_digest`:
geometry, camera and size of the first frame, engine, samples and the kept look) is the same.  One that somebody painted
for that frame is used as it is and never rendered over, unless it is asked for; then it is put aside.

A child Blender renders it, always: see `child_blender`, also for what is left out of the picture.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import bpy

from ..child.child_blender import LOG_TAIL, ChildBlender, check_engine, launch, render_request, write_copy
from ..errors import FirstFrameError
from ..protocol.png import decode_png, encode_png
from ..scene.camera import active_camera, blender_camera_values
from ..scene.colours import kept_look
from ..scene.stepping import render_layer
from .pictures import (
    FirstFrame,
    Owner,
    checked,
    find_painted,
    find_rendered,
    first_frame_state,
    keep_rendered,
    painted_elsewhere,
    put_aside_painted,
    read_first_frame,
)
from .plan import ShotTracking
from .shot_folder import own_files, this_file

LOGGER = logging.getLogger(__name__)


def render_digest(
    shot: ShotTracking, engine: str, samples: int, look: dict | None = None, view_layer: str = ""
) -> str:
    """SHA-256 (hex) of all that makes a rendered first frame stale when it changes.

    ``look`` of `colours.kept_look`.  ``view_layer`` of `layer_to_tell_apart`.
    """
    kept = " " + json.dumps(look, sort_keys=True) if look else ""
    layer = f" {json.dumps(view_layer)}" if view_layer else ""
    return hashlib.sha256(f"{shot.digest} {engine} {samples}{kept}{layer}".encode()).hexdigest()


def layer_to_tell_apart(scene, view_layer: str) -> str:
    """The name ``view_layer`` where the scene has other layers too, whose pictures of one shot may differ; else ""."""
    return view_layer if len(scene.view_layers) > 1 else ""


def owner_of(scene, folder: Path) -> Owner:
    """Whose pictures in the shot's ``folder`` are the scene's; it begins where its own range does, whatever the
    environment says.
    """
    settings = getattr(scene, "das", None)  # a scene has none while the extension is not enabled
    start = settings.shot_start if settings is not None and settings.use_shot_range else scene.frame_start
    return Owner(start, own_files(folder))


def start_first_frame(
    scene,
    shot: ShotTracking,
    *,
    folder: Path,
    path: str | Path = "",
    engine: str = "CYCLES",
    samples: int = 32,
    force: bool = False,
    view_layer: str = "",
) -> FirstFrameRender:
    """Find the first frame of ``shot``, or start a child Blender that renders it; on the thread that may touch Blender.

    ``folder``: the shot's.  ``path``: a file of the user's own instead of one in the folder.  ``engine``: one of
    `child_blender.ENGINES`.
    ``force``: render it whatever is there; a painted one is put aside.  ``view_layer`` "": the first one that renders.
    Call ``wait`` on the result, on any thread.

    Raises `FirstFrameError` when the file that is there is no PNG of the model's size, or the scene cannot be copied,
    `SettingsError` for an unknown engine.
    """
    check_engine(engine)
    frame, model_size = shot.plan.frames[0], shot.plan.model_size
    if path:
        return FirstFrameRender(FirstFrame(Path(path), read_first_frame(Path(path), model_size), "given"))
    look = kept_look(scene)
    view_layer = view_layer or render_layer(scene).name
    digest = render_digest(shot, engine, samples, look, layer_to_tell_apart(scene, view_layer))
    owner = owner_of(scene, folder)
    note = painted_elsewhere(folder, frame, owner=owner)
    if not force:  # 1. painted, 2. rendered before
        painted = find_painted(folder, frame, geometry=shot.digest, owner=owner)
        if painted is not None:
            return FirstFrameRender(checked(painted, model_size))
        rendered = find_rendered(folder, frame, digest)
        if rendered is not None:
            return FirstFrameRender(checked(rendered, model_size, note))
    LOGGER.info("rendering the first frame of frame %d (it was %s)", frame, first_frame_state(folder, frame, digest))
    record = {
        "maker": "das",
        "file": this_file(),
        "geometry": shot.digest,
        "engine": engine,
        "samples": samples,
        "look": look,
        "size": list(model_size),
        "blender": bpy.app.version_string,
    }
    child = ChildBlender.start(
        lambda folder_of_child: _child_request(scene, shot, folder_of_child, engine, samples, view_layer),
        launch(),
        FirstFrameError,
    )
    replaces = owner if force else None
    keep = _Keep(folder, frame, digest, record, note, replaces)
    return FirstFrameRender(None, child=child, keep=keep)


@dataclass(frozen=True)
class _Keep:
    """Where a rendered picture goes, and what is noted of it.

    ``note``: what its user should know.  ``replaces``: whose painted pictures it replaces, None for nobody's.
    """

    folder: Path
    frame: int
    digest: str
    record: dict
    note: str
    replaces: Owner | None


class FirstFrameRender:
    """A first frame that is there (``found``), or that a child Blender is rendering."""

    def __init__(self, found: FirstFrame | None, *, child: ChildBlender | None = None, keep: _Keep | None = None):
        self._found = found
        self._child = child
        self._keep_as = keep

    @property
    def is_rendering(self) -> bool:
        return self._child is not None

    def wait(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> FirstFrame:
        """The first frame, once it is there; any thread, no Blender.

        ``progress(done, of)`` counts samples.  Raises `JobCancelled` (the child is killed), `FirstFrameError` with the
        end of the child's log.
        """
        if self._found is not None:
            return self._found

        def pass_on(words: dict) -> None:
            if progress is not None and "step" in words:
                progress(words["step"], words["of"])

        try:
            why = self._child.wait(pass_on, should_stop, "The render of the first frame was cancelled.")
            self._found = self._keep(why)
            return self._found
        finally:
            self.close()

    def close(self) -> None:
        """Kill the child if it still runs and remove its files; harmless when there is none."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _keep(self, why: str) -> FirstFrame:
        """Put the child's picture into the shot's folder; ``why`` there is none, "" when there is."""
        keep, output = self._keep_as, self._child.folder / "first_frame.png"
        if not why and not output.exists():
            why = "the child Blender wrote no picture"
        if why:
            raise FirstFrameError(
                f"The first frame could not be rendered with {keep.record['engine']}: {why}; choose another engine or "
                "give a file of your own.",
                detail=self._child.log()[-LOG_TAIL:],
            )
        # Blender writes date and render time into its files: the same pixels shall be the same bytes.
        pixels = decode_png(output.read_bytes(), name="The rendered first frame", error=FirstFrameError)
        width, height = keep.record["size"]
        if pixels.shape[:2] != (height, width):
            raise FirstFrameError(
                f"The first frame was rendered at {pixels.shape[1]}×{pixels.shape[0]} instead of {width}×{height}; a "
                "script in the file changes the resolution: remove it."
            )
        if keep.replaces is not None:
            geometry = keep.record["geometry"]
            put_aside_painted(keep.folder, keep.frame, geometry=geometry, owner=keep.replaces)
        made = keep_rendered(keep.folder, keep.frame, keep.digest, encode_png(pixels), keep.record)
        return replace(made, notes=tuple(filter(None, (keep.note,))))


# ── The child Blender ───────────────────────────────────────────────────────────────────────────────────────────────


def _child_request(scene, shot: ShotTracking, folder: Path, engine: str, samples: int, view_layer: str) -> dict:
    """What the child is to render, from a copy of the scene in its ``folder``, with the camera of ``shot``.

    The sensor is given per mm of lens: the child reads the lens of that frame.
    """
    frame = shot.plan.frames[0]
    values = blender_camera_values(shot.cameras, 0, lens_mm=1.0)
    return render_request(
        scene,
        write_copy(scene, folder, FirstFrameError),
        frames=[(frame, str(folder / "first_frame.png"))],
        size=(values.width, values.height),
        pixel_aspect=values.pixel_aspect,
        engine=engine,
        samples=samples,
        camera={
            "name": active_camera(scene, frame).name,
            "matrix_world": values.matrix_world,
            "sensor_width_per_lens": values.sensor_width,
            "shift": [values.shift_x, values.shift_y],
        },
        view_layer=view_layer,
    )
