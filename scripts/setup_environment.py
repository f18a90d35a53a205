# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the virtual environments of this project, from whatever Python 3.11 or 3.13 the machine has.

    python3 scripts/setup_environment.py main            .venv: server, Blender as a module, test tools
    python3 scripts/setup_environment.py main blenders   that, and one environment per other Blender that is tested
    python3 scripts/setup_environment.py list            print `<blender version> <python of its environment>` lines

A finished environment carries a stamp of what went into it; a second run sees the stamp and does nothing.  Those that
are not finished are made side by side.  What pip and apt say is in `setup.log` of the environment's folder or, when
they fail, on the terminal.  Needs only the standard library of any Python 3.9 or newer.  ``PYTHON`` names an
interpreter to prefer.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from stations import Quiet, Station

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"

BLENDERS = {
    # Blender version: (bpy requirement, Python that its wheel needs, further requirements)
    "4.2": ("bpy==4.2.23", (3, 11), ("numpy==1.24.4",)),  # what Blender 4.2 itself brings
    "4.5": ("bpy==4.5.15", (3, 11), ("numpy<2",)),
    "5.2": ("bpy==5.2.3", (3, 13), ("numpy>=2",)),
}
MAIN_BLENDER = {(3, 11): "4.5", (3, 13): "5.2"}
"""The Blender of .venv, by its Python."""

EXTENSION_REQUIREMENTS = ("pyzmq", "msgpack", "zstandard")

SYSTEM_LIBRARIES = {
    # what Blender as a module loads: shared library → Debian/Ubuntu package
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
}
MESA = "libgl1-mesa-dri"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def say(text: str) -> None:
    print(f"── {text}", flush=True)


def stop(sentence: str) -> None:
    sys.exit(f"setup: {sentence}")


# ── system packages ─────────────────────────────────────────────────────────────────────────────────────────────────


def apt_install(packages: list[str], why: str) -> None:
    """Install Debian packages as root or through sudo; without either, or without apt, say what to install and stop."""
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        stop(f"{why} needs these Debian packages or their like on your system: {' '.join(packages)}.")
    prefix: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode != 0:
            stop(f"{why} needs system packages; as an administrator run: {' '.join(command)}")
        prefix = ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = ["apt-get", "update", "-qq"]
    names = " ".join(packages)
    with Station(f"installing system packages for {why}: {names}"), tempfile.TemporaryDirectory() as folder:
        for attempt in (command, update, command):  # the lists of a fresh machine are empty
            apt = Quiet([*prefix, *attempt], Path(folder) / "apt.log", env=environment)
            if apt.process.wait() == 0 and attempt is command:
                return
    stop(f"{' '.join(command)} failed:\n{apt.words()}")


def ensure_system_libraries() -> None:
    """See to it that the libraries Blender links against can be loaded (Linux)."""
    if sys.platform != "linux":
        return
    missing = []
    for library, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    if not glob.glob("/usr/lib/*/dri/*_dri.so") + glob.glob("/usr/lib*/dri/*_dri.so"):
        missing.append(MESA)
    if missing:
        apt_install(missing, "Blender")


def ensure_browser() -> None:
    """See to it that the server's page can be tried in a browser; where that cannot be, its test is left out."""
    if any(map(shutil.which, BROWSERS)):
        return
    try:
        apt_install(["chromium"], "the tests of the server's page")
    except SystemExit as error:
        say(f"NOT TESTED HERE: the server's page in a browser ({error})")


# ── interpreters ────────────────────────────────────────────────────────────────────────────────────────────────────


def python_version(executable: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter that starts, None for one that does not (a shim of an inactive version, say)."""
    ask = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        done = subprocess.run([executable, "-c", ask], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and len(words) == 2 else None


def find_python(version: tuple[int, int]) -> str | None:
    """The first working interpreter of ``version``: $PYTHON, PATH, then the version folders of pyenv and the like."""
    name = f"python{version[0]}.{version[1]}"
    candidates = [os.environ.get("PYTHON", ""), name, "python3", "python", sys.executable]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidates.append(os.path.join(folder, name))
    roots = [os.environ.get("PYENV_ROOT", ""), os.path.expanduser("~/.pyenv"), "/opt/pyenv"]
    for root in filter(None, roots):
        candidates += sorted(glob.glob(f"{root}/versions/{version[0]}.{version[1]}*/bin/{name}"), reverse=True)
    candidates += sorted(
        glob.glob(f"{os.path.expanduser('~/.local/share/uv/python')}/*{version[0]}.{version[1]}*/bin/{name}")
    )
    for candidate in dict.fromkeys(filter(None, candidates)):
        found = shutil.which(candidate)
        if found and python_version(found) == version:
            return found
    return None


def main_python() -> tuple[str, tuple[int, int]]:
    """The interpreter of .venv: $PYTHON when it is 3.11 or 3.13, else 3.11, else 3.13."""
    preferred = os.environ.get("PYTHON")
    if preferred:
        version = python_version(preferred)
        if version not in MAIN_BLENDER:
            stop(f"PYTHON={preferred} is {version or 'not an interpreter that starts'}; name a Python 3.11 or 3.13.")
        return preferred, version
    for version in MAIN_BLENDER:
        found = find_python(version)
        if found:
            return found, version
    stop("no Python 3.11 or 3.13 on PATH; install one (Debian 12: python3.11, Debian 13: python3.13) or set PYTHON.")
    raise AssertionError


# ── environments ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Environment:
    """One environment: its folder, its interpreter and the arguments of the pip calls that fill it."""

    folder: Path
    python: str
    version: tuple[int, int]
    steps: list[list[str]]

    @property
    def stamp(self) -> Path:
        return self.folder / ".das-stamp"

    @property
    def recipe(self) -> str:
        """A digest of what goes into it."""
        recipe = hashlib.sha256()
        for part in (repr((self.steps, self.version)), CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text()):
            recipe.update(part.encode())
        return recipe.hexdigest()

    def is_finished(self) -> bool:
        return self.stamp.exists() and self.stamp.read_text() == self.recipe

    def prepare(self) -> None:
        """An empty folder, and Debian's venv package if need be."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        if subprocess.run([self.python, "-c", "import venv, ensurepip"], capture_output=True).returncode != 0:
            apt_install([f"python{self.version[0]}.{self.version[1]}-venv"], "virtual environments")

    def commands(self) -> list[list]:
        """What makes it, one after the other.  Bytecode is made by whoever imports a module, not for all there are."""
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "-c", CONSTRAINTS]
        return [
            [self.python, "-m", "venv", self.folder],
            *([self.folder / "bin" / "python", *install, *step] for step in self.steps),
        ]


