# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``blender --command das doctor|preview|render|dataset …``, or ``python -m das_blender_addon …``
with Blender as a module.

Every flag goes before the environment, the environment before the file (see `properties.resolve_settings`).  A
failure ends with one sentence on stderr and the exit code of its error class (see `errors`).  ``--json`` writes one
JSON object per line instead.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import bpy

from .client.files import write_whole
from .doctor import Check, checks
from .errors import DasError, SettingsError, StorageError
from .jobs import of_scene
from .jobs.scripting import add_to_sequencer
from .jobs.training_clip import clip_request, export_clip
from .shot.settings import resolve_settings
from .take import drive
from .take.output import clear_output
from .ui import session

NAME = "das"
UNEXPECTED = 70
"""Exit code of an error that nobody foresaw (EX_SOFTWARE)."""
OVERRIDES = {
    # flag: (environment variable, help)
    "--server": ("DAS_SERVER", "address of the server"),
    "--timeout": ("DAS_TIMEOUT_S", "seconds of silence after which the server counts as gone"),
    "--model": ("DAS_MODEL", "model, by the server's name for it"),
    "--prompt": ("DAS_PROMPT", "what the shot shows"),
    "--negative-prompt": ("DAS_NEGATIVE_PROMPT", "what it must not show"),
    "--seed": ("DAS_SEED", "the same seed gives the same frames"),
    "--steps": ("DAS_STEPS", "denoising steps, 0 for the model's default"),
    "--guidance": ("DAS_GUIDANCE", "guidance scale, 0 for the model's default"),
    "--size": ("DAS_SIZE", "the model's size: AUTO or WIDTHxHEIGHT"),
    "--tracking-range": ("DAS_TRACKING_RANGE", "AUTO, signed or unit"),
    "--compose": ("DAS_COMPOSE", "1 keeps the first frame's detail (models that can), 0 does not"),
    "--frames": ("DAS_FRAMES", "7, 1-49 or 1-49x2 instead of the scene's range"),
    "--first-frame": ("DAS_FIRST_FRAME", "image of the first frame at the model's size"),
    "--first-frame-engine": ("DAS_FIRST_FRAME_ENGINE", "CYCLES, EEVEE or WORKBENCH"),
    "--first-frame-samples": ("DAS_FIRST_FRAME_SAMPLES", "samples per pixel of a first frame that is rendered"),
    "--new-first-frame": ("DAS_NEW_FIRST_FRAME", "1 renders the first frame anew although one is there"),
    "--anew": ("DAS_ANEW", "1 renders the take anew although a finished one is there"),
    "--cache": ("DAS_CACHE", "folder for first frames and takes"),
}
SWITCHES = ("--new-first-frame", "--anew")
"""Flags that may stand without a value, for 1."""


# ── Talking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Voice:
    """Says what happens: plain lines, or JSON lines."""

    def __init__(self, as_json: bool):
        self.as_json = as_json
        self._last = ""

    def status(self, status: drive.Status) -> None:
        """A step of a running job; the same plain line is said once."""
        if self.as_json:
            self._write(
                {"event": "progress", "stage": status.stage, "text": status.text, "fraction": round(status.fraction, 4)}
            )
        elif status.text != self._last:
            self._last = status.text
            print(f"{status.fraction:4.0%}  {status.text}", flush=True)

    def result(self, words: str, **values) -> None:
        """What came of it."""
        if self.as_json:
            self._write({"event": "done", **values})
        else:
            print(words, flush=True)

    def note(self, words: str) -> None:
        """Something to know of it; "" is nothing."""
        if words and self.as_json:
            self._write({"event": "note", "text": words})
        elif words:
            print(words, flush=True)

    def check(self, check: Check) -> None:
        """One line of the doctor."""
        if self.as_json:
            self._write({"event": "check", **asdict(check)})
        else:
            print(
                f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.words}"
                + (f"\n      → {check.hint}" if check.hint else ""),
                flush=True,
            )

    def error(self, error: BaseException, exit_code: int) -> None:
        """Why it failed, on stderr; as JSON on stdout."""
        if self.as_json:
            code = error.code if isinstance(error, DasError) else "unexpected"
            self._write({"event": "error", "code": code, "message": str(error), "exit_code": exit_code})
        print(f"das: {error}", file=sys.stderr, flush=True)

    def _write(self, values: dict) -> None:
        print(json.dumps(values, default=os.fspath), flush=True)


