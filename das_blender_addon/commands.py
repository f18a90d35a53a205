# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``blender --command das doctor|check|preview|keys|render|batch|vary|takes|report|dataset|plate|
camera|move|transfer|pair …``; ``python -m das_blender_addon …`` does the same with Blender as a module.

Every flag goes before the environment, the environment before the file (see `shot.settings.resolve_settings`).  What
cannot work is refused before any work begins, where that can be known.  A failure ends with one sentence on stderr and
the exit code of its error class (see `errors`).  ``--json`` writes one JSON object per line instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bpy

from .client.client import pair_with
from .command_line.arguments import ROW_FLAGS, ROW_SWITCHES, joined, overrides, parser
from .command_line.batch import read_rows, rows_of_shots, run_rows
from .command_line.file import chosen_scene, open_file
from .command_line.footage import camera, move, plate, transfer
from .command_line.footage_dataset import footage_pair, settle_clip
from .command_line.places import blend_file, copy_frames, output_folder, save_blend
from .command_line.report import report
from .command_line.take_words import settle_names
from .command_line.takes import takes
from .command_line.vary import vary
from .command_line.voice import Voice
from .doctor import checks
from .errors import DasError, JobCancelled, SettingsError
from .jobs import of_scene
from .jobs.scripting import add_to_sequencer
from .jobs.shots import CAMERAS, MARKERS, scenes_with_engine, shots_of, shots_of_scenes
from .jobs.sources import owner_of
from .jobs.training_clip import clip_request, export_clip
from .protocol.pairing import read_pairing
from .scene.lacking import check_complete
from .shot.machine import check_online_access
from .shot.scene_keys import key_states, with_frames
from .shot.settings import resolve_settings
from .shot.shot_folder import check_cache, shot_folder
from .take import drive
from .take.finished import FinishedPart
from .take.output import clear_output
from .ui import session

NAME = "das"
UNEXPECTED = 70
"""Exit code of an error that nobody foresaw (EX_SOFTWARE)."""


