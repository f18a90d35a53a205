# SPDX-License-Identifier: GPL-3.0-or-later
"""``das takes list|show|compare|export|star|delete``: the takes of a shot that lie in its cache; asks no server."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ..child.scratch import Scratch
from ..errors import SettingsError
from ..jobs.sources import source_of
from ..scene.layers import render_layer
from ..scene.sound import heard_with
from ..scene.written import output_file
from ..shot.server_consent import check_server
from ..shot.settings import resolve_settings
from ..shot.shot_folder import shot_folder
from ..take import drive
from ..take.cache import load_take
from ..take.cleaning import size_in_words
from ..take.comparing import KEYS, RENDERED, compare_takes, key_pictures_of, rendered_files, write_sheet
from ..take.fates import Left, left_takes
from ..take.library import (
    TakeEntry,
    check_deletable,
    check_frames,
    delete_take,
    differences,
    find_entry,
    set_star,
    takes_of,
)
from ..take.movie import SUFFIX, movie
from ..ui.cache_page import used_takes
from .places import copy_frames, output_folder
from .voice import Voice


def takes(scene, arguments, voice: Voice, should_stop) -> int:
    """List, show, compare, export, star or delete the takes of a shot that lie in its cache; needs no server."""
    settings = resolve_settings(scene)
    folder = shot_folder(scene, settings.cache_folder)
    entries = takes_of(folder)
    names = list(arguments.takes)
    if arguments.action == "list":
        left = left_takes(folder, lambda server: _refusal(scene, server, settings.server))
        return _list(entries, folder, voice, left)
    wanted = 2 if arguments.action == "compare" else 1
    names = names or (["last"] if wanted == 1 else [])
    if len(names) != wanted:
        raise SettingsError(
            f"das takes {arguments.action} is about {wanted} take{'s' if wanted > 1 else ''}, and {len(names)} "
            "are named; give numbers of the list.",
            field="take",
        )
    is_one = arguments.action == "compare" and names[1] in (RENDERED, KEYS)
    chosen = [find_entry(entries, name) for name in names[: 1 if is_one else wanted]]
    run = {"show": _show, "compare": _compare, "export": _export, "star": _star, "delete": _delete}
    return run[arguments.action](scene, entries, chosen, arguments, voice, should_stop)


def _refusal(scene, server: str, own: str) -> str:
    """Why ``server`` must not be asked what became of takes: notes and files may be a stranger's."""
    if server != own:
        return f"the shot's server is {own}"
    try:
        check_server(scene, server)
    except SettingsError as error:
        return error.message
    return ""


def _list(entries: list[TakeEntry], folder: Path, voice: Voice, left: list[Left]) -> int:
    lines = []
    for number, entry in enumerate(entries):
        before = entries[number + 1] if number + 1 < len(entries) else None
        star = "*" if entry.starred else " "
        lines.append(
            f"{number + 1:3d} {star} {entry.key[:8]}  {entry.when}  {len(entry.take.frames):4d} frames  "
            f"{size_in_words(entry.size_bytes):>9}  {entry.words(before)}"
        )
    lines = lines or [f"There is no take in {folder}."]
    lines += [f"begun {one.words}{f' ({one.why})' if one.why else ''}" for one in left]
    voice.result(
        "\n".join(lines),
        folder=folder,
        takes=[_told(entry) for entry in entries],
        begun=[
            {
                "note": one.note.path,
                "began": one.note.when,
                "state": one.fate,
                "why": one.why,
                "server": one.note.settings[0].server,
                "jobs": list(one.note.jobs.values()),
                "seeds": [settings.seed for settings in one.note.settings],
            }
            for one in left
        ],
    )
    return 0


def _show(scene, entries, chosen, arguments, voice: Voice, should_stop) -> int:
    (entry,) = chosen
    place = entries.index(entry)
    changed = differences(entries[place + 1], entry) if place + 1 < len(entries) else []
    whole = load_take(entry.take.folder) is not None
    lines = [f"take {entry.key}", f"made {entry.when}, {size_in_words(entry.size_bytes)}, {entry.take.folder}"]
    lines += [] if whole else ["damaged: it is made again when it is asked for"]
    lines += [f"{name}: {value}" for name, value in sorted(entry.report.items()) if name not in ("job", "options")]
    lines += [f"changed since the take before: {name} {one} → {other}" for name, one, other in changed]
    voice.result(
        "\n".join(lines),
        **_told(entry),
        whole=whole,
        report=entry.report,
        changed=[{"name": name, "before": one, "after": other} for name, one, other in changed],
    )
    return 0


