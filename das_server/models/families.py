# SPDX-License-Identifier: GPL-3.0-or-later
"""The families of models: which clips they make, and what their checkpoints look like.  Never imports torch.

What computes them is found by the same names in `pipeline.families`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from das_blender_addon.errors import ModelError

from .lean import lean_imports


@dataclass(frozen=True)
class ModelFamily:
    """``frame_step``: clips have n·frame_step + 1 frames, n from 1 on.  ``most_frames``: of a clip.  ``checkpoint``:
    the module that knows its checkpoints (`check_tensors`, `about_own`).  ``transformer_classes``: what the class of
    its transformer may be called in a checkpoint; () for any.  ``takes_loras``: whether there are adapters for it.
    ``speeds``: how its clips can be made, exactly or with something left out.
    """

    name: str
    frame_step: int
    most_frames: int
    checkpoint: str
    transformer_classes: tuple[str, ...] = ()
    takes_loras: bool = False
    speeds: tuple[str, ...] = ("exact",)

    @property
    def num_frames(self) -> tuple[int, ...]:
        """The lengths of its clips, increasing."""
        return tuple(range(self.frame_step + 1, self.most_frames + 1, self.frame_step))

    def makes_num_frames(self, count: int) -> bool:
        """Whether a clip of so many frames fills whole latent frames."""
        return count > 1 and count % self.frame_step == 1

    def check_tensors(self, folder: Path) -> None:
        """Compare the tensors of a checkpoint with its configurations; nothing is loaded.  Raises `ModelError`."""
        self._checkpoint().check_tensors(folder)

    def about_own(self, folder: Path) -> dict[str, Any]:
        """What the manifest of a model with a name of its own says of it: ``based_on``, ``num_frames``, ``sizes``.

        Raises `ModelError` for a clip that the pipeline could not make."""
        return self._checkpoint().about_own(folder)

    def _checkpoint(self) -> ModuleType:
        with lean_imports(compiler=False):  # a command that only looks at files needs no more, and ends
            return importlib.import_module(self.checkpoint)


_FAMILIES = (
    ModelFamily("cogvideox", frame_step=8, most_frames=49, checkpoint="das_server.models.cogvideox", takes_loras=True,
        speeds=("exact", "fast", "preview"),
    ),
    ModelFamily(
        "wan-vace",
        frame_step=4,
        most_frames=81,
        checkpoint="das_server.models.wan_vace",
        transformer_classes=("WanVACETransformer3DModel",),
    ),
)


def model_family(name: str) -> ModelFamily:
    """One family.  Raises `ModelError` that names those there are."""
    families = {family.name: family for family in _FAMILIES}
    if name not in families:
        raise ModelError(f"There is no model family {name!r}; known are {', '.join(families)}.", field="model")
    return families[name]


def family_of_folder(folder: Path) -> ModelFamily:
    """The family of a checkpoint, by what its transformer's configuration calls itself."""
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
        class_name = config.get("_class_name")
    except (OSError, ValueError, AttributeError):
        class_name = None  # what is wrong with it is said by whoever reads the folder
    for family in _FAMILIES:
        if class_name in family.transformer_classes:
            return family
    return _FAMILIES[0]