def make(environments: list[Environment]) -> None:
    """Make those that are not finished, side by side; each gets its stamp as it ends."""
    missing = [environment for environment in environments if not environment.is_finished()]
    if not missing:
        return
    for environment in missing:
        environment.prepare()
    names = ", ".join(f"{one.folder.name} (Python {one.version[0]}.{one.version[1]})" for one in missing)
    todo = {environment.folder: environment.commands() for environment in missing}
    total = sum(len(commands) for commands in todo.values())
    running: dict[Path, Quiet] = {}
    with Station(f"making {names}") as station:
        try:
            while any(todo.values()) or running:
                for environment in missing:
                    advance(environment, todo[environment.folder], running)
                left = sum(len(commands) for commands in todo.values()) + len(running)
                station.progress(1 - left / total, f"{total - left} of {total} steps")
                time.sleep(0.1)
        finally:
            for command in running.values():
                command.process.kill()


def advance(environment: Environment, todo: list[list], running: dict[Path, Quiet]) -> None:
    """Start an environment's next command when there is none or the last one has ended well."""
    log = environment.folder / "setup.log"
    command = running.get(environment.folder)
    if command is not None:
        status = command.process.poll()
        if status is None:
            return
        del running[environment.folder]
        if status != 0:
            stop(f"{environment.folder.name} could not be made (all that was said: {log}):\n{command.words()}")
        if not todo:
            environment.stamp.write_text(environment.recipe)
    if todo:
        running[environment.folder] = Quiet(todo.pop(0), log, cwd=ROOT)


def main_environment() -> list[Environment]:
    """.venv: torch first and pinned, so that no dependency pulls another build; then Blender, then the project."""
    ensure_system_libraries()
    python, version = main_python()
    bpy, _, extra = BLENDERS[MAIN_BLENDER[version]]
    steps = [["torch"], [bpy, *extra], ["-e", ".[train,test]"]]
    return [Environment(ROOT / ".venv", python, version, steps)]


def blender_environments() -> list[Environment]:
    """One environment per tested Blender that .venv does not hold; a missing Python stops the set-up in CI only."""
    ensure_browser()
    _, main_version = main_python()
    environments = []
    for blender, (bpy, version, extra) in BLENDERS.items():
        if blender == MAIN_BLENDER[main_version]:
            continue
        python = find_python(version)
        if python is None:
            sentence = f"Blender {blender} needs Python {version[0]}.{version[1]}, which was not found on PATH"
            if os.environ.get("CI"):
                stop(f"{sentence}.")
            say(f"NOT TESTED HERE: {sentence}")
            continue
        steps = [[bpy, *extra, *EXTENSION_REQUIREMENTS, "pytest"]]
        environments.append(Environment(blender_folder(blender), python, version, steps))
    return environments


def blender_folder(blender: str) -> Path:
    return ROOT / f".venv-bpy{blender.replace('.', '')}"


def list_blenders() -> None:
    """Print one line per Blender that has an environment: its version and the interpreter."""
    _, main_version = main_python()
    for blender in BLENDERS:
        folder = ROOT / ".venv" if blender == MAIN_BLENDER[main_version] else blender_folder(blender)
        if (folder / ".das-stamp").exists():
            print(blender, folder / "bin" / "python")


def main() -> None:
    words = sys.argv[1:]
    if words == ["list"]:
        list_blenders()
        return
    kinds = {"main": main_environment, "blenders": blender_environments}
    if not words or any(word not in kinds for word in words):
        stop(f"say {' or '.join(kinds)}, or list.")
    make([environment for word in words for environment in kinds[word]()])


if __name__ == "__main__":
    main()
