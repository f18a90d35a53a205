# SPDX-License-Identifier: GPL-3.0-or-later
"""A patch of an even floor is told to have been in shadow; what the key picture shows says whether it was."""

import numpy as np
import pytest

from das_blender_addon.tracking.brightening import log_light, temper

SIDE, TOLD = 24, 2.0
PATCH = np.zeros((SIDE, SIDE), bool)
PATCH[10:14, 10:14] = True


def tempered(picture, inverse=None):
    """[SIDE,SIDE] f32: ratios of light that were ``TOLD`` in the patch and 1 elsewhere."""
    values = np.ones((4, SIDE * SIDE), np.float32)
    values[:3, PATCH.reshape(-1)], values[3] = TOLD, np.where(PATCH, 0.5, 1.0).reshape(-1)
    shown = log_light(np.repeat(picture[..., None], 3, axis=2).astype(np.float32)).astype(np.float32).reshape(-1)
    inverse = np.ones((SIDE, SIDE), np.float32) if inverse is None else inverse
    temper(values, np.arange(SIDE * SIDE), shown, inverse, 0.1)
    np.testing.assert_array_equal(values[0], values[2])
    return values[0].reshape(SIDE, SIDE)


def test_what_was_lit_is_not_brightened():
    np.testing.assert_allclose(tempered(np.full((SIDE, SIDE), 0.4)), 1.0, atol=0.01)


def test_what_was_in_shadow_is_brightened():
    ratio = tempered(np.where(PATCH, 0.2, 0.4))

    np.testing.assert_allclose(ratio[PATCH], TOLD, atol=0.01)
    np.testing.assert_array_equal(ratio[~PATCH], 1.0)


@pytest.mark.parametrize("hidden", [np.s_[:, 12:], np.s_[:9]])
def test_what_is_not_painted_does_not_count(hidden):
    picture = np.full((SIDE, SIDE), 0.4)
    picture[hidden] = np.where(PATCH[hidden], 0.4, 0.0)

    np.testing.assert_allclose(tempered(picture)[PATCH], 1.0, atol=0.01)


def test_another_surface_does_not_count():
    """A white box on a grey floor, seen before it, in shadow all over: nothing says that it was lit."""
    ratio = tempered(np.where(PATCH, 0.4, 0.2), np.where(PATCH, 2.0, 1.0).astype(np.float32))

    np.testing.assert_allclose(ratio[PATCH], TOLD, atol=0.01)
