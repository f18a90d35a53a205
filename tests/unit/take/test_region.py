# SPDX-License-Identifier: GPL-3.0-or-later
"""A region follows its surface through the shot, and what is outside of it stays as it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError, StorageError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.shot.resolved import ResolvedSettings
from das_blender_addon.take.cache import load_take
from das_blender_addon.take.region import Masks, Region, put_region, region_masks, settings_inside
from tests.support.measured_takes import FIRST, NAMES, SIZE, STEP_PX, measurable_request
from tests.support.takes import written_take

WIDTH, HEIGHT = SIZE
FRAMES = tuple(range(FIRST, FIRST + 8))


def square(left: int, top: int, size: int = 20) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + size, left : left + size] = True
    return mask


@pytest.fixture
def geometry(tmp_path):
    """A wall that moves to the right by `STEP_PX` a frame."""
    return measurable_request(tmp_path).shot.geometry


@pytest.mark.parametrize("drawn", [0, 3, 7])
def test_mask_follows_the_surface_forward_and_backward(geometry, drawn):
    found = list(region_masks(Region(FRAMES[drawn], square(60, 30)), geometry, FRAMES))
    for index, mask in enumerate(found):
        left = 60 + STEP_PX * (index - drawn)
        wrong = mask ^ square(left, 30)
        assert not wrong[:, : left - 1].any() and not wrong[:, left + 21 :].any() and wrong.sum() <= 2 * 22, index
    np.testing.assert_array_equal(found[drawn], square(60, 30))


def test_object_is_wherever_it_is_seen(geometry):
    found = [list(region_masks(Region(name=name), geometry, FRAMES)) for name in NAMES]
    for one, other in zip(*found, strict=True):
        assert one.any() and other.any() and not (one & other).any()
    with pytest.raises(SettingsError, match="no object 'Vase'; there are 'Wall 2', 'Wänd'"):
        next(region_masks(Region(name="Vase"), geometry, FRAMES))


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        (Region(9, square(0, 0)), "frame 9, which is not in the take"),
        (Region(FIRST, np.zeros((HEIGHT, WIDTH), bool)), "black all over"),
        (Region(FIRST, np.ones((HEIGHT, WIDTH - 1), bool)), "159×104 pixels and the take 160×104"),
    ],
)
def test_region_that_is_none_is_refused(geometry, region, sentence):
    with pytest.raises(SettingsError, match=sentence):
        next(region_masks(region, geometry, FRAMES))


def masks_of(*seen: bool) -> Masks:
    """Of frames of 5×3 pixels, an odd number of bits: one corner where it is seen."""
    corner = np.zeros((3, 5), bool)
    corner[2, 4] = True
    return Masks(corner if one else np.zeros((3, 5), bool) for one in seen)


def test_outside_of_the_region_every_byte_stays(tmp_path):
    base, other = (written_take(tmp_path, name, level=level, size=(5, 3), seed=seed)
                   for name, level, seed in (("a", 100, 1), ("b", 200, 2)))  # fmt: skip
    before = [path.read_bytes() for path in (*base.frames, base.folder / "take.json")]
    masks, region = masks_of(False, True, True), Region(2, masks_of(True).at(0))
    made = put_region(base, other, masks, region)
    assert made.frames[0].read_bytes() == base.frames[0].read_bytes()
    for index in (1, 2):
        picture, expected = decode_png(made.frames[index].read_bytes()), np.full((3, 5, 3), 100 + index)
        expected[2, 4] = 200 + index
        np.testing.assert_array_equal(picture, expected)
    assert made.key not in (base.key, other.key) and made.report["region"]["seed"] == 2 and made.report["seed"] == 1
    assert [path.read_bytes() for path in (*base.frames, base.folder / "take.json")] == before
    assert load_take(made.folder) is not None and put_region(base, other, masks, region).cached
    assert put_region(base, other, masks, Region(1, masks_of(True).at(0))).key != made.key
    base.frames[1].unlink()  # deleted while the other one was rendered
    with pytest.raises(StorageError, match="is damaged, or was deleted meanwhile"):
        put_region(base, other, masks, Region(3, masks_of(True).at(0)))
    shutil.rmtree(base.folder)
    with pytest.raises(StorageError, match="is damaged, or was deleted meanwhile"):
        put_region(base, other, masks, Region(3, masks_of(True).at(0)))
    assert len(list(base.folder.parent.iterdir())) == 3, "nothing half made"


def settings(**changes) -> ResolvedSettings:
    values = {name: "" for name in ResolvedSettings.__dataclass_fields__}
    values |= {"prompt": "own", "seed": 7, "frames": (1, 2, 3), "window_seeds": (), "prompts_at": ()}
    return replace(ResolvedSettings(**values), **changes)


def base_with_windows(tmp_path, *spans):
    base = written_take(tmp_path, "windows", frames=(1, 2, 3, 4, 5))
    said = json.loads((base.folder / "take.json").read_text())
    said["windows"] = [{"frames": list(span)} for span in spans]
    (base.folder / "take.json").write_text(json.dumps(said))
    return base


def test_only_windows_that_see_the_region_get_another_seed_and_prompt(tmp_path):
    base = base_with_windows(tmp_path, (1, 2), (2, 4), (4, 5))
    seen = masks_of(False, False, True, False, False)  # the frame 3
    asked = settings_inside(settings(window_seeds=((1, 5),)), base, seen, seed=9)
    assert (asked.seed, asked.window_seeds, asked.prompt) == (7, ((1, 5), (2, 9)), "own")
    asked = settings_inside(settings(prompts_at=((4, "later"),)), base, seen, seed=9, prompt="new")
    assert asked.prompts_at == ((1, ""), (2, "new"), (4, "later"))
    everywhere = settings_inside(settings(), base, masks_of(*[True] * 5), seed=9, prompt="new")
    assert (everywhere.seed, everywhere.window_seeds, everywhere.prompt) == (9, (), "new")
    alone = settings_inside(settings(), base_with_windows(tmp_path, (1, 5)), seen, seed=9)
    assert (alone.seed, alone.prompt) == (9, "own")
    with pytest.raises(SettingsError, match="No frame of the take shows the region"):
        settings_inside(settings(), base, masks_of(*[False] * 5), seed=9)
