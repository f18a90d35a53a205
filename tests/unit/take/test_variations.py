# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeds × prompts × guidance scales, one take after the other."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from das_blender_addon.errors import DasError, SettingsError
from das_blender_addon.protocol.kinds import MAX_PROMPT
from das_blender_addon.shot.resolved import ResolvedSettings
from das_blender_addon.take.drive import Status, finish, on_this_thread
from das_blender_addon.take.variations import MOST, combinations, parse_seeds, prompts_of, varied

SETTINGS = ResolvedSettings(
    server="", timeout_s=1.0, model="", prompt="p", negative_prompt="", seed=5, steps=0, guidance=2.0, size=None,
    tracking_range="", compose=None, frames=(1,), first_frame_path="", first_frame_image="",
    first_frame_engine="CYCLES", first_frame_samples=1, cache_folder=Path("."), part=(1, 2),
)  # fmt: skip


def test_every_seed_with_every_prompt():
    made = combinations(SETTINGS, (1, 2), ("a", "b"), (3.0,))
    assert [(one.prompt, one.guidance, one.seed) for one in made] == [
        ("a", 3.0, 1), ("a", 3.0, 2), ("b", 3.0, 1), ("b", 3.0, 2)
    ]  # fmt: skip
    assert combinations(SETTINGS) == [replace(SETTINGS, part=None)]


@pytest.mark.parametrize(
    "options",
    [{"seeds": range(MOST + 1)}, {"seeds": (-1,)}, {"seeds": (2**31,)}, {"guidances": (51.0,)},
     {"prompts": ("a", "ü" * (MAX_PROMPT + 1))}],
)
def test_too_many_and_out_of_bounds_are_refused(options):
    with pytest.raises(SettingsError):
        combinations(SETTINGS, **options)


@pytest.mark.parametrize(
    "text, seeds", [("", ()), ("7", (7,)), ("1-4", (1, 2, 3, 4)), ("3, 9,12-14,9", (3, 9, 12, 13, 14))]
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["a", "4-1", "1-", "-3", "1-100000", "٣", "99999999999999999999"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(SettingsError, match="cannot be read"):
        parse_seeds(text)


def test_prompts_are_lines():
    assert prompts_of("a vase\n\n# later\n  in rain \na vase\n") == ("a vase", "in rain")


@dataclass
class Made:
    seed: int


def take_of(settings):
    yield Status("a", "begins", 0.0)
    seed = yield from on_this_thread(lambda _stop, say: say(Status("b", "works", 0.5)) or settings.seed)
    if seed == 3:
        raise SettingsError("no")
    return Made(seed)


def test_statuses_are_those_of_the_whole_and_work_on_this_thread_is_done():
    told = []
    made = finish(varied(combinations(SETTINGS, (1, 2)), take_of), on_status=told.append)
    assert [one.take.seed for one in made] == [1, 2]
    assert [one.fraction for one in told if one.stage == "a"] == [0.0, 0.5]
    assert told[0].text == "Variation 1/2: begins"


def test_error_of_one_ends_it():
    with pytest.raises(DasError, match="no"):
        finish(varied(combinations(SETTINGS, (1, 3, 4)), take_of))


def test_error_of_work_on_this_thread_reaches_the_recipe():
    def broken(_settings):
        try:
            yield from on_this_thread(lambda _stop, _say: 1 / 0)
        except ZeroDivisionError:
            return Made(9)

    (made,) = finish(varied([SETTINGS], broken))
    assert made.take.seed == 9
