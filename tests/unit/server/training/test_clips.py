# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendered clips on disk: kept for a run of the same clips, rendered anew for another."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from das_blender_addon.errors import ModelError
from das_server.training.clips import ClipSet, create_clip_arrays, import_clips, open_clips, render_clips

CLIPS = ClipSet(frames=5, height=16, width=24, count=2, seed=50)


def _render(folder, clip_set, texture_seed=1):
    create_clip_arrays(folder, clip_set, texture_seed=texture_seed)
    render_clips(folder, clip_set, 4, texture_seed, 0, 1, samples=1)
    return {name: array.copy() for name, array in open_clips(folder, clip_set).items()}


def test_clips_of_the_same_recipe_are_kept(tmp_path):
    _render(tmp_path, CLIPS)
    create_clip_arrays(tmp_path, CLIPS, texture_seed=1)
    assert open_clips(tmp_path, CLIPS)["rgb"].any(axis=(1, 2, 3, 4)).all()


@pytest.mark.parametrize(("other", "texture_seed"), [(replace(CLIPS, seed=51), 1), (replace(CLIPS, count=3), 1),
                                                     (CLIPS, 2)])
def test_clips_of_another_recipe_are_rendered_anew(tmp_path, other, texture_seed):
    _render(tmp_path / "used", CLIPS)
    again = _render(tmp_path / "used", other, texture_seed)
    fresh = _render(tmp_path / "fresh", other, texture_seed)
    for name in fresh:
        assert again[name].shape == fresh[name].shape
        assert (again[name] == fresh[name]).all()


def test_clips_whose_origin_is_unknown_are_rendered_anew(tmp_path):
    _render(tmp_path, CLIPS)
    (tmp_path / CLIPS.name / "origin.json").unlink()
    create_clip_arrays(tmp_path, CLIPS, texture_seed=1)
    assert not open_clips(tmp_path, CLIPS)["rgb"].any()
    assert not list(tmp_path.rglob("done_*"))


def test_dataset_with_too_few_clips_is_told(tmp_path):
    for kind in ("videos", "tracking"):
        clip = tmp_path / "clips" / kind / "one"
        clip.mkdir(parents=True)
        for frame in range(5):
            Image.new("RGB", (24, 16), (frame, 0, 0)).save(clip / f"{frame}.png")
        name = "videos.txt" if kind == "videos" else "trackings.txt"
        (tmp_path / "clips" / name).write_text(f"{kind}/one\n")
    (tmp_path / "clips" / "prompt.txt").write_text("one\n")
    one, two = (ClipSet(frames=5, height=16, width=24, count=count, dataset=tmp_path / "clips") for count in (1, 2))
    with pytest.raises(ModelError, match=r"clips/carried/one is missing: what key pictures show .*training_clips.py"):
        import_clips(tmp_path, one)
    (tmp_path / "clips" / "carried" / "one").mkdir(parents=True)
    for frame in range(5):
        Image.new("RGBA", (24, 16), (7, 0, 0, 50 * frame)).save(tmp_path / "clips" / "carried" / "one" / f"{frame}.png")
    import_clips(tmp_path, one)
    assert (open_clips(tmp_path, one)["rgb"][0, :, 0, 0, 0] == range(5)).all()
    assert (open_clips(tmp_path, one)["carried"][0, :, 0, 0, 3] == np.arange(5) * 50).all()
    with pytest.raises(ModelError, match="has 1 clips, fewer than the recipe's 2"):
        import_clips(tmp_path, two)
