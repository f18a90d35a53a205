# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of points become figures, takes are ranked by them, and the worst window is made again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.shot.resolved import MAX_SEED, KeyChoice
from das_blender_addon.take.adherence import LAYOUT, heat_map, read_report
from das_blender_addon.take.adherence_figures import BIN_PX, FEWEST, Flicker, Means, Tally, sampled, score, worst_window
from das_blender_addon.take.adherence_words import table_of, words_of
from das_blender_addon.take.again import settings_again, window_again
from das_blender_addon.take.library import TakeEntry
from das_blender_addon.take.variations import Variation, ranked, seeds_from
from tests.support.takes import written_take
from tests.unit.take.test_variations import SETTINGS

HEIGHT = 200  # a point may be 2 px off
GOOD = {"mean_px": 0.5, "p95_px": 1.0, "off": 0.0, "lost": 0.0, "counted": 0.6, "colour": 3.0}
CALM = {"flicker": 2.0, "flicker_expected": 2.0}


def report_of(take: str = "", **changes) -> dict:
    windows = changes.pop("windows", [{"number": 1, "frames": [1, 9], **GOOD, **CALM}])
    whole = {"layout": LAYOUT, "take": take, "height": HEIGHT, "limit_px": 2.0, "seen": 0.9, "composed": 0.9}
    return {**whole, **GOOD, **CALM, "frames": [], "objects": [], "seams": [], "windows": windows, **changes}


def tally_of(errors, levels=None) -> Tally:
    tally, errors = Tally(HEIGHT), np.asarray(errors, np.float32)
    tally.add(errors, np.zeros(len(errors), np.float32) if levels is None else np.asarray(levels, np.float32))
    return tally


def test_figures_are_those_of_the_points_that_are_found_again():
    draw = np.random.default_rng(0)
    found = draw.gamma(2.0, 0.7, 4000).astype(np.float32)
    errors = np.concatenate([found, np.full(1000, np.inf), np.full(5000, np.nan)]).astype(np.float32)
    figures = tally_of(draw.permutation(errors), np.full(10000, 2.5)).figures()
    assert figures["mean_px"] == pytest.approx(found.mean(), abs=2e-3)
    assert figures["p95_px"] == pytest.approx(np.percentile(found, 95), abs=BIN_PX)
    assert figures["lost"] == 0.2 and figures["counted"] == 0.5 and figures["colour"] == 2.5
    assert figures["off"] == pytest.approx(((found > 2.0).sum() + 1000) / 5000, abs=1e-4)


def test_several_parts_count_as_one():
    parts = [np.float32([0.1, 3.0, np.nan]), np.float32([]), np.float32([np.inf, 400.0])]
    tally = Tally(HEIGHT)
    for part in parts:
        tally.add(part, np.zeros(len(part)))
    assert tally.figures() == tally_of(np.concatenate(parts)).figures()
    assert tally.figures()["p95_px"] > 200.0  # beyond the last bin is far, and no error


@pytest.mark.parametrize("errors", [[], [np.nan] * 40, [0.2] + [np.nan] * 40])
def test_nothing_is_told_of_what_has_too_little_texture(errors):
    figures = tally_of(errors).figures()
    assert figures["mean_px"] is figures["p95_px"] is figures["off"] is figures["lost"] is None
    assert figures["counted"] < FEWEST


def test_points_that_are_all_lost_are_off_without_a_mean():
    figures = tally_of([np.inf] * 3).figures()
    assert figures["mean_px"] is None and figures["off"] == figures["lost"] == 1.0
    assert score(report_of(**figures)) == pytest.approx(2.0)


def test_means_of_an_object_in_a_frame():
    means = Means()
    means.add(np.float32([1.0, 2.0, np.nan, np.inf]), np.float32([4.0, 0.0, 0.0, 0.0]))
    assert means.figures() == {"mean_px": 1.5, "colour": 1.0, "points": 4}
    assert Means().figures() == {"mean_px": None, "colour": 0.0, "points": 0}


