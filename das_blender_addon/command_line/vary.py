# SPDX-License-Identifier: GPL-3.0-or-later
"""``das vary``: the shot once for each of several seeds, prompts and guidance scales, and a sheet of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import SettingsError
from ..jobs import of_scene
from ..jobs.as_made import full_settings
from ..shot.resolved import ResolvedSettings
from ..shot.settings import resolve_settings
from ..shot.shot_folder import check_cache, shot_folder
from ..take import drive
from ..take.adherence import read_report
from ..take.adherence_words import words_of
from ..take.comparing import write_sheet
from ..take.library import find_entry, one_line, takes_of
from ..take.variation_table import COLUMNS, read_text, variations_of
from ..take.variations import MOST, combinations, parse_seeds, ranked, varied
from .places import output_folder
from .voice import Voice


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What can vary."""
    command.add_argument("--seeds", default="", help="1-4, or 3,9,12-14")
    command.add_argument(
        "--prompts", default="",
        help=f"a text file with a prompt in each line; or a table, CSV, with columns of {', '.join(COLUMNS)}",
    )  # fmt: skip
    command.add_argument(
        "--full", default="", metavar="TAKE",
        help="only this take (a number of das takes list, or first digits of its key) once more: with its seed and "
        "words, and the size, steps and speed of the file",
    )  # fmt: skip
    command.add_argument("--guidances", default="", help="3,6,9")
    command.add_argument(
        "--best", action="store_true", help="measure each, and tell them in order: the one first that follows best"
    )
    command.add_argument("--output", help="a .png: the middle frame of each, in the order in which they are told")


def vary(scene, arguments, voice: Voice, should_stop) -> int:
    """Render the shot once for each of several seeds, prompts and guidance scales; those that are there are found."""
    settings = resolve_settings(scene)
    settings = replace(settings, measure=settings.measure or arguments.best)
    folder = shot_folder(scene, settings.cache_folder)
    if arguments.full:
        entry = find_entry(takes_of(folder), arguments.full)
        asked = [full_settings(scene, entry, settings)]
    else:
        asked = _asked(settings, arguments)
    sheet = _sheet(arguments.output)
    check_cache(settings.cache_folder, folder)
    take_of = partial(of_scene.only_take, scene, on_report=voice.warnings)
    made = drive.finish(varied(asked, take_of), on_status=voice.status, should_stop=should_stop)
    if arguments.best:
        made = ranked(made)
    if sheet is not None:
        write_sheet([one.middle for one in made], sheet, most=MOST)
    voice.result(
        "\n".join(
            f"{number + 1:3d}  {one.take.key[:8]}  seed {one.settings.seed}  guidance {one.settings.guidance:g}  "
            f"{one_line(one.settings.prompt)}{_followed(one)}"
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


def _asked(settings: ResolvedSettings, arguments) -> list[ResolvedSettings]:
    seeds, guidances, file = parse_seeds(arguments.seeds), _guidances(arguments.guidances), arguments.prompts
    if not file:
        return combinations(settings, seeds, (), guidances)
    is_csv = file.lower().endswith(".csv")
    return variations_of(read_text(file), settings, seeds, guidances, name=file, only_table=is_csv)


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