# ── The commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def main(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        arguments = _parser().parse_args(words)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    voice = Voice(arguments.json)
    try:
        with _overrides(arguments), _online(arguments.online_mode), _stop_on_signals() as should_stop:
            if getattr(arguments, "file", None):
                _open(arguments.file)
            return arguments.run(_scene(arguments), arguments, voice, should_stop)
    except DasError as error:
        voice.error(error, error.exit_code)
        return error.exit_code
    except Exception as error:
        session.LOGGER.exception("das %s failed", " ".join(words))
        voice.error(error, UNEXPECTED)
        return UNEXPECTED


def doctor(scene, arguments, voice: Voice, should_stop) -> int:
    """Say what is installed and whether a render would work; the exit code is that of the first thing that would
    not.
    """
    status = 0
    for check in checks(scene, should_stop):
        voice.check(check)
        if not check.ok and not status:
            status = check.exit_code
    if voice.as_json:
        voice.result("", exit_code=status)
    return status


def preview(scene, arguments, voice: Voice, should_stop) -> int:
    """Render only the tracking video, as PNG files; needs no server."""
    settings = resolve_settings(scene)
    files = drive.finish(of_scene.tracking_preview(scene, settings), on_status=voice.status, should_stop=should_stop)
    frames = _copy_frames(zip(settings.frames, files, strict=True), arguments.output)
    voice.result(f"{len(frames)} frames in {frames[0].parent}", frames=frames)
    return 0


