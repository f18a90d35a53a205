# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot fits a model or is refused with a reason."""

from dataclasses import replace

import pytest

from das_blender_addon.errors import ModelError, SettingsError
from das_blender_addon.protocol.messages import SizeRange
from das_blender_addon.shot.plan import check_frames, plan, plan_with_keys
from das_blender_addon.shot.windows import Window
from das_server.models.registry import model_spec
from tests.support.capabilities import capabilities_of, model_capability

SQUARE_PIXELS = (1.0, 1.0)


def planned(frames=range(1, 6), size=(96, 64), aspect=SQUARE_PIXELS, capability=None, model_size=None, **options):
    return plan(frames, size, aspect, capabilities_of(capability or model_capability()), size=model_size, **options)


@pytest.mark.parametrize(("count", "length"), [(1, 5), (5, 5), (6, 9), (9, 9)])
def test_plan_takes_the_smallest_window_that_holds_the_shot(count, length):
    made = planned(range(10, 10 + count))
    assert made.windows == (Window(0, count, length),) and made.frames == tuple(range(10, 10 + count))
    assert any("held" in note for note in made.notes) == (length > count)


def test_plan_cuts_a_shot_that_is_longer_than_the_models_window_and_says_where():
    made = planned(range(10, 24))
    assert made.windows == (Window(0, 9, 9), Window(5, 14, 9)) and made.keys == (0,)
    (note,) = (note for note in made.notes if "windows" in note)
    assert note == "The model makes the shot in 2 windows, 10 to 18, 15 to 23; each passes into the next."


def test_plan_with_keys_cuts_at_them_and_says_which_they_are():
    alone = model_capability(inputs=[])
    made = plan_with_keys(planned(range(10, 24), capability=alone), [4, 12])
    assert made.keys == (0, 4, 12) and made.windows == (Window(0, 9, 9), Window(4, 13, 9), Window(9, 14, 5))
    text = " ".join(made.notes)
    assert "Key pictures at the frames 10, 14, 22." in text and "in 3 windows, 10 to 18, 14 to 22, 19 to 23;" in text
    assert "2 windows" not in text and len(set(made.notes)) == len(made.notes)
    assert plan_with_keys(made, ()) == planned(range(10, 24), capability=alone)


def test_model_that_is_given_what_key_pictures_show_needs_no_window_that_begins_at_one():
    assert plan_with_keys(planned(range(10, 24)), [4, 12]).windows == planned(range(10, 24)).windows


def test_plan_with_keys_keeps_other_notes():
    other = replace(planned(range(1, 4)), notes=(*planned(range(1, 4)).notes, "Not baked: Cloth."))
    assert sorted(plan_with_keys(other, ()).notes) == sorted(other.notes)


@pytest.mark.parametrize(
    ("inputs", "keep_detail", "keeps"),
    [
        (["carried_video"], None, True),
        (["carried_video"], False, False),
        (["carried_video"], True, True),
        ([], None, False),
        ([], True, True),
    ],
)
def test_detail_is_kept_as_it_is_wanted_or_as_the_model_is_made_for(inputs, keep_detail, keeps):
    made = planned(size=(384, 192), capability=model_capability(inputs=inputs), keep_detail=keep_detail)
    assert made.keeps_detail == keeps and made.reads_carried == bool(inputs)
    assert made.model_size == (96, 64)
    # 96×64 see 4/3 of the height that 384×192 see: 32 rows more above and below.
    assert made.picture_size == ((384, 256) if keeps else (96, 64))
    assert made.pictures.crop == ((0.0, 32.0, 384.0, 224.0) if keeps else made.framing.crop)


@pytest.mark.parametrize(("keep_detail", "keeps", "fine"), [("fine", True, True), ("whole", True, False)])
def test_detail_is_kept_whole_or_only_what_is_fine_and_the_plan_says_so(keep_detail, keeps, fine):
    made = planned(size=(384, 192), capability=model_capability(inputs=[]), keep_detail=keep_detail)
    assert (made.keeps_detail, made.fine_only, made.picture_size) == (keeps, fine, (384, 256))
    assert any("light and tone are its own, the key pictures' fine detail" in note for note in made.notes) == fine
    far = planned(size=(4096, 32), keep_detail=keep_detail)
    assert not far.keeps_detail and not far.fine_only and not any("fine detail" in note for note in far.notes)


@pytest.mark.parametrize("keep_detail", ["most", 1, "", "FINE"])
def test_detail_that_makes_no_sense_is_refused(keep_detail):
    with pytest.raises(SettingsError, match="cannot be kept .* 'fine', False") as caught:
        planned(keep_detail=keep_detail)
    assert caught.value.field == "compose"


