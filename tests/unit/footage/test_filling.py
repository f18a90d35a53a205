# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies behind: harmonic fills."""

import numpy as np

from das_blender_addon.footage.filling import fill_harmonic, nearest_label

LINEAR_TOLERANCE = 2e-3
"""Of a range of 1; the sweeps end before the last digits."""


def test_fill_continues_a_plane_of_values():
    y, x = np.mgrid[0:60, 0:80] / 80.0
    values = (0.3 + 0.5 * x - 0.2 * y)[..., None]
    hole = (np.abs(x - 0.5) < 0.3) & (np.abs(y - 0.4) < 0.2)
    filled = fill_harmonic(np.where(hole[..., None], 99.0, values), ~hole, hole)
    np.testing.assert_allclose(filled, values, atol=LINEAR_TOLERANCE)
    assert (filled[~hole] == values[~hole]).all()


def test_nothing_flows_across_what_is_neither_known_nor_a_hole():
    values = np.zeros((20, 30, 1))
    values[12:] = 1.0
    hole = np.zeros((20, 30), bool)
    hole[8:14, 10:20] = True
    known = ~hole & (np.arange(20)[:, None] >= 12)
    np.testing.assert_allclose(fill_harmonic(values, known, hole)[hole], 1.0)


def test_hole_without_anything_known_and_no_hole_at_all():
    values = np.ones((5, 5, 3))
    everywhere, nowhere = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    assert (fill_harmonic(values, nowhere, everywhere) == 0.0).all()
    assert (fill_harmonic(values, everywhere, nowhere) == 1.0).all()


def test_each_place_takes_the_label_of_the_nearest_place_outside():
    label = np.zeros((10, 10), bool)
    label[5:] = True
    hole = np.zeros((10, 10), bool)
    hole[2:8, 2:8] = True
    found = nearest_label(label, hole)
    assert found[6, 4] and not found[3, 4] and found[5:, 0].all() and not found[:5, 0].any()
