# SPDX-License-Identifier: GPL-3.0-or-later
"""What Wan VACE is told of holes, and that the published reduction of masks would miss some."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from das_server.pipeline.wan_vace.holes import GROWN_PIXELS, grow, hidden_pixels, latent_mask, unite

SIZE = (32, 48)


def one_hole(num_frames: int, frame: int, row: int = 17, column: int = 29) -> np.ndarray:
    holes = np.zeros((num_frames, *SIZE), bool)
    holes[frame, row, column] = True
    return holes


def nearest(mask: torch.Tensor) -> torch.Tensor:
    """[T,H,W] → [F,H,W], as diffusers 0.42's pipeline reduces it."""
    count = (len(mask) + 3) // 4
    return functional.interpolate(mask.float()[None, None], size=(count, *SIZE), mode="nearest-exact")[0, 0]


@pytest.mark.parametrize("num_frames", [5, 9, 13, 49, 77, 81])
def test_mask_of_latents_covers_every_hole(num_frames):
    for frame in range(num_frames):
        holes = one_hole(num_frames, frame)
        mask = latent_mask(grow(holes))
        assert mask.shape == (64, (num_frames - 1) // 4 + 1, 4, 6)
        latent = (frame + 3) // 4
        assert mask[(17 % 8) * 8 + 29 % 8, latent, 17 // 8, 29 // 8] == 1
        assert mask.sum() == (2 * GROWN_PIXELS + 1) ** 2  # and nothing of other latents


def test_nearest_frame_would_miss_holes():
    """Even of united masks: at 81 frames the sixth latent would get a frame of the seventh."""
    holes = [torch.from_numpy(one_hole(81, frame)) for frame in range(81)]
    missed = [frame for frame in range(81) if not nearest(holes[frame])[(frame + 3) // 4].any()]
    assert len(missed) > 60
    united = [unite(one)[[0, *(place // 4 + 1 for place in range(80))]] for one in holes]
    missed = [frame for frame in range(81) if not nearest(united[frame])[(frame + 3) // 4].any()]
    assert 0 in missed and 21 in missed and len(missed) < 30


def test_holes_are_grown_by_a_few_pixels_and_united_over_the_frames_of_a_latent():
    holes = one_hole(9, 2) | one_hole(9, 4, row=3, column=3)
    grown = grow(holes)
    assert grown[2].sum() == 49 and grown[2, 14:21, 26:33].all() and not grown[3].any()
    united = unite(grown)
    assert united.shape == (3, *SIZE) and united[1].sum() == 2 * 49
    assert not united[0].any() and not united[2].any()


def test_frame_without_holes_stays_whole_at_its_own_time():
    """A key picture inside the window: its neighbours have holes, and share a latent with it."""
    holes = np.ones((9, *SIZE), bool)
    holes[[0, 3]] = False
    holes[2, :, :24] = False
    hidden = hidden_pixels(grow(holes))
    assert not hidden[3].any() and not hidden[0].any()
    assert hidden[[1, 2, 4, 5]].all()  # what one frame of a latent hides, the others with holes hide, too
    assert latent_mask(grow(holes))[:, 1:].all() and not latent_mask(grow(holes))[:, 0].any()


def test_hole_at_the_border_does_not_come_back_on_the_other_side():
    grown = grow(one_hole(5, 0, row=0, column=47))
    assert grown[0].sum() == 4 * 4 and grown[0, :4, -4:].all()