def render(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the take of the shot and write its frames, and a file with its strip if asked for."""
    settings = resolve_settings(scene)
    take = drive.finish(of_scene.only_take(scene, settings), on_status=voice.status, should_stop=should_stop)
    frames = _copy_frames(zip(settings.frames, take.frames, strict=True), arguments.output)
    if arguments.output:
        voice.note(clear_output(take, Path(arguments.output).resolve(), removes=arguments.clean))
    if arguments.blend:
        add_to_sequencer(take, scene)
        bpy.ops.wm.save_as_mainfile(filepath=os.path.abspath(arguments.blend), copy=True)
    voice.result(
        f"{len(frames)} frames in {frames[0].parent}",
        frames=frames,
        take=take.folder,
        key=take.key,
        job=take.job_id,
        first_frame=take.first_frame,
        report=take.report,
    )
    return 0


def dataset(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the shot with Blender's own engine and add it to a folder of training clips; needs no server."""
    settings = resolve_settings(scene)
    request = clip_request(
        scene,
        settings,
        arguments.output,
        name=arguments.name,
        caption=arguments.caption,
        lossless=arguments.lossless,
    )
    clip = drive.finish(export_clip(scene, request), on_status=voice.status, should_stop=should_stop)
    voice.result(
        f"clip {clip.name} of {len(clip.frames)} frames in {clip.folder}",
        clip=clip.name,
        folder=clip.folder,
        caption=clip.caption,
        video=clip.video,
        tracking=clip.tracking,
        first_frame=clip.first_frame,
        frames=clip.frames,
        size=clip.size,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=NAME, description="Diffusion as Shader from the command line.")
    commands = parser.add_subparsers(required=True, metavar="doctor|preview|render|dataset")
    for run in (doctor, preview, render, dataset):
        command = commands.add_parser(run.__name__, help=run.__doc__.partition("\n")[0], description=run.__doc__)
        command.set_defaults(run=run, scene="", output="", blend="")
        command.add_argument("--json", action="store_true", help="one JSON object per line")
        command.add_argument("file", nargs="?", help=".blend file; without it, the one that is open")
        command.add_argument("--scene", help="scene of the file; without it, its active one")
        if run in (preview, render):
            command.add_argument("--output", help="folder for the frames, named by their numbers (0001.png)")
        if run is dataset:
            command.add_argument("--output", required=True, help="folder of the clips; made when it is not there")
            command.add_argument("--name", default="", help="its name; without it, one of file, scene and frames")
            command.add_argument("--caption", default="", help="what it shows, one line; without it, the prompt")
            command.add_argument("--lossless", action="store_true", help="PNG files instead of H.264 videos")
        if run is render:
            command.add_argument(
                "--clean", action="store_true", help="remove frames of earlier takes of this shot from --output"
            )
            command.add_argument("--blend", help="also write this .blend, with the take in its sequencer")
        command.add_argument(
            "--online-mode", action="store_true", help="permit servers on other machines, as Blender's own flag does"
        )
        for flag, (variable, words) in OVERRIDES.items():
            alone = {"nargs": "?", "const": "1"} if flag in SWITCHES else {}
            metavar = flag[2:].upper().replace("-", "_")
            command.add_argument(flag, dest=variable, metavar=metavar, help=f"{words} ({variable})", **alone)
    return parser


@contextmanager
def _overrides(arguments) -> Iterator[None]:
    """Flags become the environment for the time of the command."""
    chosen = {variable: getattr(arguments, variable) for variable, _ in OVERRIDES.values()}
    before = {variable: os.environ.get(variable) for variable in chosen}
    os.environ.update({variable: value for variable, value in chosen.items() if value is not None})
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


@contextmanager
def _online(wanted: bool) -> Iterator[None]:
    """Blender's online access is on for the time of the command, unless Blender was started with --offline-mode."""
    system = bpy.context.preferences.system
    before = system.use_online_access
    if wanted and not bpy.app.online_access_override:
        system.use_online_access = True
    try:
        yield
    finally:
        if wanted and not bpy.app.online_access_override:
            system.use_online_access = before


@contextmanager
def _stop_on_signals():
    """Ctrl-C and a farm's TERM cancel the job on the server, too; yields what tells."""
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _open(file: str) -> None:
    path = Path(file).resolve()
    if not path.is_file():
        raise SettingsError(f"There is no file {path}.", field="file")
    try:
        bpy.ops.wm.open_mainfile(filepath=os.fspath(path), load_ui=False)
    except RuntimeError as error:
        raise SettingsError(f"{path} cannot be opened: {str(error).strip()}", field="file") from error


def _scene(arguments):
    if not arguments.scene:
        return bpy.context.scene
    scene = bpy.data.scenes.get(arguments.scene)
    if scene is None:
        names = ", ".join(repr(scene.name) for scene in bpy.data.scenes)
        raise SettingsError(f"There is no scene {arguments.scene!r} in the file; there are {names}.", field="scene")
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    return scene


def _copy_frames(numbered, folder: str) -> list[Path]:
    """Copy the frames into ``folder`` under their numbers, each whole or not at all; without a folder they stay
    where they are.
    """
    numbered = list(numbered)
    if not folder:
        return [Path(path) for _, path in numbered]
    target = Path(folder).resolve()
    copies = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for number, path in numbered:
            copies.append(target / f"{number:04d}.png")
            write_whole(copies[-1], Path(path).read_bytes())
    except OSError as error:
        raise StorageError(f"The frames cannot be written into {target}: {error.strerror}.") from error
    return copies


_handle = None


def register():
    """Offer ``blender --command das``."""
    global _handle
    _handle = bpy.utils.register_cli_command(NAME, main)


def unregister():
    """Undo `register`."""
    global _handle
    if _handle is not None:
        bpy.utils.unregister_cli_command(_handle)
        _handle = None
