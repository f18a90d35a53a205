# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of models, and models on disk: adding, verifying, fetching."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from das_blender_addon.errors import ModelError
from das_blender_addon.protocol import codec
from das_blender_addon.protocol.messages import SizeRange
from das_blender_addon.protocol.sizes import makes_size
from das_server.models.checkpoint import MANIFEST_NAME, add_model, by_hand, pull_model, verify_folder, verify_model
from das_server.models.families import model_family
from das_server.models.registry import (
    PREVIEW_FOLDER,
    capabilities_of_models,
    default_models_folder,
    is_installed,
    list_models,
    model_path,
    model_spec,
    model_specs,
    place_for,
)
from tests.support.models import edit_config
from tests.support.wan import write_wan_checkpoint

FULL = "das-cogvideox-5b"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(tmp_path):
    """A whole small checkpoint in the published layout."""
    return shutil.copytree(PREVIEW_FOLDER, tmp_path / "download")


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def test_table_is_sound():
    assert list(model_specs()) == ["das-preview", FULL, "wan-vace-1.3b", "wan-vace-14b"]
    for name, spec in model_specs().items():
        family = model_family(spec.family)
        assert spec.name == name
        assert list(spec.num_frames) == sorted(spec.num_frames)
        assert all(family.makes_num_frames(count) for count in spec.num_frames)
        assert len(set(spec.sizes)) == len(spec.sizes) and all(w % 8 == 0 and h % 8 == 0 for w, h in spec.sizes)
        assert spec.default_steps in spec.exact_steps
        if spec.family == "cogvideox":
            assert len(spec.exact_steps) == 16  # 1000 = 2³ · 5³
            assert all(1000 % count == 0 for count in spec.exact_steps)
        assert spec.default_tracking_range == "signed"
        assert spec.licence


def test_clips_of_wan_vace_are_what_its_latents_hold():
    for name in ("wan-vace-1.3b", "wan-vace-14b"):
        spec = model_spec(name)
        assert spec.num_frames == tuple(range(5, 82, 4)) and spec.size_range.multiple == 16
        held = replace(spec.capability(True), sizes=[])
        assert all(makes_size(held, *size) for size in spec.sizes)
        assert spec.inputs == ("carried_video", "carried_holes", "references")
        assert re.fullmatch("[0-9a-f]{40}", spec.revision) and spec.revision in by_hand(name)
    assert model_family("cogvideox").num_frames == (9, 17, 25, 33, 41, 49)
    assert [count for count in range(14) if model_family("wan-vace").makes_num_frames(count)] == [5, 9, 13]


def test_unknown_family_is_named():
    with pytest.raises(ModelError, match="no model family 'flexam'; known are cogvideox, wan-vace"):
        model_family("flexam")


def test_checkpoint_of_another_family_is_refused_in_its_place(source, models, tmp_path):
    with pytest.raises(ModelError, match="of the family cogvideox, but one of wan-vace belongs there"):
        add_model("wan-vace-1.3b", source, models)
    with pytest.raises(ModelError, match="of the family wan-vace, but one of cogvideox belongs there"):
        add_model(FULL, write_wan_checkpoint(tmp_path / "wan"), models)
    assert not list(models.iterdir())


def test_model_of_the_second_family_can_have_a_name_of_its_own(models, tmp_path):
    folder = add_model("my-painter", write_wan_checkpoint(tmp_path / "wan"), models)
    spec, base = model_spec("my-painter", models), model_spec("wan-vace-1.3b")
    assert (spec.family, spec.inputs) == ("wan-vace", base.inputs)
    assert (spec.num_frames, spec.sizes) == (base.num_frames, base.sizes)
    assert spec.repository == spec.revision == "" and is_installed(folder)
    with pytest.raises(ModelError, match="conditions of 96 channels"):
        add_model("other", write_wan_checkpoint(tmp_path / "broken", vace_in_channels=96), models)


def test_full_model_is_the_published_one():
    spec = model_spec(FULL)
    assert (spec.num_frames, spec.sizes, spec.default_steps, spec.default_guidance) == ((49,), ((720, 480),), 50, 6.0)
    assert spec.uses_prompt and spec.size_range == SizeRange()


def test_full_model_says_at_how_many_frames_per_second_it_was_trained():
    rates = {name: spec.capability(True).frames_per_second for name, spec in model_specs().items()}
    assert rates["das-cogvideox-5b"] == 8.0 and rates["das-preview"] == 0.0


