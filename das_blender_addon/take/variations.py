# SPDX-License-Identifier: GPL-3.0-or-later
"""The same shot several times: seeds × prompts × guidance scales, one take after the other.  No Blender in here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SettingsError
from ..protocol.kinds import MAX_PROMPT
from ..shot.resolved import MAX_GUIDANCE, MAX_SEED, ResolvedSettings
from .adherence import read_report
from .adherence_figures import score
from .cache import Take
from .drive import Recipe, Status

MOST = 64
"""Takes of one go."""


@dataclass(frozen=True)
class Variation:
    """A take and what it was made with."""

    settings: ResolvedSettings
    take: Take

    @property
    def middle(self) -> Path:
        """The frame in its middle."""
        return self.take.frames[len(self.take.frames) // 2]


def combinations(
    settings: ResolvedSettings,
    seeds: Sequence[int] = (),
    prompts: Sequence[str] = (),
    guidances: Sequence[float] = (),
) -> list[ResolvedSettings]:
    """Every seed with every prompt and guidance scale, seeds last; what is empty stays as in ``settings``.

    Raises `SettingsError` for more than `MOST`, and for values out of bounds.
    """
    if prompts:  # each is that of the whole shot
        settings = replace(settings, prompts_at=())
    seeds, prompts = seeds or (settings.seed,), prompts or (settings.prompt,)
    guidances = guidances or (settings.guidance,)
    count = len(seeds) * len(prompts) * len(guidances)
    if count > MOST:
        raise SettingsError(f"{count} variations are more than {MOST}; make them in several goes.", field="seed")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise SettingsError(f"The seed is {seed} and must be between 0 and {MAX_SEED}.", field="seed")
    long = next((len(prompt) for prompt in prompts if len(prompt) > MAX_PROMPT), 0)
    if long:
        raise SettingsError(f"A prompt has {long} characters; it takes {MAX_PROMPT} at most.", field="prompt")
    for guidance in guidances:
        if not 0.0 <= guidance <= MAX_GUIDANCE:
            raise SettingsError(
                f"The guidance scale is {guidance} and must be between 0 and {MAX_GUIDANCE:g}.", field="guidance"
            )
    return [
        replace(settings, prompt=prompt, guidance=guidance, seed=seed, part=None)
        for prompt in prompts
        for guidance in guidances
        for seed in seeds
    ]


def seeds_from(seed: int, count: int) -> tuple[int, ...]:
    """``count`` seeds from ``seed`` on, all of them valid."""
    return tuple((seed + number) % (MAX_SEED + 1) for number in range(count))


def ranked(made: Sequence[Variation]) -> list[Variation]:
    """The best first: the ``made`` that follow their animation best, and flicker least (`adherence_figures.score`);
    equal ones, and those that nothing is told of, in their order."""

    def score_of(one: Variation) -> float:
        report = read_report(one.take.folder)
        return float("inf") if report is None else score(report)

    return sorted(made, key=score_of)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"1-4"``, ``"7"`` or ``"3,9,12-14"`` as seeds, each once.  Raises `SettingsError`."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([0-9]{1,10})(?:\s*-\s*([0-9]{1,10}))?", part)
        if match is None or (match[2] and not int(match[1]) <= int(match[2]) < int(match[1]) + MOST):
            raise SettingsError(f"The seeds {part!r} cannot be read; write 7, 1-4 or 3,9,12-14.", field="seed")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))


def prompts_of(text: str) -> tuple[str, ...]:
    """The prompts in ``text``, one a line; empty lines and those that begin with # are none."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def varied(asked: Sequence[ResolvedSettings], take_of: Callable[[ResolvedSettings], Recipe]) -> Recipe:
    """The take of each of ``asked``, by the recipes of ``take_of``.  Returns [`Variation`]; what was made before one
    fails is in the cache.
    """
    made = []
    for number, settings in enumerate(asked):
        take = yield from _part(take_of(settings), number, len(asked))
        made.append(Variation(settings, take))
    return made


def _part(recipe: Recipe, number: int, of: int) -> Recipe:
    """``recipe``, whose statuses are those of the variation ``number`` (from 0) of so many."""
    step, value = recipe.send, None
    try:
        while True:
            try:
                said = step(value)
            except StopIteration as end:
                return end.value
            if isinstance(said, Status):
                words = f"Variation {number + 1}/{of}: {said.text}"
                said = replace(said, text=words, fraction=(number + said.fraction) / of)
            try:
                step, value = recipe.send, (yield said)
            except GeneratorExit:
                raise
            except BaseException as error:  # the driver's: the recipe's own business
                step, value = recipe.throw, error
    finally:
        recipe.close()
