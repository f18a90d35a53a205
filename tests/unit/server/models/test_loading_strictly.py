# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading: the published layout and nothing else, every tensor accounted for."""

import json

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from das_blender_addon.errors import ModelError
from das_server.models.transformer import DasTransformer3DModel
from tests.support.models import TINY, edit_config, edit_tensors, output_of, tiny_inputs, tiny_transformer

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    tiny_transformer().save_pretrained(tmp_path)
    return tmp_path


def test_saved_config_is_the_published_one(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "CogVideoXTransformer3DModelTracking"
    assert config["num_tracking_blocks"] == 2 and config["num_layers"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_model_loads_equal(folder, dtype):
    loaded = DasTransformer3DModel.from_pretrained(folder, torch_dtype=dtype)
    assert loaded.dtype == dtype and not loaded.training
    for name, value in tiny_transformer().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype)), name


def test_sharded_model_loads_equal(tmp_path):
    model = tiny_transformer()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    inputs = tiny_inputs(model)
    assert torch.equal(
        output_of(DasTransformer3DModel.from_pretrained(str(tmp_path)), inputs), output_of(model, inputs)
    )


def test_subfolder_is_read(tmp_path):
    tiny_transformer().save_pretrained(tmp_path / "transformer")
    assert DasTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer").config.num_layers == 3


def test_checkpoint_without_a_number_has_18_tracking_blocks(tmp_path):
    tiny_transformer(num_layers=19, num_tracking_blocks=18).save_pretrained(tmp_path)
    edit_config(tmp_path, num_tracking_blocks=None)
    assert "num_tracking_blocks" not in json.loads((tmp_path / "config.json").read_text())
    assert len(DasTransformer3DModel.from_pretrained(tmp_path).transformer_blocks_copy) == 18


def test_missing_tensor_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("combine_linears.1.weight"))
    with pytest.raises(ModelError, match=r"lacks the tensor combine_linears\.1\.weight"):
        DasTransformer3DModel.from_pretrained(folder)


def test_extra_tensor_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"transformer_blocks_copy.2.bonus": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"transformer_blocks_copy\.2\.bonus"):
        DasTransformer3DModel.from_pretrained(folder)


def test_misshaped_tensor_is_named_with_both_shapes(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"initial_combine_linear.bias": torch.zeros(31)}))
    with pytest.raises(ModelError, match=r"initial_combine_linear\.bias .*\[31\].*\[32\]"):
        DasTransformer3DModel.from_pretrained(folder)


def test_config_of_another_size_names_a_tensor(folder):
    edit_config(folder, num_tracking_blocks=3)
    with pytest.raises(ModelError, match=r"combine_linears\.2\.bias \(and \d+ more\)"):
        DasTransformer3DModel.from_pretrained(folder)


def test_missing_shard_is_named(tmp_path):
    tiny_transformer().save_pretrained(tmp_path, max_shard_size="100KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        DasTransformer3DModel.from_pretrained(tmp_path)


def test_tensor_in_the_wrong_shard_is_named(tmp_path):
    tiny_transformer().save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["proj_out.bias"] = content["weight_map"]["patch_embed.proj.bias"]
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"proj_out\.bias"):
        DasTransformer3DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "weights.bin"])
def test_index_that_leaves_the_folder_is_refused(tmp_path, name):
    tiny_transformer().save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["proj_out.bias"] = name
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="not a safetensors file of the same folder"):
        DasTransformer3DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_file_is_refused(folder, damage):
    path = folder / WEIGHTS
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "empty": b"", "noise": b"\xff" * len(content)}[damage])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        DasTransformer3DModel.from_pretrained(folder)


def test_pickle_is_refused_unopened(folder):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        DasTransformer3DModel.from_pretrained(folder)


def test_folder_without_weights_or_config_is_refused(folder, tmp_path_factory):
    with pytest.raises(ModelError, match="no folder"):
        DasTransformer3DModel.from_pretrained(folder / "nothing")
    with pytest.raises(ModelError, match=r"no config\.json"):
        DasTransformer3DModel.from_pretrained(tmp_path_factory.mktemp("empty"))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        DasTransformer3DModel.from_pretrained(folder)


