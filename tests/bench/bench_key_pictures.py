# SPDX-License-Identifier: GPL-3.0-or-later
"""What key pictures bring: frames between them composed without any network, against Cycles, and the time that takes.

``python tests/bench/bench_key_pictures.py`` renders the shots of `tests.support.key_shots` once, into
``out/bench_key_pictures/``, prints PSNR and SSIM of the frames that are no key for 1, 2 and 3 key pictures and the
processor time of correspondences and composition, and writes contact sheets (composed, Cycles, four times the
difference, what no key shows in magenta).  Nothing is asserted.  ``--no-render`` measures what is there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.tracking.composition import Composer
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.relighting import relighting
from das_blender_addon.tracking.suggest import suggest_key_frames
from tests.support.key_shots import RENDERED, SHOTS, SIZES, load_geometry, picture_path

ROOT = Path(__file__).resolve().parents[2]
KEYS = ((1,), (1, 49), (1, 25, 49))
TIMED_SIZES = ((720, 480), (1920, 1080))


def psnr(picture, truth) -> float:
    return float(10 * np.log10(255**2 / max(((picture.astype(float) - truth) ** 2).mean(), 1e-9)))


def ssim(picture, truth) -> float:
    """Mean over colours (Wang et al. 2004; 7×7 Gaussian window of deviation 1.5)."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    taps /= taps.sum()

    def smooth(image):
        image = sum(tap * image[:, i : image.shape[1] - 6 + i] for i, tap in enumerate(taps))
        return sum(tap * image[i : image.shape[0] - 6 + i] for i, tap in enumerate(taps))

    a, b = (image.astype(np.float32) / 255 for image in (picture, truth))
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    value = (2 * mean_a * mean_b + 1e-4) * (2 * (smooth(a * b) - mean_a * mean_b) + 9e-4)
    return float((value / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())


def read(folder: Path, size, frame: int) -> np.ndarray:
    return np.asarray(Image.open(picture_path(folder, size, frame)).convert("RGB"))


def measure(folder: Path, size, keys, sheets: Path) -> None:
    """Print one line: the frames of one shot that are no key, composed from ``keys``."""
    frames = [frame for frame in RENDERED if frame not in keys and picture_path(folder, size, frame).exists()]
    if not frames or not all(picture_path(folder, size, key).exists() for key in keys):
        return
    pictures, geometry = [read(folder, size, key) for key in keys], load_geometry(folder, size)
    composer, light = Composer(pictures), relighting(geometry, [key - 1 for key in keys], pictures)
    found, rows = [], []
    shared = correspondences(
        geometry,
        [key - 1 for key in keys],
        frame_indices=[frame - 1 for frame in frames],
        background=True,
    )
    for frame in shared:
        composed = composer.compose(frame, light=light and light.at(frame))
        truth = read(folder, size, frame.index + 1)
        picture = composed.picture
        found.append((psnr(picture, truth), ssim(picture, truth), composed.known.mean()))
        marked = np.where(composed.known[..., None], picture, (255, 0, 255)).astype(np.uint8)
        difference = np.clip(4 * np.abs(picture.astype(int) - truth), 0, 255).astype(np.uint8)
        rows.append(np.concatenate([picture, truth, difference, marked], axis=1))
    sheets.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(sheets / f"{folder.name}_{size[0]}x{size[1]}_{len(keys)}.png")
    mean = np.mean(found, axis=0)
    print(
        f"{folder.name:14} {size[0]}x{size[1]} keys {len(keys)}: {mean[0]:6.2f} dB (worst "
        f"{min(row[0] for row in found):.2f})  SSIM {mean[1]:.4f}  seen by a key {mean[2]:.3f}  {len(frames)} frames",
        flush=True,
    )


def time_frames(folder: Path, size) -> None:
    """Print processor time per frame with three keys, and of preparing them; the pictures are enlarged ones."""
    small = SIZES[0]
    pictures = [Image.fromarray(read(folder, small, key)) for key in KEYS[-1]]
    pictures = [np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures]
    keys, geometry, composer = [key - 1 for key in KEYS[-1]], load_geometry(folder, size), Composer(pictures)
    start = time.process_time()
    light = relighting(geometry, keys, pictures)
    told = time.process_time() - start
    frames = correspondences(geometry, keys, frame_indices=(12, 12, 36), background=True, beside_only=True)
    spent = []
    for _ in range(3):
        start = time.process_time()
        frame = next(frames)
        middle = time.process_time()
        change = light and light.at(frame)
        lit = time.process_time()
        composer.compose(frame, light=change)
        spent.append((middle - start, time.process_time() - lit, lit - middle))
    (first_search, first_compose, _), *rest = spent
    search, compose, lit = np.min(rest, axis=0)
    print(
        f"{folder.name:14} {size[0]}x{size[1]} 3 keys, a frame: correspondences {search:.3f} s, light {lit:.3f} s, "
        f"composition {compose:.3f} s (the first, with preparation: {first_search:.2f} and {first_compose:.2f} s; the "
        f"light of the shot, once: {told:.2f} s)",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(SHOTS), default=list(SHOTS))
    parser.add_argument("--sizes", nargs="+", default=[f"{width}x{height}" for width, height in SIZES])
    parser.add_argument("--no-render", action="store_true")
    parser.add_argument("--no-times", action="store_true")
    options = parser.parse_args()
    out = ROOT / "out" / "bench_key_pictures"
    if not options.no_render:
        command = [sys.executable, "-m", "tests.support.key_shots", str(out), "--only", *options.only]
        done = subprocess.run([*command, "--sizes", *options.sizes], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return done.returncode
    for name in options.only:
        for size in (tuple(int(side) for side in size.split("x")) for size in options.sizes):
            for keys in KEYS:
                measure(out / name, size, keys, out / "sheets")
    if options.no_times:
        return 0
    for size in TIMED_SIZES:
        time_frames(out / options.only[0], size)
    geometry = load_geometry(out / options.only[0], SIZES[-1])
    start = time.process_time()
    suggestion = suggest_key_frames(geometry)
    print(f"suggested: {suggestion.key_indices}, {time.process_time() - start:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
