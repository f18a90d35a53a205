# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading without copies: the same model, and no memory but the files' own pages."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.prompt import PromptEncoder
from das_server.pipeline.memory import MemoryPlan
from das_server.pipeline.placement import load_where_it_goes
from das_server.pipeline.prompt import load_text_encoder
from tests.bench.denoise_checkpoint import FULL, TINY, write_checkpoint
from tests.support.models import output_of, tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
NOISE_BYTES = 64 << 20
"""What Python itself may take meanwhile; one block of the full model is four times that."""


@pytest.mark.parametrize("changes", [{}, {"use_rotary_positional_embeddings": False,
                                          "use_learned_positional_embeddings": False}])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_model_is_that_of_the_stock_loader(tmp_path, changes, dtype):
    tiny_transformer(**changes).save_pretrained(tmp_path)
    ours = DasTransformer3DModel.load(tmp_path, dtype=dtype, device=CPU)
    stock = DasTransformer3DModel.from_pretrained(tmp_path, torch_dtype=dtype)
    assert not ours.training and not any(weight.requires_grad for weight in ours.parameters())
    theirs = dict([*stock.named_parameters(), *stock.named_buffers()])
    for name, tensor in [*ours.named_parameters(), *ours.named_buffers()]:
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    inputs = {name: value.to(dtype) if name != "timestep" and torch.is_tensor(value) else value
              for name, value in tiny_inputs(ours).items()}  # fmt: skip
    assert torch.equal(output_of(ours, inputs), output_of(stock, inputs))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what memory of a process is")
def test_model_in_the_dtype_of_its_files_takes_no_memory(tmp_path):
    size = replace(FULL, transformer=FULL.transformer | {"num_layers": 3, "num_tracking_blocks": 1})
    write_checkpoint(size, tmp_path, torch.bfloat16)
    before = own_bytes()
    model = DasTransformer3DModel.load(tmp_path / "transformer", dtype=torch.bfloat16, device=CPU)
    assert sum(weight.numel() for weight in model.parameters()) > 500e6
    assert own_bytes() - before < NOISE_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what memory of a process is")
def test_text_encoder_in_the_dtype_of_its_files_takes_no_memory(tmp_path):
    size = replace(FULL, transformer=TINY.transformer, vae=TINY.vae, text_encoder=FULL.text_encoder | {"num_layers": 2})
    write_checkpoint(size, tmp_path, torch.bfloat16)
    encoder = PromptEncoder(tmp_path, 16, torch.bfloat16)
    encoder.tokenizer.encode("imports what it needs")
    before = own_bytes()
    model = load_text_encoder(tmp_path, torch.bfloat16, "T5EncoderModel")
    assert sum(weight.numel() for weight in model.parameters()) > 500e6 and encoder.converted_bytes() == 0
    assert own_bytes() - before < NOISE_BYTES


def test_device_that_fills_up_while_loading_leaves_the_model_to_the_host():
    devices = []

    def load(*, device):
        devices.append(device.type)
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return torch.nn.Linear(2, 2)

    plan = MemoryPlan("resident", torch.device("cuda"), 0, 0, "")
    assert load_where_it_goes(load, plan).weight.device == CPU and devices == ["cuda", "cpu"]
    for profile in ("group_offload", "cpu"):
        devices.clear()
        load_where_it_goes(load, replace(plan, profile=profile))
        assert devices == ["cpu"]


def own_bytes():
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
