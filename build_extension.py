# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the installable Blender extension: `dist/das_blender_addon-<version>.zip`, the same bytes every time.

    python build_extension.py [--out dist] [--only-this-platform]

The files of ``das_blender_addon/`` go to the root of the ZIP beside the manifest, and the wheels that Blender needs
(pyzmq and msgpack, for every platform and Python of Blender 4.2 to 5.2) into ``wheels/``; pip fetches them once into
``build/wheels``.  Needs Python 3.11 with pip.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ("pyzmq==27.3.0", "msgpack==1.2.4")
PYTHONS = ("3.11", "3.13", "3.14")
"""Blender 4.2–5.0, Blender 5.1 and newer, and Linux distributions that build Blender with their own Python."""

PLATFORMS = {
    # Blender's name: pip's platform tags, any of which may match
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "linux-arm64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
    "windows-x64": ("win_amd64",),
    "windows-arm64": ("win_arm64",),
    "macos-arm64": ("macosx_11_0_arm64", "macosx_10_15_universal2"),
    "macos-x64": ("macosx_10_15_universal2", "macosx_10_15_x86_64", "macosx_10_13_x86_64", "macosx_10_9_x86_64"),
}
EPOCH = (2020, 1, 1, 0, 0, 0)


def this_platform() -> str:
    """Blender's name of the platform this runs on."""
    system = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}[platform.system()]
    machine = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x64"
    return f"{system}-{machine}"


def fetch_wheels(folder: Path, platforms: list[str]) -> list[Path]:
    """Download the wheels of ``platforms`` into ``folder`` (once) and return them, sorted by name."""
    names: set[str] = set()
    for name in platforms:
        target = folder / name
        done = target / ".complete"
        wanted = " ".join((*REQUIREMENTS, *PYTHONS))
        if not done.exists() or done.read_text() != wanted:
            tags = [word for tag in PLATFORMS[name] for word in ("--platform", tag)]
            for python in PYTHONS:
                command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
                command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]
                subprocess.run([*command, "-d", str(target), *REQUIREMENTS], check=True)
            done.write_text(wanted)
        names.update(str(wheel) for wheel in target.glob("*.whl"))
    unique = {Path(name).name: Path(name) for name in sorted(names)}
    return [unique[name] for name in sorted(unique)]


def manifest_with_wheels(wheels: list[Path]) -> str:
    """The project's manifest with its ``wheels`` list, put before the first table as TOML wants it."""
    text = (ROOT / "blender_manifest.toml").read_text()
    listed = "wheels = [\n" + "".join(f'    "./wheels/{wheel.name}",\n' for wheel in wheels) + "]\n\n"
    head, table, tail = text.partition("[permissions]")
    return head + listed + table + tail


def extension_files() -> list[tuple[Path, str]]:
    """Every file of the extension as (path, name in the ZIP)."""
    package = ROOT / "das_blender_addon"
    kept = [
        p for p in sorted(package.rglob("*")) if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"
    ]
    return [(path, path.relative_to(package).as_posix()) for path in kept] + [(ROOT / "LICENSE", "LICENSE")]


def build(out: Path, platforms: list[str]) -> Path:
    """Write the ZIP into ``out`` and return its path."""
    wheels = fetch_wheels(ROOT / "build" / "wheels", platforms)
    manifest = manifest_with_wheels(wheels)
    fields = tomllib.loads(manifest)
    entries = [("blender_manifest.toml", manifest.encode(), zipfile.ZIP_DEFLATED)]
    entries += [(name, path.read_bytes(), zipfile.ZIP_DEFLATED) for path, name in extension_files()]
    entries += [(f"wheels/{wheel.name}", wheel.read_bytes(), zipfile.ZIP_STORED) for wheel in wheels]
    out.mkdir(parents=True, exist_ok=True)
    suffix = "" if set(platforms) == set(PLATFORMS) else f"-{'-'.join(platforms)}"
    target = out / f"{fields['id']}-{fields['version']}{suffix}.zip"
    with zipfile.ZipFile(target, "w", compresslevel=9) as archive:
        for name, content, compression in entries:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = compression
            archive.writestr(entry, content)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the ZIP (default: dist)")
    parser.add_argument("--only-this-platform", action="store_true", help="pack the wheels of this machine only")
    arguments = parser.parse_args()
    print(build(arguments.out, [this_platform()] if arguments.only_this_platform else list(PLATFORMS)))


if __name__ == "__main__":
    main()
