# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``das-server models`` does, for models and for estimators alike: add, pull, verify, and where they are."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError

from . import checkpoint
from .checkpoint import Progress, VerifyReport
from .estimators import (
    ABOUT_NAME,
    EstimatorSpec,
    estimator_folder,
    estimator_specs,
    missing,
    own_spec,
    read_about,
    size_bytes,
)
from .registry import MANIFEST_NAME, model_path, model_specs, place_for

WEIGHT_SUFFIXES = (".json", ".safetensors", ".onnx", ".txt", ".model", ".md", ".pt", ".jinja")
"""Endings of the files that belong to an estimator; others are left behind."""


@dataclass(frozen=True)
class EstimatorStatus:
    """One line of ``das-server models list``.  ``remedy``: what to do where it is not installed."""

    spec: EstimatorSpec
    installed: bool
    size_bytes: int
    remedy: str


def list_estimators(models_folder: Path | None = None) -> list[EstimatorStatus]:
    """Every known estimator, installed or not."""
    found = []
    for spec in estimator_specs(models_folder).values():
        remedy = missing(spec, models_folder)
        found.append(EstimatorStatus(spec, not remedy, 0 if remedy else size_bytes(spec, models_folder), remedy))
    return found


def path_of(name: str, models_folder: Path | None = None) -> Path:
    """Where a model's or an estimator's files are, or would have to be.  Raises `ModelError`."""
    return (
        estimator_folder(name, models_folder)
        if name in estimator_specs(models_folder)
        else model_path(name, models_folder)
    )


