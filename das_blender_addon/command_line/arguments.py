# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of the commands.  Flags of settings become the environment for the time of a command."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from . import footage_dataset, footage_words, take_words, vary

OVERRIDES = {
    # flag: (environment variable, help)
    "--server": ("DAS_SERVER", "address of the server"),
    "--timeout": ("DAS_TIMEOUT_S", "seconds of silence after which the server counts as gone"),
    "--model": ("DAS_MODEL", "model, by the server's name for it"),
    "--prompt": ("DAS_PROMPT", "what the shot shows"),
    "--prompt-file": ("DAS_PROMPT_FILE", "a text file with the prompt, in several lines; # begins a comment"),
    "--negative-prompt": ("DAS_NEGATIVE_PROMPT", "what it must not show"),
    "--seed": ("DAS_SEED", "the same seed gives the same frames"),
    "--steps": ("DAS_STEPS", "denoising steps, 0 for the model's default"),
    "--guidance": ("DAS_GUIDANCE", "guidance scale, 0 for the model's default"),
    "--size": ("DAS_SIZE", "the model's size: AUTO or WIDTHxHEIGHT"),
    "--tracking-range": ("DAS_TRACKING_RANGE", "AUTO, signed or unit"),
    "--view": ("DAS_VIEW", "of a stereoscopic scene, by its name: left or right"),
    "--camera": ("DAS_CAMERA", "the camera that sees every frame, by its name, instead of the scene's"),
    "--background": ("DAS_BACKGROUND", "of the tracking video where there is no surface: black or sky"),
    "--compose": ("DAS_COMPOSE", "key pictures' detail: 1 all of it, fine over the model's light and tone, 0 none"),
    "--model-frames-every": ("DAS_MODEL_FRAMES_EVERY", "auto, or 3: the model makes every third frame"),
    "--key-pictures": ("DAS_KEY_PICTURES", "auto, first, or frames: 1,25,49"),
    "--frames": ("DAS_FRAMES", "7, 1-49 or 1-49x2 instead of the scene's range"),
    "--first-frame": ("DAS_FIRST_FRAME", "image of the first frame; auto: the one in the cache, or a new one"),
    "--first-frame-engine": ("DAS_FIRST_FRAME_ENGINE", "CYCLES, EEVEE or WORKBENCH"),
    "--first-frame-samples": ("DAS_FIRST_FRAME_SAMPLES", "samples per pixel of a first frame that is rendered"),
    "--new-first-frame": ("DAS_NEW_FIRST_FRAME", "1 renders the first frame anew although one is there"),
    "--anew": ("DAS_ANEW", "1 renders the take anew although a finished one is there"),
    "--windows": ("DAS_WINDOWS", "2/5 renders only the second of five parts of the shot's windows into the cache"),
    "--priority": ("DAS_PRIORITY", "interactive before batch, in the server's queue; without it, batch"),
    "--measure": ("DAS_MEASURE", "1 measures whether the take follows its animation (das report)"),
    "--window-seeds": ("DAS_WINDOW_SEEDS", "2:17 gives the shot's second window the seed 17"),
    "--lora": ("DAS_LORA", "adapters of the model with their weights: NAME:0.8,OTHER:0.5"),
    "--speed": ("DAS_SPEED", "AUTO for the server's own, exact, fast or preview"),
    "--cache": ("DAS_CACHE", "folder for first frames and takes"),
}
SWITCHES = ("--new-first-frame", "--anew", "--measure")
"""Flags that may stand without a value, for 1."""
ROW_FLAGS = frozenset({*OVERRIDES, "--scene", "--output", "--blend"})
ROW_SWITCHES = frozenset({"--clean", "--strict", "--enable-autoexec", "--online-mode"})
"""What a row of a table may say."""


