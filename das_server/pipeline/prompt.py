# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompt → prompt embeds, kept on disk so that a text is encoded once per model; by a T5 encoder of some kind.

The text encoder is read when a text is not known yet and let go right after.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from das_blender_addon.errors import ModelError

from ..models.lean import of_transformers
from ..models.registry import default_models_folder
from ..models.tensors import converted_bytes, read_tensor_shapes, weight_files
from .base import LoadedModel
from .streaming import StreamedBlocks

log = logging.getLogger(__name__)

STORED_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""What safetensors calls a dtype."""

_WHOLE_BYTES = 1 << 20
"""Files up to twice this are digested whole, larger ones by both ends, size and time of change."""


class PromptCache:
    """A folder of prompt embeds, one safetensors file per (model, text, dtype, device kind)."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def get(self, key: str) -> torch.Tensor | None:
        """The embeds [1,L,D] stored under ``key``, on the CPU; None when there are none or the file is damaged."""
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            return load_file(path)["prompt_embeds"]
        except Exception as error:  # any damage means: encode again
            log.warning("The cached prompt %s is damaged and will be made anew: %s", path, error)
            return None

    def put(self, key: str, prompt_embeds: torch.Tensor) -> None:
        """Keep embeds; a disk that refuses costs only time later, so it is logged and not raised."""
        path = self.folder / f"{key}.safetensors"
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"prompt_embeds": prompt_embeds.contiguous().cpu()}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            log.warning("The prompt cannot be cached in %s: %s", self.folder, error)
            with contextlib.suppress(OSError):
                temporary.unlink()


