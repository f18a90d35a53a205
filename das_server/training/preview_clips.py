# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview recipe's synthetic clips, rendered by its first stages.  Knows no model: a process starts fast."""

from pathlib import Path

from .clips import ClipSet, create_clip_arrays, render_clips
from .ranks import Ranks
from .recipe import PreviewRecipe


def render_first(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Render the autoencoder's clips (the head of the first set) and the validation sets."""
    _create_all(recipe, ranks)
    first = synthetic_sets(recipe)[0]
    for clip_set in recipe.validation_sets:
        _render(recipe, clip_set, ranks, None)
    _render(recipe, first, ranks, range(0, recipe.autoencoder.train_clips))


def render_rest(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Render everything else, the large sets in small portions so that all sizes grow together."""
    first = synthetic_sets(recipe)[0]
    for clip_set in synthetic_sets(recipe)[1:]:
        _render(recipe, clip_set, ranks, None)
    _render(recipe, first, ranks, range(recipe.autoencoder.train_clips, first.count))


def _create_all(recipe, ranks):
    if ranks.rank == 0:
        for clip_set in (*synthetic_sets(recipe), *recipe.validation_sets):
            create_clip_arrays(clips_folder(recipe, clip_set), clip_set, num_textures=recipe.num_textures,
                               texture_seed=_texture_seed(recipe, clip_set), samples=recipe.samples)
    ranks.wait()


def synthetic_sets(recipe: PreviewRecipe) -> list[ClipSet]:
    """The sets that the generator makes; the first of them also trains the autoencoder and the decoder."""
    return [clip_set for clip_set in recipe.clip_sets if clip_set.dataset is None]


def clips_folder(recipe: PreviewRecipe, clip_set: ClipSet) -> Path:
    """Where the arrays of a set of clips lie."""
    return recipe.folder / ("validation" if clip_set in recipe.validation_sets else "clips")


def _render(recipe, clip_set, ranks, only):
    render_clips(clips_folder(recipe, clip_set), clip_set, recipe.num_textures,
                 _texture_seed(recipe, clip_set), ranks.rank, ranks.size, samples=recipe.samples, only=only)


def _texture_seed(recipe: PreviewRecipe, clip_set: ClipSet) -> int:
    """Validation clips have textures of their own."""
    return recipe.texture_seed + (clip_set in recipe.validation_sets)
