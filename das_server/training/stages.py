# SPDX-License-Identifier: GPL-3.0-or-later
"""Which function runs which stage of a recipe."""

from das_blender_addon.errors import ModelError

from . import finetune, preview, preview_decoder, preview_stages
from .ranks import Ranks
from .recipe import FineTuneRecipe, PreviewRecipe

PREVIEW_STAGES = ("render_first", "render_rest", "autoencoder", "encode_first", "encode_rest", "transformer", "decoder",
                  "assemble")


def run_stage(recipe: PreviewRecipe | FineTuneRecipe, stage: str, ranks: Ranks, resume: bool) -> None:
    """Run `stage` of `recipe` as one of `ranks`. Raises ModelError for a stage that the recipe does not have."""
    if isinstance(recipe, FineTuneRecipe) and stage == "finetune":
        finetune.train(recipe, ranks, resume)
        return
    if isinstance(recipe, FineTuneRecipe) or stage not in PREVIEW_STAGES:
        raise ModelError(f"the recipe {recipe.name!r} has no stage {stage!r}.")
    if stage == "render_first":
        preview.render_first(recipe, ranks)
    elif stage == "render_rest":
        preview.render_rest(recipe, ranks)
    elif stage == "autoencoder":
        preview.train_autoencoder(recipe, ranks, resume)
    elif stage == "encode_first":
        preview_stages.encode_first(recipe, ranks)
    elif stage == "encode_rest":
        preview_stages.encode_rest(recipe, ranks)
    elif stage == "transformer":
        preview_stages.train_transformer(recipe, ranks, resume)
    elif stage == "decoder":
        preview_decoder.train_decoder(recipe, ranks, resume)
    else:
        preview_stages.assemble(recipe)
