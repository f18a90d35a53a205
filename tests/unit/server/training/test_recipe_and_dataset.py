# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes and training folders are read strictly."""

import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

import das_server.training
from das_blender_addon.client.files import write_whole
from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.take import clip_folder as dataset_folder
from das_server.training.dataset import LISTS, UNFINISHED, read_dataset, read_frames
from das_server.training.recipe import FineTuneRecipe, PreviewRecipe, load_recipe

RECIPES = Path(das_server.training.__file__).parent / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    assert isinstance(load_recipe(path), PreviewRecipe | FineTuneRecipe)


def test_recipe_of_the_guide_loads(tmp_path):
    guide = Path(das_server.training.__file__).parents[2] / "docs" / "guides" / "headless.md"
    (text,) = re.findall(r"```toml\n(.*?)```", guide.read_text(encoding="utf-8"), re.S)
    (tmp_path / "recipe.toml").write_text(text)
    assert isinstance(load_recipe(tmp_path / "recipe.toml"), FineTuneRecipe)


def test_preview_recipe_has_a_share_for_every_size_and_fits_the_sitting():
    recipe = load_recipe(RECIPES / "preview_cpu.toml")
    assert len(recipe.transformer.size_shares) == len(recipe.clip_sets)
    trained = (recipe.autoencoder, recipe.transformer, recipe.decoder)
    assert sum(part.loop.minutes for part in trained) < 150
    assert not {clips.seed for clips in recipe.clip_sets} & {clips.seed for clips in recipe.validation_sets}


@pytest.mark.parametrize(("text", "message"), [
    ("kind = 'preview'\nspeed = 3", "unknown key 'speed'"),
    ("kind = 'preview'", "is missing"),
    ("kind = 'other'", "a training recipe is of kind"),
    ("kind = ", "not a readable training recipe"),
])
def test_bad_recipe_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("seed = 900_000_000", "", "set 9x64x96 needs a seed or a dataset"),
    ("seed = 1_000_000", "seed = 1_000_000\ndataset = 'x'", "set 9x64x96_x needs a seed or a dataset, and not both"),
    ("seed = 900_000_000", "dataset = 'x'", "validation clips are synthetic"),
    (r"seed = \d_000_000", "dataset = 'x'", "trains on synthetic clips"),
    (r"size_shares = \[", "size_shares = [0.1, ", "size_shares has 7 numbers for 6"),
])
def test_recipe_whose_clips_do_not_line_up_is_refused(tmp_path, old, new, message):
    text, count = re.subn(old, new, (RECIPES / "preview_cpu.toml").read_text())
    assert count
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_recipe(tmp_path / "recipe.toml")


def _write_dataset(folder, lists):
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    for name in ("a", "b"):
        (folder / name).mkdir(exist_ok=True)
        for index in range(9):
            Image.new("RGB", (24, 16), (index, 0, 0)).save(folder / name / f"{index:04d}.png")


GOOD = {"prompt.txt": ["one", "two"], "videos.txt": ["a", "b"], "trackings.txt": ["b", "a"]}


def test_dataset_lists_are_read_line_by_line(tmp_path):
    _write_dataset(tmp_path, GOOD)
    clips = read_dataset(tmp_path)
    assert [(clip.prompt, clip.video.name, clip.tracking.name) for clip in clips] == [("one", "a", "b"),
                                                                                      ("two", "b", "a")]


@pytest.mark.parametrize(("change", "message"), [
    ({"prompt.txt": ["one", ""]}, "line 2 is blank|differ in length"),
    ({"prompt.txt": ["one", "", "two"]}, "line 2 is blank"),
    ({"videos.txt": ["a"]}, "differ in length"),
    ({"videos.txt": ["a", "missing"]}, "missing.* does not exist"),
])
def test_dataset_that_does_not_line_up_is_refused(tmp_path, change, message):
    _write_dataset(tmp_path, {**GOOD, **change})
    with pytest.raises(ModelError, match=message):
        read_dataset(tmp_path)


def test_clip_that_is_still_being_added_does_not_count(tmp_path):
    assert (LISTS, UNFINISHED) == (dataset_folder.LISTS, dataset_folder.JOURNAL)
    _write_dataset(tmp_path, {**GOOD, "prompt.txt": ["one", "two", "three"]})
    (tmp_path / UNFINISHED).write_text('{"count": 2}')
    assert [clip.prompt for clip in read_dataset(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize(("note", "message"), [
    ('{"count": 0}', "no finished clip"), ("{}", "is no note"), ("", "is no note"),
])
def test_dataset_without_a_finished_clip_is_refused(tmp_path, note, message):
    _write_dataset(tmp_path, {name: lines[:1] for name, lines in GOOD.items()})
    (tmp_path / UNFINISHED).write_text(note)
    with pytest.raises(ModelError, match=message):
        read_dataset(tmp_path)


def test_exported_clip_is_read_exactly(tmp_path):
    """What the extension writes is what training reads, to the last bit."""
    rng = np.random.default_rng(3)
    written = {part: rng.integers(0, 256, (9, 16, 24, 3), np.uint8) for part in ("video", "tracking")}
    place = dataset_folder.place_of("clip", lossless=True)
    for part, frames in written.items():
        for index, frame in enumerate(frames, 1):
            write_whole(tmp_path / "made" / getattr(place, part) / f"{index:04d}.png", encode_png(frame))
    write_whole(tmp_path / "made" / place.first_frame, encode_png(written["video"][0]))
    dataset_folder.append_clip(tmp_path / "data", place, "a thing turns", tmp_path / "made")

    (clip,) = read_dataset(tmp_path / "data")
    assert clip.prompt == "a thing turns"
    np.testing.assert_array_equal(read_frames(clip.video, 9, 16, 24), written["video"])
    np.testing.assert_array_equal(read_frames(clip.tracking, 9, 16, 24), written["tracking"])


def test_frames_are_sampled_over_the_whole_clip(tmp_path):
    _write_dataset(tmp_path, GOOD)
    frames = read_frames(tmp_path / "a", 5, 16, 24)
    assert frames.shape == (5, 16, 24, 3)
    np.testing.assert_array_equal(frames[:, 0, 0, 0], [0, 2, 4, 6, 8])


@pytest.mark.parametrize(("size", "message"), [((17, 16, 24), "fewer than"), ((9, 16, 32), "is 24x16 pixels")])
def test_clip_that_does_not_fit_is_refused(tmp_path, size, message):
    _write_dataset(tmp_path, GOOD)
    with pytest.raises(ModelError, match=message):
        read_frames(tmp_path / "a", *size)


def test_video_file_is_read_frame_by_frame(tmp_path):
    ramp = np.linspace(40, 215, 9).round().astype(np.uint8)
    imageio.imwrite(tmp_path / "clip.mp4", np.broadcast_to(ramp[:, None, None, None], (9, 32, 48, 3)), fps=24)
    frames = read_frames(tmp_path / "clip.mp4", 9, 32, 48)
    assert np.abs(frames.astype(int) - ramp[:, None, None, None]).max() <= 4


def test_file_that_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(ModelError, match="clip.mp4 cannot be read"):
        read_frames(tmp_path / "clip.mp4", 9, 32, 48)
