# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimators with weights, at a tiny size with random ones: added, verified, loaded, run as their own classes do."""

import json
import sys

import numpy as np
import pytest
import torch

from das_blender_addon.errors import JobRejected, ModelError, OutOfMemory
from das_server import cli
from das_server.estimators.base import Asked, load_estimator
from das_server.estimators.depth import fov_of_lens, lens_of_fov, network_size
from das_server.estimators.z_image import control_picture
from das_server.models import installing
from das_server.models.estimators import (
    capabilities_of_estimators,
    estimator_folder,
    estimator_spec,
    estimator_specs,
    missing,
)
from das_server.models.revision import Revisions, fingerprint
from das_server.workers.estimator_shelf import EstimatorShelf
from tests.support.tiny_estimators import tiny_depth_anything, tiny_onnx, tiny_sam2, tiny_z_image

FLOAT_NOISE = 2e-5
"""What float32 and a picture's resampling to its own size leave."""


@pytest.fixture(autouse=True)
def models(monkeypatch, tmp_path):
    folder = tmp_path / "models"
    monkeypatch.setenv("DAS_SERVER_MODELS", str(folder))
    return folder


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8)


def loaded(name: str):
    return load_estimator(estimator_spec(name), estimator_folder(name), "cpu")


# ── The registry ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_estimator_is_added_listed_verified_and_said_to_clients(models, tmp_path, capsys):
    source = tiny_onnx(tmp_path / "source", label="Tiny")
    before = capabilities_of_estimators()
    assert "tiny-depth" not in before and not before["sam2.1-small"].installed
    assert cli.main(["models", "add", "tiny-depth", str(source)]) == 0
    assert cli.main(["models", "verify", "tiny-depth"]) == 0
    assert cli.main(["models", "path", "tiny-depth"]) == 0
    assert cli.main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert str(models / "tiny-depth") in out and "Tiny  (CC0-1.0)" in out and "u2netp  " in out
    said = capabilities_of_estimators()["tiny-depth"]
    assert said.installed and said.kind == "depth" and said.licence == "CC0-1.0" and said.size_bytes > 100
    assert said.gives == ["depth", "valid", "lens_mm", "meaning"]


def test_weights_that_changed_since_they_were_added_are_found_and_have_another_revision(models, tmp_path):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "source"))
    revisions = Revisions(tmp_path)
    revisions.learn("tiny-depth")
    before, look = revisions.of("tiny-depth"), fingerprint(models / "tiny-depth")
    file = models / "tiny-depth" / "tiny.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="sha256 differs"):
        installing.verify("tiny-depth")
    revisions.learn("tiny-depth")
    assert revisions.of("tiny-depth") != before and fingerprint(models / "tiny-depth") != look
    with pytest.raises(ModelError, match="replaced"):
        revisions.check("tiny-depth", before)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"licence": None}, "names no licence"),
        ({"runtime": "exe"}, "valid are onnx"),
        ({"kind": "tracks"}, "valid are onnx"),
        ({"file": "other.onnx"}, "not beside it"),
        ({"file": "../tiny.onnx"}, "not beside it"),
    ],
)
def test_side_car_that_says_nothing_usable_is_refused(tmp_path, about, words):
    with pytest.raises(ModelError, match=words):
        installing.add("tiny-depth", tiny_onnx(tmp_path / "source", **about))
    assert "tiny-depth" not in capabilities_of_estimators()


def test_names_of_models_folders_of_nothing_and_estimators_without_weights_are_refused(tmp_path):
    source = tiny_onnx(tmp_path / "source")
    for name, words in (("das-preview", "no estimator"), ("con", "cannot be called"), ("dis-flow", "no weights")):
        with pytest.raises(ModelError, match=words):
            installing.add(name, source)
    with pytest.raises(ModelError, match="preprocessor_config.json|config.json"):
        installing.add("depth-anything-v2-small", source)
    with pytest.raises(ModelError, match="no weights to pull"):
        installing.pull("dis-flow", "main")
    with pytest.raises(ModelError, match="needs a revision"):
        installing.pull("sam2.1-small", "")
    with pytest.raises(ModelError, match="are not on the server"):
        installing.verify("moge-2" if not missing(estimator_spec("moge-2")).startswith("moge") else "sam2.1-small")


