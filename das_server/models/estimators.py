# SPDX-License-Identifier: GPL-3.0-or-later
"""Which estimators there are, as a table, and what is installed.  No torch, no OpenCV: the front door reads it.

An estimator measures a picture or a clip.  Some need a library only, others weights: a folder below the models folder
with an `ABOUT_NAME` beside them, which ``das-server models add`` writes or, for an estimator of one's own, reads.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.messages import EstimatorCapability

from .registry import MANIFEST_NAME, OWN_NAME, default_models_folder

ABOUT_NAME = "estimator.json"
"""The side-car of an estimator's weights: `EstimatorSpec`'s kind, runtime, label and licence, and what the runtime
reads."""

GIVES: Mapping[str, tuple[str, ...]] = {
    "tracks": ("tracks", "visible"),
    "cuts": ("cuts", "difference"),
    "mask": ("mask",),
    "clip_mask": ("masks",),
    "salient": ("mask",),
    "depth": ("depth", "valid", "lens_mm", "meaning"),
    "background": ("picture",),
    "repaint": ("picture",),
    "adherence": ("error",),
}
"""Kind → the arrays that every estimator of it makes."""

OWN_RUNTIMES = {
    "onnx": ("depth", "salient"),
    "depth_anything": ("depth",),
    "sam2": ("mask",),
    "sam2_video": ("clip_mask",),
    "z_image": ("repaint",),
}
"""Runtime → kinds of the estimators that can be added under a name of one's own."""

PACKAGES = {
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "moge": "git+https://github.com/microsoft/MoGe",
    "tapnet": "git+https://github.com/google-deepmind/tapnet",
    "torchvision": "torchvision",
}
"""Module that an estimator imports → what pip installs it by."""


@dataclass(frozen=True)
class EstimatorSpec:
    """All that is known of an estimator without opening its files.

    ``runtime``: the module of `das_server.estimators` that runs it.  ``needs``: modules that must be importable.
    ``has_weights``: it needs a folder of its own.  ``wheel``: a file in a package that holds its weights, instead of
    the folder: (module, file).  ``repository``, ``files``: where the weights come from, and patterns of what is taken.
    ``parts``: (folder, repository, patterns) of what else is.  ``download``: where weights that are in no repository
    are.
    """

    name: str
    kind: str
    label: str
    licence: str
    runtime: str
    needs: tuple[str, ...] = ()
    has_weights: bool = False
    wheel: tuple[str, str] = ("", "")
    repository: str = ""
    files: tuple[str, ...] = ()
    parts: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    download: str = ""


_TRANSFORMERS_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
_SPECS = (
    EstimatorSpec(
        "tapnext-pp", "tracks", "TAPNext++: points through a clip", "Apache-2.0", "tapnext", ("tapnet", "torchvision"),
        has_weights=True, files=("tapnextpp_ckpt.pt",),
        download="https://storage.googleapis.com/dm-tapnet/tapnextpp/tapnextpp_ckpt.pt",
    ),
    EstimatorSpec("dis-flow", "tracks", "Optical flow (OpenCV DIS)", "Apache-2.0", "tracks", ("cv2",)),
    EstimatorSpec("cuts", "cuts", "Cuts by colour and motion", "GPL-3.0-or-later", "cuts", ("cv2",)),
    EstimatorSpec(
        "dis-adherence", "adherence", "How far a clip is from its animation (OpenCV DIS)", "Apache-2.0", "adherence",
        ("cv2",),
    ),
    EstimatorSpec(
        "sam2.1-small", "mask", "SAM 2.1 small: box and clicks", "Apache-2.0", "sam2",
        has_weights=True, repository="facebook/sam2.1-hiera-small",
        files=(*_TRANSFORMERS_FILES, "processor_config.json"),
    ),
    EstimatorSpec(
        "sam2.1-small-clip", "clip_mask", "SAM 2.1 small: box and clicks, through a clip", "Apache-2.0", "sam2_video",
        has_weights=True, repository="facebook/sam2.1-hiera-small",
        files=(*_TRANSFORMERS_FILES, "processor_config.json"),
    ),
    EstimatorSpec("grabcut", "mask", "GrabCut: box, lasso, point (OpenCV)", "Apache-2.0", "masks", ("cv2",)),
    EstimatorSpec(
        "u2netp", "salient", "U²-Net small: what stands out", "Apache-2.0 (the wheel: MIT)", "onnx",
        ("onnxruntime", "cv2"), wheel=("rembg", "u2netp.onnx"),
    ),
    EstimatorSpec(
        "moge-2", "depth", "MoGe-2: metric depth and lens", "MIT", "moge", ("moge",),
        has_weights=True, repository="Ruicheng/moge-2-vitl-normal", files=("model.pt",),
    ),
    EstimatorSpec(
        "depth-anything-v2-small", "depth", "Depth Anything V2 small: depth without a scale", "Apache-2.0",
        "depth_anything",
        has_weights=True, repository="depth-anything/Depth-Anything-V2-Small-hf", files=_TRANSFORMERS_FILES,
    ),
    EstimatorSpec("telea", "background", "Inpainting (OpenCV Telea)", "Apache-2.0", "background", ("cv2",)),
    EstimatorSpec(
        "z-image-control", "repaint", "Z-Image Turbo with control", "Apache-2.0", "z_image",
        has_weights=True, repository="Tongyi-MAI/Z-Image-Turbo",
        files=("model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.jinja"),
        parts=(("controlnet", "hlky/Z-Image-Turbo-Fun-Controlnet-Union", ("config.json", "*.safetensors")),),
    ),
)  # fmt: skip


