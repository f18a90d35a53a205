# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes and training folders are read strictly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import das_server.training
from das_blender_addon.errors import ModelError
from das_server.training.dataset import read_dataset, read_frames
from das_server.training.recipe import FineTuneRecipe, PreviewRecipe, load_recipe

RECIPES = Path(das_server.training.__file__).parent / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    assert isinstance(load_recipe(path), PreviewRecipe | FineTuneRecipe)


def test_preview_recipe_has_a_share_for_every_size_and_fits_the_sitting():
    recipe = load_recipe(RECIPES / "preview_cpu.toml")
    assert len(recipe.transformer.size_shares) == len(recipe.clip_sets)
    assert recipe.autoencoder.loop.minutes + recipe.transformer.loop.minutes < 150
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