def test_flicker_is_of_the_same_surface_wherever_it_moved():
    picture = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    after = np.roll(picture, 2, axis=1)
    y, x = np.mgrid[:9, :13] + 0.5
    before, seen = np.stack([x - 2, y], axis=-1).astype(np.float32), x > 2
    flicker = Flicker()
    flicker.add(after, picture, before, seen)
    assert flicker.levels == 0.0
    flicker.add(np.clip(after.astype(int) // 2 + 10, 0, 255).astype(np.uint8), (picture // 2), before, seen)
    assert flicker.levels == pytest.approx(5.0)
    assert Flicker().levels is None
    flicker.add(after, picture, np.full_like(before, np.nan), np.zeros_like(seen))  # seen by nobody before
    assert flicker.levels == pytest.approx(5.0)


def test_pictures_are_sampled_between_pixels_and_at_their_borders():
    ramp = np.repeat((np.arange(5) * 10)[None, :, None], 3, axis=0).repeat(3, axis=2).astype(np.uint8)
    at = np.float32([[0.5, 0.5], [1.0, 1.5], [4.5, 2.5], [9.0, -3.0], [-1.0, 9.0]])
    assert sampled(ramp, at)[:, 0].tolist() == [0.0, 5.0, 40.0, 40.0, 0.0]
    assert sampled(ramp[:1, :1], at).shape == (5, 3)


def test_score_weighs_displacement_and_flicker_beyond_the_animations_own():
    best = score(report_of())
    assert best == pytest.approx(0.25)
    assert score(report_of(flicker=2.0 + 2.55)) == pytest.approx(best + 1.0)
    assert score(report_of(flicker=0.5)) == best  # calmer than its animation is no merit
    assert score(report_of(mean_px=2.0)) > best and score(report_of(lost=0.5)) > best
    assert score(report_of(lost=None, mean_px=None)) == float("inf")


def test_best_take_comes_first_and_those_that_were_not_measured_last(tmp_path):
    made = [Variation(SETTINGS, written_take(tmp_path, name)) for name in ("none", "bad", "good", "same")]
    for one, changes in ((made[1], {"mean_px": 3.0}), (made[2], {}), (made[3], {})):
        keep_report(one.take, **changes)
    assert ranked(made) == [made[2], made[3], made[1], made[0]]


def keep_report(take, **changes) -> None:
    (take.folder / "adherence").mkdir(exist_ok=True)
    (take.folder / "adherence" / "report.json").write_text(json.dumps(report_of(take.key, **changes)))


def test_report_of_another_take_or_layout_and_a_damaged_one_count_for_nothing(tmp_path):
    take = written_take(tmp_path, "one")
    file = take.folder / "adherence" / "report.json"
    assert read_report(take.folder) is None
    odd = [report_of(take.key, frames=[{"frame": 1}]), report_of(take.key, off="much"), report_of(take.key, seams=None)]
    of_others = [report_of("else"), report_of(take.key, layout=LAYOUT + 1)]
    for said in ("{", "[]", *map(json.dumps, of_others + odd)):
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(said)
        assert read_report(take.folder) is None
    keep_report(take)
    assert read_report(take.folder)["take"] == take.key
    assert TakeEntry(take, 0.0, 0, False).adherence == read_report(take.folder)


def window(number: int, **changes) -> dict:
    return {"number": number, "frames": [number, number + 8], **GOOD, **CALM, **changes}


def test_worst_window_is_found_and_ties_go_to_the_first():
    assert worst_window(report_of(windows=[window(1), window(2, mean_px=3.0), window(3)])) == 2
    assert worst_window(report_of(windows=[window(1), window(2, flicker=60.0)])) == 2
    assert worst_window(report_of(windows=[window(1), window(2)])) == 1
    nothing = dict.fromkeys(("mean_px", "p95_px", "off", "lost"))
    assert worst_window(report_of(windows=[window(1, **nothing), window(2)])) == 2
    assert worst_window(report_of(windows=[window(1, **nothing)])) is None


def test_take_is_asked_for_again_as_it_was(tmp_path):
    take = written_take(
        tmp_path, "one", frames=(3, 5), seed=9, prompt="ein Hügel", guidance_scale=4.5, window_seeds={"2": 17},
        keep_detail=True, fine_detail_only=False, model_frames_every=2, tracking_range="unit",
        options={"loras": [["ink", 0.8, "ab" * 32]], "speed": "fast"},
    )  # fmt: skip
    settings = settings_again(TakeEntry(take, 0.0, 0, False), replace(SETTINGS, anew=True))
    assert (settings.seed, settings.prompt, settings.guidance, settings.frames) == (9, "ein Hügel", 4.5, (3, 5))
    assert settings.window_seeds == ((2, 17),) and settings.compose is True and settings.size == (12, 8)
    assert settings.model_frames_every == 2 and settings.tracking_range == "unit"
    assert settings.loras == (("ink", 0.8),) and settings.speed == "fast"
    assert not settings.anew and settings.part is None and settings.cache_folder == SETTINGS.cache_folder


def test_take_is_asked_for_again_with_the_pictures_that_it_had(tmp_path):
    scenes = replace(
        SETTINGS, frames=tuple(range(1, 10)), first_frame_path="/own.png",
        key_pictures=(KeyChoice(4, "/four.png"), KeyChoice(6, image="six"), KeyChoice(8)),
    )  # fmt: skip

    def again(name, *made_of, frames):
        pictures = [{"frame": frame, "sha256": "ab", **origin} for frame, origin in made_of]
        take = written_take(tmp_path, name, frames=frames, key_pictures=pictures)
        return settings_again(TakeEntry(take, 0.0, 0, False), scenes)

    given, rendered, painted = ({"origin": origin} for origin in ("given", "rendered", "painted"))
    part = again("part", (4, given), (6, rendered), (7, painted), frames=(4, 5, 6, 7))
    assert part.first == KeyChoice(4, "/four.png") and part.key_pictures == (KeyChoice(6), KeyChoice(7))
    assert again("whole", (1, given), frames=(1, 2)).first == KeyChoice(1, "/own.png")
    assert again("other", (1, rendered), frames=(1, 2)).first == KeyChoice(1)
    old = again("old", (4, {}), (6, {}), frames=(4, 5, 6))
    assert (old.first_frame_path, old.key_pictures) == ("/own.png", (KeyChoice(6, image="six"),))


def test_worst_window_gets_another_seed_and_the_others_keep_theirs():
    report = report_of(windows=[window(1), window(2, mean_px=3.0), window(3)])
    settings = replace(SETTINGS, seed=5, window_seeds=((1, 8),))
    again, number, seed = window_again(settings, report)
    assert number == 2 and 0 <= seed <= MAX_SEED and seed != 5 and again.seed == 5
    assert again.window_seeds == ((1, 8), (2, seed))
    once_more, _, other = window_again(again, report)
    assert other not in (seed, 5) and once_more.window_seeds == ((1, 8), (2, other))
    assert window_again(settings, report, 77)[0].window_seeds == ((1, 8), (2, 77))


@pytest.mark.parametrize(
    ("windows", "seed", "words"),
    [
        ([window(1)], None, "one window only"),
        ([window(1), window(2, mean_px=3.0)], 5, "window 2 was made with the seed 5"),
        ([window(one, mean_px=None, off=None, lost=None) for one in (1, 2)], None, "enough texture"),
    ],
)
def test_window_that_cannot_be_made_again_is_refused_in_one_sentence(windows, seed, words):
    with pytest.raises(SettingsError, match=words):
        window_again(SETTINGS, report_of(windows=windows), seed)


def test_seeds_from_the_scenes_on_stay_valid():
    assert seeds_from(7, 3) == (7, 8, 9) and seeds_from(MAX_SEED, 2) == (MAX_SEED, 0)


def test_report_is_told_in_words():
    report = report_of(objects=[{"name": "Wänd", **GOOD}], seams=[{"frames": [8, 9], "difference": 4.2}])
    assert words_of(report).startswith("error 0.50 px on average, 1.00 px for 95 %, 0.0% off, flicker 2.00")
    told = table_of(report)
    assert "Wänd" in told and "90.0% of the take's frames is composed" in told and "differ by 4.2 levels" in told
    assert "composed" not in table_of(report_of(composed=0.0))
    nothing = report_of(mean_px=None, p95_px=None, off=None, lost=None, counted=0.01)
    assert "too little has texture" in words_of(nothing) and "5% or more has texture" in table_of(nothing)


def test_heat_map_shows_where_it_is_off():
    frame, seen = np.full((100, 40, 3), 120, np.uint8), np.ones((100, 40), bool)
    seen[:, :10] = False
    error = np.full((100, 40), np.nan, np.float32)
    error[:, 20:25], error[:, 25:30], error[:, 30:35], error[:, 35:] = 0.0, 1.0, 9.0, np.inf
    picture = heat_map(frame, seen, error)[50].astype(int)
    assert picture.shape == (40, 3) and (picture[0] < picture[15]).all()  # what nobody shows is darker
    cold, warm, hot, lost = (picture[column] for column in (22, 27, 32, 37))
    assert cold[2] > cold[0] and warm[0] > 150 < warm[1] and hot[0] > hot[1] + 80 and lost[0] > lost[1] < lost[2]
