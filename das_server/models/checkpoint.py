# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole checkpoints: their files and digests; adding them to the models folder, fetching them.

Never imports torch at module level.  What ``das-server models`` calls is listed at the head of `registry`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError

from .adapters import add_adapter
from .families import family_of_folder, model_family
from .registry import (
    BASE_OF_OWN_MODELS,
    COMPONENTS,
    MANIFEST_NAME,
    ModelSpec,
    default_models_folder,
    is_installed,
    model_path,
    model_spec,
    place_for,
)
from .tensors import read_component_config, read_tensor_shapes, weight_files

CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".md")
"""Endings of the files that belong to a checkpoint; others are left behind by `add_model`."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers that say something of this machine's disk and nothing of the network."""

Progress = Callable[[str, int, int], None]
"""Told (what, bytes done, bytes in all)."""


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify_model`: ``num_files`` and ``size_bytes`` were read and agree with the manifest."""

    folder: Path
    num_files: int
    size_bytes: int


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, relative to ``folder``, sorted.

    Raises `ModelError` when it is no checkpoint, or when a component has its weights in a pickle format only.
    """
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} is not a model folder: it has no model_index.json.")
    _check_index(folder / "model_index.json")
    files = [folder / "model_index.json"]
    for component in COMPONENTS:
        part = folder / component
        if not part.is_dir():
            raise ModelError(f"{folder} lacks the folder {component}.")
        if component in ("transformer", "vae"):
            read_component_config(part)
            weight_files(part)
        if component == "text_encoder":
            read_component_config(part)
            weight_files(part, stem="model")
        files += [path for path in sorted(part.iterdir()) if path.is_file() and path.suffix in CHECKPOINT_SUFFIXES]
    return [path.relative_to(folder) for path in files]


def _check_index(path: Path) -> None:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}); fetch the model again.") from error
    if not isinstance(index, dict):
        raise ModelError(f"{path} is damaged (a {type(index).__name__} and not a table); fetch the model again.")


def write_manifest(
    folder: Path,
    *,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
    files: list[Path] | None = None,
) -> Path:
    """Digest every file of a checkpoint and write the manifest, ``about`` in it.

    ``about``: ``source``, where the files came from; ``model``, what `registry.model_specs` reads of a model with a
    name of its own.  ``files``: relative ones, of what is no checkpoint.  Raises `ModelError` when the folder is not a
    checkpoint or cannot be written.
    """
    files = checkpoint_files(folder) if files is None else files
    digests = _digest_files(folder, files, progress)
    entries = {
        path.as_posix(): {"sha256": digests[path], "size_bytes": (folder / path).stat().st_size} for path in files
    }
    manifest = folder / MANIFEST_NAME
    temporary = manifest.with_suffix(".tmp")
    content = {"format": 1, **(about or {}), "files": entries}
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, manifest)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ModelError(f"{manifest} cannot be written: {error}.") from error
    return manifest


def verify_folder(
    folder: Path, *, progress: Progress | None = None, files: list[Path] | None = None
) -> VerifyReport:
    """Compare every file with the manifest.  Raises `ModelError` that names the first file that differs."""
    manifest = folder / MANIFEST_NAME
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        expected = {Path(name): (str(entry["sha256"]), int(entry["size_bytes"])) for name, entry in entries.items()}
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {MANIFEST_NAME}: add the model with das-server models add.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{manifest} is damaged: {error!r}; add the model again.") from error
    for path, (_, size_bytes) in expected.items():
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(f"{manifest} is damaged: it lists {path}, which is outside the model's folder.")
        if not (folder / path).is_file():
            raise ModelError(f"{folder / path} is missing; add the model again.")
        actual = (folder / path).stat().st_size
        if actual != size_bytes:
            raise ModelError(f"{folder / path} has {actual} bytes instead of {size_bytes}; add the model again.")
    for path in checkpoint_files(folder) if files is None else files:
        if path not in expected:
            raise ModelError(
                f"{folder / path} was not there when the model was added; remove it or add the model again."
            )
    digests = _digest_files(folder, list(expected), progress)
    for path, (digest, _) in expected.items():
        if digests[path] != digest:
            raise ModelError(
                f"{folder / path} has changed since the model was added (its sha256 differs); add it again."
            )
    return VerifyReport(folder, len(expected), sum(size for _, size in expected.values()))


def verify_model(name: str, models_folder: Path | None = None, *, progress: Progress | None = None) -> VerifyReport:
    """`verify_folder` of an installed model.  Raises `ModelError`, also where there are no digests to compare with."""
    spec, folder = model_spec(name, models_folder), model_path(name, models_folder)
    if not (folder / MANIFEST_NAME).is_file():
        if spec.embedded:
            raise ModelError(f"{name} is part of this software and has no digests of its own to compare with.")
        if not folder.is_dir():
            raise ModelError(f"{name} is not installed: there is no folder {folder}.")
        raise ModelError(
            f"{folder} was put there by hand and has no {MANIFEST_NAME}: write it with das-server models add {name} "
            f"{folder}"
        )
    return verify_folder(folder, progress=progress)


def add_model(
    name: str, source: str | Path, models_folder: Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Copy a checkpoint folder into the models folder, check its tensors, write its manifest; → its folder.

    ``name``: one of the table, or a new one, for a model of the full model's kind that somebody has trained.  The model
    appears whole or not at all.  A folder that was put into its place by hand is checked and gets its manifest where it
    is.  Raises `ModelError` for a name that cannot be one, a folder that is not a whole safetensors checkpoint of the
    published layout, tensors that do not fit, or another folder that is installed under this name already.
    """
    source = Path(source).expanduser().absolute()
    if not source.is_dir():
        raise ModelError(f"There is no folder {source}.")
    place, is_own = place_for(name, models_folder)
    family = "" if is_own else model_spec(name, models_folder).family
    if source.resolve() == place.resolve() and not (source / MANIFEST_NAME).is_file():
        about = {"model": family_of_folder(source).about_own(source)} if is_own else None
        _check_all_tensors(source, family)
        write_manifest(source, progress=progress, about=about)
        return source
    target = free_target(place)
    files = checkpoint_files(source)
    about = {"model": family_of_folder(source).about_own(source)} if is_own else None
    _check_all_tensors(source, family)
    total, done = sum((source / path).stat().st_size for path in files), 0

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for path in files:
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, temporary / path)
            done += (source / path).stat().st_size
            if progress:
                progress("copy", done, total)
        write_manifest(temporary, progress=progress, about=about)
        os.replace(temporary, target)
    except OSError as error:
        raise ModelError(f"{source} cannot be copied to {target}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def pull_model(
    name: str, revision: str, models_folder: Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Fetch a model's files at one revision (commit, tag or branch) with huggingface_hub; → its folder.

    ``revision`` "": the commit that the table names for it, where it names one.

    Raises `ModelError`; when the network cannot be used, it says exactly which files to put where.
    """
    spec = model_spec(name, models_folder)
    if not spec.repository:
        origin = "is part of this software" if spec.embedded else "was added from a folder"
        raise ModelError(f"{name} {origin}; there is nothing to pull.")
    revision = revision or spec.revision
    if not revision:
        raise ModelError(
            f"Pulling {name} needs a revision: das-server models pull {name} --revision COMMIT, with the commit of "
            f"{spec.repository} that you want.\nWithout a network: {by_hand(name, models_folder)}"
        )
    target = free_target(model_path(name, models_folder))
    temporary = target.with_name(f".{target.name}.pull")  # kept on failure: the next attempt goes on from there
    commit = _fetch(spec, revision, temporary, models_folder)
    _check_all_tensors(temporary, spec.family)
    shutil.rmtree(temporary / ".cache", ignore_errors=True)
    source = {"repository": spec.repository, "commit": commit}
    write_manifest(temporary, progress=progress, about={"source": source})
    try:
        os.replace(temporary, target)
    except OSError as error:
        raise ModelError(f"{temporary} cannot be moved to {target}: {error}.") from error
    return target


def _fetch(spec: ModelSpec, revision: str, folder: Path, models_folder: Path | None) -> str:
    """Fetch the files of a checkpoint into ``folder`` → the commit that ``revision`` is.  Raises `ModelError`."""
    patterns = ["model_index.json", *(f"{part}/*{end}" for part in COMPONENTS for end in CHECKPOINT_SUFFIXES)]
    return fetch(spec.repository, revision, folder, patterns, by_hand(spec.name, models_folder))


def fetch(repository: str, revision: str, folder: Path, patterns: Sequence[str], by_hand: str) -> str:
    """Fetch the files of a repository that match ``patterns`` into ``folder`` → the commit that ``revision`` is.

    ``by_hand``: what to do without a network, in words.  Raises `ModelError`.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # By commit: for a branch, the client would take what an earlier attempt has left for the whole, offline.
        commit = HfApi().repo_info(repository, revision=revision).sha
        options = {"allow_patterns": list(patterns), "ignore_patterns": ["*.md"]}
        snapshot_download(repository, revision=commit, local_dir=str(folder), **options)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"{repository} at {revision} does not exist or is not open to you: {error}") from error
    except Exception as error:  # the client lets the errors of its HTTP library through, whichever that is
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise ModelError(f"{folder} cannot be written: {error}.") from error
        if folder.is_dir():
            raise ModelError(
                f"The download of {repository} broke off: run the same command again, and it goes on from there. "
                f"{by_hand}",
                detail=str(error),
            ) from error
        raise ModelError(f"{repository} cannot be reached from here. {by_hand}", detail=str(error)) from error
    return commit


def by_hand(name: str, models_folder: Path | None = None) -> str:
    """How to install a model's files by hand, with every file's name and place."""
    spec, folder = model_spec(name), model_path(name, models_folder)
    listing = "\n".join(f"  {file}" for file in spec.files)
    at = f" at the commit {spec.revision}" if spec.revision else ""
    return (
        f"On a machine that reaches {spec.repository}, download its files{at}, and put them here:\n"
        f"{folder}\n{listing}\nor put them anywhere and run: das-server models add {name} FOLDER"
    )


def free_target(target: Path) -> Path:
    """``target``, the folder of a new model, which must not exist yet; its parent is made."""
    if target.exists():
        raise ModelError(f"{target} exists already: remove it first.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{target.parent} cannot be made: {error}.") from error
    return target


def _check_all_tensors(folder: Path, wanted: str = "") -> None:
    """Compare transformer and VAE with their configurations, and see that the text encoder is whole; nothing is
    loaded.  ``wanted``: the family that it has to be of, "" for any."""
    family = family_of_folder(folder)
    if wanted not in ("", family.name):
        raise ModelError(f"{folder} holds a model of the family {family.name}, but one of {wanted} belongs there.")
    family.check_tensors(folder)  # torch: only when it is needed
    for file in weight_files(folder / "text_encoder", stem="model"):
        read_tensor_shapes(file)


def _digest_files(folder: Path, files: list[Path], progress: Progress | None) -> dict[Path, str]:
    """sha256 of each file, several at a time (hashing releases the interpreter)."""
    total = sum((folder / path).stat().st_size for path in files)
    done = 0

    def digest(path: Path) -> str:
        try:
            with (folder / path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{folder / path} cannot be read: {error}.") from error

    digests = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for path, value in zip(files, pool.map(digest, files), strict=True):
            digests[path] = value
            done += (folder / path).stat().st_size
            if progress:
                progress("digest", done, total)
    return digests


def add_lora(name: str, file: Path, model: str = BASE_OF_OWN_MODELS, models_folder: Path | None = None) -> Path:
    """Install a LoRA file as ``name``, for ``model``; compared with that model's tensors where it is installed.

    Raises `ModelError` for a name or file that cannot be used.
    """
    folder = models_folder or default_models_folder()
    spec = model_spec(model, folder)
    if not model_family(spec.family).takes_loras:
        raise ModelError(f"{model} takes no LoRAs.", field="model")
    if not file.is_file() or file.suffix != ".safetensors":
        raise ModelError(f"{file} is not a safetensors file.", field="file")
    layers: dict[str, tuple[int, ...]] | None = None
    if is_installed(model_path(model, folder)):
        layers = {}
        for part in weight_files(model_path(model, folder) / "transformer"):
            layers |= read_tensor_shapes(part)
    return add_adapter(name, file, model, folder, layers=layers).path
