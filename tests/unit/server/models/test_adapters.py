# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA files in the models folder: what is let in, what servers say of them, what a job finds."""

import hashlib
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from das_blender_addon.errors import ModelError
from das_server.models.adapters import find_adapter, list_adapters
from das_server.models.checkpoint import add_lora
from das_server.models.registry import PREVIEW_FOLDER, capabilities_of_models, model_specs
from das_server.models.tensors import read_tensor_shapes, weight_files
from tests.support.adapters import write_lora


@pytest.fixture(scope="module")
def shapes():
    return read_tensor_shapes(weight_files(PREVIEW_FOLDER / "transformer")[0])


def said_of(folder, model: str):
    return next(one.loras for one in capabilities_of_models(folder) if one.name == model)


def test_what_is_added_is_offered_for_its_model_only(tmp_path, shapes):
    file = write_lora(tmp_path / "My Ink.safetensors", shapes)
    path = add_lora("ink", file, "das-preview", tmp_path / "models")
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    assert path.read_bytes() == file.read_bytes()
    assert said_of(tmp_path / "models", "das-preview") == [["ink", sha]]
    assert said_of(tmp_path / "models", "das-cogvideox-5b") == []
    assert find_adapter("ink", sha, "das-preview", tmp_path / "models").path == path
    with pytest.raises(ModelError, match="There is no LoRA 'ink' for das-cogvideox-5b; there is none"):
        find_adapter("ink", sha, "das-cogvideox-5b", tmp_path / "models")
    assert "_loras" not in model_specs(tmp_path / "models")


def test_another_file_of_the_name_is_another_adapter(tmp_path, shapes):
    models = tmp_path / "models"
    add_lora("ink", write_lora(tmp_path / "a.safetensors", shapes), "das-preview", models)
    first = list_adapters(models)[0]
    add_lora("ink", write_lora(tmp_path / "b.safetensors", shapes, seed=2), "das-preview", models)
    second = list_adapters(models)[0]
    assert second.sha != first.sha and len(list_adapters(models)) == 1
    with pytest.raises(ModelError, match="replaced since this job was planned"):
        find_adapter("ink", first.sha, "das-preview", models)


def test_file_is_read_again_where_it_has_changed_only(tmp_path, shapes, monkeypatch):
    models = tmp_path / "models"
    for name in ("ink", "oil"):
        add_lora(name, write_lora(tmp_path / f"{name}.safetensors", shapes), "das-preview", models)
    ink, oil = (models / "_loras" / f"{name}.json" for name in ("ink", "oil"))
    for about in (ink, oil):
        os.utime(about, (1, 1))  # long ago
    assert [one.name for one in list_adapters(models)] == ["ink", "oil"]
    read = []
    monkeypatch.setattr(Path, "read_text", lambda self, **about: read.append(self) or self.read_bytes().decode())
    assert [one.model for one in list_adapters(models)] == ["das-preview"] * 2 and read == []
    oil.write_text(oil.read_text().replace("das-preview", "das-preview-2"))
    os.utime(oil, (time.time() + 600, time.time() + 600))  # new for as long as this test takes on a busy machine
    read.clear()
    assert [one.model for one in list_adapters(models)] == ["das-preview", "das-preview-2"] and read == [oil]
    assert len(list_adapters(models)) == 2 and read == [oil, oil]  # so new that it may change unseen
    ink.with_suffix(".safetensors").unlink()
    assert [one.name for one in list_adapters(models)] == ["oil"]


def test_a_model_that_is_not_installed_yet_may_have_adapters(tmp_path, shapes):
    add_lora("ink", write_lora(tmp_path / "a.safetensors", shapes), models_folder=tmp_path / "models")
    assert [one.model for one in list_adapters(tmp_path / "models")] == ["das-cogvideox-5b"]


@pytest.mark.parametrize("name", ["", "Ink", "../ink", "ink.", "a" * 65, "ink/2", "tinte-ü"])
def test_names_that_are_no_file_names_are_refused(name, tmp_path, shapes):
    with pytest.raises(ModelError, match="cannot be called"):
        add_lora(name, write_lora(tmp_path / "a.safetensors", shapes), "das-preview", tmp_path / "models")


def test_files_that_are_no_such_lora_are_refused(tmp_path, shapes):
    models = tmp_path / "models"

    def added(tensors):
        save_file(tensors, tmp_path / "odd.safetensors")
        return add_lora("odd", tmp_path / "odd.safetensors", "das-preview", models)

    with pytest.raises(ModelError, match=r"holds 'lora_unet_blocks.*lora_down.weight'.*published as"):
        added({"lora_unet_blocks_0_to_q.lora_down.weight": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match=r"the factors of a are \[2, 3\] and \[\]"):
        added({"transformer.a.lora_A.weight": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match="das-preview, which has no layer transformer_blocks.99.attn1.to_q"):
        layer = "transformer_blocks.99.attn1.to_q"
        pair = {f"{layer}.lora_A.weight": torch.zeros(2, 3), f"{layer}.lora_B.weight": torch.zeros(3, 2)}
        added(pair)
    with pytest.raises(ModelError, match=r"changes transformer_blocks.0.attn1.to_q as \[3, 3\], which is"):
        added({name.replace("99", "0"): tensor for name, tensor in pair.items()})
    with pytest.raises(ModelError, match="is not a safetensors file"):
        add_lora("odd", tmp_path / "absent.safetensors", "das-preview", models)
    with pytest.raises(ModelError, match="There is no model 'nobody'"):
        add_lora("odd", tmp_path / "odd.safetensors", "nobody", models)
    with pytest.raises(ModelError, match="wan-vace-1.3b takes no LoRAs"):
        add_lora("odd", tmp_path / "odd.safetensors", "wan-vace-1.3b", models)
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError):
        add_lora("odd", tmp_path / "damaged.safetensors", "das-preview", models)
    assert list_adapters(models) == []