def test_preview_model_makes_every_size_that_its_checkpoint_can_up_to_the_largest():
    preview = model_spec("das-preview").capability(True)
    vae, transformer = (
        json.loads((PREVIEW_FOLDER / part / "config.json").read_text()) for part in ("vae", "transformer")
    )
    stride = 2 ** (len(vae["block_out_channels"]) - 1)
    assert preview.size_range == SizeRange(stride * transformer["patch_size"], 48, 360, 240)
    held = replace(preview, sizes=[])
    assert all(makes_size(held, *size) for size in preview.sizes)
    assert not transformer["use_learned_positional_embeddings"]


def test_capabilities_travel():
    for capability in capabilities_of_models():
        assert codec.from_plain(type(capability), codec.to_plain(capability)) == capability
    assert [one.installed for one in capabilities_of_models() if one.name == "das-preview"] == [True]


def test_table_needs_no_torch():
    code = "import sys, das_server.models.registry as r; r.capabilities_of_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match="das-preview"):
        model_spec("das-previw")


def test_models_folder_comes_from_the_environment(tmp_path):
    assert default_models_folder({"DAS_SERVER_MODELS": str(tmp_path)}) == tmp_path
    assert default_models_folder({"HOME": str(tmp_path)}).is_relative_to(tmp_path)


def test_added_model_is_listed_verified_and_found(source, models):
    (source / "transformer" / "notes.bin").write_bytes(b"not part of it")
    seen = []
    folder = add_model(FULL, source, models, progress=lambda what, done, total: seen.append((what, done, total)))
    assert folder == model_path(FULL, models) == models / FULL
    assert is_installed(folder) and not (folder / "transformer" / "notes.bin").exists()
    assert {what for what, _, _ in seen} == {"copy", "digest"} and seen[-1][1] == seen[-1][2]
    status = {one.spec.name: one for one in list_models(models)}[FULL]
    assert status.installed and status.verifiable and status.size_bytes > 10_000_000
    report = verify_model(FULL, models)
    assert report.num_files == len(json.loads((folder / MANIFEST_NAME).read_text())["files"]) == 10
    assert [path.name for path in models.iterdir()] == [FULL]


def test_folder_that_cannot_be_written_is_said_to_be_so(source, models):
    """In a folder that was put there by hand, the place of the manifest's first draft is taken."""
    place = shutil.copytree(source, models / FULL)
    (place / MANIFEST_NAME).with_suffix(".tmp").mkdir()
    with pytest.raises(ModelError, match=f"{MANIFEST_NAME} cannot be written: .*Is a directory"):
        add_model(FULL, place, models)
    assert not (place / MANIFEST_NAME).exists()


def test_dropped_in_folder_counts_as_installed(source, models):
    models.mkdir()
    source.rename(models / FULL)
    status = {one.spec.name: one for one in list_models(models)}[FULL]
    assert status.installed and not status.verifiable
    with pytest.raises(ModelError, match=f"put there by hand .* models add {FULL} {models / FULL}"):
        verify_model(FULL, models)
    assert add_model(FULL, models / FULL, models) == models / FULL  # checked and given digests where it is
    assert verify_model(FULL, models).num_files == 10
    with pytest.raises(ModelError, match="exists already"):  # digests are not written over
        add_model(FULL, models / FULL, models)


def test_verifying_what_has_no_digests_says_why(models):
    with pytest.raises(ModelError, match="not installed"):
        verify_model(FULL, models)
    with pytest.raises(ModelError, match="part of this software"):
        verify_model("das-preview", models)


@pytest.mark.parametrize("damage", ["one bit", "shorter", "gone", "extra"])
def test_changed_file_is_named(source, models, damage):
    folder = add_model(FULL, source, models)
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-1000] ^= 1
        path.write_bytes(content)
    elif damage == "shorter":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        path = folder / "vae" / "more.safetensors"
        path.write_bytes(content)
    with pytest.raises(ModelError, match=path.name):
        verify_folder(folder)


def test_manifest_cannot_point_outside(source, models):
    folder = add_model(FULL, source, models)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"]["../../secret"] = {"sha256": "0" * 64, "size_bytes": 1}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="outside"):
        verify_folder(folder)


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "model_index"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "model_index.json is damaged"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "vae" / "weights.bin"), "pickle"),
        (lambda folder: (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder/x.pt"), "pickle"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "not a whole"),
        (lambda folder: (folder / "text_encoder/model.safetensors").write_bytes(b"cut"), "text_encoder.*not a whole"),
    ],
)
def test_bad_checkpoint_is_not_added(source, models, breakage, words):
    breakage(source)
    with pytest.raises(ModelError, match=words):
        add_model(FULL, source, models)
    assert not (models / FULL).exists()


