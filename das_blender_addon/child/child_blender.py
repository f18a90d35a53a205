# SPDX-License-Identifier: GPL-3.0-or-later
"""A second Blender that renders what this one must not: Blender cannot render inside a render, and a render on its
main thread freezes the window.

It is the same binary, or the same Python where Blender is the `bpy` module, and it runs `render_child`.  It renders
from a temporary copy of the scene, so nothing that the user does meanwhile changes its pictures.  The picture is the
plain render with the scene's look, or the one that it was told to keep (`colours`): without dithering (a model would
see grain), compositing (it comes after a take), sequencer, motion blur (every frame of a tracking video is one moment),
border and stamp.  Painted images that were never saved or packed and simulation caches on disk do not travel with the
copy.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy

from .. import compat
from ..errors import DasError, JobCancelled, SettingsError
from ..scene.colours import kept_look
from ..scene.stepping import render_layer

ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")
POLL_S = 0.04
LOG_TAIL = 4000
"""Characters of the child's log that an error carries."""

_MESSAGE = re.compile(r"^DAS (\{.*\})$", re.MULTILINE)


def check_engine(engine: str) -> None:
    """Raise `SettingsError` for an engine that is none of `ENGINES`."""
    if engine not in ENGINES:
        raise SettingsError(
            f"The first frame's engine is {engine!r}; use one of {', '.join(ENGINES)}.", field="first_frame_engine"
        )


@dataclass(frozen=True)
class Launch:
    """How to start a Blender of the same kind: its command line without the request's file, and its environment."""

    command: tuple[str, ...]
    environment: dict[str, str]


def launch() -> Launch:
    """The `Launch` of this Blender; on the thread that may touch it."""
    script = str(Path(__file__).with_name("render_child.py"))
    environment = dict(os.environ)
    if bpy.app.binary_path:
        options = ("-b", "--python-exit-code", "1", "--python", script, "--")
        return Launch((bpy.app.binary_path, *options), environment)
    # -P: the script's folder must not lend its module names to others.
    folder = str(Path(bpy.utils.resource_path("LOCAL")).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), folder)))
    return Launch((sys.executable, "-P", script), environment)


def write_copy(scene, folder: Path, error: type[DasError]) -> Path:
    """A copy of the scene and all that it uses, as a file in ``folder``.  Raises an ``error`` where it cannot be."""
    file = folder / "scene.blend"
    try:
        # Not save_as_mainfile: this also works inside a render call, on its thread, and calls nobody's save handlers.
        bpy.data.libraries.write(str(file), {scene, *bpy.data.texts}, path_remap="ABSOLUTE", fake_user=False)
    except (RuntimeError, OSError) as refused:
        raise error(
            f"A copy of the scene could not be written to {file} ({refused}); free some space in the temporary folder."
        ) from refused
    return file


def render_request(
    scene,
    file: Path,
    *,
    frames: list[tuple[int, str]],
    size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    engine: str,
    samples: int,
    camera: dict | None = None,
    view_layer: str = "",
) -> dict:
    """The child's task of rendering ``frames`` (each with its output file) of the copy ``file`` of ``scene``.

    ``view_layer`` "": the first one that renders.
    ``size`` (width, height) in pixels.  ``camera``: what `render_child.place_camera` reads; None for the scene's own
    cameras.
    """
    return {
        "task": "render",
        "file": str(file),
        "use_scripts": not bpy.app.autoexec_fail,
        "scene": scene.name,
        "view_layer": view_layer or render_layer(scene).name,
        "frames": frames,
        "camera": camera,
        "engine": engine,
        "samples": samples,
        "size": list(size),
        "pixel_aspect": list(pixel_aspect),
        "look": kept_look(scene),
        "working_space": compat.working_space(),
    }


class ChildBlender:
    """A child Blender at work, and the folder that holds its request, its log and whatever it makes there."""

    def __init__(self, scratch: tempfile.TemporaryDirectory, process: subprocess.Popen):
        self.folder = Path(scratch.name)
        self.process = process
        self._scratch = scratch

    @classmethod
    def start(cls, request: Callable[[Path], dict], launched: Launch, error: type[DasError]) -> ChildBlender:
        """Start the child that does ``request(its folder)``; needs no Blender unless ``request`` does.

        Raises an ``error`` when it cannot be started, and what ``request`` raises.
        """
        scratch = tempfile.TemporaryDirectory(prefix="das-child-", ignore_cleanup_errors=True)
        try:
            folder = Path(scratch.name)
            file = folder / "request.json"
            file.write_text(json.dumps(request(folder)), encoding="utf-8")
            with (folder / "log.txt").open("wb") as log:
                # Nothing is ever written into its input: it ends when that closes, which it does even if we are killed.
                process = subprocess.Popen(
                    [*launched.command, str(file)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=launched.environment,
                    cwd=folder,
                )
        except OSError as refused:
            scratch.cleanup()
            raise error(f"Blender could not be started again ({launched.command[0]}: {refused}).") from refused
        except BaseException:
            scratch.cleanup()
            raise
        return cls(scratch, process)

    def wait(
        self,
        on_message: Callable[[dict], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        cancelled: str = "The render was cancelled.",
    ) -> str:
        """Wait until it has ended; any thread, no Blender.  Returns why it failed, "" when it did not.

        ``on_message`` gets what it says of its progress.  Raises `JobCancelled` with the words ``cancelled`` when
        ``should_stop`` says so.
        """
        said = 0
        while self.process.poll() is None:
            if should_stop is not None and should_stop():
                raise JobCancelled(cancelled)
            said = self._pass_on(said, on_message)
            time.sleep(POLL_S)
        self._pass_on(said, on_message)
        errors = [words["error"] for words in self._messages(self.log()) if "error" in words]
        if errors:
            return errors[-1]
        return f"the child Blender ended with {self.process.returncode}" if self.process.returncode else ""

    def log(self) -> str:
        """All that it has written."""
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Kill it if it still runs, and remove its folder."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self._scratch.cleanup()

    def _pass_on(self, said: int, on_message: Callable[[dict], None] | None) -> int:
        """Hand over what the log says after character ``said``; returns where to go on."""
        log = self.log()
        end = log.rfind("\n") + 1
        for words in self._messages(log[said:end]):
            if on_message is not None and "error" not in words:
                on_message(words)
        return max(end, said)

    @staticmethod
    def _messages(log: str) -> list[dict]:
        return [json.loads(message[1]) for message in _MESSAGE.finditer(log)]
