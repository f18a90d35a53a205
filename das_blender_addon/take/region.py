# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of a take made anew: a mask that follows its surface through the shot, and the frames of another take inside.
No Blender in here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..client.files import write_whole
from ..errors import JobCancelled, SettingsError, StorageError
from ..protocol.png import blob_sha, decode_png, encode_png
from ..shot.resolved import ResolvedSettings
from ..tracking.correspondences import correspondences
from ..tracking.geometry import GeometrySequence
from ..tracking.moments import moments
from .cache import Take, load_take, read_json, take_of

REGION = 1
"""Version of how regions are put into takes: another one makes them anew."""


@dataclass(frozen=True)
class Region:
    """What is made anew: ``mask`` [H,W] bool at the render's size, drawn at the Blender frame ``frame``; or all of the
    object ``name``, wherever it is seen.
    """

    frame: int = 0
    mask: np.ndarray | None = None
    name: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of it."""
        if self.mask is None:
            return hashlib.sha256(f"object {self.name}".encode()).hexdigest()
        shape = f"mask {self.frame} {self.mask.shape} ".encode()
        return hashlib.sha256(shape + np.packbits(self.mask).tobytes()).hexdigest()


class Masks:
    """One [H,W] bool for each frame of a shot, kept as bits."""

    def __init__(self, masks: Iterator[np.ndarray]):
        self._bits, self._seen, self._shape = [], [], (0, 0)
        for mask in masks:
            self._shape = mask.shape
            self._bits.append(np.packbits(mask))
            self._seen.append(bool(mask.any()))

    def at(self, index: int) -> np.ndarray:
        """That of the frame ``index``, from 0 on."""
        count = self._shape[0] * self._shape[1]
        return np.unpackbits(self._bits[index], count=count).reshape(self._shape).astype(bool)

    def is_seen(self, index: int) -> bool:
        """Whether the frame ``index`` shows anything of it."""
        return self._seen[index]

    def __len__(self) -> int:
        return len(self._bits)


def region_masks(
    region: Region, geometry: GeometrySequence, frames: Sequence[int], *, should_stop: Callable[[], bool] | None = None
) -> Iterator[np.ndarray]:
    """Where each of the Blender ``frames`` of ``geometry`` shows ``region``: [H,W] bool.

    A mask is followed point by point: what its frame did not see is not in it.  Raises `SettingsError` for a frame or
    object that the shot does not have, and for a mask of another size; `JobCancelled`.
    """
    shape = (geometry.cameras.height, geometry.cameras.width)
    if region.mask is None:
        yield from _object_masks(region.name, geometry, len(frames), should_stop)
        return
    check_mask(region, shape, frames)
    drawn = list(frames).index(region.frame)
    for found in correspondences(geometry, [drawn], background=True, should_stop=should_stop):
        if found.index == drawn:
            yield region.mask
            continue
        seen = found.visible[0]
        across, down = (found.xy[0][..., axis][seen].astype(int) for axis in (0, 1))
        inside = np.zeros(shape, bool)
        inside[seen] = region.mask[np.clip(down, 0, shape[0] - 1), np.clip(across, 0, shape[1] - 1)]
        yield inside


def check_mask(region: Region, shape: tuple[int, int], frames: Sequence[int]) -> None:
    """Raise `SettingsError` where the mask of ``region`` is of no frame of ``frames``, not of ``shape`` (height, width;
    pixels) or empty."""
    if region.mask is None:
        return
    if region.frame not in frames:
        raise SettingsError(f"The mask is of frame {region.frame}, which is not in the take.", field="mask")
    if region.mask.shape != tuple(shape):
        height, width = region.mask.shape
        raise SettingsError(
            f"The mask has {width}×{height} pixels and the take {shape[1]}×{shape[0]}: draw it on a frame of the take.",
            field="mask",
        )
    if not region.mask.any():
        raise SettingsError("The mask is black all over: paint white what is to be made anew.", field="mask")


def _object_masks(name: str, geometry: GeometrySequence, count: int, should_stop) -> Iterator[np.ndarray]:
    if name not in geometry.names:
        there = ", ".join(map(repr, sorted(set(geometry.names))[:20]))
        raise SettingsError(f"The take tracks no object {name!r}; there are {there}.", field="mask")
    owners = [place for place, one in enumerate(geometry.names) if one == name]
    for moment in moments(geometry, range(count), should_stop=should_stop):
        yield np.isin(moment.objects, owners)


def settings_inside(
    settings: ResolvedSettings, base: Take, masks: Masks, *, seed: int, prompt: str = ""
) -> ResolvedSettings:
    """``settings``, that ``base`` was made with, with another ``seed`` (and ``prompt``, where there is one) for the
    windows that show any of the ``masks``.

    Raises `SettingsError` where no frame does.
    """
    windows = (read_json(base.folder / "take.json") or {}).get("windows", ())
    seen = [base.frame_numbers[index] for index in range(len(masks)) if masks.is_seen(index)]
    if not seen:
        raise SettingsError("No frame of the take shows the region.", field="mask")
    spans = [tuple(one["frames"]) for one in windows]
    inside = [any(first <= frame <= last for frame in seen) for first, last in spans]
    if len(spans) < 2 or all(inside):
        changed = {"prompt": prompt, "prompts_at": ()} if prompt else {}
        return replace(settings, seed=seed, window_seeds=(), **changed)
    seeds = dict(settings.window_seeds) | {place + 1: seed for place, one in enumerate(inside) if one}
    settings = replace(settings, window_seeds=tuple(sorted(seeds.items())))
    if not prompt:
        return settings
    own = dict(settings.prompts_at)

    def words(frame: int) -> str:
        return next((own[at] for at in sorted(own, reverse=True) if at <= frame), "")

    said = [(first, prompt if one else words(first)) for (first, _), one in zip(spans, inside, strict=True)]
    return replace(settings, prompts_at=tuple(said))


def put_region(
    base: Take, other: Take, masks: Masks, region: Region, *, should_stop: Callable[[], bool] = lambda: False
) -> Take:
    """The take ``base`` with the frames of ``other`` inside of ``masks``: a take of its own beside it.

    Outside every pixel is that of ``base``; a frame without a mask is its file.  Raises `StorageError`, `JobCancelled`.
    """
    key = hashlib.sha256("\n".join([f"region {REGION}", base.key, other.key, region.digest]).encode()).hexdigest()
    folder = base.folder.parent / key
    found = load_take(folder)
    if found is not None:
        return found
    said = read_json(base.folder / "take.json")
    if said is None or load_take(base.folder) is None:
        raise StorageError(f"The take {base.key[:8]} is damaged, or was deleted meanwhile: render it again.")
    files = {}

    def keep(path: str, content: bytes) -> None:
        write_whole(folder / path, content)
        files[path] = blob_sha(content)

    for index, frame in enumerate(base.frames):
        if should_stop():
            raise JobCancelled("The take was cancelled.")
        content = frame.read_bytes()
        if masks.is_seen(index):
            inside, picture = masks.at(index), decode_png(content).copy()
            picture[inside] = decode_png(other.frames[index].read_bytes())[inside]
            content = encode_png(picture)
        keep(f"frames/{frame.name}", content)
    for path in (*base.model_frames, *base.tracking_frames, *base.coverage, base.first_frame):
        keep(path.relative_to(base.folder).as_posix(), path.read_bytes())
    told = {"of": base.key, "from": other.key, "frame": region.frame, "object": region.name, "mask": region.digest}
    report = {**said["report"], "region": {**told, "seed": other.report["seed"], "prompt": other.report["prompt"]}}
    whole = {**said, "key": key, "files": files, "report": report, "windows": []}
    write_whole(folder / "take.json", json.dumps(whole, indent=1, sort_keys=True).encode())
    return take_of(Path(folder), whole, cached=False)
