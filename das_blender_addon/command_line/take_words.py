# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of ``das takes`` and ``das report``."""

from __future__ import annotations

import argparse

from ..take.comparing import MODES
from ..take.movie import SUFFIX

ACTIONS = ("list", "show", "compare", "export", "star", "delete")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What stands before the file, and after it."""
    command.add_argument("action", choices=ACTIONS, help="what to do with them")


def add_names(command: argparse.ArgumentParser, word: str) -> None:
    """What stands after the file."""
    named = "a take: its number in the list, the first digits of its key, or last"
    if word == "report":
        command.add_argument("takes", nargs="*", help=named)
        command.add_argument(
            "--reroll", action="store_true", help="make a take with another seed for its worst window, and report that"
        )
        return
    command.add_argument(
        "takes", nargs="*", help=f"{named}; compare has two, the second may be rendered (Blender's own render) or keys"
    )
    command.add_argument("--mode", choices=MODES, default="side", help="of compare")
    command.add_argument("--wipe", type=float, default=0.5, help="where a wipe is, 0 to 1 from the left")
    command.add_argument(
        "--output",
        help=f"of compare and export: a folder for frames, a .png for a contact sheet, a {SUFFIX} for a movie",
    )
    command.add_argument("--unstar", action="store_true", help="of star: take the star away")


def settle_names(arguments) -> None:
    """A word in the place of the file that is no .blend is a take of the file that is open."""
    if arguments.file and not arguments.file.lower().endswith(".blend"):
        arguments.takes.insert(0, arguments.file)
        arguments.file = None
