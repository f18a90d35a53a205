# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure a preview checkpoint on held-out clips: every baseline the model has to beat, and contact sheets to look at.

A clip is an `.npz` with `rgb`, `tracking` `[T, H, W, 3]` u8, `coverage`, `visible` `[T, H, W]` bool, `xy`
`[T, H, W, 2]` f32 pixels (NaN: none) and `kind`, a word. All numbers are over frames >= 1.
"""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from das_server.pipeline.cogvideox.carry import carry, look_up, planes
from das_server.training.first_frame_composition import compose, first_frame_grid

MOVING_LEVELS = 24
"""A pixel moves when it differs from the first frame's at the same place by more 8-bit levels than this."""
MOVING_SHARE = 0.03
STATIC_DB = 18.0
SELECTIONS = {
    "all": "all clips",
    "moving": f"clips with motion: more than {MOVING_SHARE:.0%} of the pixels move",
    "static_below_18": f"clips with motion: the static first frame is below {STATIC_DB:.0f} dB",
}
"""Which clips a table is of. The two definitions of motion differ much: the second leaves out what moves a little, and
by construction is unkind to the static first frame."""
PSNR_CEILING = 60.0
"""Equal frames have no finite PSNR; they count as this many dB."""


@dataclass(frozen=True)
class HeldOutClip:
    """One held-out clip; see the module's text for shapes."""

    name: str
    kind: str
    rgb: np.ndarray
    tracking: np.ndarray
    coverage: np.ndarray
    xy: np.ndarray
    visible: np.ndarray

    @property
    def holes(self) -> np.ndarray:
        """`[T, H, W]` bool: pixels that the first frame does not show."""
        return ~self.visible

    @property
    def moving(self) -> np.ndarray:
        """`[T, H, W]` bool: pixels that differ from the first frame at the same place."""
        change = np.abs(self.rgb.astype(np.int16) - self.rgb[:1].astype(np.int16)).max(-1)
        return change > MOVING_LEVELS

    def selections(self) -> dict[str, bool]:
        """Which of `SELECTIONS` the clip belongs to."""
        static = np.broadcast_to(self.rgb[:1], self.rgb.shape)
        return {"all": True, "moving": bool(self.moving[1:].mean() > MOVING_SHARE),
                "static_below_18": psnr(static, self.rgb) < STATIC_DB}


def load_clips(folder: Path) -> list[HeldOutClip]:
    """All clips of a folder, by name."""
    clips = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            clips.append(HeldOutClip(path.stem, str(arrays["kind"]), arrays["rgb"], arrays["tracking"],
                                     arrays["coverage"], arrays["xy"], arrays["visible"]))
    return clips


def along_tracks(image: np.ndarray, clip: HeldOutClip) -> np.ndarray:
    """`image` `[H, W, 3]` carried along the clip's tracks: `[T, H, W, 3]` f32, of meaning where `visible`."""
    grid = first_frame_grid(np.where(clip.visible[..., None], clip.xy, 0))
    return look_up(planes(image[None]), grid).permute(0, 2, 3, 1).numpy()


def plain_warp(clip: HeldOutClip) -> np.ndarray:
    """The first frame looked up along the tracks, holes left at the first frame."""
    result = np.where(clip.visible[..., None], along_tracks(clip.rgb[0], clip), clip.rgb[0])
    result[0] = clip.rgb[0]
    return np.round(result).astype(np.uint8)