def estimator_specs(models_folder: Path | None = None) -> dict[str, EstimatorSpec]:
    """Every estimator by name: those of the table, then those that were added under names of their own."""
    specs = {spec.name: spec for spec in _SPECS}
    for about in sorted((models_folder or default_models_folder()).glob(f"*/{ABOUT_NAME}")):
        name = about.parent.name
        if name not in specs and OWN_NAME.fullmatch(name) and (about.parent / MANIFEST_NAME).is_file():
            try:
                specs[name] = own_spec(name, about)
            except ModelError:
                continue
    return specs


def estimator_spec(name: str, models_folder: Path | None = None) -> EstimatorSpec:
    """One estimator.  Raises `ModelError` that names those there are."""
    specs = estimator_specs(models_folder)
    if name not in specs:
        raise ModelError(f"There is no estimator {name[:80]!r}; known are {', '.join(specs)}.", field="model")
    return specs[name]


def own_spec(name: str, about: Path) -> EstimatorSpec:
    """What the side-car ``about`` says of an estimator.  Raises `ModelError` for one that says nothing usable."""
    said = read_about(about)
    kind, runtime = said.get("kind"), said.get("runtime")
    if runtime not in OWN_RUNTIMES or kind not in OWN_RUNTIMES[runtime]:
        valid = "; ".join(f"{runtime} with {' or '.join(kinds)}" for runtime, kinds in OWN_RUNTIMES.items())
        raise ModelError(f"{about} says the runtime {runtime!r} with the kind {kind!r}; valid are {valid}.")
    licence = said.get("licence")
    if not isinstance(licence, str) or not licence:
        raise ModelError(f'{about} names no licence; write the one of the weights: "licence": "MIT".')
    needs = ("onnxruntime", "cv2") if runtime == "onnx" else ()
    label = str(said.get("label") or f"{name} (added)")[:200]
    return EstimatorSpec(name, kind, label, licence[:200], runtime, needs, has_weights=True)


def read_about(path: Path) -> dict[str, Any]:
    """The side-car of an estimator.  Raises `ModelError`."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); write it again.") from error
    if not isinstance(said, dict):
        raise ModelError(f"{path} is damaged (a {type(said).__name__} and not a table); write it again.")
    return said


def estimator_folder(name: str, models_folder: Path | None = None) -> Path:
    """Where an estimator's weights are, or would have to be put."""
    return (models_folder or default_models_folder()) / name


def weights_in_wheel(spec: EstimatorSpec) -> Path | None:
    """The file of weights that an installed package brings, or None."""
    module, file = spec.wheel
    try:
        found = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found is not None else None
    return next((Path(place) / file for place in places or () if (Path(place) / file).is_file()), None)


def missing(spec: EstimatorSpec, models_folder: Path | None = None) -> str:
    """What to do before an estimator can be used, in one sentence; "" where nothing is missing."""
    absent = [name for name in spec.needs if not _is_importable(name)]
    if spec.wheel[0] and weights_in_wheel(spec) is None:
        return f"{spec.name} is not installed on the server: pip install 'diffusion-as-shader[{spec.kind}]' there."
    if absent:
        words = " ".join(PACKAGES[name] for name in absent)
        return f"{spec.name} is not installed on the server: pip install {words} there."
    folder = estimator_folder(spec.name, models_folder)
    if spec.has_weights and not ((folder / ABOUT_NAME).is_file() and (folder / MANIFEST_NAME).is_file()):
        if spec.download:
            return (
                f"The weights of {spec.name} ({spec.licence}) are not on the server: get {spec.download} and run "
                f"das-server models add {spec.name} with the folder that it lies in."
            )
        return (
            f"The weights of {spec.name} ({spec.licence}) are not on the server: das-server models pull {spec.name} "
            f"--revision COMMIT gets them there, or das-server models add {spec.name} FOLDER."
        )
    return ""


def size_bytes(spec: EstimatorSpec, models_folder: Path | None = None) -> int:
    """Bytes of an installed estimator's weights, 0 for none."""
    wheel = weights_in_wheel(spec)
    if wheel is not None:
        return wheel.stat().st_size
    folder = estimator_folder(spec.name, models_folder)
    if not spec.has_weights or not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def capabilities_of_estimators(models_folder: Path | None = None) -> dict[str, EstimatorCapability]:
    """What a server says of all its estimators, by name; of each kind, the default first."""
    capabilities = {}
    for spec in estimator_specs(models_folder).values():
        remedy = missing(spec, models_folder)
        capabilities[spec.name] = EstimatorCapability(
            name=spec.name,
            kind=spec.kind,
            label=spec.label,
            licence=spec.licence,
            installed=not remedy,
            size_bytes=0 if remedy else size_bytes(spec, models_folder),
            remedy=remedy,
            gives=list(GIVES[spec.kind]),
        )
    return capabilities


def estimator_names() -> set[str]:
    """The estimators that everybody knows, without those with a name of their own."""
    return {spec.name for spec in _SPECS}


def is_without_weights(name: str) -> bool:
    """Whether an estimator of the table runs on any machine, a GPU or not."""
    return any(spec.name == name and not spec.has_weights for spec in _SPECS)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
