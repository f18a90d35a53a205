# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a model are read for their digests once, and again after any change."""

import os
import shutil

import pytest

from das_blender_addon.errors import ModelError
from das_server.models.checkpoint import write_manifest
from das_server.models.registry import PREVIEW_FOLDER
from das_server.models.verified import verify_unless_known


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(PREVIEW_FOLDER, tmp_path / "model")
    write_manifest(tmp_path / "model")
    return tmp_path / "model"


def weights(folder):
    return folder / "vae" / "diffusion_pytorch_model.safetensors"


def test_files_are_read_once(folder, tmp_path):
    assert [verify_unless_known(folder, tmp_path / "notes") for _ in range(3)] == [True, False, False]
    shutil.copytree(folder, tmp_path / "other")  # same content, other files
    assert verify_unless_known(tmp_path / "other", tmp_path / "notes")


def test_change_of_the_same_size_and_time_is_found(folder, tmp_path):
    verify_unless_known(folder, tmp_path / "notes")
    path = weights(folder)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # to a clock that ticks every few ms
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # what was refused is not known either
        with pytest.raises(ModelError, match="has changed"):
            verify_unless_known(folder, tmp_path / "notes")


def test_new_manifest_is_compared_again(folder, tmp_path):
    verify_unless_known(folder, tmp_path / "notes")
    write_manifest(folder)
    assert verify_unless_known(folder, tmp_path / "notes")
    assert not verify_unless_known(folder, tmp_path / "notes")


def test_notes_that_cannot_be_written_cost_only_time(folder, tmp_path):
    (tmp_path / "notes").write_text("no folder")
    assert verify_unless_known(folder, tmp_path / "notes") and verify_unless_known(folder, tmp_path / "notes")