def _compare(scene, entries, chosen, arguments, voice: Voice, should_stop) -> int:
    first, *others = (entry.take for entry in chosen)
    folder, target = _target(arguments.output)
    if folder is None:
        raise SettingsError("das takes compare writes pictures: name a folder with --output.", field="output")
    with ExitStack() as stack:
        scratch = Scratch("compare")
        stack.callback(scratch.cleanup)
        if others:
            (second,) = others
        elif arguments.takes[1] == KEYS:
            second = key_pictures_of(first, Path(scratch.name) / KEYS)
        else:
            second = rendered_files(first.frame_numbers, partial(output_file, scene))
        folder = folder if target is None else Path(scratch.name)
        files = compare_takes(first, second, arguments.mode, folder, wipe=arguments.wipe, should_stop=should_stop)
        if target is not None:
            files = _one_file(scene, files, [int(file.stem) for file in files], target, voice, should_stop)
    voice.result(f"{len(files)} file{'s' if len(files) > 1 else ''} in {files[0].parent}", files=files)
    return 0


def _export(scene, entries, chosen, arguments, voice: Voice, should_stop) -> int:
    (entry,) = chosen
    folder, target = _target(arguments.output)
    if folder is None:
        raise SettingsError("das takes export needs --output: a folder, a .png or a .mp4.", field="output")
    take = entry.take
    check_frames(take)
    if target is not None:
        files = _one_file(scene, list(take.frames), take.frame_numbers, target, voice, should_stop)
    else:
        files = copy_frames(zip(take.frame_numbers, take.frames, strict=True), folder)
    voice.result(f"{len(files)} file{'s' if len(files) > 1 else ''} in {files[0].parent}", files=files, key=entry.key)
    return 0


def _star(scene, entries, chosen, arguments, voice: Voice, should_stop) -> int:
    (entry,) = chosen
    set_star(entry, not arguments.unstar)
    words = "has no star any more" if arguments.unstar else "is starred"
    voice.result(f"{entry.key[:8]} {words}", key=entry.key, starred=not arguments.unstar)
    return 0


def _delete(scene, entries, chosen, arguments, voice: Voice, should_stop) -> int:
    (entry,) = chosen
    if not arguments.takes:
        raise SettingsError("das takes delete deletes what is named, and no take is named.", field="take")
    check_deletable(entry, used_takes())
    freed = delete_take(entry)
    voice.result(f"{entry.key[:8]} deleted, {size_in_words(freed)} freed", key=entry.key, freed_bytes=freed)
    return 0


def _one_file(scene, frames: list[Path], numbers, target: Path, voice: Voice, should_stop) -> list[Path]:
    """``frames`` as the sheet or, with what is heard at their frame ``numbers``, the movie ``target``."""
    if target.suffix == ".png":
        return [write_sheet(frames, target)]
    source = source_of(scene, render_layer(scene).name)
    fps_base = scene.render.fps_base * scene.frame_step
    recipe = movie(frames, target, scene.render.fps, fps_base, source, heard_with(scene, numbers))
    return [drive.finish(recipe, on_status=voice.status, should_stop=should_stop)]


def _target(output: str | None) -> tuple[Path | None, Path | None]:
    """(the folder to write into, the file to write or None for frames)."""
    if not output:
        return None, None
    suffix = Path(output).suffix.lower()
    if suffix in (".png", SUFFIX):
        folder = output_folder(str(Path(output).parent), "The file")
        return folder, folder / Path(output).name
    return output_folder(output, "The frames"), None


def _told(entry: TakeEntry) -> dict:
    report = entry.report
    return {
        "key": entry.key,
        "folder": entry.take.folder,
        "made": entry.when,
        "starred": entry.starred,
        "size_bytes": entry.size_bytes,
        "frames": entry.take.frame_numbers,
        "seed": report["seed"],
        "model": report["model"],
        "prompt": report.get("prompt", ""),
    }