# ── From a plain CogVideoX ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def base_folder(tmp_path):
    torch.manual_seed(3)
    config = {key: value for key, value in TINY.items() if key != "num_tracking_blocks"}
    base = CogVideoXTransformer3DModel(**config)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    base.float().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("num_tracking_blocks", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversion_equals_its_base_bit_for_bit(base_folder, num_tracking_blocks, dtype):
    base = CogVideoXTransformer3DModel.from_pretrained(str(base_folder), torch_dtype=dtype).eval()
    model = DasTransformer3DModel.from_base(base_folder, num_tracking_blocks, torch_dtype=dtype)
    inputs = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in tiny_inputs(model).items()
    }
    with torch.no_grad():
        expected = base(**{name: value for name, value in inputs.items() if name != "tracking_maps"}).sample
    assert model.dtype == dtype
    assert torch.equal(output_of(model, inputs), expected)


def test_conversion_copies_blocks_and_zeroes_linears(base_folder):
    model = DasTransformer3DModel.from_base(base_folder, 2)
    state = model.state_dict()
    for name, value in state.items():
        if name.startswith("transformer_blocks_copy."):
            original = state[name.replace("_copy", "")]
            assert torch.equal(value, original) and value.data_ptr() != original.data_ptr(), name
        if "combine_linear" in name:
            assert not value.any(), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_conversion_saves_and_loads(base_folder, tmp_path_factory):
    saved = tmp_path_factory.mktemp("converted")
    model = DasTransformer3DModel.from_base(base_folder, 2)
    model.save_pretrained(saved)
    inputs = tiny_inputs(model)
    assert torch.equal(output_of(DasTransformer3DModel.from_pretrained(saved), inputs), output_of(model, inputs))


def test_conversion_of_too_few_blocks_is_refused(base_folder):
    with pytest.raises(ModelError, match="3 blocks to copy"):
        DasTransformer3DModel.from_base(base_folder, 4)
    with pytest.raises(ModelError, match="18"):
        DasTransformer3DModel.from_base(base_folder)


def test_conversion_of_a_converted_model_is_refused(folder):
    with pytest.raises(ModelError, match="already"):
        DasTransformer3DModel.from_base(folder, 1)


def test_conversion_of_a_damaged_base_names_the_tensor(base_folder):
    edit_tensors(base_folder, lambda tensors: tensors.pop("proj_out.bias"))
    with pytest.raises(ModelError, match=r"proj_out\.bias"):
        DasTransformer3DModel.from_base(base_folder, 1)


def test_base_is_not_taken_for_a_tracking_model(base_folder):
    """Loading a plain CogVideoX must not leave its missing half to chance."""
    with pytest.raises(ModelError, match="lacks the tensor combine_linears"):
        DasTransformer3DModel.from_pretrained(base_folder)


def test_folder_with_both_one_file_and_shards_is_refused(folder):
    """Which of the two would be read depends on the loader; the other would go unchecked."""
    tiny_transformer(seed=1).save_pretrained(folder, max_shard_size="100KB")
    tiny_transformer().save_pretrained(folder / "single")
    (folder / "single" / WEIGHTS).rename(folder / WEIGHTS)
    with pytest.raises(ModelError, match=f"both {WEIGHTS} and {WEIGHTS}.index.json"):
        DasTransformer3DModel.from_pretrained(folder)


def test_empty_index_is_refused(folder):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ModelError, match="weight_map is empty"):
        DasTransformer3DModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "change", [{"num_tracking_blocks": "2"}, {"activation_fn": "nope"}, {"attention_head_dim": 0}], ids=str
)
def test_config_of_no_model_is_refused(folder, change):
    edit_config(folder, **change)
    with pytest.raises(ModelError, match=r"config\.json"):
        DasTransformer3DModel.from_pretrained(folder)
