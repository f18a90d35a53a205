# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompt embeds: encoded once per model and text, kept on disk, made anew when damaged."""

import os
import shutil

import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline.cogvideox.prompt import PromptEncoder
from das_server.pipeline.prompt import PromptCache

CPU = torch.device("cpu")
LENGTH = 16


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(PREVIEW_FOLDER, tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    return PromptCache(tmp_path / "cache")


def encoder(model, cache, dtype=torch.float32):
    return PromptEncoder(model, LENGTH, dtype, cache)


def test_known_text_needs_no_text_encoder(model, cache):
    first = encoder(model, cache).encode(["a red car", ""], CPU)
    again = encoder(model, cache)
    assert again.is_cached(["a red car", ""], CPU) and not again.is_cached(["a blue car"], CPU)
    # Were it read, this would fail.
    weights = model / "text_encoder" / "model.safetensors"
    again.key("x", CPU)
    weights.unlink()
    for one, other in zip(first, again.encode(["a red car", ""], CPU), strict=True):
        assert torch.equal(one, other) and one.shape == (1, LENGTH, 32)
    with pytest.raises(ModelError, match="text_encoder"):
        again.encode(["a blue car"], CPU)


def test_texts_do_not_mix(model, cache):
    together = encoder(model, None).encode(["one", "two, a much longer text than that"], CPU)
    assert torch.equal(together[0], encoder(model, None).encode(["one"], CPU)[0])
    assert not torch.equal(*together)


def test_damaged_entry_is_made_anew(model, cache):
    (expected,) = encoder(model, cache).encode(["a red car"], CPU)
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    (again,) = encoder(model, cache).encode(["a red car"], CPU)
    assert torch.equal(expected, again)
    assert torch.equal(cache.get(path.stem), expected)


def test_key_knows_model_dtype_length_and_text(model, cache):
    keys = {encoder(model, cache).key("text", CPU), encoder(model, cache).key("texts", CPU)}
    keys.add(encoder(model, cache, torch.bfloat16).key("text", CPU))
    keys.add(PromptEncoder(model, LENGTH + 1, torch.float32, cache).key("text", CPU))
    weights = model / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    keys.add(encoder(model, cache).key("text", CPU))
    assert len(keys) == 5


def test_cache_that_cannot_be_written_costs_only_time(model, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    (embeds,) = encoder(model, PromptCache(blocked)).encode(["a red car"], CPU)
    assert embeds.isfinite().all()


def test_entry_that_cannot_be_written_costs_only_time(model, cache, caplog):
    """A full or read-only disk shows only when the entry itself is written."""
    one = encoder(model, cache)
    (cache.folder / f"{one.key('a red car', CPU)}.safetensors.{os.getpid()}.tmp").mkdir(parents=True)
    (embeds,) = one.encode(["a red car"], CPU)
    assert embeds.isfinite().all() and "cannot be cached" in caplog.text


def test_cut_text_encoder_is_named(model, cache):
    weights = model / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"text_encoder/model\.safetensors is not a whole"):
        encoder(model, cache).encode(["a red car"], CPU)


def test_unknown_tokenizer_is_refused(model, cache):
    index = model / "model_index.json"
    index.write_text(index.read_text().replace("ByT5Tokenizer", "SomeTokenizer"))
    with pytest.raises(ModelError, match="SomeTokenizer"):
        encoder(model, cache).encode(["x"], CPU)


def test_text_encoder_that_comes_block_by_block_gives_the_same_embeds(model):
    whole, streamed = encoder(model, None), encoder(model, None)
    streamed.offload = streamed.keep_loaded = True
    (expected,), (ours,) = whole.encode(["a red car"], CPU), streamed.encode(["a red car"], CPU)
    assert torch.equal(ours, expected)
    assert streamed._streamed.is_at_rest()
    assert torch.equal(streamed.encode(["a red car"], CPU)[0], expected)


def test_text_encoder_that_comes_block_by_block_takes_host_memory_only_where_its_files_have_another_dtype(model):
    assert encoder(model, None, torch.float16).converted_bytes() == 0
    assert encoder(model, None, torch.float32).converted_bytes() == encoder(model, None, torch.float32).size_bytes()
