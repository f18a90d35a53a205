# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the composed preview gain when the carried pixels are relit by the model's low frequencies?  Prints a table.

Clips of changing light and moving shadows are rendered once into `out/preview_relight/clips`; the clips of
`preview_eval.py` tell what the same costs where light hardly changes. A setting is worth keeping when it gains on the
first and loses nothing on the second. `--checkpoint FOLDER` measures another model. Asserts nothing.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MAX_GAIN = 2.0
MAX_CHANGE = 64.0
"""Limits of a pixel's relighting: factor and 8-bit levels."""
FLOOR = 8.0
"""Added to both sides of a ratio, 8-bit levels: dark pixels have no reliable ratio."""
NUMBERS = ("psnr", "ssim", "psnr_visible", "psnr_holes")


@dataclass(frozen=True)
class Relighting:
    """One way to relight.  ``reference``: what the model's low frequencies are compared with, "carried" (the first
    frame's carried pixels) or "own" (the model's own first frame, carried along the same tracks, so that what the
    autoencoder does to colours cancels).  ``by``: "ratio" or "difference".  ``sigma_px``: the low-pass's deviation.
    """

    reference: str
    by: str
    sigma_px: float
    strength: float

    def __str__(self) -> str:
        return f"{self.by:10} to {self.reference:7} sigma {self.sigma_px:4.0f}  strength {self.strength:.2f}"


SETTINGS = tuple(Relighting(reference, by, sigma_px, strength) for reference in ("carried", "own")
                 for by in ("ratio", "difference") for sigma_px in (4.0, 8.0, 16.0) for strength in (0.25, 0.5, 1.0))
ORACLES = tuple(Relighting("truth", by, sigma_px, 1.0) for by in ("ratio", "difference")
                for sigma_px in (4.0, 8.0, 16.0))
"""The same with the true frames' low frequencies in place of the model's: the most that could be gained."""


def low_pass(image: np.ndarray, known: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian mean of `image` `[H, W, 3]` over the `known` `[H, W]` pixels near each; 0 where there are none near."""
    rows, columns = (np.exp(-0.5 * (np.subtract.outer(np.arange(size), np.arange(size)) / sigma_px) ** 2)
                     .astype(np.float32) for size in known.shape)
    weights = np.concatenate([image * known[..., None], known[..., None]], -1).astype(np.float32).transpose(2, 0, 1)
    smooth = (rows @ weights @ columns).transpose(1, 2, 0)
    return smooth[..., :3] / np.maximum(smooth[..., 3:], 1e-6)


def relit(carried: np.ndarray, new: np.ndarray, old: np.ndarray, way: Relighting) -> np.ndarray:
    """`carried` `[..., 3]` f32, changed as the low frequencies `new` differ from `old`."""
    if way.by == "ratio":
        return carried * np.clip((new + FLOOR) / (old + FLOOR), 1 / MAX_GAIN, MAX_GAIN) ** way.strength
    return carried + way.strength * np.clip(new - old, -MAX_CHANGE, MAX_CHANGE)


def relit_videos(clip, composed: np.ndarray, model: np.ndarray) -> Iterator[tuple[Relighting, np.ndarray]]:
    """(way, composed frames with their carried part relit) for every way. Holes stay as they are: the model's."""
    import torch

    from das_server.training.evaluate import along_tracks
    from das_server.training.first_frame_composition import feathered

    moments = range(1, len(composed))
    videos = {"carried": along_tracks(clip.rgb[0], clip)[1:], "own": along_tracks(model[0], clip)[1:],
              "model": model[1:].astype(np.float32), "truth": clip.rgb[1:].astype(np.float32)}
    weights = feathered(torch.from_numpy(clip.visible[1:])[:, None], 1.0).permute(0, 2, 3, 1).numpy()
    for sigma_px in (4.0, 8.0, 16.0):
        low = {name: np.stack([low_pass(frame, clip.visible[t], sigma_px) for t, frame in zip(moments, video,
                               strict=True)]) for name, video in videos.items()}
        for way in (*SETTINGS, *ORACLES):
            if way.sigma_px == sigma_px:
                new, old = (("truth", "carried") if way.reference == "truth" else ("model", way.reference))
                change = relit(videos["carried"], low[new], low[old], way) - videos["carried"]
                frames = composed.copy()
                frames[1:] = np.clip(np.round(composed[1:] + weights * change), 0, 255)
                yield way, frames


def measure_clips(checkpoint: Path, clips: list) -> list[dict]:
    """One row per clip and way, `evaluate.measure`'s numbers; the first way of each clip is "composed"."""
    from das_server.training import evaluate as evaluation
    from das_server.training.first_frame_composition import compose

    runner, rows = evaluation.PreviewRunner(checkpoint), []
    for clip in clips:
        model = runner.frames(clip, clip.tracking, 1)
        composed = compose(model, clip.rgb[0], clip.xy, clip.visible, tracking_video=clip.tracking)
        for way, frames in (("composed", composed), *relit_videos(clip, composed, model)):
            rows.append({"clip": clip.name, "kind": clip.kind, "all": True, "variant": str(way),
                         **evaluation.measure(frames, clip)})
        print(f"{clip.name}", end=" ", flush=True)
    return rows


def print_table(title: str, rows: list[dict]) -> None:
    """Composed in dB, then every way's paired differences from it."""
    from das_server.training.evaluate import paired

    composed = [row for row in rows if row["variant"] == "composed"]
    means = {key: np.nanmean([row[key] for row in composed]) for key in NUMBERS}
    print(f"\n{title}, {len(composed)} clips; composed: "
          + ", ".join(f"{key} {means[key]:.{3 if key == 'ssim' else 2}f}" for key in NUMBERS))
    for way in (*SETTINGS, *ORACLES):
        cells = []
        for key in NUMBERS[:3]:
            mean, error, won, _ = paired(rows, str(way), "composed", key)
            cells.append(f"{key} {mean:+.3f} ± {error:.3f} ({won:2})")
        print(f"  {way}  " + "  ".join(cells))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "das_server" / "models" / "das_preview")
    parser.add_argument("--light", type=Path, default=ROOT / "out" / "preview_relight" / "clips")
    parser.add_argument("--motion", type=Path, default=ROOT / "out" / "preview_eval" / "clips")
    parser.add_argument("--limit", type=int, help="of each set, take the first clips only")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for folder, clip_set in ((options.light, "light"), (options.motion, "motion")):
        command = [sys.executable, "-m", "tests.support.held_out_clips", str(folder), "--set", clip_set]
        if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            return 1

    from das_server.training.evaluate import load_clips

    started = time.monotonic()
    light, motion = (measure_clips(options.checkpoint, load_clips(folder)[:options.limit])
                     for folder in (options.light, options.motion))
    for kind in dict.fromkeys(row["kind"] for row in light):
        print_table(kind, [row for row in light if row["kind"] == kind])
    print_table("changing light, all kinds", light)
    print_table("the clips of preview_eval", motion)
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
