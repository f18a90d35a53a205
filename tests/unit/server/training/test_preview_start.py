# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview recipe that starts from a checkpoint: its autoencoder is kept, its transformer trained on from nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import das_server.training
from das_blender_addon.errors import ModelError
from das_server.models.registry import PREVIEW_FOLDER
from das_server.training.finetune import train
from das_server.training.preview import load_autoencoder, train_autoencoder
from das_server.training.preview_stages import latents_of_nothing, new_transformer
from das_server.training.preview_transformer import start_from_nothing
from das_server.training.ranks import join_ranks
from das_server.training.recipe import FineTuneRecipe, LoopSettings, OptimiserSettings, load_recipe

RECIPES = Path(das_server.training.__file__).parent / "recipes"
NEAR_NOTHING_LEVELS = 6
"""What the shipped autoencoder makes of the mean latents of nothing, 8-bit levels."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    started = replace(load_recipe(RECIPES / "preview_cpu.toml"), start=PREVIEW_FOLDER,
                      folder=tmp_path_factory.mktemp("run"))
    train_autoencoder(started, join_ranks(), resume=False)
    return started


@pytest.mark.parametrize("name", ["preview_cpu.toml", "preview_gpu.toml"])
def test_shipped_recipes_start_from_a_checkpoint_that_fits_them(name):
    made = load_recipe(RECIPES / name)
    assert made.start is None or (made.start / "model_index.json").is_file()
    assert len(made.transformer.size_shares) == len(made.clip_sets)


def test_autoencoder_is_the_checkpoints(recipe):
    kept, given = (load_file(folder / "diffusion_pytorch_model.safetensors")
                   for folder in (recipe.folder / "autoencoder" / "final", PREVIEW_FOLDER / "vae"))
    assert all(torch.equal(kept[key], given[key].float()) for key in given)
    assert not (recipe.folder / "autoencoder" / "log.csv").exists()


def test_transformer_keeps_its_blocks_and_makes_nothing(recipe):
    transformer, autoencoder = new_transformer(recipe), load_autoencoder(recipe)
    given = load_file(PREVIEW_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, given[key].float()) for key, value in transformer.named_parameters())
    assert all(value.requires_grad for value in transformer.parameters())
    start_from_nothing(transformer, latents_of_nothing(autoencoder))
    maps = torch.randn(1, 3, 48, 8, 12, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 16, 32)
    with torch.no_grad():
        made = -transformer(maps, text, torch.tensor([999]), maps, return_dict=False)[0]
        shown = autoencoder.decode(made.transpose(1, 2) / autoencoder.config.scaling_factor).sample
    assert 127.5 * shown.abs().mean() < NEAR_NOTHING_LEVELS


def test_model_that_paints_holes_is_not_fine_tuned_as_a_full_one(tmp_path):
    (tmp_path / "model_index.json").write_text('{"paints_holes": true, "carries_first_frame": true}')
    recipe = FineTuneRecipe("tuned", tmp_path / "out", tmp_path, tmp_path, OptimiserSettings(), LoopSettings(steps=1))
    with pytest.raises(ModelError, match="paints holes, .* recipe of kind .preview. trains it"):
        train(recipe, join_ranks(), False)