@pytest.mark.parametrize("frames", [(), (1, 1), (2, 1), (1.5,), "ab", None])
def test_check_frames_refuses_what_is_no_increasing_list(frames):
    with pytest.raises(SettingsError, match="rames"):
        check_frames(frames)


def test_plan_chooses_the_size_nearest_to_the_shots_shape():
    model = model_capability(sizes=[[96, 64], [64, 96], [64, 64]])
    assert planned(size=(1920, 1080), capability=model).model_size == (96, 64)
    assert planned(size=(1080, 1920), capability=model).model_size == (64, 96)
    assert planned(size=(500, 520), capability=model).model_size == (64, 64)
    assert planned(size=(1000, 1000), aspect=(3.0, 2.0), capability=model).model_size == (96, 64)


def test_plan_takes_a_size_that_the_model_has_and_no_other():
    model = model_capability(sizes=[[96, 64], [64, 64]])
    assert plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(model), size=(64, 64)).model_size == (64, 64)
    with pytest.raises(SettingsError, match="100×100 pixels; use one of 96×64, 64×64"):
        plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(model), size=(100, 100))


def test_plan_takes_every_size_in_the_range_and_none_of_its_own_accord():
    model = model_capability(sizes=[[96, 64], [64, 64]], size_range=SizeRange(8, 48, 360, 240), is_fast=True)
    assert planned(capability=model, model_size=(200, 136)).model_size == (200, 136)
    with pytest.raises(SettingsError, match="'tiny' does not make 201×136 pixels; use 200×136, the nearest") as caught:
        planned(capability=model, model_size=(201, 136))
    assert caught.value.field == "size"
    for size in ((1920, 1080), (200, 136), (96, 64)):
        assert planned(size=size, capability=model, large_if_fast=True).model_size == (96, 64)


def test_plan_takes_the_largest_size_of_the_shape_only_where_that_is_fast_and_wanted():
    sizes = [[96, 64], [192, 128], [48, 32], [256, 256]]
    fast, slow = (model_capability(sizes=sizes, is_fast=is_fast) for is_fast in (True, False))
    assert planned(capability=fast, large_if_fast=True).model_size == (192, 128)
    assert planned(capability=fast).model_size == (96, 64)
    assert planned(capability=slow, large_if_fast=True).model_size == (96, 64)
    exactly = plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(fast), size=(48, 32), large_if_fast=True)
    assert exactly.model_size == (48, 32)
    assert planned(size=(1000, 1000), capability=fast, large_if_fast=True).model_size == (256, 256)


def test_plan_says_when_the_automatic_size_is_the_largest():
    model = model_capability(sizes=[[96, 64], [192, 128]], is_fast=True)
    assert "fast enough" in " ".join(planned(capability=model, large_if_fast=True).notes)
    assert "fast enough" not in " ".join(planned(capability=model).notes)


def test_plan_never_squashes_pixels_that_are_not_square():
    made = planned(size=(100, 100), aspect=(2.0, 1.0))
    left, top, right, bottom = made.framing.crop
    assert (right - left) / (bottom - top) == pytest.approx(2.0)


def test_plan_names_models():
    with pytest.raises(SettingsError, match="no model 'huge'; it offers tiny"):
        planned(model="huge")
    with pytest.raises(ModelError, match="'tiny' are not installed"):
        planned(capability=model_capability(installed=False))


def test_plan_says_in_words_what_will_be_sent():
    made = planned(range(1, 4), size=(192, 64))
    text = " ".join(made.notes)
    for words in ("3 frames (1 to 3) for Tiny", "held 2 times", "96×64", "2.00 times the height", "192×64", "prompt"):
        assert words in text
    assert "is the render's" in planned().notes[1]


def test_shape_that_is_far_from_the_models_keeps_the_models_size_and_says_so():
    made = planned(size=(4096, 32), capability=model_capability(inputs=["carried_video"]))
    assert not made.keeps_detail and made.picture_size == made.model_size
    assert any("far from any of the model's" in note for note in made.notes)
    usual = planned(size=(1920, 800), capability=model_capability(inputs=["carried_video"]))
    assert usual.keeps_detail and usual.picture_size[0] == 1920 and usual.picture_size[1] > 800


# ── Every nth frame ─────────────────────────────────────────────────────────────────────────────────────────────────


def full_model(**changes):
    return model_capability(num_frames=[49], inputs=[], frames_per_second=8.0, **changes)


