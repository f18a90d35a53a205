# SPDX-License-Identifier: GPL-3.0-or-later
"""A bank of procedural, tileable colour textures; no image files."""

import math

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

TEXTURE_SIZE = 64
NUM_KINDS = 9


def make_texture_bank(num_textures: int, seed: int) -> np.ndarray:
    """Return `[num_textures, 64, 64, 3]` f32 colours in [0, 1], the same for the same seed."""
    rng = np.random.default_rng(seed)
    bank = np.empty((num_textures, TEXTURE_SIZE, TEXTURE_SIZE, 3), np.float32)
    for index in range(num_textures):
        texture = _pattern(rng, int(rng.integers(NUM_KINDS)))
        grey = texture.mean(-1, keepdims=True)
        texture = grey + (texture - grey) * rng.uniform(0.3, 1.0)  # towards the saturation of photographs and renders
        sigma = rng.uniform(0.5, 1.4)
        bank[index] = np.clip(gaussian_filter(texture, (sigma, sigma, 0), mode="wrap"), 0, 1)
    return bank


def _pattern(rng: np.random.Generator, kind: int) -> np.ndarray:
    first, second = _two_colours(rng)
    if kind == 0:  # coloured clouds
        texture = 0.5 + 0.22 * _noise(rng, (2, 4, 8, 16), 3)
    elif kind <= 2:  # one plain colour, as most Blender materials are
        texture = np.broadcast_to(first, (TEXTURE_SIZE, TEXTURE_SIZE, 3)).astype(np.float32)
        return texture + (0.03 * _noise(rng, (8, 16), 1) if rng.random() < 0.5 else 0)
    else:
        mask = _mask(rng, kind)[..., None]
        texture = first * mask + second * (1 - mask)
    if rng.random() < 0.6:
        texture = texture + 0.06 * _noise(rng, (4, 8, 16), 3)
    return texture.astype(np.float32)


def _mask(rng: np.random.Generator, kind: int) -> np.ndarray:
    """`[64, 64]` f32 in [0, 1]: where the first of two colours shows."""
    rows, columns = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE].astype(np.float32) / TEXTURE_SIZE
    if kind == 3:  # two-colour clouds
        return 1 / (1 + np.exp(-4 * _noise(rng, (3, 6, 12), 1)[..., 0]))
    if kind == 4:  # checks
        count = rng.integers(2, 5)
        return (np.floor(columns * count) + np.floor(rows * count)) % 2
    if kind == 5:  # stripes, tileable
        across, down = rng.integers(-4, 5), rng.integers(1, 5)
        return 0.5 + 0.5 * np.tanh(3 * np.sin(2 * math.pi * (columns * across + rows * down)))
    if kind == 6:  # dots
        mask = np.zeros_like(rows)
        for _ in range(int(rng.integers(3, 14))):
            y, x = rng.random(2)
            dy, dx = (rows - y + 0.5) % 1 - 0.5, (columns - x + 0.5) % 1 - 0.5
            mask[np.hypot(dx, dy) < rng.uniform(0.05, 0.2)] = 1
        return mask
    if kind == 7:  # bricks
        count = int(rng.integers(3, 7))
        row = np.floor(rows * count)
        joint = rng.uniform(0.06, 0.2)
        across = (columns * count / 2 + 0.5 * (row % 2)) % 1
        return ((across > joint / 2) & ((rows * count) % 1 > joint)).astype(np.float32)
    points = rng.random((int(rng.integers(6, 24)), 2)).astype(np.float32)  # cells
    dy = (rows[..., None] - points[:, 0] + 0.5) % 1 - 0.5
    dx = (columns[..., None] - points[:, 1] + 0.5) % 1 - 0.5
    return rng.random(len(points))[np.argmin(np.hypot(dx, dy), -1)]


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    first, second = rng.random(3), rng.random(3)
    while np.abs(first - second).sum() < 0.6:
        second = rng.random(3)
    return first, second


def _noise(rng: np.random.Generator, octaves: tuple[int, ...], channels: int) -> np.ndarray:
    """Tileable value noise `[64, 64, channels]` f32, about unit deviation in its first octave."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, channels), np.float32)
    weight = 1.0
    for cells in octaves:
        grid = rng.standard_normal((cells, cells, channels)).astype(np.float32)
        grid = np.pad(grid, ((2, 2), (2, 2), (0, 0)), mode="wrap")
        step = TEXTURE_SIZE / cells
        fine = zoom(grid, (step, step, 1), order=1, grid_mode=True, mode="nearest")
        start = int(2 * step)
        total += weight * gaussian_filter(fine, (step / 3, step / 3, 0))[start:start + TEXTURE_SIZE,
                                                                        start:start + TEXTURE_SIZE]
        weight *= 0.6
    return total