def psnr(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB over frames >= 1, inside `mask` `[T, H, W]`; NaN when the mask is empty."""
    square = (frames[1:].astype(np.float32) - truth[1:].astype(np.float32)) ** 2
    if mask is not None:
        square = square[mask[1:]]
    if square.size == 0:
        return float("nan")
    return float(min(PSNR_CEILING, -10 * np.log10(square.mean() / 255**2 + 1e-12)))


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM over frames >= 1 and colours (Wang et al. 2004; 7x7 Gaussian window of deviation 1.5)."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    taps = torch.tensor(taps / taps.sum(), dtype=torch.float32)
    window = (taps[:, None] * taps)[None, None].expand(3, 1, 7, 7)

    def smooth(image):
        return torch.nn.functional.conv2d(image, window, groups=3)

    a, b = (torch.from_numpy(video[1:]).permute(0, 3, 1, 2).float() / 255 for video in (frames, truth))
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    return float((value / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())


def measure(frames: np.ndarray, clip: HeldOutClip) -> dict[str, float]:
    """All numbers of one result on one clip."""
    return {"psnr": psnr(frames, clip.rgb), "ssim": ssim(frames, clip.rgb),
            "psnr_moving_visible": psnr(frames, clip.rgb, clip.visible & clip.moving),
            "psnr_visible": psnr(frames, clip.rgb, clip.visible), "psnr_holes": psnr(frames, clip.rgb, clip.holes)}


class PreviewRunner:
    """Runs a checkpoint folder through the product's pipeline with fixed seeds."""

    def __init__(self, checkpoint: Path):
        from das_server.pipeline.cogvideox.pipeline import DasPipeline

        self.pipeline = DasPipeline.from_pretrained(checkpoint, device="cpu", vae_tiling=False,
                                                    fast_cpu_convolutions=True)

    def frames(self, clip: HeldOutClip, tracking: np.ndarray, steps: int) -> np.ndarray:
        """`[T, H, W, 3]` u8 from the clip's first frame and `tracking` (its own or another's)."""
        result = self.pipeline("", tracking, Image.fromarray(clip.rgb[0]), num_inference_steps=steps,
                               guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
        return np.asarray(result.frames)

    @torch.no_grad()
    def through_autoencoder(self, clip: HeldOutClip) -> np.ndarray:
        """The true frames encoded and decoded: what the autoencoder alone costs."""
        video = torch.from_numpy(clip.rgb).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        vae = self.pipeline.vae
        output = vae.decode(vae.encode(video).latent_dist.mode()).sample[0].permute(1, 2, 3, 0)
        return (((output + 1) * 127.5).clamp(0, 255).round()).byte().numpy()


def evaluate(checkpoint: Path, clips: list[HeldOutClip], steps: Iterable[int] = (1, 4), *,
             each: Callable[[HeldOutClip, dict[str, np.ndarray]], None] | None = None) -> list[dict]:
    """One row of numbers per clip and variant; `each` gets every clip's variants (for contact sheets).

    The "other" tracking is the next clip's of the same size, the "frozen" one repeats its first frame; "carried" is the
    first frame carried along the tracking video, which the model starts from."""
    runner = PreviewRunner(checkpoint)
    steps = tuple(steps)
    rows = []
    for index, clip in enumerate(clips):
        others = [c for c in (*clips[index + 1:], *clips[:index]) if c.rgb.shape == clip.rgb.shape]
        variants = {"static": np.repeat(clip.rgb[:1], len(clip.rgb), 0), "warp": plain_warp(clip),
                    "autoencoder": runner.through_autoencoder(clip), "carried": carry(clip.rgb[0], clip.tracking)}
        for count in steps:
            variants[f"model_{count}"] = runner.frames(clip, clip.tracking, count)
            if others and count == steps[0]:
                variants["carried_other"] = carry(clip.rgb[0], others[0].tracking)
                variants[f"other_{count}"] = runner.frames(clip, others[0].tracking, count)
        frozen = np.repeat(clip.tracking[:1], len(clip.tracking), 0)
        variants["frozen"] = runner.frames(clip, frozen, steps[0])
        for composed, source in [("composed_carried", "carried"),
                                 *((f"composed_{count}", f"model_{count}") for count in steps)]:
            variants[composed] = compose(variants[source], clip.rgb[0], clip.xy, clip.visible,
                                         tracking_video=clip.tracking)
        for variant, frames in variants.items():
            rows.append({"clip": clip.name, "kind": clip.kind, **clip.selections(), "variant": variant,
                         **measure(frames, clip)})
        if each:
            each(clip, variants)
    return rows


def summarise(rows: list[dict], selection: str = "all") -> dict[str, dict[str, tuple[float, float, int]]]:
    """Per variant and number, over one of `SELECTIONS`: (mean, standard error, clips), clips without a value left out.
    """
    table: dict[str, dict[str, tuple[float, float, int]]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        chosen = [row for row in rows if row["variant"] == variant and row[selection]]
        table[variant] = {}
        for key in ("psnr", "ssim", "psnr_moving_visible", "psnr_visible", "psnr_holes"):
            values = np.array([row[key] for row in chosen], float)
            values = values[np.isfinite(values)]
            error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
            table[variant][key] = (float(values.mean()) if len(values) else float("nan"), error, len(values))
    return table


def paired(rows: list[dict], better: str, worse: str, key: str = "psnr",
           selection: str = "all") -> tuple[float, float, int, int]:
    """(mean difference, standard error, clips won, clips) of `key` between two variants of the same clips."""
    def values(variant):
        return {row["clip"]: row[key] for row in rows if row["variant"] == variant and row[selection]}

    first, second = values(better), values(worse)
    difference = np.array([first[name] - second[name] for name in first if name in second])
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return float("nan"), float("nan"), 0, len(difference)
    error = float(difference.std(ddof=1) / len(difference) ** 0.5)
    return float(difference.mean()), error, int((difference > 0).sum()), len(difference)


def write_table(rows: list[dict], folder: Path) -> str:
    """Write `clips.csv` and `summary.json`, and return the summary as a Markdown table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    summary = {selection: summarise(rows, selection) for selection in SELECTIONS}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    lines = []
    for selection, table in summary.items():
        count = len({row["clip"] for row in rows if row[selection]})
        lines += [f"{count} {SELECTIONS[selection]}", "",
                  "| variant | PSNR | SSIM | PSNR moving visible | PSNR visible | PSNR holes |",
                  "|---|---|---|---|---|---|"]
        for variant, numbers in table.items():
            cells = [f"{mean:.{3 if key == 'ssim' else 2}f} ± {error:.{3 if key == 'ssim' else 2}f}"
                     for key, (mean, error, _) in numbers.items()]
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
        lines.append("")
    text = "\n".join(lines)
    (folder / "summary.md").write_text(text)
    return text


def contact_sheet(clip: HeldOutClip, variants: dict[str, np.ndarray], path: Path, columns: tuple[str, ...]) -> None:
    """Save a PNG: one row per thing (tracking, truth, then `columns`), four moments in time."""
    moments = np.linspace(0, len(clip.rgb) - 1, 4).round().astype(int)
    rows = {"tracking": clip.tracking, "truth": clip.rgb, **{name: variants[name] for name in columns}}
    scale = max(1, round(192 / clip.rgb.shape[2]))
    height, width = clip.rgb.shape[1] * scale, clip.rgb.shape[2] * scale
    sheet = Image.new("RGB", (90 + 4 * (width + 4), len(rows) * (height + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, video) in enumerate(rows.items()):
        draw.text((4, row * (height + 4) + height // 2), name, fill="black")
        for column, t in enumerate(moments):
            tile = Image.fromarray(video[t]).resize((width, height), Image.NEAREST)
            sheet.paste(tile, (90 + column * (width + 4), row * (height + 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
