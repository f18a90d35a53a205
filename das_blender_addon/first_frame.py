# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the first frame comes from: an image file in the shot's cache that its user may replace or paint over.

    <shot folder>/first_frame.png    8-bit RGB, the model's size
    <shot folder>/first_frame.json   who made it ("das" or "user"), its SHA-256, and the digest of the view that it
    shows

One that we rendered is fresh while the digest (geometry, camera and size of the first frame, engine, samples and the
kept look) is the same.  One that somebody else changed is theirs: it is used as it is and never rendered over, unless
it is asked for.

Blender cannot render inside a render, so a child Blender does it, always: the same binary, or the same Python where
Blender is the `bpy` module, from a temporary copy of the scene.  The picture is the plain render with the scene's
look, or the one that it was told to keep (`colours`): without dithering (the model would see grain), compositing (it
comes after the take), sequencer, motion blur (every later frame would smear it), border and stamp.  Painted images
that were never saved or packed and simulation caches on disk do not travel with the copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bpy

from . import compat
from .camera import active_camera, blender_camera_values
from .client.files import write_whole
from .colours import kept_look
from .errors import FirstFrameError, JobCancelled, SettingsError
from .protocol.png import blob_sha, decode_png, encode_png
from .shot import ShotTracking
from .stepping import render_layer
from .takes import read_first_frame

LOGGER = logging.getLogger(__name__)
ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")
POLL_S = 0.04
LOG_TAIL = 4000
"""Characters of the child's log that an error carries."""

_MESSAGE = re.compile(r"^DAS (\{.*\})$", re.MULTILINE)


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


def render_digest(shot: ShotTracking, engine: str, samples: int, look: dict | None = None) -> str:
    """SHA-256 (hex) of all that makes a rendered first frame stale when it changes; ``look`` of `colours.kept_look`."""
    kept = " " + json.dumps(look, sort_keys=True) if look else ""
    return hashlib.sha256(f"{shot.digest} {engine} {samples}{kept}".encode()).hexdigest()


def start_first_frame(
    scene,
    shot: ShotTracking,
    *,
    folder: Path,
    path: str | Path = "",
    engine: str = "CYCLES",
    samples: int = 32,
    force: bool = False,
) -> FirstFrameRender:
    """Find the first frame of ``shot``, or start a child Blender that renders it; on the thread that may touch Blender.

    ``folder``: the shot's.  ``path``: a file of the user's own instead of the one in the folder.  ``engine``: one of
    `ENGINES`.
    ``force``: render it whatever is there.  Call ``wait`` on the result, on any thread.

    Raises `FirstFrameError` when the file that is there is no PNG of the model's size, or the scene cannot be copied,
    `SettingsError` for an unknown engine.
    """
    if engine not in ENGINES:
        raise SettingsError(
            f"The first frame's engine is {engine!r}; use one of {', '.join(ENGINES)}.", field="first_frame_engine"
        )
    look = kept_look(scene)
    digest = render_digest(shot, engine, samples, look)
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
    scratch = tempfile.TemporaryDirectory(prefix="das-first-frame-", ignore_cleanup_errors=True)
    try:
        child = _start_child(scene, shot, Path(scratch.name), engine, samples)
    except BaseException:
        scratch.cleanup()
        raise
    return FirstFrameRender(target, child=child, scratch=scratch, record=record)


