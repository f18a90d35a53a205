# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the first frame comes from: an image file in the shot's cache that its user may replace or paint over.

    <shot folder>/first_frame.png    8-bit RGB, the model's size
    <shot folder>/first_frame.json   who made it ("das" or "user"), its SHA-256, and the digest of the view that it
    shows

One that we rendered is fresh while the digest (geometry, camera and size of the first frame, engine, samples and the
kept look) is the same.  One that somebody else changed is theirs: it is used as it is and never rendered over, unless
it is asked for.

A child Blender renders it, always: see `child_blender`, also for what is left out of the picture.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import bpy

from ..child.child_blender import LOG_TAIL, ChildBlender, check_engine, launch, render_request, write_copy
from ..client.files import write_whole
from ..errors import FirstFrameError
from ..protocol.png import blob_sha, decode_png, encode_png
from ..scene.camera import active_camera, blender_camera_values
from ..scene.colours import kept_look
from ..scene.stepping import render_layer
from ..take.cache import read_first_frame
from .plan import ShotTracking

LOGGER = logging.getLogger(__name__)


def first_frame_path(shot_folder: Path) -> Path:
    """The first frame's file in a shot's folder."""
    return Path(shot_folder) / "first_frame.png"


def first_frame_state(shot_folder: Path, digest: str = "") -> str:
    """"missing", "user" (theirs), "fresh", "stale", or, without a ``digest`` of `render_digest` to compare,
    "rendered".
    """
    try:
        png = first_frame_path(shot_folder).read_bytes()
    except OSError:
        return "missing"
    if not png:
        return "missing"
    record = _read_record(shot_folder)
    if record.get("maker") != "das" or record.get("sha256") != blob_sha(png):
        return "user"
    if not digest:
        return "rendered"
    return "fresh" if record.get("digest") == digest else "stale"


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

    ``folder``: the shot's.  ``path``: a file of the user's own instead of the one in the folder.  ``engine``: one of
    `child_blender.ENGINES`.
    ``force``: render it whatever is there.  ``view_layer`` "": the first one that renders.  Call ``wait`` on the
    result, on any thread.

    Raises `FirstFrameError` when the file that is there is no PNG of the model's size, or the scene cannot be copied,
    `SettingsError` for an unknown engine.
    """
    check_engine(engine)
    look = kept_look(scene)
    view_layer = view_layer or render_layer(scene).name
    digest = render_digest(shot, engine, samples, look, layer_to_tell_apart(scene, view_layer))
    model_size = shot.plan.model_size
    if path:
        read_first_frame(Path(path), model_size)
        return FirstFrameRender(Path(path))
    target = first_frame_path(folder)
    state = first_frame_state(folder, digest)
    if state in ("user", "fresh") and not force:
        png = read_first_frame(target, model_size)
        if state == "user":
            _write_record(folder, {"maker": "user", "sha256": blob_sha(png), "digest": "user"})
        return FirstFrameRender(target)
    LOGGER.info("rendering the first frame %s (it was %s)", target, state)
    record = {
        "maker": "das",
        "digest": digest,
        "engine": engine,
        "samples": samples,
        "look": look,
        "frame": shot.plan.frames[0],
        "size": list(model_size),
        "blender": bpy.app.version_string,
    }
    child = ChildBlender.start(
        lambda folder_of_child: _child_request(scene, shot, folder_of_child, engine, samples, view_layer),
        launch(),
        FirstFrameError,
    )
    return FirstFrameRender(target, child=child, record=record)


class FirstFrameRender:
    """A first frame that is there, or that a child Blender is rendering."""

    def __init__(self, path: Path, *, child: ChildBlender | None = None, record: dict | None = None):
        self.path = path
        self._child = child
        self._record = record or {}

    @property
    def is_rendering(self) -> bool:
        return self._child is not None

    def wait(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Path:
        """The first frame's file, once it is there; any thread, no Blender.

        ``progress(done, of)`` counts samples.  Raises `JobCancelled` (the child is killed), `FirstFrameError` with the
        end of the child's log.
        """
        if self._child is None:
            return self.path

        def pass_on(words: dict) -> None:
            if progress is not None and "step" in words:
                progress(words["step"], words["of"])

        try:
            why = self._child.wait(pass_on, should_stop, "The render of the first frame was cancelled.")
            return self._keep(why)
        finally:
            self.close()

    def close(self) -> None:
        """Kill the child if it still runs and remove its files; harmless when there is none."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _keep(self, why: str) -> Path:
        """Put the child's picture into the shot's folder; ``why`` there is none, "" when there is."""
        output = self._child.folder / "first_frame.png"
        if not why and not output.exists():
            why = "the child Blender wrote no picture"
        if why:
            raise FirstFrameError(
                f"The first frame could not be rendered with {self._record['engine']}: {why}; choose another engine or "
                "give a file of your own.",
                detail=self._child.log()[-LOG_TAIL:],
            )
        # Blender writes date and render time into its files: the same pixels shall be the same bytes.
        pixels = decode_png(output.read_bytes(), name="The rendered first frame", error=FirstFrameError)
        if [pixels.shape[1], pixels.shape[0]] != self._record["size"]:
            raise FirstFrameError(
                f"The first frame was rendered at {pixels.shape[1]}×{pixels.shape[0]} instead of "
                f"{self._record['size'][0]}×{self._record['size'][1]}; a script in the file changes the resolution: "
                "remove it."
            )
        png = encode_png(pixels)
        # An interrupted exchange must not look like a file of the user's: first the old one goes, the new one comes
        # last.
        self.path.unlink(missing_ok=True)
        _write_record(self.path.parent, {**self._record, "sha256": blob_sha(png)})
        write_whole(self.path, png)
        return self.path


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


# ── The record beside the file ──────────────────────────────────────────────────────────────────────────────────────


def _read_record(shot_folder: Path) -> dict:
    try:
        record = json.loads((Path(shot_folder) / "first_frame.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(shot_folder: Path, record: dict) -> None:
    text = json.dumps(record, indent=1, sort_keys=True).encode()
    path = Path(shot_folder) / "first_frame.json"
    if not path.exists() or path.read_bytes() != text:
        write_whole(path, text)