def test_model_is_not_added_twice_nor_over_the_embedded_one(source, models):
    add_model(FULL, source, models)
    with pytest.raises(ModelError, match="exists already"):
        add_model(FULL, source, models)
    with pytest.raises(ModelError, match="part of this software"):
        add_model("das-preview", source, models)


# ── Models with names of their own ──────────────────────────────────────────────────────────────────────────────────


def test_trained_model_is_added_under_a_name_of_its_own(source, models):
    edit_config(source / "transformer", sample_frames=17, sample_width=30, sample_height=20)
    folder = add_model("paper-boats.v2", source, models)
    assert folder == models / "paper-boats.v2" == model_path("paper-boats.v2", models)
    spec, base = model_spec("paper-boats.v2", models), model_spec(FULL)
    assert (spec.num_frames, spec.sizes) == ((17,), ((120, 80),))  # of its configuration
    assert (spec.default_steps, spec.default_guidance, spec.uses_prompt) == (
        base.default_steps,
        base.default_guidance,
        base.uses_prompt,
    )
    assert verify_model("paper-boats.v2", models).num_files == 10
    assert [one.spec.name for one in list_models(models)] == [*model_specs(models / "none"), "paper-boats.v2"]
    capability = capabilities_of_models(models)[-1]
    assert capability.installed and capability.label == "paper-boats.v2 (added)"
    with pytest.raises(ModelError, match="was added from a folder; there is nothing to pull"):
        pull_model("paper-boats.v2", "main", models)
    with pytest.raises(ModelError, match="exists already"):
        add_model("paper-boats.v2", source, models)


def test_folder_put_there_by_hand_gets_its_own_name(source, models):
    models.mkdir()
    source.rename(models / "boats")
    assert "boats" not in model_specs(models)
    assert add_model("boats", models / "boats", models) == models / "boats"
    assert model_spec("boats", models).sizes and verify_model("boats", models)


@pytest.mark.parametrize("name", ["console", "com10", "com", "lpt", "nul-boats", "a.con", "a" * 64, "7"])
def test_name_that_only_begins_like_a_device_is_a_name(name, models):
    assert place_for(name, models) == (models / name, True)


@pytest.mark.parametrize(
    "name",
    [
        *("", "../boats", "Boats", "a/b", ".boats", "a" * 65, "böse", "boats.", "boats..", "boats\n"),
        *("con", "prn", "aux", "nul", "com1", "lpt9", "con.v2", "aux.tar.gz", "nul."),
    ],
)
def test_name_that_is_no_folder_everywhere_is_refused(source, models, name):
    with pytest.raises(ModelError, match="cannot be called"):
        add_model(name, source, models)
    assert not models.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_frames": 50}, "made for 50 frames"),
        ({"sample_width": 31}, "multiples of 8"),
        ({"in_channels": 16}, "takes 16 channels"),
        ({"sample_height": None}, "sample_height"),
    ],
)
def test_model_whose_clip_cannot_be_made_is_not_added(source, models, changes, words):
    edit_config(source / "transformer", **changes)
    with pytest.raises(ModelError, match=words):
        add_model("boats", source, models)
    assert not (models / "boats").exists()


@pytest.mark.parametrize("about", [None, [], {"based_on": "another"}, {"based_on": FULL, "num_frames": 9}])
def test_manifest_that_says_nothing_usable_is_no_model(source, models, about):
    folder = add_model("boats", source, models)
    manifest = json.loads((folder / MANIFEST_NAME).read_text()) | {"model": about}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert list(model_specs(models)) == list(model_specs(models / "none"))


def test_pull_offline_says_which_files_go_where(models):
    code = (
        "import sys; from das_server.models.checkpoint import pull_model; from pathlib import Path\n"
        f"pull_model({FULL!r}, 'main', Path(sys.argv[1]))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(models)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(models)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    for name in (*model_spec(FULL).files, str(models / FULL), "das-server models add"):
        assert name in done.stderr


def test_pull_needs_a_revision_and_weights_to_pull(models):
    with pytest.raises(ModelError, match="--revision COMMIT") as caught:
        pull_model(FULL, "", models)
    for name in (*model_spec(FULL).files, str(models / FULL)):  # and how to do without
        assert name in caught.value.message
    with pytest.raises(ModelError, match="nothing to pull"):
        pull_model("das-preview", "main", models)
