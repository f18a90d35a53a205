# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the user's own as key pictures: what is said of their transparent parts."""

import numpy as np
import pytest

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.first_frame import given_first_frame

SIZE = (12, 8)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [(255, ""), (np.linspace(0, 255, 12), "has transparent parts; they are taken"), (0, "is transparent everywhere")],
    ids=["opaque", "in part", "everywhere"],
)
def test_picture_that_leaves_places_to_others_says_so(tmp_path, alpha, words):
    pixels = np.full((SIZE[1], SIZE[0], 4), 90, np.uint8)
    pixels[..., 3] = alpha
    path = tmp_path / "0009.png"
    path.write_bytes(encode_png(pixels))
    given = given_first_frame(path, SIZE, with_alpha=True, name="key picture of frame 9")
    assert given.png == path.read_bytes()
    assert [words in note and str(path) in note for note in given.notes] == [True] * bool(words)
    first = given_first_frame(path, SIZE)
    assert len(first.notes) == bool(words) and all("over black" in note for note in first.notes)
