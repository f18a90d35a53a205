# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA adapters change a loaded transformer by what they say, add up, and leave nothing behind."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from das_blender_addon.errors import ModelError
from das_server.models.adapters import AdapterUse, file_sha
from das_server.models.float8 import use_float8
from das_server.pipeline import adapters
from das_server.pipeline.adapters import LoadedAdapters
from das_server.pipeline.cogvideox.modulation import ModulationTables
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.streaming import StreamedBlocks
from tests.parity.golden_data import PIPELINE_MODEL
from tests.support.adapters import LAYERS, shapes_of, write_lora
from tests.support.models import gradient_clip, output_of, tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
CLOSE = 1e-6
"""Another order of additions in float32, relative to outputs of about 1."""


class Studio:
    """A tiny transformer, its input, and its adapters."""

    def __init__(self, folder):
        self.folder = folder
        self.model = tiny_transformer()
        self.inputs = tiny_inputs(self.model)
        self.loaded = LoadedAdapters()
        self.plain = output_of(self.model, self.inputs)
        self.names = [name for name, _ in self.model.named_parameters()]

    def lora(self, name, weight=1.0, **settings) -> AdapterUse:
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            write_lora(path, shapes_of(tiny_transformer()), **settings)
        return AdapterUse(name, path, file_sha(path), weight)

    def with_(self, *wanted) -> torch.Tensor:
        self.loaded.use(self.model, wanted, torch.float32, CPU)
        return output_of(self.model, self.inputs)


@pytest.fixture
def studio(tmp_path):
    return Studio(tmp_path)


def merged(studio, *wanted) -> torch.Tensor:
    """The same adapters added into the weights of a fresh model."""
    model = tiny_transformer()
    with torch.no_grad():
        for one in wanted:
            tensors = {key.removeprefix("transformer."): value for key, value in load_file(one.path).items()}
            for layer in LAYERS:
                first, second = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
                scale = float(tensors[f"{layer}.alpha"]) / len(first) if f"{layer}.alpha" in tensors else 1.0
                model.get_submodule(layer).weight += one.weight * scale * second @ first
    return output_of(model, studio.inputs)


def test_an_adapter_of_weight_0_is_no_adapter_to_the_byte(studio):
    assert torch.equal(studio.with_(studio.lora("ink", 0.0)), studio.plain)
    assert studio.loaded.used == []
    assert [name for name, _ in studio.model.named_parameters()] == studio.names


def test_adapters_add_by_their_weights(studio):
    ink, grain = studio.lora("ink", 0.8), studio.lora("grain", -0.5, seed=2, alpha=2.0)
    both = studio.with_(ink, grain)
    torch.testing.assert_close(both, merged(studio, ink, grain), rtol=0, atol=CLOSE * both.abs().max().item())
    assert not torch.allclose(both, studio.with_(ink), atol=1e-4)
    assert [one[:2] for one in studio.loaded.used] == [["ink", 0.8]]


def test_what_is_swapped_back_gives_the_same_bytes(studio):
    ink, grain = studio.lora("ink"), studio.lora("grain", seed=2)
    first = studio.with_(ink)
    assert not torch.equal(first, studio.plain)
    for between in ((grain,), (ink, grain), (studio.lora("ink", 0.25),), ()):
        assert not torch.equal(studio.with_(*between), first)
        assert torch.equal(studio.with_(ink), first)
    assert torch.equal(studio.with_(), studio.plain)
    assert [name for name, _ in studio.model.named_parameters()] == studio.names


def test_an_adapter_of_plain_cogvideox_leaves_the_tracking_branch_alone(studio):
    """``to_q`` of a main block is not that of its copy."""
    studio.with_(studio.lora("ink"))
    changed = {name.split(".lora_")[0] for name, _ in studio.model.named_parameters() if ".lora_" in name}
    assert changed == set(LAYERS)


def test_names_of_peft_mean_the_same(studio):
    ink = studio.lora("ink")
    bare = studio.lora("bare", prefix="base_model.model.")
    assert torch.equal(studio.with_(ink), studio.with_(bare))


def test_adapters_stand_beside_blocks_that_come_one_by_one(studio):
    ink = studio.lora("ink")
    whole = studio.with_(ink)
    studio.with_()
    streamed = StreamedBlocks(studio.model, studio.model.streamed_units(), CPU)
    assert torch.equal(studio.with_(ink), whole)
    streamed.close()
    assert torch.equal(studio.with_(ink), whole) and torch.equal(studio.with_(), studio.plain)


def test_compiled_blocks_follow(studio):
    ink = studio.lora("ink")
    whole = studio.with_(ink)
    studio.with_()
    studio.model.compile_repeated_blocks(fullgraph=True, dynamic=False, backend="eager")
    assert torch.equal(output_of(studio.model, studio.inputs), studio.plain)
    assert torch.equal(studio.with_(ink), whole) and torch.equal(studio.with_(), studio.plain)


def test_a_file_that_does_not_fit_leaves_no_adapter(studio):
    wrong = studio.folder / "wrong.safetensors"
    shapes = {name: tuple(2 * side for side in shape) for name, shape in shapes_of(studio.model).items()}
    write_lora(wrong, shapes)
    with pytest.raises(ModelError, match="The LoRA wrong does not fit this model"):
        studio.with_(studio.lora("ink"), AdapterUse("wrong", wrong, file_sha(wrong), 1.0))
    assert studio.loaded.used == [] and torch.equal(output_of(studio.model, studio.inputs), studio.plain)
    assert not torch.equal(studio.with_(studio.lora("ink")), studio.plain)


def test_a_file_that_was_exchanged_is_refused(studio):
    ink = studio.lora("ink")
    save_file({name: 2 * tensor for name, tensor in load_file(ink.path).items()}, ink.path)
    with pytest.raises(ModelError, match="is not the file that was added as ink"):
        studio.with_(ink)


def test_adaptive_norms_are_computed_anew(tmp_path):
    """What a pipeline keeps of a timestep is that of the adapters it runs with."""
    pipeline = DasPipeline.from_pretrained(PIPELINE_MODEL, device="cpu")
    ink = AdapterUse(
        "ink",
        path := write_lora(tmp_path / "ink.safetensors", shapes_of(pipeline.transformer), layers=LAYERS[2:]),
        file_sha(path),
        1.0,
    )
    config, stride = pipeline.transformer.config, 8
    video, image = gradient_clip(config.sample_frames, config.sample_width * stride, config.sample_height * stride)

    def latents():
        return pipeline("", video, image, num_inference_steps=2, output_type="latent")

    before = latents()
    pipeline.use_adapters([ink])
    with_ink = latents()
    assert with_ink.settings["loras"] == [["ink", 1.0, ink.sha]]
    assert not torch.equal(with_ink.latents, before.latents)
    pipeline._modulation = ModulationTables()
    assert torch.equal(latents().latents, with_ink.latents)
    pipeline.use_adapters([])
    assert torch.equal(latents().latents, before.latents)


def test_float8_takes_none(tmp_path):
    model = tiny_transformer()
    use_float8(model)
    with pytest.raises(ModelError, match="start the server without --float8"):
        adapters.check_adapters(True)


def test_without_peft_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="LoRAs need the package peft"):
        adapters.check_adapters(False)