def test_doctor_tells_what_is_missing(capsys):
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "dis-flow: tracks, installed" in out and "das-server models pull sam2.1-small" in out


# ── What they measure ───────────────────────────────────────────────────────────────────────────────────────────────


def test_onnx_network_is_fed_and_read_as_its_side_car_says(tmp_path):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "a"))
    installing.add(
        "tiny-inverse",
        tiny_onnx(tmp_path / "b", meaning="inverse", std=[0.5] * 3, input_size=[28, 28], shorter_side=None),
    )
    clip = np.stack([picture(28, 28), picture(28, 28, 1)])
    made = loaded("tiny-depth")(Asked(clip))
    assert np.allclose(made["depth"], clip.mean(axis=-1) / 255.0, atol=FLOAT_NOISE)
    assert made["valid"].all() and made["meaning"] == 0 and (made["lens_mm"] == 0).all()
    other = loaded("tiny-inverse")(Asked(clip))
    assert np.allclose(other["depth"], 2 * made["depth"], atol=2 * FLOAT_NOISE) and other["meaning"] == 2
    assert loaded("tiny-depth")(Asked(picture(31, 77)[None]))["depth"].shape == (1, 31, 77)


@pytest.mark.parametrize(
    ("about", "words"),
    [({"meaning": "far"}, "meaning"), ({"std": [1, 0, 1]}, "std"), ({"input_size": [0, 5]}, "input_size")],
)
def test_onnx_side_car_with_a_wrong_value_is_named_when_it_is_loaded(tmp_path, about, words):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "source", **about))
    with pytest.raises(ModelError, match=words):
        loaded("tiny-depth")


def test_file_that_is_no_network_is_a_model_error(tmp_path):
    source = tiny_onnx(tmp_path / "source")
    (source / "tiny.onnx").write_bytes(b"no network")
    installing.add("tiny-depth", source)
    with pytest.raises(ModelError, match="cannot be loaded by onnxruntime"):
        loaded("tiny-depth")


def test_salient_thing_is_found_by_the_network_of_the_wheel():
    pytest.importorskip("rembg", reason="the extra [salient] is not installed")
    y, x = np.mgrid[:151, :211]
    thing = ((y - 80) / 40) ** 2 + ((x - 100) / 45) ** 2 < 1
    shown = np.where(thing[..., None], (200, 60, 40), (60, 90, 120)) + picture(151, 211) // 12
    found = loaded("u2netp")(Asked(shown.astype(np.uint8)[None]))["mask"]
    assert (found & thing).sum() / (found | thing).sum() >= 0.9