def add(name: str, source: str | Path, models_folder: Path | None = None, *, progress: Progress | None = None) -> Path:
    """`checkpoint.add_model`, or the same for the weights of an estimator: one of the table, or, for a folder with an
    `ABOUT_NAME`, one of its own.  Raises `ModelError`.
    """
    source = Path(source).expanduser().absolute()
    specs = estimator_specs(models_folder)
    if name not in specs and not (source / ABOUT_NAME).is_file():
        return checkpoint.add_model(name, source, models_folder, progress=progress)
    if not source.is_dir():
        raise ModelError(f"There is no folder {source}.")
    if name in model_specs(models_folder):
        raise ModelError(f"{name} is a model and no estimator; choose another name.", field="model")
    if name in specs:
        spec = _with_folder(specs[name])
    else:
        place_for(name, models_folder)
        spec = own_spec(name, source / ABOUT_NAME)
    _check(spec, source)
    target = checkpoint.free_target(estimator_folder(name, models_folder))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    files = weight_files_of(source)
    total, done = sum((source / path).stat().st_size for path in files), 0
    try:
        for path in files:
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, temporary / path)
            done += (source / path).stat().st_size
            if progress:
                progress("copy", done, total)
        _finish(spec, temporary, target, progress, {})
    except OSError as error:
        raise ModelError(f"{source} cannot be copied to {target}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def pull(name: str, revision: str, models_folder: Path | None = None, *, progress: Progress | None = None) -> Path:
    """`checkpoint.pull_model`, or the same for an estimator of the table.  Raises `ModelError`."""
    specs = estimator_specs(models_folder)
    if name not in specs:
        return checkpoint.pull_model(name, revision, models_folder, progress=progress)
    spec = specs[name]
    if not spec.repository:
        raise ModelError(f"{name} has no weights to pull. {missing(spec, models_folder) or 'It is installed.'}")
    commits = revisions_of(spec, revision)
    target = checkpoint.free_target(estimator_folder(name, models_folder))
    temporary = target.with_name(f".{target.name}.pull")  # kept on failure: the next attempt goes on from there
    by_hand = (
        f"On a machine that reaches {spec.repository}, download {', '.join(spec.files)} of it and run here: das-server "
        f"models add {name} FOLDER"
    )
    about: dict[str, Any] = {"repository": spec.repository}
    about["commit"] = checkpoint.fetch(spec.repository, commits[0], temporary, spec.files, by_hand)
    for (part, repository, patterns), commit in zip(spec.parts, commits[1:], strict=True):
        fetched = checkpoint.fetch(repository, commit, temporary / part, patterns, by_hand)
        about.setdefault("parts", {})[part] = {"repository": repository, "commit": fetched}
    shutil.rmtree(temporary / ".cache", ignore_errors=True)
    _check(spec, temporary)
    try:
        _finish(spec, temporary, target, progress, {"source": about})
    except OSError as error:
        raise ModelError(f"{temporary} cannot be moved to {target}: {error}.") from error
    return target


def revisions_of(spec: EstimatorSpec, revision: str) -> list[str]:
    """The revision of each repository of an estimator, ``revision`` with commas between them.  Raises `ModelError`."""
    repositories = [spec.repository, *(repository for _, repository, _ in spec.parts)]
    commits = [one.strip() for one in revision.split(",")] if revision else []
    if len(commits) != len(repositories) or not all(commits):
        wanted = ",".join(["COMMIT"] * len(repositories))
        raise ModelError(
            f"Pulling {spec.name} needs a revision{' of each of its repositories' if spec.parts else ''}: das-server "
            f"models pull {spec.name} --revision {wanted}, with the commit of {' and of '.join(repositories)} that you "
            f"want ({spec.licence})."
        )
    return commits


def verify(name: str, models_folder: Path | None = None, *, progress: Progress | None = None) -> VerifyReport:
    """Compare the files of a model or an estimator with their digests.  Raises `ModelError`."""
    specs = estimator_specs(models_folder)
    if name not in specs:
        return checkpoint.verify_model(name, models_folder, progress=progress)
    folder = estimator_folder(name, models_folder)
    if not specs[name].has_weights:
        raise ModelError(f"{name} has no weights of its own to compare with.")
    if not folder.is_dir():
        raise ModelError(missing(specs[name], models_folder))
    return checkpoint.verify_folder(folder, progress=progress, files=weight_files_of(folder))


def weight_files_of(folder: Path) -> list[Path]:
    """The files of an estimator, relative to ``folder``, sorted."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = [path for path in paths if any(part.startswith(".") for part in path.parts)]
    return sorted(
        path for path in paths if path.suffix in WEIGHT_SUFFIXES and path.name != MANIFEST_NAME and path not in hidden
    )


def _with_folder(spec: EstimatorSpec) -> EstimatorSpec:
    if not spec.has_weights:
        raise ModelError(f"{spec.name} has no weights of its own to be added.", field="model")
    return spec


def _check(spec: EstimatorSpec, folder: Path) -> None:
    """Raise `ModelError` unless ``folder`` is what the runtime reads, by the look of it; nothing is loaded."""
    if spec.runtime == "onnx":
        said = read_about(folder / ABOUT_NAME)
        file = said.get("file")
        if not isinstance(file, str) or not (folder / file).is_file():
            raise ModelError(f"{folder / ABOUT_NAME} names the file {file!r}, which is not beside it.")
        return
    needed = {"moge": ["model.pt"], "z_image": ["model_index.json", "controlnet/config.json"]}
    needed |= {"depth_anything": ["config.json", "preprocessor_config.json", "*.safetensors"]}
    needed |= dict.fromkeys(("sam2", "sam2_video"), ["config.json", "*.safetensors"])
    needed |= {"tapnext": list(spec.files)}
    for pattern in needed[spec.runtime]:
        if not any(folder.glob(pattern)):
            raise ModelError(f"{folder} is not a folder of {spec.label}: it has no {pattern}.")
    if spec.runtime not in ("moge", "tapnext") and not any(folder.rglob("*.safetensors")):
        raise ModelError(f"{folder} has no weights as safetensors, which alone are read.")


def _finish(spec: EstimatorSpec, folder: Path, target: Path, progress: Progress | None, about: dict[str, Any]) -> None:
    """Side-car and manifest into ``folder``, which then is the estimator."""
    side_car = folder / ABOUT_NAME
    said = read_about(side_car) if side_car.is_file() else {}
    said |= {"kind": spec.kind, "runtime": spec.runtime, "licence": spec.licence, "label": spec.label}
    side_car.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    checkpoint.write_manifest(folder, progress=progress, about=about, files=weight_files_of(folder))
    os.replace(folder, target)
