# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Blender program, the one that BLENDER names: the built ZIP in an empty profile, used from the command line
with a real server, as artists and farms do.

`make test-binary BLENDER=/path/to/blender` runs it; `make test` does not, for it needs a program that no test can
install.  All it writes is in out/binary/, below the working folder: some Blenders see nothing else of the disk.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build_extension
from das_blender_addon import errors
from tests.support.server import ROOT, running_server

OUT = ROOT / "out" / "binary"
LIMIT_S = 900.0
FRAMES = 3
BUILD_DEMO = (
    f"import sys; sys.path.append({str(ROOT)!r}); from scripts.demo_scene import build_demo_scene; "
    "build_demo_scene({!r})"
)


class Blender:
    """The program, with its empty profile."""

    def __init__(self, program: str):
        self.program = program
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DAS_", "PYTHON"))
        }
        self.environment["BLENDER_USER_RESOURCES"] = str(OUT / "profile")

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        """Run it to its end, ``settings`` in the environment."""
        return subprocess.run(
            [self.program, *arguments],
            cwd=ROOT,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def blender():
    """Blender with the extension that was just built, installed and enabled."""
    program = os.environ.get("BLENDER", "")
    assert shutil.which(program), f"BLENDER is {program!r}; name a Blender program: make test-binary BLENDER=…"
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    blender = Blender(program)
    archive = build_extension.build(OUT, [build_extension.this_platform()])
    done = blender.run("--command", "extension", "install-file", "-r", "user_default", "-e", str(archive))
    assert done.returncode == 0, done.stdout + done.stderr
    return blender


@pytest.fixture(scope="module")
def server():
    with running_server(OUT / "server") as process:
        yield process


@pytest.fixture(scope="module")
def demo(blender) -> Path:
    """The demo scene as a file."""
    file = OUT / "demo.blend"
    done = blender.run("-b", "--python-exit-code", "1", "--python-expr", BUILD_DEMO.format(str(file)))
    assert done.returncode == 0 and file.is_file(), done.stdout + done.stderr
    return file


def settings(address: str) -> dict[str, str]:
    """A take that is made quickly."""
    return {
        "DAS_SERVER": address,
        "DAS_SIZE": "96x64",
        "DAS_CACHE": str(OUT / "cache"),
        "DAS_FIRST_FRAME_SAMPLES": "1",
        "DAS_FRAMES": f"1-{FRAMES}",
    }


def lines_of(text: str) -> list[dict]:
    """The command's JSON lines among Blender's own."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_doctor_finds_nothing_wrong(blender, server):
    done = blender.run("--command", "das", "doctor", "--json", **settings(server.address))
    checks = {line["name"]: line for line in lines_of(done.stdout) if line["event"] == "check"}
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"Blender", "libraries", "cache folder", "first frame", "server", "model"} <= set(checks)
    assert all(check["ok"] for check in checks.values())


def test_render_animation_then_the_command_give_the_same_take(blender, server, demo):
    frames = OUT / "frames"
    arguments = ("-b", str(demo), "-E", "DAS", "-F", "PNG", "-o", f"{frames}/####", "-s", "1", "-e", str(FRAMES), "-a")
    done = blender.run(*arguments, **settings(server.address))
    files = sorted(frames.glob("*.png"))
    assert done.returncode == 0 and [file.name for file in files] == [
        f"{number:04d}.png" for number in range(1, FRAMES + 1)
    ], done.stdout[-4000:] + done.stderr[-4000:]
    rendered = [pixels(file) for file in files]
    assert all(picture.shape == (480, 720, 3) and picture.std() > 10 for picture in rendered)
    assert not np.array_equal(rendered[0], rendered[-1])

    command = ("--command", "das", "render", str(demo), "--output", str(OUT / "command"), "--json")
    done = blender.run(*command, **settings(server.address))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert lines_of(done.stdout)[-1]["event"] == "done" and len(server.status()["jobs"]) == 1
    for file, picture in zip(files, rendered, strict=True):
        difference = pixels(OUT / "command" / file.name).astype(int) - picture
        assert np.abs(difference).max() <= 1  # Blender's own way from the take's pixels to a file


def test_failure_leaves_no_frames_and_its_status(blender, demo):
    nobody = settings("tcp://127.0.0.1:9") | {"DAS_TIMEOUT_S": "1", "DAS_CACHE": str(OUT / "empty")}
    done = blender.run("-b", str(demo), "-E", "DAS", "-o", f"{OUT}/failed/####", "-a", **nobody)
    assert done.returncode == 1 and not list(OUT.glob("failed/*")), done.stdout[-4000:]
    done = blender.run("--command", "das", "render", str(demo), "--output", str(OUT / "failed"), **nobody)
    assert done.returncode == errors.ServerUnreachable.exit_code and not list(OUT.glob("failed/*"))
    assert "das: No server answers at tcp://127.0.0.1:9" in done.stderr
