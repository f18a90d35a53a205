# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's share of the preview model's training clips, made by the script in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from das_blender_addon.protocol.png import decode_png, decode_png_with_alpha

pytestmark = pytest.mark.any_blender  # the script needs the server's environment, which has one Blender

ROOT = Path(__file__).resolve().parents[2]
NOISE_LEVELS = 20
"""Two renders of few samples, with shadows that move between them; the median colour of another place is far off."""


def _make(folder, profile, *arguments):
    command = [sys.executable, ROOT / "scripts" / "training_clips.py", folder, "--frames", "2", "--size", "48", "32"]
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(profile)}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _pictures(folder):
    return {
        path.relative_to(folder): decode_png(path.read_bytes(), name="a frame", error=ValueError)
        for kind in ("videos", "tracking")
        for path in sorted((folder / kind).rglob("*.png"))
    }


def test_clips_are_of_their_number_and_made_once(tmp_path):
    first = tmp_path / "first"
    _make(first, tmp_path / "profile", "--count", "2")
    assert (first / "videos.txt").read_text().split() == ["videos/scene_0000", "videos/scene_0001"]
    pictures = _pictures(first)
    for number in (0, 1):
        video, tracking = (pictures[Path(f"{kind}/scene_000{number}/0001.png")] for kind in ("videos", "tracking"))
        assert video.shape == tracking.shape == (32, 48, 3)
        assert video.std() > 5 and tracking.any(axis=2).mean() > 0.2
        carried = decode_png_with_alpha((first / "carried" / f"scene_000{number}" / "0001.png").read_bytes())
        if carried.shape[2] == 3:  # all of it is seen
            carried = np.concatenate([carried, np.full((32, 48, 1), 255, np.uint8)], axis=2)
        assert carried.shape == (32, 48, 4) and set(np.unique(carried[..., 3])) <= {0, 255}
        seen = carried[..., 3] > 0
        assert seen.any()
        assert np.median(np.abs(carried[seen][:, :3].astype(int) - video[seen])) < NOISE_LEVELS

    assert "scene_0000" not in _make(first, tmp_path / "profile", "--count", "2")
    again = tmp_path / "again"
    _make(again, tmp_path / "profile", "--count", "1", "--first", "1")
    name = Path("tracking/scene_0001/0002.png")
    assert (_pictures(again)[name] == pictures[name]).all()
    assert (pictures[name] != pictures[Path("tracking/scene_0000/0002.png")]).any()