def test_depth_anything_gives_what_its_own_class_gives(tmp_path):
    from transformers import AutoModelForDepthEstimation

    source = tiny_depth_anything(tmp_path / "source", metric=True)
    installing.add("depth-anything-v2-small", source)
    shown = picture(42, 56)
    made = loaded("depth-anything-v2-small")(Asked(shown[None]))
    pixels = (
        torch.from_numpy(shown).permute(2, 0, 1)[None] / 255.0 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    ) / (torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
    with torch.inference_mode():
        own = AutoModelForDepthEstimation.from_pretrained(source).eval()(pixel_values=pixels).predicted_depth.numpy()
    assert own.shape == (1, 42, 56) and np.allclose(made["depth"], own, atol=1e-4) and made["meaning"] == 0


def test_relative_depth_anything_is_inverse_depth(tmp_path):
    installing.add("depth-anything-v2-small", tiny_depth_anything(tmp_path / "source"))
    made = loaded("depth-anything-v2-small")(Asked(picture(45, 67)[None]))
    assert made["meaning"] == 2 and made["depth"].shape == (1, 45, 67)


@pytest.mark.parametrize("options", [{"box": [8, 8, 30, 40]}, {"points": [[20, 30]], "away": [[60, 2]]}])
def test_sam2_gives_the_likeliest_mask_of_its_own_class(tmp_path, options):
    from transformers import Sam2Model

    source = tiny_sam2(tmp_path / "source")
    installing.add("sam2.1-small", source)
    shown = picture(64, 64)
    made = loaded("sam2.1-small")(Asked(shown[None], options))["mask"]
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = (torch.from_numpy(shown).permute(2, 0, 1)[None] / 255.0 - mean) / std
    marks = {"input_boxes": torch.tensor([[[8.0, 8.0, 38.0, 48.0]]])}
    if "points" in options:
        marks = {
            "input_points": torch.tensor([[[[20.0, 30.0], [60.0, 2.0]]]]),
            "input_labels": torch.tensor([[[1, 0]]]),
        }
    with torch.inference_mode():
        out = Sam2Model.from_pretrained(source).eval()(pixel_values=pixels, **marks)
        best = out.pred_masks[:, 0, int(out.iou_scores[0, 0].argmax())][None]
        own = torch.nn.functional.interpolate(best, (64, 64), mode="bilinear")[0, 0].numpy() > 0
    assert 0 < own.sum() < own.size and (made == own).mean() > 0.995


def test_moge_is_called_as_its_package_says(tmp_path, monkeypatch):
    """A stand-in of the package, which cannot be had here: `infer` and its result as its README has them."""
    package = tmp_path / "site" / "moge" / "model"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "v2.py").write_text(
        "import torch\n"
        "class MoGeModel(torch.nn.Module):\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, path):\n"
        "        torch.load(path, weights_only=True)\n"
        "        return cls()\n"
        "    def infer(self, image, fov_x=None):\n"
        "        depth = image.mean(0) + 1\n"
        "        focal = 0.5 / torch.tan(torch.deg2rad(torch.tensor(fov_x or 60.0)) / 2)\n"
        "        lens = torch.diag(torch.stack([focal] * 3))\n"
        "        return {'depth': depth, 'mask': image[0] > 0.5, 'intrinsics': lens}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = tmp_path / "source"
    source.mkdir()
    torch.save({}, source / "model.pt")
    try:
        installing.add("moge-2", source)
        assert capabilities_of_estimators()["moge-2"].installed
        shown = picture(40, 60)
        made = loaded("moge-2")(Asked(shown[None]))
        assert (made["valid"][0] == (shown[..., 0] > 127)).all() and made["meaning"] == 0
        assert made["lens_mm"][0] == pytest.approx(lens_of_fov(60.0, 40, 60), rel=1e-5)
        (estimator_folder("moge-2") / "model.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(ModelError, match="more than weights"):
            loaded("moge-2")
        torch.save({}, estimator_folder("moge-2") / "model.pt")
        given = loaded("moge-2")(Asked(shown[None], {"lens_mm": 35.0}))
        assert given["lens_mm"][0] == 35.0
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "moge"]:
            del sys.modules[name]


def test_lens_and_angle_are_each_other_back_for_lying_and_upright_pictures():
    for size in ((480, 720), (720, 480)):
        assert lens_of_fov(fov_of_lens(35.0, *size), *size) == pytest.approx(35.0)
    assert lens_of_fov(0.0, 48, 64) == 0.0
    assert network_size(480, 720, shorter=518, multiple=14) == (518, 784)
    assert network_size(5000, 20, shorter=28, multiple=14) == (7000, 28)


# ── Repaint ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_picture_is_painted_anew_at_its_own_odd_size_by_prompt_seed_and_depth(tmp_path):
    installing.add("z-image-control", tiny_z_image(tmp_path / "source"))
    painter, steps = loaded("z-image-control"), []
    options = {"steps": 2, "guidance_scale": 0.0, "negative_prompt": "", "strength": 1.0}
    shown = np.zeros((45, 67, 3), np.uint8)
    shown[10:30, 20:50] = 200

    def paint(prompt="a red boat", seed=1, **arrays):
        about = {"prompt": prompt, "seed": seed, "step": lambda done, of: steps.append((done, of))}
        return painter(Asked(shown[None], options, arrays, **about))["picture"]

    first = paint()
    assert first.shape == shown.shape and first.dtype == np.uint8 and steps == [(1, 2), (2, 2)]
    assert (paint() == first).all()
    assert (paint(seed=2) != first).any() and (paint("boat") != first).any()
    assert (paint(depth=np.linspace(1, 9, 45 * 67, dtype=np.float32).reshape(45, 67)) != first).any()


def test_control_picture_is_near_bright_and_black_where_there_is_none():
    depth = np.full((40, 60), 8.0, np.float32)
    depth[10:30, 20:40] = 2.0
    depth[:5] = 0.0
    grey = control_picture(picture(40, 60), depth)[..., 0]
    assert (grey[:5] == 0).all() and grey[20, 30] == 255 and grey[35, 5] == 25
    flat = np.zeros((40, 60, 3), np.uint8)
    flat[10:30, 20:40] = 200
    edges = control_picture(flat, None)[..., 0] > 0
    assert edges[10:30, 18:23].any(axis=1).all() and not edges[15:25, 25:35].any()


# ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shelf_keeps_what_is_loaded_and_makes_room_only_where_it_must(tmp_path):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "source"))
    free, made = [1 << 30], []

    def make_room():
        made.append(True)
        free[0] = 1 << 20

    shelf = EstimatorShelf(make_room, free=lambda device: free[0])
    first = shelf.take("tiny-depth", "", "cpu", is_alone=False)
    assert shelf.take("tiny-depth", "", "cpu", is_alone=False) is first and not made
    shelf.clear()
    free[0] = 10
    assert shelf.take("tiny-depth", "", "cpu", is_alone=False) is not first and made == [True]
    shelf.clear()
    free[0] = 10
    with pytest.raises(OutOfMemory, match="tiny-depth needs"):
        shelf.take("tiny-depth", "", "cpu", is_alone=True)
    with pytest.raises(ModelError, match="replaced"):
        shelf.take("tiny-depth", "other", "cpu", is_alone=True)
    assert shelf.take("dis-flow", "", "cpu", is_alone=True) is not None  # without weights: no memory is asked for


def test_weights_that_are_not_those_that_were_added_are_not_run(models, tmp_path):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "source"))
    file = models / "tiny-depth" / "tiny.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="sha256 differs"):
        EstimatorShelf(lambda: None).take("tiny-depth", "", "cpu", is_alone=True)


def test_network_that_finds_no_distance_is_named(tmp_path):
    installing.add("tiny-depth", tiny_onnx(tmp_path / "source", mean=[9, 9, 9]))
    with pytest.raises((ModelError, JobRejected), match="tiny-depth found no distance"):
        loaded("tiny-depth")(Asked(picture(28, 28)[None]))
    assert json.loads((estimator_folder("tiny-depth") / "estimator.json").read_text())["mean"] == [9, 9, 9]


@pytest.mark.parametrize("revision", ["", "main", "main,", ",main", "a,b,c"])
def test_every_repository_of_an_estimator_is_pulled_at_a_commit_of_its_own(tmp_path, revision):
    with pytest.raises(ModelError, match="--revision COMMIT,COMMIT, with the commit of .* and of ") as refused:
        installing.pull("z-image-control", revision, tmp_path)
    assert "\n" not in refused.value.message and not any(tmp_path.iterdir())
    assert installing.revisions_of(estimator_specs()["z-image-control"], "a, b") == ["a", "b"]
