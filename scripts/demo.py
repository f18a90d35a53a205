# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: server up, demo scene rendered through Blender, results into `out/demo/`.

Run by .venv's Python.  Blender is the module in .venv, or the program that ``BLENDER`` names (the extension is then
built, installed into an empty profile and used from there, as an artist would).  Everything in ``out/demo/`` is made
anew by every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from stations import Quiet, Station

ROOT = Path(__file__).resolve().parents[1]
ADDON_PACKAGE = "das_blender_addon"
COLUMNS = 4
READY_LIMIT_S = 120.0


def say(text: str) -> None:
    print(f"── {text}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(out: Path) -> tuple[subprocess.Popen, str]:
    """Start `das-server serve` on a free loopback port; returns the process and its address once it answers."""
    address = f"tcp://127.0.0.1:{free_port()}"
    log = (out / "server.log").open("w")
    command = [sys.executable, "-m", "das_server", "serve", "--bind", address, "--state", str(out / "server")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + READY_LIMIT_S
    ask = [sys.executable, "-m", "das_server", "status", "--server", address, "--json"]
    while subprocess.run(ask, cwd=ROOT, capture_output=True).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            stop_server(process)
            sys.exit(f"demo: the server did not start; its words are in {out / 'server.log'}")
        time.sleep(0.2)
    return process, address


def stop_server(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()


def blender_command(out: Path) -> tuple[list[str], dict[str, str], str]:
    """The command that runs a script in Blender, its environment, and the extension's package name there."""
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(out / "blender_profile")}
    blender = os.environ.get("BLENDER")
    if not blender:
        return [sys.executable, str(ROOT / "scripts" / "demo_in_blender.py")], environment, ADDON_PACKAGE
    with Station("building and installing the extension"):
        folder = out / "extension"
        build = [sys.executable, str(ROOT / "build_extension.py"), "--only-this-platform", "--out", str(folder)]
        archive = subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
        install = [blender, "--command", "extension", "install-file", "-r", "user_default", "-e", archive]
        installing = Quiet(install, out / "install.log", env=environment)
        if installing.process.wait() != 0:
            sys.exit(f"demo: {blender} does not install the extension:\n{installing.words()}")
    script = ["--background", "--python-exit-code", "1", "--python", str(ROOT / "scripts" / "demo_in_blender.py"), "--"]
    return [blender, *script], environment, f"bl_ext.user_default.{ADDON_PACKAGE}"


def contact_sheet(out: Path, result: dict) -> None:
    """Key pictures on the left; tracking video, result and Blender's own render at four moments on the right."""
    rows = [
        ("tracking video", result["tracking"]),
        ("result", result["frames"]),
        ("Blender's own render", result["blender"]),
    ]
    cell_w, cell_h, gap, label = 360, 240, 6, 26
    width = (COLUMNS + 1) * (cell_w + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (cell_h + label + gap) + gap + label), (24, 24, 27))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)

    def paste(path: str, column: int, row: int, text: str) -> None:
        x, y = gap + column * (cell_w + gap), gap + row * (cell_h + label + gap)
        draw.text((x + 2, y + 3), text, fill=(220, 220, 225), font=font)
        sheet.paste(Image.open(path).convert("RGB").resize((cell_w, cell_h), Image.Resampling.LANCZOS), (x, y + label))

    for row, (number, file) in enumerate(result["keys"].items()):
        paste(file, 0, row, f"key picture, frame {number}")
    for row, (name, files) in enumerate(rows):
        for column, number in enumerate(result["columns"]):
            paste(files[str(number)], column + 1, row, f"{name}, frame {number}")
    words = f"model {result['report']['model']}, seed {result['report']['seed']}, {len(result['frames'])} frames from "
    words += f"{len(result['keys'])} key pictures, Blender {result['blender_version']}"
    draw.text((gap + 2, sheet.height - label), words, fill=(170, 170, 178), font=font)
    sheet.save(out / "contact_sheet.png", optimize=True)


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_report(out: Path, result: dict, timings_s: dict) -> None:
    frames = sorted((out / "frames").glob("*.png"))
    report = {
        "model": result["report"].get("model"),
        "seed": result["report"].get("seed"),
        "settings": result["settings"],
        "timings_s": {**timings_s, **result["timings_s"]},
        "versions": {
            "das": metadata.version("diffusion-as-shader"),
            "blender": result["blender_version"],
            "python": platform.python_version(),
            "platform": platform.platform(),
            **result["report"]["job"].get("versions", {}),
        },
        "inputs_sha256": result["inputs_sha256"],
        "frames_sha256": {frame.name: sha256(frame) for frame in frames},
        "server": result["report"],
    }
    (out / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--size", default="AUTO", help="the model's size, for example 192x128 (default: the model's own default)"
    )
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    began = time.monotonic()
    with Station("starting the server"):
        server, address = start_server(out)
    server_s = time.monotonic() - began
    try:
        command, environment, package = blender_command(out)
        began = time.monotonic()
        words = [
            "--package",
            package,
            "--out",
            str(out),
            "--server",
            address,
            "--seed",
            str(arguments.seed),
            "--size",
            arguments.size,
        ]
        done = subprocess.run([*command, *words], cwd=ROOT, env=environment)
        if done.returncode != 0 or not (out / "blender.json").exists():
            sys.exit(f"demo: Blender ended with status {done.returncode}; see {out}/blender.log and server.log")
        blender_s = time.monotonic() - began
    finally:
        stop_server(server)
    result = json.loads((out / "blender.json").read_text())
    contact_sheet(out, result)
    write_report(out, result, {"server_start": round(server_s, 2), "blender_total": round(blender_s, 2)})
    for scratch in ("blender.json", "blender_render", "server", "blender_profile", "extension"):
        target = out / scratch
        shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)
    say(f"done: {out}")
    for name in (
        "contact_sheet.png",
        "demo.mp4",
        "tracking.mp4",
        "first_frame.png",
        "demo.blend",
        "report.json",
        "frames/",
    ):
        print(f"   {out / name}")


if __name__ == "__main__":
    main()
