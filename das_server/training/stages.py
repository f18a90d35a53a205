# SPDX-License-Identifier: GPL-3.0-or-later
"""Which function runs which stage of a recipe.  Only that stage's modules are imported: a process starts faster."""

from das_blender_addon.errors import ModelError
from das_server.models.lean import lean_imports, leave_compiler_out

from .ranks import Ranks
from .recipe import FineTuneRecipe, PreviewRecipe

TRAINING = ("finetune", "autoencoder", "transformer", "decoder")
"""Stages that have an optimiser: PyTorch's imports its compiler, to mark what is not to be compiled."""
PREVIEW_STAGES = ("render_first", "render_rest", "autoencoder", "encode_first", "encode_rest", "transformer", "decoder",
                  "assemble")


def run_stage(recipe: PreviewRecipe | FineTuneRecipe, stage: str, ranks: Ranks, resume: bool) -> None:
    """Run `stage` of `recipe` as one of `ranks`. Raises ModelError for a stage that the recipe does not have."""
    if not stage.startswith("render_"):
        needs_compiler = _needs_compiler(recipe, ranks)
        with lean_imports(compiler=stage in TRAINING and needs_compiler):
            from . import preview_stages  # noqa: F401 — and diffusers with its schedulers and our transformer
        if not needs_compiler:
            leave_compiler_out()
    if isinstance(recipe, FineTuneRecipe) and stage == "finetune":
        from . import finetune

        finetune.train(recipe, ranks, resume)
    elif isinstance(recipe, FineTuneRecipe) or stage not in PREVIEW_STAGES:
        raise ModelError(f"the recipe {recipe.name!r} has no stage {stage!r}.")
    elif stage in ("render_first", "render_rest"):
        from . import preview_clips

        render = preview_clips.render_first if stage == "render_first" else preview_clips.render_rest
        render(recipe, ranks)
    elif stage == "autoencoder":
        from . import preview

        preview.train_autoencoder(recipe, ranks, resume)
    elif stage == "decoder":
        from . import preview_decoder

        preview_decoder.train_decoder(recipe, ranks, resume)
    else:
        _run_on_latents(recipe, stage, ranks, resume)


def _needs_compiler(recipe: PreviewRecipe | FineTuneRecipe, ranks: Ranks) -> bool:
    """Whether more than an optimiser on a CPU looks for it: weights that are spread, and peft, do."""
    tuned = isinstance(recipe, FineTuneRecipe) and (recipe.shard or recipe.trainable == "lora")
    return tuned or ranks.device.type != "cpu"


def _run_on_latents(recipe: PreviewRecipe, stage: str, ranks: Ranks, resume: bool) -> None:
    from . import preview_stages

    if stage == "encode_first":
        preview_stages.encode_first(recipe, ranks)
    elif stage == "encode_rest":
        preview_stages.encode_rest(recipe, ranks)
    elif stage == "transformer":
        preview_stages.train_transformer(recipe, ranks, resume)
    else:
        preview_stages.assemble(recipe)
