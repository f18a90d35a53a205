# SPDX-License-Identifier: GPL-3.0-or-later
"""Fine detail of key pictures over a model's light and tone: large things are the model's, small ones the pictures'."""

import numpy as np
import pytest

from das_blender_addon.tracking.composition import Composed
from das_blender_addon.tracking.fine_detail import over_model
from das_blender_addon.tracking.resampling import resize_lanczos

WIDTH, HEIGHT, PIXEL = 192, 128, 3
TINT, SKY_TINT = np.array([1.0, 0.8, 0.6]), np.array([0.6, 0.8, 1.0])
BLOCK = 32
"""Pixels over which the large part of a picture is looked at: ten of the model's."""
TONE_LEVELS = 2.0
"""What the mean of a block may differ by: its rim takes part in what is smaller than it."""
HALO_LEVELS = 6.0
"""What a pixel beside an outline may differ by, of a step of 60 and more."""
ROUNDING_LEVELS = 1


def textured(seed=0) -> np.ndarray:
    """[H,W,3] f32: large waves of colour under fine noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([np.sin(x / 40.0), np.cos(y / 35.0), np.sin((x + y) / 50.0)], axis=-1)
    noise = np.random.default_rng(seed).normal(0.0, 1.0, (HEIGHT, WIDTH, 1))
    return np.clip(120.0 + 30.0 * waves + 14.0 * noise, 0, 255)


def as_levels(picture) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


def as_model(picture) -> np.ndarray:
    """``picture`` as a model shows it, at a third of its size, enlarged."""
    small = resize_lanczos(as_levels(picture), (0, 0, WIDTH, HEIGHT), (WIDTH // PIXEL, HEIGHT // PIXEL + 1))
    return resize_lanczos(small, (0, 0, WIDTH // PIXEL, HEIGHT // PIXEL + 1), (WIDTH, HEIGHT))


def blocks(picture) -> np.ndarray:
    return picture.astype(float).reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK, 3).mean(axis=(1, 3))


def sharpness(picture) -> float:
    return float(sum(np.abs(np.diff(picture.astype(float), 2, axis=axis)).mean() for axis in (0, 1)))


def everywhere(depth=10.0):
    return np.ones((HEIGHT, WIDTH), bool), np.full((HEIGHT, WIDTH), 1.0 / depth, np.float32)


def box_before(sky: bool, left=60, right=130):
    """(known, inverse depth, where the box is): a box before a wall, or before the sky."""
    known, inverse = everywhere(20.0)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[30:100, left:right] = True
    inverse[~inside] = 0.0 if sky else inverse[0, 0]
    inverse[inside] = 0.1
    return known, inverse, inside


def test_tint_of_the_model_stays_and_the_pictures_are_as_sharp():
    picture, (known, inverse) = textured(), everywhere()
    model = as_model(picture * TINT)
    frame = over_model(Composed(as_levels(picture), known), inverse, model, PIXEL)
    assert np.abs(blocks(frame) - blocks(model)).max() <= TONE_LEVELS
    assert np.abs(blocks(frame) - blocks(as_levels(picture))).max() > 20
    assert sharpness(frame) > 0.9 * sharpness(as_levels(picture)) > 4 * sharpness(model)


def test_frame_of_a_model_that_agrees_is_the_composed_one():
    picture, (known, inverse) = textured(), everywhere()
    frame = over_model(Composed(as_levels(picture), known), inverse, as_model(picture), PIXEL)
    assert np.abs(frame.astype(float) - picture).mean() < 0.25 * np.abs(as_model(picture) - picture).mean()


def test_small_things_of_the_model_are_replaced_not_doubled():
    picture, other, (known, inverse) = textured(0), textured(1), everywhere()
    frame = over_model(Composed(as_levels(picture), known), inverse, as_levels(other), 1.0).astype(float)
    small, theirs = frame - textured_large(), other - textured_large()
    ours = picture - textured_large()
    assert np.corrcoef(small.ravel(), ours.ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(small.ravel(), theirs.ravel())[0, 1]) < 0.45
    assert small.std() < 1.1 * ours.std()


def textured_large() -> np.ndarray:
    return np.mean([textured(seed) for seed in range(40)], axis=0)


@pytest.mark.parametrize("sky", [True, False])
def test_outline_is_sharp_and_no_tone_reaches_over_it(sky):
    known, inverse, inside = box_before(sky)
    picture = np.where(inside[..., None], 90.0, 170.0) * np.ones(3)
    target = np.where(inside[..., None], picture * TINT, picture * SKY_TINT + 20)
    model = as_model(target)
    assert np.abs(model - target).max() > 30, "the model's outline is a blur"
    frame = over_model(Composed(as_levels(picture), known), inverse, model, PIXEL)
    assert np.abs(frame.astype(float) - target).max() <= HALO_LEVELS


def test_thin_thing_has_its_own_tone():
    known, inverse, inside = box_before(sky=True, left=90, right=96)
    picture = np.where(inside[..., None], 90.0, 170.0) * np.ones(3)
    target = np.where(inside[..., None], picture * TINT, picture * SKY_TINT + 20)
    frame = over_model(Composed(as_levels(picture), known), inverse, as_model(target), PIXEL).astype(float)
    middle = np.s_[45:85, 92:94]
    assert np.abs(frame[middle] - target[middle]).max() <= 3 * HALO_LEVELS
    assert np.abs(frame[45:85, 100:] - target[45:85, 100:]).max() <= HALO_LEVELS


def test_hole_is_the_models_and_detail_fades_towards_it():
    picture, (known, inverse) = textured(), everywhere()
    known[40:90, 50:120] = False
    model = as_model(picture * TINT)
    filled = as_levels(np.where(known[..., None], picture, 0.0))
    frame = over_model(Composed(filled, known), inverse, model, PIXEL)
    np.testing.assert_array_equal(frame[~known], model[~known])
    assert sharpness(frame[:30]) > 4 * sharpness(model[:30])
    beside = np.abs(frame[40:90, 49].astype(float) - model[40:90, 49]).mean()
    assert beside < 0.5 * np.abs(frame[40:90, 30].astype(float) - model[40:90, 30]).mean()


def test_frame_that_no_key_picture_shows_is_the_models():
    _, inverse = everywhere()
    model = as_model(textured())
    composed = Composed(np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), bool))
    np.testing.assert_array_equal(over_model(composed, inverse, model, PIXEL), model)


@pytest.mark.parametrize("pixel", [0.5, 1.0, 2.67, 7.0])
def test_model_of_any_size_keeps_its_flat_tone(pixel):
    known, inverse = everywhere()
    flat = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    composed = Composed(np.full_like(flat, 200), known)
    assert np.abs(over_model(composed, inverse, flat, pixel).astype(int) - 77).max() <= ROUNDING_LEVELS
