# SPDX-License-Identifier: GPL-3.0-or-later
"""Small movies whose frames last differently long, and how they were made: ``python -m tests.support.uneven_movies
FFMPEG`` writes them anew into ``tests/support/movies``.

Frames 0 to 11 and 18 to 23 last 1/24 s, those between 2/24 s; of ``phone`` each lasts as long as a fixed list says.
``live.webm`` says no length, as a browser's recording does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from das_blender_addon.protocol.png import encode_png

FOLDER = Path(__file__).parent / "movies"
COUNT, SIZE = 24, (96, 64)
UNEVEN = [*range(12), *range(12, 24, 2), *range(24, 30)]
"""When each frame begins, in 1/24 s."""
PHONE = [0, 31, 69, 100, 133, 171, 200, 333, 366, 402, 433, 470]
PHONE += [500, 601, 633, 668, 700, 734, 767, 801, 833, 866, 901, 933]
"""The same in 1/1000 s: 30 a second, as a phone counts them, with two that are lost."""
NAMES = ("uneven.mp4", "uneven.mov", "uneven.mkv", "uneven.webm", "live.webm", "phone.mkv")


def pictures() -> np.ndarray:
    """u8 [COUNT,H,W,3]: what is in each of them, before it was compressed: waves that go to the left."""
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    made = []
    for number in range(COUNT):
        along = x + 2.0 * number
        waves = [np.sin(along / 9.0 + y / 17.0), np.sin(along / 23.0 - y / 11.0), np.sin(along / 41.0 + y / 29.0)]
        made.append(np.stack([128.0 + 90.0 * wave for wave in waves], axis=-1))
    return np.stack(made).round().astype(np.uint8)


def shown(found: np.ndarray) -> list[int]:
    """Which of `pictures` each of ``found`` [T,H,W,3] is."""
    known = pictures().astype(np.float64)
    return [int(np.abs(known - picture).mean(axis=(1, 2, 3)).argmin()) for picture in found]


def _make(program: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures()):
            Path(folder, f"{number:02d}.png").write_bytes(encode_png(picture))
        for name in NAMES:
            times = [time / 1000.0 for time in PHONE] if name.startswith("phone") else [time / 24.0 for time in UNEVEN]
            chosen = "+".join(f"eq(N,{number})*{time:.6f}" for number, time in enumerate(times))
            codec = ["libvpx-vp9"] if name.endswith("webm") else ["libx264", "-bf", "2"]
            live = ["-live", "1"] if name.startswith("live") else []
            words = ["-y", "-loglevel", "error", "-framerate", "24", "-i", f"{folder}/%02d.png"]
            words += ["-vf", f"settb=1/24000,setpts='({chosen})/TB'", "-fps_mode", "vfr", "-enc_time_base", "1/24000"]
            words += ["-c:v", *codec, "-crf", "30", "-pix_fmt", "yuv420p", "-g", "12", *live, str(FOLDER / name)]
            subprocess.run([program, *words], check=True)


if __name__ == "__main__":
    _make(sys.argv[1])