def main(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        arguments = parser(NAME, COMMANDS).parse_args(joined(words))
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    if arguments.run in (takes, report):
        settle_names(arguments)
    if arguments.run is dataset:
        settle_clip(arguments)
    if arguments.run is batch and arguments.table.lower().endswith(".blend"):
        arguments.file = arguments.table
    voice = Voice(arguments.json)
    try:
        with overrides(arguments), _online(arguments.online_mode), _signals() as should_stop:
            if arguments.file:
                open_file(arguments.file, scripts=arguments.scripts)
            scene = chosen_scene(arguments.scene)
            if arguments.strict:
                check_complete()
            return arguments.run(scene, arguments, voice, should_stop)
    except DasError as error:
        voice.error(error, error.exit_code)
        return error.exit_code
    except Exception as error:
        session.LOGGER.exception("das %s failed", " ".join(words))
        voice.error(error, UNEXPECTED)
        return UNEXPECTED


def doctor(scene, arguments, voice: Voice, should_stop) -> int:
    """Say what is installed and whether a render would work, of FILE where one is given; the exit code is that of the
    first thing that would not.
    """
    status = 0
    for check in checks(scene, should_stop, with_shot=bool(arguments.file)):
        voice.check(check)
        if not check.ok and not status:
            status = check.exit_code
    if voice.as_json:
        voice.result("", exit_code=status)
    return status


def check(scene, arguments, voice: Voice, should_stop) -> int:
    """Say all that is to be known of the shot before it costs time on a GPU; needs no server.  The exit code is that of
    what a render would be refused for, 0 where it would not.
    """
    settings = resolve_settings(scene)
    report = drive.finish(of_scene.checked_shot(scene, settings), on_status=voice.status, should_stop=should_stop)
    for finding in report.findings:
        voice.finding(finding)
    voice.result(
        "" if report.findings else "Nothing to say.",
        exit_code=report.exit_code,
        frames=report.frames,
        curves=None if report.curves is None else _curves(report.curves),
        notes=report.notes,
    )
    return report.exit_code


def _curves(curves) -> dict:
    """The curves of a shot, for programs."""
    return {
        name: [round(float(value), 4) for value in getattr(curves, name)] for name in ("covered", "unseen", "motion")
    }


def preview(scene, arguments, voice: Voice, should_stop) -> int:
    """Render only the tracking video, as PNG files; needs no server."""
    settings = resolve_settings(scene)
    output = output_folder(arguments.output, "The frames")
    check_cache(settings.cache_folder)
    made = drive.finish(of_scene.tracking_preview(scene, settings), on_status=voice.status, should_stop=should_stop)
    frames = copy_frames(zip(settings.frames, made.files, strict=True), output)
    voice.warnings(made.report)
    voice.result(_where(frames), frames=frames)
    return 0


def render(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the take of the shot and write its frames, and a file with its strip if asked for.

    Where the film is transparent the written frames have alpha, as Blender's own have.
    """
    settings = resolve_settings(scene)
    output, blend = output_folder(arguments.output, "The frames"), blend_file(arguments.blend)
    check_cache(settings.cache_folder, shot_folder(scene, settings.cache_folder))
    taking = of_scene.take(scene, settings, on_report=voice.warnings)
    made = drive.finish(taking, on_status=voice.status, should_stop=should_stop)
    if isinstance(made, FinishedPart):
        voice.result(made.words, windows=[number + 1 for number in made.windows], of=made.of)
        return 0
    take, cut_out = made.take, made.cut_out if scene.render.film_transparent else None
    frames = copy_frames(zip(settings.frames, take.frames, strict=True), output, cut_out)
    if output is not None:
        voice.note(clear_output(take, output, removes=arguments.clean))
    if blend is not None:
        add_to_sequencer(take, scene)
        save_blend(blend)
    voice.result(
        _where(frames),
        frames=frames,
        take=take.folder,
        key=take.key,
        job=take.job_id,
        first_frame=take.first_frame,
        report=take.report,
    )
    return 0


def batch(scene, arguments, voice: Voice, should_stop) -> int:
    """Render every shot of a table, or of a .blend file by its markers, cameras or scenes, one after the other.

    One that fails does not stop the rest, and the exit code is that of the first one that did.
    """
    table = Path(arguments.table).resolve()
    shared = ["--json"] if arguments.json else []
    shared += [] if arguments.scripts is None else ["-y" if arguments.scripts else "-Y"]
    shared += ["--online-mode"] if arguments.online_mode else []
    shared += ["--strict"] if arguments.strict else []
    rows = _rows(scene, table, arguments)

    def tell(row) -> None:
        voice.note(f"row {row.number} of {len(rows)}: {row.words[0]}")

    def run(words: list[str]) -> int:
        return JobCancelled.exit_code if should_stop() else main(["render", *words])

    status, told = run_rows(rows, run, tell, shared)
    lines = (f"{one['row']:4d}  {one['exit_code']:3d}  {one['seconds']:8.1f} s  {one['file']}" for one in told)
    voice.result("\n".join((" row  exit   time       file", *lines)), rows=told, exit_code=status)
    return status


def _rows(scene, table: Path, arguments) -> list:
    if table.suffix.lower() != ".blend":
        if arguments.cameras or arguments.scenes or arguments.output:
            raise SettingsError(
                f"--cameras, --scenes and --output are for a .blend file, and {table} is a table; its rows say that.",
                field="file",
            )
        return read_rows(table, ROW_FLAGS, ROW_SWITCHES)
    by = CAMERAS if arguments.cameras else MARKERS
    found = shots_of_scenes(scenes_with_engine(), by) if arguments.scenes else shots_of(scene, by)
    return rows_of_shots(table, found, output_folder(arguments.output, "The frames"))


def keys(scene, arguments, voice: Voice, should_stop) -> int:
    """Say which frames are key pictures and what is there of them; suggest some, or render those that are missing."""
    settings = resolve_settings(scene)
    check_cache(settings.cache_folder, shot_folder(scene, settings.cache_folder))
    found = None
    if arguments.suggest or (arguments.render and settings.key_pictures is None):
        found = drive.finish(of_scene.suggested_keys(scene, settings), on_status=voice.status, should_stop=should_stop)
        settings = replace(settings, key_pictures=with_frames(settings, found.frames))
    if arguments.render:
        rendered = of_scene.rendered_keys(scene, settings)
        drive.finish(rendered, on_status=voice.status, should_stop=should_stop)
    states = key_states(scene, settings, owner_of(scene, shot_folder(scene, settings.cache_folder)))
    voice.result(
        "\n".join(f"{one.frame:6d}  {one.origin:8}  {one.state:7}  {one.image or one.path}" for one in states),
        frames=[one.frame for one in states],
        pictures=[
            {"frame": one.frame, "origin": one.origin, "state": one.state, "path": one.path, "image": one.image}
            for one in states
        ],
        unseen=None if found is None else _unseen(found),
    )
    return 0


def _unseen(found) -> dict:
    """What the suggestion leaves unseen, for programs."""
    return {
        "frames": found.looked_at,
        "before": [round(float(share), 4) for share in found.unseen_before],
        "after": [round(float(share), 4) for share in found.unseen_after],
    }


def dataset(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the shot with Blender's own engine and add it to a folder of training clips; needs no server.  A clip in
    the place of the file becomes a pair with the tracking video of its own motion.
    """
    if arguments.picture:
        _tell_clip(footage_pair(arguments, voice, should_stop), voice)
        return 0
    settings = resolve_settings(scene)
    request = clip_request(
        scene,
        settings,
        output_folder(arguments.output, "The clip") or "",
        name=arguments.name,
        caption=arguments.caption,
        lossless=arguments.lossless,
    )
    _tell_clip(drive.finish(export_clip(scene, request), on_status=voice.status, should_stop=should_stop), voice)
    return 0


def _tell_clip(clip, voice: Voice) -> None:
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


def pair(scene, arguments, voice: Voice, should_stop) -> int:
    """Be let in by a server on another machine, with the line that das-server keys pair printed there."""
    check_online_access(read_pairing(arguments.line).address)
    address, user = pair_with(arguments.line)
    voice.result(f"{address} lets this machine in as {user}", server=address, user=user)
    return 0


def _where(frames) -> str:
    return f"{len(frames)} frame{'s' if len(frames) > 1 else ''} in {frames[0].parent}"


COMMANDS = {
    run.__name__: run
    for run in (
        doctor, check, preview, keys, render, batch, vary, takes, report, dataset, plate, camera, move, transfer, pair
    )
}


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
def _signals():
    """Ctrl-C and a farm's TERM cancel the job on the server, too; a reader of our words that goes away ends nothing.
    Yields what tells whether to stop.
    """
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGPIPE"):
        before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield stopped.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


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
