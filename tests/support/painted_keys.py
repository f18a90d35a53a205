# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preview model adds in holes: shots of `key_shots` composed from one, two and three key pictures as the user
gets them, with several shares of a hole painted by the model.

The shots are rendered once by `key_shots`; what is measured are rendered frames that are no key picture.
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from das_blender_addon.shot.plan import ShotPlan, plan, plan_with_keys
from das_blender_addon.shot.tracked import shot_from_geometry
from das_blender_addon.take.detail import Detail, KeyPicture
from das_server.models.registry import capabilities_of_models
from tests.support.capabilities import capabilities_of
from tests.support.key_shots import NUM_FRAMES, RENDERED, load_geometry, picture_path

KEYS = ((1,), (1, 49), (1, 25, 49))
SHARES = (0.0, 0.25, 0.5, 1.0)
SIZE = (384, 256)
LEAST_HOLES = 0.002
"""A frame whose holes are a smaller share of it says nothing about them."""


@dataclass(frozen=True)
class Measured:
    """One frame of a shot composed from `keys` (Blender frames) with a `share` of its holes painted: PSNR in dB and
    SSIM of all of it, `square` the mean squared error in its holes (levels²), `holes` their share of the picture."""

    shot: str
    keys: tuple[int, ...]
    frame: int
    share: float
    psnr: float
    ssim: float
    square: float
    holes: float


def read(folder: Path, frame: int) -> np.ndarray:
    """[H,W,3] u8: a rendered frame of a shot."""
    return np.asarray(Image.open(picture_path(folder, SIZE, frame)).convert("RGB"))


def planned(keys: Sequence[int], background: str = "") -> ShotPlan:
    """The plan of a shot for das-preview at its default size; `keys` are Blender frames."""
    model = next(one for one in capabilities_of_models() if one.name == "das-preview")
    whole = plan(range(1, NUM_FRAMES + 1), SIZE, (1.0, 1.0), capabilities_of(model), background=background)
    return plan_with_keys(whole, [key - 1 for key in keys])


def measure_shot(
    folder: Path, pipeline, keys: Sequence[int], shares: Sequence[float] = SHARES, sheets: Path | None = None,
    background: str = "",
) -> Iterator[Measured]:
    """The rendered frames of the shot in `folder` that are no key, once for each share; `pipeline` is a `DasPipeline`.
    `sheets`: a folder for a picture of the last frame: composed with the first and with the last share, and Cycles'."""
    from das_server.training.evaluate import psnr, ssim

    made, geometry = planned(keys, background), load_geometry(folder, SIZE)
    detail = Detail(geometry, made, [KeyPicture(key - 1, read(folder, key), b"") for key in keys])
    carried = detail.carried_with_alpha(range(NUM_FRAMES))
    holes, seen = carried[..., 3] == 0, np.ascontiguousarray(carried[..., :3])
    tracking = shot_from_geometry(geometry, made).videos[0].video
    told = {"holes": holes} if getattr(pipeline, "paints_holes", False) else {}
    painted = pipeline("", tracking, Image.fromarray(seen[0]), carried_video=seen, num_inference_steps=1,
                       guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **told).frames
    indices = [frame - 1 for frame in RENDERED if frame not in keys]
    unseen = {index: detail.carry_one(index)[..., 3] == 0 for index in indices}
    results = {}
    for share in shares:
        frames, lock = {}, threading.Lock()

        def take(index: int, frame: np.ndarray, _seen: np.ndarray, frames=frames, lock=lock) -> None:
            with lock:
                frames[index] = frame

        detail.compose(indices, lambda index: painted[index], take, painted_share=share)
        results[share] = frames
        for index in indices:
            truth, frame = read(folder, index + 1), frames[index]
            pair = (np.stack([frame, frame]), np.stack([truth, truth]))  # they leave the first frame out
            square = (frame[unseen[index]].astype(float) - truth[unseen[index]]) ** 2
            yield Measured(folder.name, tuple(keys), index + 1, share, psnr(*pair), ssim(*pair),
                           float(square.mean()) if square.size else float("nan"), float(unseen[index].mean()))
    if sheets is not None:
        last = max(indices, key=lambda index: unseen[index].mean())
        row = [results[shares[0]][last], results[shares[-1]][last], read(folder, last + 1),
               np.where(unseen[last][..., None], np.array([255, 0, 255], np.uint8), read(folder, last + 1))]
        sheets.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(row, axis=1)).save(sheets / f"{folder.name}_{len(keys)}.png")


def write_rows(rows: Sequence[Measured], folder: Path) -> None:
    """Write `frames.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "frames.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measured)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[Measured], shares: Sequence[float] = SHARES) -> str:
    """Markdown: for each shot and number of keys PSNR in holes and of whole frames, SSIM, by share."""
    lines = ["| shot | keys | holes | " + " | ".join(f"{share:g}" for share in shares) + " |",
             "|---|---|---|" + "---|" * len(shares)]
    groups = {(row.shot, row.keys): None for row in rows}
    for shot, keys in groups:
        own = [row for row in rows if (row.shot, row.keys) == (shot, keys)]
        cells = [cell([row for row in own if row.share == share]) for share in shares]
        lines.append(f"| {shot} | {len(keys)} | {mean_holes(own):.3f} | " + " | ".join(cells) + " |")
    for count in dict.fromkeys(len(keys) for _, keys in groups):
        own = [row for row in rows if len(row.keys) == count]
        cells = [cell([row for row in own if row.share == share]) for share in shares]
        lines.append(f"| **all** | {count} | {mean_holes(own):.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_holes(rows: Sequence[Measured]) -> float:
    """Share of the pictures that no key shows."""
    return float(np.mean([row.holes for row in rows]))


def cell(rows: Sequence[Measured]) -> str:
    """Mean PSNR in holes (frames that have some), of whole frames, and SSIM."""
    with_holes = [row.square for row in rows if row.holes >= LEAST_HOLES]
    holes = np.mean([10 * np.log10(255**2 / max(square, 1e-9)) for square in with_holes]) if with_holes else np.nan
    return f"{holes:.2f}, {np.mean([row.psnr for row in rows]):.2f}, {np.mean([row.ssim for row in rows]):.4f}"
