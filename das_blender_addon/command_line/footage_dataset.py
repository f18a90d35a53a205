# SPDX-License-Identifier: GPL-3.0-or-later
"""``das dataset CLIP``: a clip and the tracking video of its own motion become a pair to train on."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import SettingsError
from ..footage.plane import Room
from ..jobs.training_clip import clip_request, export_clip
from ..shot.settings import parse_frames, parse_size, resolve_settings
from ..staging.clip_source import is_footage
from ..take import drive
from ..take.clips import DatasetClip
from .file import absolute
from .footage import staged
from .footage_words import add_clip, add_depth, add_size
from .places import output_folder
from .voice import Voice


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What ``das dataset`` takes of a clip."""
    command.set_defaults(first_picture="", repaint=None, align="", save="", clip="", path="", picture="", count=None)
    command.set_defaults(**asdict(Room()))
    add_depth(command)
    add_clip(command, "--clip-camera")
    add_size(command)


def settle_clip(arguments) -> None:
    """A clip in the place of the .blend file is not opened."""
    if arguments.file and is_footage(absolute(arguments.file)):
        arguments.picture, arguments.file = arguments.file, ""


def footage_pair(arguments, voice: Voice, should_stop) -> DatasetClip:
    """The pair, added to the folder of ``--output``: the clip's own frames at their own size, and the tracking video
    of its plate.  Raises `SettingsError` (no tracks, another size, not all frames of a part), and as an import and
    an export do.
    """
    clip_file = absolute(arguments.picture)
    output = output_folder(arguments.output, "The clip")
    if arguments.DAS_FRAMES:
        frames = parse_frames(arguments.DAS_FRAMES)
        arguments.first, arguments.count = frames[0], len(frames)
        if frames[-1] - frames[0] + 1 != len(frames) or frames[0] < 1:
            raise SettingsError("A pair has all frames of a part of its clip; write --frames 5-53.", field="frames")
    size, arguments.DAS_SIZE = parse_size(arguments.DAS_SIZE or ""), None
    with staged(arguments, voice, {}, None, should_stop) as made:
        if made.clip.tracks is None and made.clip.cameras is None:
            raise SettingsError(
                "A pair needs to know how the clip moves; say --tracks auto (a server's), --tracks blender, a file of "
                "them, or --clip-camera solve.",
                field="tracks",
            )
        if size not in (None, made.stage.plate.size):
            raise SettingsError(
                f"A pair has its clip's own size, {made.stage.plate.size[0]}×{made.stage.plate.size[1]}; leave --size "
                "out, or scale the clip.",
                field="size",
            )
        scene = made.stage.scene
        settings = replace(resolve_settings(scene), frames=tuple(range(1, made.count + 1)), size=made.stage.plate.size)
        request = clip_request(
            scene,
            settings,
            output,
            name=arguments.name or default_name(clip_file, arguments.first, made.count),
            caption=arguments.caption,
            lossless=arguments.lossless,
        )
        recipe = export_clip(scene, request, filmed=made.clip.pictures)
        return drive.finish(recipe, on_status=voice.status, should_stop=should_stop)


def default_name(clip: Path, first: int, count: int) -> str:
    """The pair's name where none was given: file and frames."""
    kept = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in clip.stem).lstrip("_-.")
    return f"{kept or 'clip'}_{first:04d}-{first + count - 1:04d}"