def parser(name: str, commands: dict[str, Callable]) -> argparse.ArgumentParser:
    """The parser of the program ``name`` for its ``commands``, functions whose docstrings are their help."""
    whole = argparse.ArgumentParser(prog=name, description="Diffusion as Shader from the command line.")
    parts = whole.add_subparsers(required=True, metavar="|".join(commands))
    for word, run in commands.items():
        command = parts.add_parser(word, help=run.__doc__.partition("\n")[0], description=run.__doc__)
        command.set_defaults(run=run, output="", blend="")
        command.add_argument("--json", action="store_true", help="one JSON object per line")
        if word == "takes":
            take_words.add_arguments(command)
        if word == "vary":
            vary.add_arguments(command)
        if word == "batch":
            command.add_argument(
                "table",
                help="CSV: a column file and columns named as flags of render, a row each; or a .blend file: what each "
                "camera that is bound to a marker sees until the next one",
            )
            command.add_argument("--cameras", action="store_true", help="of a .blend: all frames by every camera")
            command.add_argument("--scenes", action="store_true", help="of a .blend: every scene with the engine")
            command.add_argument("--output", help="of a .blend: a folder, in which each shot has a folder of frames")
            command.set_defaults(file=None)
        if word == "pair":
            command.add_argument("line", help="the whole line, which begins with das-pair:")
            command.set_defaults(file=None, scene="", strict=False, scripts=None)
        elif word in footage_words.COMMANDS:
            footage_words.add_arguments(command, word)
        else:
            _add_file(command, of_table=word == "batch")
        if word in ("takes", "report"):
            take_words.add_names(command, word)
        if word in ("preview", "render"):
            command.add_argument(
                "--output",
                help="folder for the frames, named by their numbers (0001.png); // at its beginning is beside the file",
            )
        if word == "keys":
            command.add_argument("--suggest", action="store_true", help="add the fewest that the shot needs")
            command.add_argument("--render", action="store_true", help="render those that are missing or stale")
            command.add_argument("--list", action="store_true", help="only say what is there, as without any of these")
        if word == "dataset":
            command.add_argument("--output", required=True, help="folder of the clips; made when it is not there")
            command.add_argument("--name", default="", help="its name; without it, one of file, scene and frames")
            command.add_argument("--caption", default="", help="what it shows, one line; without it, the prompt")
            command.add_argument("--lossless", action="store_true", help="PNG files instead of H.264 videos")
            footage_dataset.add_arguments(command)
        if word == "render":
            command.add_argument(
                "--clean", action="store_true", help="remove frames of earlier takes of this shot from --output"
            )
            command.add_argument("--blend", help="also write this .blend, with the take in its sequencer")
        command.add_argument(
            "--online-mode", action="store_true", help="permit servers on other machines, as Blender's own flag does"
        )
        _add_settings(command, word)
    return whole


def joined(words: Sequence[str]) -> list[str]:
    """``words`` with values such as -3-5 (frames before 0) fast to their flags, ``--frames=-3-5``: the parser would
    take them for flags.
    """
    found: list[str] = []
    for word in words:
        if found and found[-1] in OVERRIDES and re.match(r"-\d", word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def _add_settings(command: argparse.ArgumentParser, word: str) -> None:
    for flag, (variable, words) in OVERRIDES.items():
        if word in footage_words.COMMANDS and flag in footage_words.OWN_FLAGS:
            command.set_defaults(**{variable: None})
            continue
        alone = {"nargs": "?", "const": "1"} if flag in SWITCHES else {}
        metavar = flag[2:].upper().replace("-", "_")
        command.add_argument(flag, dest=variable, metavar=metavar, help=f"{words} ({variable})", **alone)


def _add_file(command: argparse.ArgumentParser, *, of_table: bool = False) -> None:
    if not of_table:
        command.add_argument("file", nargs="?", help=".blend file; without it, the one that is open")
    command.add_argument("--scene", default="", help="scene of the file; without it, its active one")
    command.add_argument(
        "--strict", action="store_true", help="fail where the file lacks something that Blender only warns of"
    )
    scripts = command.add_mutually_exclusive_group()
    scripts.add_argument(
        "-y", "--enable-autoexec", dest="scripts", action="store_true", default=None,
        help="run the file's scripts and Python drivers; without it, as in Blender's preferences",
    )  # fmt: skip
    scripts.add_argument(
        "-Y", "--disable-autoexec", dest="scripts", action="store_false", default=None, help="do not run them"
    )


@contextmanager
def overrides(arguments) -> Iterator[None]:
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
