# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimators of clips with weights, at a tiny size with random ones, or as their packages say: masks and tracks."""

import json
import sys

import numpy as np
import pytest
import torch

from das_blender_addon.errors import JobRejected, ModelError
from das_blender_addon.protocol.messages import JobSpec
from das_server.estimators.base import Asked, load_estimator
from das_server.models import installing
from das_server.models.estimators import capabilities_of_estimators, estimator_folder, estimator_spec
from das_server.tasks import estimate
from tests.support.jobs import array_input
from tests.support.tiny_estimators import tiny_sam2, tiny_sam2_video


@pytest.fixture(autouse=True)
def models(monkeypatch, tmp_path):
    monkeypatch.setenv("DAS_SERVER_MODELS", str(tmp_path / "models"))


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8)


def loaded(name: str):
    return load_estimator(estimator_spec(name), estimator_folder(name), "cpu")


MARKED = {
    "lasso": ({"lasso": [[9, 9], [40, 12], [20, 50]]}, [[9.0, 9.0], [40.0, 50.0]], [2, 3]),
    "clicks": ({"points": [[20, 30]], "away": [[60, 2]]}, [[20.0, 30.0], [60.0, 2.0]], [1, 0]),
}


@pytest.fixture(scope="module")
def sam2_of_clips(tmp_path_factory):
    return tiny_sam2_video(tmp_path_factory.mktemp("sam2") / "source")


@pytest.mark.parametrize(("options", "places", "labels"), MARKED.values(), ids=MARKED)
def test_sam2_follows_a_thing_through_a_clip_as_its_own_class_does(sam2_of_clips, options, places, labels):
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    installing.add("sam2.1-small-clip", sam2_of_clips)
    clip = np.stack([picture(64, 64, seed) for seed in range(4)])
    steps = []
    made = loaded("sam2.1-small-clip")(Asked(clip, options, step=lambda done, of: steps.append((done, of))))["masks"]
    assert made.shape == (4, 64, 64) and made.dtype == bool and steps == [(number, 4) for number in range(4)]

    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = (torch.from_numpy(clip).permute(0, 3, 1, 2) / 255.0 - mean) / std
    session = Sam2VideoInferenceSession(pixels, 64, 64, dtype=torch.float32)
    thing = session.obj_id_to_idx(1)
    marks = {"point_coords": torch.tensor([[places]]), "point_labels": torch.tensor([[labels]], dtype=torch.int32)}
    session.add_point_inputs(thing, 0, marks)
    session.obj_with_new_inputs = [1]
    model = Sam2VideoModel.from_pretrained(sam2_of_clips).eval()
    found = list(model.propagate_in_video_iterator(session, start_frame_idx=0))
    shares = torch.cat([one.pred_masks.reshape(1, 1, *one.pred_masks.shape[-2:]) for one in found])
    own = torch.nn.functional.interpolate(shares, (64, 64), mode="bilinear")[:, 0].numpy() > 0
    assert all(0 < mask.sum() < mask.size for mask in own) and (made == own).mean() > 0.995
    other = loaded("sam2.1-small-clip")(Asked(clip[:2], {"points": [[50, 6]]}))["masks"]
    assert (other[1] != made[1]).any(), "what the first frame shows of the thing counts"


def test_sam2_follows_what_a_mask_shows_at_odd_sizes_and_needs_a_memory(sam2_of_clips, tmp_path):
    installing.add("sam2.1-small-clip", sam2_of_clips)
    clip = np.stack([picture(45, 67, seed) for seed in range(4)])
    thing = np.zeros((45, 67), np.float32)
    thing[10:30, 20:50] = 1.0
    made = loaded("sam2.1-small-clip")(Asked(clip, {}, {"mask": thing}))["masks"]
    assert made.shape == clip.shape[:3] and (made[0] & (thing > 0)).sum() / (made[0] | (thing > 0)).sum() > 0.8
    again = loaded("sam2.1-small-clip")(Asked(clip[:3], {}, {"mask": thing != 0}))["masks"]
    assert (again == made[:3]).all()
    with pytest.raises(JobRejected, match="No thing was found"):
        loaded("sam2.1-small-clip")(Asked(clip[:2], {}, {"mask": np.zeros((45, 67), bool)}))
    installing.add("tiny-clips", _with_about(tiny_sam2(tmp_path / "pictures"), "sam2_video", "clip_mask"))
    with pytest.raises(ModelError, match="no memory of clips|cannot be loaded"):
        loaded("tiny-clips")


