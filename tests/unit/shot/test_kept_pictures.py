# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that are put into a shot's folder: in places where none can be, too."""

import subprocess
import sys

import pytest

KEEP = """
import sys
from pathlib import Path
from das_blender_addon.errors import StorageError
from das_blender_addon.shot.pictures import keep_rendered
try:
    keep_rendered(Path(sys.argv[1]), 1, "ab" * 32, b"picture", {})
except StorageError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("folder", ["file", "file/below/it", "loop", "loop/below", "x" * 300])
def test_folder_that_cannot_be_is_an_error_at_once(tmp_path, folder):
    """In a process of its own: one that never ends must not take the tests with it."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = subprocess.run(
        [sys.executable, "-c", KEEP, str(tmp_path / folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "cannot be written" in done.stderr


def test_picture_that_was_painted_over_stays_and_the_new_one_lies_beside_it(tmp_path):
    from das_blender_addon.shot.pictures import keep_rendered

    first = keep_rendered(tmp_path, 1, "ab" * 32, b"picture", {}).path
    first.write_bytes(b"painted")
    second = keep_rendered(tmp_path, 1, "ab" * 32, b"picture", {}).path
    assert first.read_bytes() == b"painted" and second.read_bytes() == b"picture" and second != first
