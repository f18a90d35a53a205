# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker imports at its start and for its first prompt, and training, and what is left for later."""

import subprocess
import sys

import numpy as np
import pytest
import transformers

from das_server.models.registry import PREVIEW_FOLDER
from tests.support.server import ROOT

IMPORTED = """
import importlib.util, sys
import torch.compiler
mark = torch.compiler.disable
from das_server.workers.machine import import_all, set_up_torch
import_all(compiler=False)
set_up_torch("cpu", 1, compiler=False)
assert "das_server.pipeline.cogvideox.pipeline" in sys.modules
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
print(*[name for name in ("transformers", "peft", "scipy", "torch._dynamo") if name in sys.modules])
assert torch.compiler.disable is mark
assert all(importlib.util.find_spec(name) for name in ("transformers", "peft", "torch._dynamo"))
"""
ENCODED = """
from pathlib import Path
import numpy, torch.distributed
from das_server.pipeline.prompt import load_text_encoder, load_tokenizer
kept = torch.compiler.disable, torch.compiler.allow_in_graph, torch.distributed.is_available
folder = Path(sys.argv[1])
words = load_tokenizer(folder, ("ByT5Tokenizer",))("a boat", return_tensors="pt").input_ids
encoder = load_text_encoder(folder, torch.float32, "T5EncoderModel")
numpy.save(sys.argv[2], encoder(words).last_hidden_state.detach().numpy())
large = "peft", "scipy.optimize", "sympy", "torch._dynamo", "torch.distributed.tensor"
print(*[name for name in large if name in sys.modules])
assert kept == (torch.compiler.disable, torch.compiler.allow_in_graph, torch.distributed.is_available)
assert kept[2]() and importlib.util.find_spec("torch._dynamo").submodule_search_locations

from das_server.models.adapters import AdapterUse, file_sha
from das_server.pipeline.adapters import LoadedAdapters, check_adapters
from tests.support.adapters import shapes_of, write_lora
from tests.support.models import output_of, tiny_inputs, tiny_transformer
model = tiny_transformer()
inputs = tiny_inputs(model)
plain, lora = output_of(model, inputs), write_lora(Path(sys.argv[2] + ".safetensors"), shapes_of(model))
check_adapters(False)
LoadedAdapters().use(model, [AdapterUse("ink", lora, file_sha(lora), 1.0)], torch.float32, torch.device("cpu"))
assert (output_of(model, inputs) - plain).abs().max() > 1e-3
"""
TRAINED = """
from torch.utils.checkpoint import checkpoint
from das_server.models.lean import leave_compiler_out
leave_compiler_out()
layer = torch.nn.Linear(3, 3)
before = layer.weight.detach().clone()
optimiser = torch.optim.AdamW(layer.parameters())
checkpoint(layer, torch.ones(2, 3), use_reentrant=False).square().mean().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
optimiser.zero_grad()
assert not torch.equal(layer.weight, before)
print(*[name for name in sys.modules if name.startswith("torch._dynamo.")])
assert torch._dynamo.config.recompile_limit and "torch._dynamo.utils" in sys.modules
assert torch.compile(layer, backend="eager")(torch.ones(2, 3)).shape == (2, 3)
"""
NEEDED = """
from transformers.loss.loss_for_object_detection import linear_sum_assignment
assert linear_sum_assignment([[2, 1], [1, 2]])[1].tolist() == [1, 0]
from transformers.masking_utils import TransformGetItemToIndex
with TransformGetItemToIndex():
    assert torch.arange(3)[torch.tensor(2)] == 2
assert "scipy.optimize" in sys.modules
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """(exit status, what it has printed and said, what it has encoded) of a process that starts as a worker."""
    encoded = tmp_path_factory.mktemp("lean") / "encoded.npy"
    command = [sys.executable, "-c", IMPORTED + ENCODED + TRAINED + NEEDED, str(PREVIEW_FOLDER), str(encoded)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.split("\n"), np.load(encoded)


def test_worker_starts_without_libraries_that_its_model_does_not_need(started):
    """They are found again afterwards, by the text encoder."""
    assert started[0][0] == ""


def test_text_is_encoded_without_libraries_that_an_encoder_does_not_need_to_the_same_embeds(started):
    """They are imported when something does need them, as LoRAs do, which are used afterwards."""
    assert started[0][1] == ""
    words = transformers.ByT5Tokenizer.from_pretrained(PREVIEW_FOLDER / "tokenizer")("a boat", return_tensors="pt")
    encoder = transformers.T5EncoderModel.from_pretrained(PREVIEW_FOLDER / "text_encoder", dtype="float32")
    expected = encoder.eval()(words.input_ids).last_hidden_state.detach().numpy()
    np.testing.assert_array_equal(started[1], expected)
    assert expected.std() > 0


def test_compiler_is_not_imported_to_train_what_is_not_compiled(started):
    """It is when something asks for it."""
    assert started[0][2] == ""