def _with_about(folder, runtime: str, kind: str):
    (folder / "estimator.json").write_text(json.dumps({"runtime": runtime, "kind": kind, "licence": "MIT"}))
    return folder


@pytest.mark.parametrize(
    ("options", "arrays", "words"),
    [
        ({"box": [1, 1, 9, 9]}, [], ""),
        ({"points": [[3, 4]], "away": [[9, 9]]}, [], ""),
        ({}, ["mask"], ""),
        ({}, [], "none was given"),
        ({"box": [1, 1, 9, 9]}, ["mask"], "box and mask were given"),
        ({"radius": 3}, ["mask"], "'radius' is not known"),
        ({"box": [1, 1, 9, 90]}, [], "not inside the picture"),
    ],
)
def test_mask_of_a_clip_takes_one_way_of_marking_its_thing(options, arrays, words):
    spec = JobSpec("estimate", "sam2.1-small-clip", "", "", 0, 1, 0.0, 3, 3, 64, 48, options=options)
    inputs = [array_input("clip", np.zeros((3, 48, 64, 3), np.uint8))[0]]
    inputs += [array_input(role, np.zeros((48, 64), bool))[0] for role in arrays]
    estimator = capabilities_of_estimators()["sam2.1-small-clip"]
    assert not estimator.installed and "models pull sam2.1-small-clip" in estimator.remedy
    if not words:
        estimate.check(spec, inputs, estimator)
        return
    with pytest.raises(JobRejected, match=words):
        estimate.check(spec, inputs, estimator)


def test_tapnext_is_called_as_its_package_says(tmp_path, monkeypatch):
    """A stand-in of the package, which cannot be had here: places are y, x in pixels of 256×256, all by one pixel to
    the right in each frame; what lies in the lowest quarter is not seen.
    """
    package = tmp_path / "site" / "tapnet" / "tapnext"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (tmp_path / "site" / "torchvision.py").touch()
    (package / "tapnext_torch.py").write_text(
        "import torch\n"
        "class TAPNext(torch.nn.Module):\n"
        "    def __init__(self, image_size):\n"
        "        super().__init__()\n"
        "        assert image_size == (256, 256)\n"
        "        self.step = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, video, query_points=None, state=None):\n"
        "        assert video.shape == (1, 1, 256, 256, 3) and -1 <= video.min() and video.max() <= 1\n"
        "        if state is None:\n"
        "            assert (query_points[..., 0] == 0).all()\n"
        "            state = query_points[..., 1:][:, None]\n"
        "        else:\n"
        "            state = state + torch.stack([0 * self.step, self.step], dim=-1)\n"
        "        return state, None, (192 - state[..., :1]), state\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = tmp_path / "source"
    source.mkdir()
    torch.save({"state_dict": {"tapnext.step": torch.ones(1)}}, source / "tapnextpp_ckpt.pt")
    try:
        assert capabilities_of_estimators()["tapnext-pp"].remedy.count("tapnextpp_ckpt.pt") == 1
        with pytest.raises(ModelError, match="no weights to pull.*get https"):
            installing.pull("tapnext-pp", "main")
        installing.add("tapnext-pp", source)
        assert next(one for one in capabilities_of_estimators().values() if one.kind == "tracks").name == "tapnext-pp"
        clip, steps = np.stack([picture(96, 512, seed) for seed in range(3)]), []
        asked = Asked(clip, {"every": 4}, step=lambda done, of: steps.append(done / of))
        made = loaded("tapnext-pp")(asked)
        start = made["tracks"][0]
        assert made["tracks"].shape == (3, 24 * 128, 2) and np.allclose(start[:2], [[2.5, 2.5], [6.5, 2.5]])
        np.testing.assert_allclose(made["tracks"][2], start + [4.0, 0.0], atol=1e-3)
        seen = (start[:, 1] < 72.0) & (made["tracks"][2, :, 0] < 512.0)
        assert (made["visible"][2] == seen).all() and made["visible"][0].all()
        assert steps == sorted(steps) and steps[-1] < 1.0 and len(steps) == 3 * 3
        torch.save({"other": torch.ones(1)}, estimator_folder("tapnext-pp") / "tapnextpp_ckpt.pt")
        with pytest.raises(ModelError, match="cannot be loaded by TAPNext"):
            loaded("tapnext-pp")
        (estimator_folder("tapnext-pp") / "tapnextpp_ckpt.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(ModelError, match="more than weights"):
            loaded("tapnext-pp")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("tapnet", "torchvision")]:
            del sys.modules[name]