def test_windows_are_cut_over_the_frames_that_the_model_makes():
    made = planned(range(1, 146), capability=full_model(), model_frames_every=3)
    assert made.windows == (Window(0, 49, 49),) and made.made == tuple(range(0, 145, 3)) and made.every == 3
    longer = planned(range(1, 290), capability=full_model(), model_frames_every=3)
    assert longer.windows == (Window(0, 49, 49), Window(41, 90, 49), Window(48, 97, 49))
    (note,) = (note for note in longer.notes if "windows" in note)
    assert note == "The model makes the shot in 3 windows, 1 to 145, 124 to 268, 145 to 289; each passes into the next."
    held = planned(range(1, 11), capability=full_model(), model_frames_every=3)
    assert list(held.held_in(held.windows[0])[:6]) == [0, 3, 6, 9, 9, 9] and held.between == (1, 2, 4, 5, 7, 8)


@pytest.mark.parametrize(
    ("frames", "rate", "every", "words"),
    [
        (range(1, 50), 24.0, 3, "every 3rd frame (8 of 24 per second); the frames between are composed from them."),
        (range(1, 50), 24 / 1.001, 3, "every 3rd frame (7.99 of 23.98 per second); "),
        (range(1, 100, 2), 24.0, 2, "every 2nd frame (6 of 12 per second); "),
        ((1, 3, 5, 9), 24.0, 1, ""),
        (range(1, 50), 100.0, 13, "every 13th frame (7.69 of 100 per second); "),
        (range(1, 50), 0.0, 1, ""),
        (range(1, 50), 10.0, 1, ""),
        ((7,), 24.0, 3, ""),
    ],
)
def test_plan_makes_as_many_frames_as_the_model_was_trained_at_and_says_so(frames, rate, every, words):
    made = planned(frames, capability=full_model(), frames_per_second=rate)
    notes = [note for note in made.notes if "composed from them" in note]
    assert made.every == every and len(notes) == bool(words)
    assert not words or f"The model makes {words}" in notes[0]


def test_plan_makes_every_frame_with_a_model_that_was_trained_at_any_rate():
    made = planned(range(1, 10), frames_per_second=24.0)
    assert made.every == 1 and made.made == tuple(range(9)) and not made.between
    wanted = planned(range(1, 10), frames_per_second=24.0, model_frames_every=4)
    assert wanted.made == (0, 4, 8) and any("every 4th frame (6 of 24" in note for note in wanted.notes)
    assert any("every 4th frame; the" in note for note in planned(range(1, 10), model_frames_every=4).notes)


def test_raster_begins_anew_at_each_key_picture():
    made = plan_with_keys(planned(range(1, 146), capability=full_model(), model_frames_every=3), [100])
    assert made.made == (*range(0, 100, 3), *range(100, 145, 3), 144)
    assert plan_with_keys(made, ()) == planned(range(1, 146), capability=full_model(), model_frames_every=3)
    assert [made.place(index) for index in (0, 1, 2, 3, 99, 100, 102, 103, 143, 144)] == [
        0, 0, 0, 1, 33, 34, 34, 35, 48, 49,
    ]  # fmt: skip


@pytest.mark.parametrize("every", [-1, 1001, 2.5, "3", True, None])
def test_number_of_frames_that_makes_no_sense_is_refused(every):
    with pytest.raises(SettingsError, match="whole number from 1 to 1000") as caught:
        planned(model_frames_every=every)
    assert caught.value.field == "model_frames_every"


def test_plan_honours_the_sizes_and_lengths_of_a_model_of_another_family():
    """Sizes in multiples of 16, clips of 4n + 1 frames up to 81, made for 16 frames per second."""
    painter = model_spec("wan-vace-1.3b").capability(True)
    about = capabilities_of(painter)
    made = plan(range(1, 250), (1920, 1080), (1.0, 1.0), about, frames_per_second=24.0)
    assert made.model_size == (832, 480) and made.reads_carried and made.reads_holes and made.keeps_detail
    assert made.every == 2 and len(made.made) == 125  # of 24 and 12 per second, 12 are nearer to 16
    assert {window.length for window in made.windows} <= set(range(5, 82, 4))
    assert all((window.length - 1) % 4 == 0 and window.count <= window.length for window in made.windows)
    short = plan(range(1, 7), (1920, 1080), (1.0, 1.0), about)
    assert [(window.count, window.length) for window in short.windows] == [(6, 9)]
    assert plan(range(1, 7), (640, 640), (1.0, 1.0), about).model_size == (480, 480)
    assert plan(range(1, 7), (640, 640), (1.0, 1.0), about, size=(256, 144)).model_size == (256, 144)
    with pytest.raises(SettingsError, match="does not make 250×144 pixels; use 256×144, the nearest"):
        plan(range(1, 7), (640, 640), (1.0, 1.0), about, size=(250, 144))