class FirstFrameRender:
    """A first frame that is there, or that a child Blender is rendering."""

    def __init__(self, path: Path, *, child=None, scratch=None, record: dict | None = None):
        self.path = path
        self._child = child
        self._scratch = scratch
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
        try:
            said = 0
            while self._child.poll() is None:
                if should_stop is not None and should_stop():
                    raise JobCancelled("The render of the first frame was cancelled.")
                said = self._pass_on(said, progress)
                time.sleep(POLL_S)
            self._pass_on(said, progress)
            return self._keep()
        finally:
            self.close()

    def close(self) -> None:
        """Kill the child if it still runs and remove its files; harmless when there is none."""
        child, self._child = self._child, None
        if child is not None:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.stdin.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _log(self) -> str:
        return (Path(self._scratch.name) / "log.txt").read_text(encoding="utf-8", errors="replace")

    def _pass_on(self, said: int, progress) -> int:
        """Tell ``progress`` what the child's log says after character ``said``; returns where to go on."""
        log = self._log()
        end = log.rfind("\n") + 1
        for message in _MESSAGE.finditer(log, said, end):
            words = json.loads(message[1])
            if "step" in words and progress is not None:
                progress(words["step"], words["of"])
        return max(end, said)

    def _keep(self) -> Path:
        """Put the child's picture into the shot's folder."""
        output = Path(self._scratch.name) / "first_frame.png"
        log = self._log()
        errors = [json.loads(message[1]).get("error") for message in _MESSAGE.finditer(log)]
        errors = [error for error in errors if error]
        if errors or self._child.returncode != 0 or not output.exists():
            why = errors[-1] if errors else f"the child Blender ended with {self._child.returncode}"
            raise FirstFrameError(
                f"The first frame could not be rendered with {self._record['engine']}: {why}; choose another engine or "
                "give a file of your own.",
                detail=log[-LOG_TAIL:],
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


def _start_child(scene, shot: ShotTracking, scratch: Path, engine: str, samples: int) -> subprocess.Popen:
    """Write a copy of the scene and start a Blender that renders its first frame."""
    file = scratch / "scene.blend"
    try:
        # Not save_as_mainfile: this also works inside a render call, on its thread, and calls nobody's save handlers.
        bpy.data.libraries.write(str(file), {scene, *bpy.data.texts}, path_remap="ABSOLUTE", fake_user=False)
    except (RuntimeError, OSError) as error:
        raise FirstFrameError(
            f"A copy of the scene could not be written to {file} ({error}); free some space in the temporary folder."
        ) from error
    request = scratch / "request.json"
    request.write_text(json.dumps(_child_request(scene, shot, file, scratch, engine, samples)), encoding="utf-8")
    command, environment = _child_command(request)
    with (scratch / "log.txt").open("wb") as log:
        try:
            # Nothing is ever written into its input: it ends when that closes, which it does even if we are killed.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=scratch
            )
        except OSError as error:
            raise FirstFrameError(
                f"Blender could not be started again to render the first frame ({command[0]}: {error}); give a file of "
                "your own."
            ) from error


def _child_request(scene, shot: ShotTracking, file: Path, scratch: Path, engine: str, samples: int) -> dict:
    """What `first_frame_child` is to render.  The sensor is given per mm of lens: the child reads the lens of that
    frame.
    """
    values = blender_camera_values(shot.cameras, 0, lens_mm=1.0)
    return {
        "file": str(file),
        "output": str(scratch / "first_frame.png"),
        "use_scripts": not bpy.app.autoexec_fail,
        "scene": scene.name,
        "view_layer": render_layer(scene).name,
        "frame": shot.plan.frames[0],
        "camera": active_camera(scene, shot.plan.frames[0]).name,
        "engine": engine,
        "samples": samples,
        "size": [values.width, values.height],
        "pixel_aspect": list(values.pixel_aspect),
        "look": kept_look(scene),
        "working_space": compat.working_space(),
        "matrix_world": values.matrix_world,
        "sensor_width_per_lens": values.sensor_width,
        "shift": [values.shift_x, values.shift_y],
    }


def _child_command(request: Path) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of a second Blender of the same kind."""
    script = str(Path(__file__).with_name("first_frame_child.py"))
    environment = dict(os.environ)
    if bpy.app.binary_path:
        options = ["-b", "--python-exit-code", "1", "--python", script, "--", str(request)]
        return [bpy.app.binary_path, *options], environment
    # -P: the script's folder must not lend its module names to others.
    folder = str(Path(bpy.utils.resource_path("LOCAL")).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), folder)))
    return [sys.executable, "-P", script, str(request)], environment


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
