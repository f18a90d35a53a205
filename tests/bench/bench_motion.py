# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast, and how little, may things move from one frame to the next for the embedded preview model to follow them?

``python tests/bench/bench_motion.py [--steps N]`` prints a table; nothing is asserted.  A card with a texture goes to
and fro before a wall with another one, so many pixels a frame; the model makes the clip of 192×128 from its first frame
and the tracking video, before anything is composed.  Where the card is in a frame that the model made is found by
comparing it with pictures of the card everywhere along its way.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from das_blender_addon.tracking.video import render_tracking_video  # noqa: E402
from tests.support.geometry import camera_path, look_at, sequence  # noqa: E402

WIDTH, HEIGHT, NUM_FRAMES = 192, 128, 9
SPEEDS_PX = (0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
CARD = (48, 56)
"""Width and height in pixels."""
FOCAL_PX, NEAR, FAR = 192.0, 4.0, 6.0
SEEDS, CELLS_PX = (1, 2, 3), 6
FOLLOWED_PX = 1.0


def texture(seed: int, width: int, height: int) -> np.ndarray:
    """[h,w,3] f64: smooth blots of some pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 226, (height // CELLS_PX + 2, width // CELLS_PX + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)


def picture(wall: np.ndarray, card: np.ndarray, left: float) -> np.ndarray:
    """[H,W,3] f64: the card with its left edge at ``left`` pixels, anti-aliased along its way."""
    column = np.arange(WIDTH) + 0.5 - left
    within = np.clip(np.minimum(column + 0.5, card.shape[1] + 0.5 - column), 0.0, 1.0)
    place = np.clip(column - 0.5, 0.0, card.shape[1] - 1.001)
    low, part = place.astype(int), (place % 1.0)[None, :, None]
    shown = card[:, low] * (1.0 - part) + card[:, low + 1] * part
    top = (HEIGHT - card.shape[0]) // 2
    made = wall.copy()
    rows = made[top : top + card.shape[0]]
    rows += (shown - rows) * within[None, :, None]
    return made


def geometry(lefts: np.ndarray):
    """A wall, and a card whose left edge is at ``lefts`` [T] pixels."""

    def quad(depth, left, right, top, bottom):
        x, y = (np.array(ends, float) for ends in ((left, right), (top, bottom)))
        x, z = (x - WIDTH / 2) * depth / FOCAL_PX, (HEIGHT / 2 - y) * depth / FOCAL_PX
        return np.array([(x[0], depth, z[0]), (x[1], depth, z[0]), (x[1], depth, z[1]), (x[0], depth, z[1])])

    faces, top = np.array([(0, 1, 2), (0, 2, 3)]), (HEIGHT - CARD[1]) // 2
    cards = np.stack([quad(NEAR, left, left + CARD[0], top, top + CARD[1]) for left in lefts])
    cameras = camera_path([look_at((0, 0, 0), (0, 1, 0))] * len(lefts), width=WIDTH, height=HEIGHT, focal_px=FOCAL_PX)
    return sequence([(quad(FAR, -400, 600, -400, 600), faces), (cards, faces)], cameras)


def found_at(
    frame: np.ndarray, wall: np.ndarray, card: np.ndarray, true: float, home: float, speed: float
) -> tuple[float, float]:
    """Where the left edge of the card is in a made ``frame`` that should have it at ``true``, and how alike both are
    there, 1 at most: correlation of what is not the wall.
    """
    room, step = (1.0, 0.02) if speed < 0.25 else (6.0, 0.125)
    places = np.arange(min(home, true) - room, max(home, true) + room, step)
    top = (HEIGHT - CARD[1]) // 2
    rows = slice(top, top + CARD[1])
    scores = []
    for left in places:
        columns = slice(max(0, int(np.ceil(left)) + 1), min(WIDTH, int(left) + CARD[0] - 1))
        expected = picture(wall, card, left)[rows, columns].reshape(-1, 3)
        made = frame[rows, columns].reshape(-1, 3).astype(float)
        expected, made = expected - expected.mean(axis=0), made - made.mean(axis=0)
        scores.append((expected * made).sum() / np.sqrt((expected**2).sum() * (made**2).sum()))
    best = int(np.argmax(scores))
    return float(places[best]), float(scores[best])


def measure(pipeline, speed: float, seed: int, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Of each frame where the card should have moved: how far off it is in pixels, its way there as a share of what it
    should be, and how alike it is.
    """
    import torch

    steps_of = np.array([0, 1, 2, 3, 4, 3, 2, 1, 0], float)
    home = float((WIDTH - CARD[0] - speed * 4) // 2)
    lefts = home + speed * steps_of
    wall, card = texture(10 * seed, WIDTH, HEIGHT), texture(10 * seed + 1, *CARD)
    tracking = render_tracking_video(geometry(lefts), colours_only=True).video
    first = np.rint(picture(wall, card, home)).astype(np.uint8)
    made = np.asarray(pipeline("", tracking, Image.fromarray(first), num_inference_steps=steps, guidance_scale=1.0,
                               generator=torch.Generator().manual_seed(seed)).frames)  # fmt: skip
    off, share, alike = [], [], []
    for index in range(1, NUM_FRAMES - 1):
        left, score = found_at(made[index], wall, card, lefts[index], home, speed)
        off.append(abs(left - lefts[index]))
        share.append((left - home) / (lefts[index] - home))
        alike.append(score)
    return off, share, alike


def main() -> None:
    from das_server.training.evaluate import PreviewRunner

    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "das_server" / "models" / "das_preview")
    options = parser.parse_args()
    pipeline = PreviewRunner(options.checkpoint).pipeline
    print(f"{WIDTH}x{HEIGHT}, {NUM_FRAMES} frames, {options.steps} steps, {len(SEEDS)} pairs of textures")
    print("| px a frame | of the height | error, px: median | 90 % | within a pixel | way of the true one | alike |")
    print("|---|---|---|---|---|---|---|")
    for speed in SPEEDS_PX:
        rows = [measure(pipeline, speed, seed, options.steps) for seed in SEEDS]
        off, share, alike = (np.concatenate([row[part] for row in rows]) for part in range(3))
        print(
            f"| {speed:g} | {speed / HEIGHT:.1%} | {np.median(off):.2f} | {np.percentile(off, 90):.2f} | "
            f"{(off <= FOLLOWED_PX).mean():.0%} | {np.median(share):.0%} | {np.median(alike):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
