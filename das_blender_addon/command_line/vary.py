# SPDX-License-Identifier: GPL-3.0-or-later
"""``das vary``: the shot once for each of several seeds, prompts and guidance scales, and a sheet of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import SettingsError
from ..jobs import of_scene
from ..shot.settings import resolve_settings
from ..shot.shot_folder import check_cache, shot_folder
from ..take import drive
from ..take.adherence import read_report
from ..take.adherence_words import words_of
from ..take.comparing import write_sheet
from ..take.variations import MOST, combinations, parse_seeds, prompts_of, ranked, varied
from .places import output_folder
from .voice import Voice


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What can vary."""
    command.add_argument("--seeds", default="", help="1-4, or 3,9,12-14")
    command.add_argument("--prompts", default="", help="a text file with a prompt in each line")
    command.add_argument("--guidances", default="", help="3,6,9")
    command.add_argument(
        "--best", action="store_true", help="measure each, and tell them in order: the one first that follows best"
    )
    command.add_argument("--output", help="a .png: the middle frame of each, in the order in which they are told")


def vary(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the shot once for each of several seeds, prompts and guidance scales; those that are there are found."""
    settings = resolve_settings(scene)
    settings = replace(settings, measure=settings.measure or arguments.best)
    asked = combinations(
        settings, parse_seeds(arguments.seeds), _prompts(arguments.prompts), _guidances(arguments.guidances)
    )
    sheet = _sheet(arguments.output)
    check_cache(settings.cache_folder, shot_folder(scene, settings.cache_folder))
    take_of = partial(of_scene.only_take, scene, on_report=voice.warnings)
    made = drive.finish(varied(asked, take_of), on_status=voice.status, should_stop=should_stop)
    if arguments.best:
        made = ranked(made)
    if sheet is not None:
        write_sheet([one.middle for one in made], sheet, most=MOST)
    voice.result(
        "\n".join(
            f"{number + 1:3d}  {one.take.key[:8]}  seed {one.settings.seed}  guidance {one.settings.guidance:g}  "
            f"{one.settings.prompt}{_followed(one)}"
            for number, one in enumerate(made)
        ),
        sheet=sheet,
        takes=[
            {
                "key": one.take.key,
                "folder": one.take.folder,
                "seed": one.settings.seed,
                "guidance": one.settings.guidance,
                "prompt": one.settings.prompt,
                "cached": one.take.cached,
                "adherence": read_report(one.take.folder),
            }
            for one in made
        ],
    )
    return 0


def _followed(one) -> str:
    """How it follows its animation, "" where nobody measured that."""
    report = read_report(one.take.folder)
    return "" if report is None else f"\n     {words_of(report)}"


def _prompts(file: str) -> tuple[str, ...]:
    if not file:
        return ()
    try:
        found = prompts_of(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"The prompts {file} cannot be read: {reason}.", field="prompt") from error
    if not found:
        raise SettingsError(f"There is no prompt in {file}; write one in each line.", field="prompt")
    return found


def _guidances(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"The guidance scales {text!r} cannot be read; write 3,6,9.", field="guidance") from error


def _sheet(output: str | None) -> Path | None:
    if not output:
        return None
    if not output.lower().endswith(".png"):
        raise SettingsError(f"The sheet is a PNG, and {output} is none; name a .png.", field="output")
    return output_folder(str(Path(output).parent), "The sheet") / Path(output).name