class PromptEncoder:
    """The text side of one checkpoint folder: its tokenizer, its text encoder when needed, and the cache.

    A family says in a class of its own which classes these are, and what becomes of a text: `embeds`.
    """

    tokenizers: tuple[str, ...] = ()
    """Tokenizer classes that a checkpoint's ``model_index.json`` may name."""
    encoder_class: str = ""
    """The class of transformers that the text encoder is."""

    def __init__(self, folder: Path, max_length: int, dtype: torch.dtype, cache: PromptCache | None = None):
        self.folder = Path(folder)
        self.max_length = max_length
        self.dtype = dtype
        self.cache = cache
        self.model: torch.nn.Module | None = None
        self.keep_loaded = False
        self.offload = False
        self._streamed: StreamedBlocks | None = None
        self._tokenizer: Any = None
        self._fingerprint: str | None = None

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer.  Raises `ModelError` when it cannot be read."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.folder, self.tokenizers)
        return self._tokenizer

    def embeds(self, text: str, device: torch.device) -> torch.Tensor:
        """Text → prompt embeds [1, max_length, D] on ``device``, by the loaded text encoder."""
        raise NotImplementedError

    def encode(self, texts: list[str], device: torch.device) -> list[torch.Tensor]:
        """Texts → prompt embeds [1, max_length, D] each, on ``device``.  Each text is encoded alone, so neighbours do
        not matter."""
        keys = [self.key(text, device) for text in texts]
        found = [self.cache.get(key) if self.cache else None for key in keys]
        for index, text in enumerate(texts):
            if found[index] is None:
                found[index] = self._encode_one(text, device)
                if self.cache:
                    self.cache.put(keys[index], found[index])
        if not self.keep_loaded:
            self.unload()
        return [embeds.to(device=device, dtype=self.dtype) for embeds in found]

    def is_cached(self, texts: list[str], device: torch.device) -> bool:
        """Whether `encode` could answer without the text encoder."""
        return self.cache is not None and all(self.cache.get(self.key(text, device)) is not None for text in texts)

    def size_bytes(self) -> int:
        """Bytes of the text encoder's weights in the dtype it runs in, from the files' headers."""
        files = weight_files(self.folder / "text_encoder", stem="model")
        shapes = [shape for file in files for shape in read_tensor_shapes(file).values()]
        return self.dtype.itemsize * sum(math.prod(shape) for shape in shapes)

    def converted_bytes(self) -> int:
        """What the weights take of the host while they come block by block: nothing where the files have the dtype."""
        folder, name = self.folder / "text_encoder", STORED_NAMES.get(self.dtype)
        return converted_bytes(folder, self.dtype.itemsize, name, stem="model")

    def unload(self) -> None:
        """Let the text encoder go."""
        if self.model is not None:
            self.model = self._streamed = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def key(self, text: str, device: torch.device) -> str:
        """Hex digest of all that decides the embeds: encoder's and tokenizer's files, length, dtype, device, text."""
        if self._fingerprint is None:
            self._fingerprint = _fingerprint(self.folder)
        parts = [self._fingerprint, str(self.max_length), str(self.dtype), device.type, text]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @torch.no_grad()
    def _encode_one(self, text: str, device: torch.device) -> torch.Tensor:
        if self.model is None:
            model = load_text_encoder(self.folder, self.dtype, self.encoder_class)
            self.model = self._placed(model, device)
        return self.embeds(text, device).to(self.dtype)

    def _placed(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        if not self.offload:
            return model.to(device)
        # Once per text: from the files as they are mapped, so that the machine's own memory holds none of it for good.
        units = [(block,) for block in model.encoder.block]
        self._streamed = StreamedBlocks(model, units, device, slabs=False)
        return model


def encode_texts(model: LoadedModel, texts: list[str]) -> list[torch.Tensor]:
    """Texts → prompt embeds [1,L,D] each; where the profile asks for it, the rest of the model makes room meanwhile."""
    encoder, device = model.prompt_encoder, model.device
    makes_room = model.profile == "drop_text_encoder" and device.type != "cpu"
    if not makes_room or encoder.is_cached(texts, device):
        return encoder.encode(texts, device)
    model.transformer.to("cpu")
    model.vae.to("cpu")
    torch.cuda.empty_cache()
    try:
        return encoder.encode(texts, device)
    finally:
        model.transformer.to(device)
        model.vae.to(device)


def default_prompt_cache() -> Path:
    """Where prompt embeds are kept unless somebody says otherwise: beside the models folder."""
    return default_models_folder().parent / "prompt_embeds"


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Inside, the libraries' loaders draw no bars on stderr."""
    restore = []
    for name in ("diffusers.utils.logging", "transformers.utils.logging"):
        library = sys.modules.get(name)  # one that is not imported draws nothing
        if library is not None and library.is_progress_bar_enabled():
            library.disable_progress_bar()
            restore.append(library.enable_progress_bar)
    try:
        yield
    finally:
        for enable in restore:
            enable()


class _NoDraws(TorchFunctionMode):
    """Inside, nothing is drawn for a tensor that has no values, to which end PyTorch would import its compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.nn.init.normal_, torch.Tensor.normal_):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


def load_tokenizer(folder: Path, known: tuple[str, ...]) -> Any:
    """The tokenizer of a checkpoint, of one of the ``known`` classes of transformers.  Raises `ModelError`."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        name = index["tokenizer"][1]
        if name not in known:
            raise ModelError(f"{folder} names the tokenizer {name!r}; known are {', '.join(known)}.")
        return of_transformers(name).from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, IndexError, ImportError) as error:
        raise ModelError(f"The tokenizer in {folder / 'tokenizer'} cannot be read: {error}") from error


def load_text_encoder(folder: Path, dtype: torch.dtype, class_name: str) -> torch.nn.Module:
    """The text encoder of a checkpoint, a class of transformers, in eval mode.  Raises `ModelError`."""
    path = folder / "text_encoder"
    for file in weight_files(path, stem="model"):
        read_tensor_shapes(file)  # a cut file is named here
    try:
        with no_progress_bars(), _NoDraws():
            model, report = of_transformers(class_name).from_pretrained(
                str(path), dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"The text encoder in {path} cannot be loaded: {error}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            raise ModelError(
                f"The text encoder in {path} has {problem.replace('_', ' ')}: {sorted(map(str, report[problem]))[0]}."
            )
    return model.eval()


def _fingerprint(folder: Path) -> str:
    """Digest of the text encoder's and tokenizer's files, cheap for large ones."""
    digest = hashlib.sha256()
    for path in sorted([*(folder / "text_encoder").glob("*"), *(folder / "tokenizer").glob("*")]):
        if not path.is_file():
            continue
        stat = path.stat()
        digest.update(f"{path.parent.name}/{path.name}\0{stat.st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_WHOLE_BYTES))
            if stat.st_size > 2 * _WHOLE_BYTES:
                digest.update(str(stat.st_mtime_ns).encode())
                file.seek(-_WHOLE_BYTES, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()
