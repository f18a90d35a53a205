# SPDX-License-Identifier: GPL-3.0-or-later
"""The name of a model's weights: other weights have another, the same ones the same, and nothing is read twice."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from das_blender_addon.errors import ModelError
from das_server.models.registry import MANIFEST_NAME, PREVIEW_FOLDER
from das_server.models.revision import CACHE_NAME, Revisions, fingerprint

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ALL = 1 << 40


@pytest.fixture
def models(tmp_path):
    """A folder with a small checkpoint called "mine"; only its names and bytes matter here."""
    folder = tmp_path / "models" / "mine"
    for name in ("model_index.json", WEIGHTS, "vae/config.json", "tokenizer/spiece.model", "transformer/README.md"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"what {name} holds")
    return folder.parent


def revisions(models: Path, state: Path | None = None) -> Revisions:
    return Revisions(state or models.parent, folder_of=lambda name: models / name)


def revision(models: Path, name: str = "mine") -> str:
    made = revisions(models)
    made.learn(name, at_most=ALL)
    return made.of(name)


def replace_bytes(path: Path) -> None:
    """Other content of the same size, as old as before; changed at another time, to a clock that ticks every few ms."""
    before, content = path.stat(), bytes(byte ^ 1 for byte in path.read_bytes())
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_revision_is_that_of_the_content_wherever_it_lies(models, tmp_path):
    shutil.copytree(models / "mine", models / "copy")
    assert revision(models, "mine") == revision(models, "copy") != ""
    assert fingerprint(models / "mine") != fingerprint(models / "copy")


@pytest.mark.parametrize("name", [WEIGHTS, "vae/config.json", "tokenizer/spiece.model", "model_index.json"])
@pytest.mark.parametrize("known", [True, False], ids=["running", "started later"])
def test_other_weights_have_another_revision_even_with_the_same_size_and_age(models, name, known):
    made = revisions(models)
    made.learn("mine", at_most=ALL)
    before, look = made.of("mine"), fingerprint(models / "mine")
    replace_bytes(models / "mine" / name)
    made = made if known else revisions(models)
    assert made.of("mine") != before and fingerprint(models / "mine") != look
    made.learn("mine", at_most=ALL)
    assert made.of("mine") not in (before, "")


def test_words_about_a_model_are_no_part_of_its_weights(models):
    before = revision(models)
    (models / "mine" / "transformer" / "README.md").write_text("other words")
    assert revision(models) == before


def test_file_more_or_less_is_another_revision(models):
    before = revision(models)
    (models / "mine" / "transformer" / "more.safetensors").write_text("more")
    assert revision(models) != before


def test_nothing_is_digested_twice(models, tmp_path):
    first = revision(models)
    cache = models.parent / CACHE_NAME
    said = json.loads(cache.read_text())
    assert {Path(name).name for name in said} >= {"diffusion_pytorch_model.safetensors", "model_index.json"}
    said[os.fspath(models / "mine" / WEIGHTS)][-1] = "0" * 64  # what is read here is not computed
    cache.write_text(json.dumps(said))
    assert revision(models) != first


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}'])
def test_damaged_list_of_digests_costs_a_second_look_only(models, text):
    first = revision(models)
    (models.parent / CACHE_NAME).write_text(text)
    assert revision(models) == first


def test_digests_of_the_manifest_count_for_files_that_have_not_changed_since(models):
    honest = revision(models)
    (models.parent / CACHE_NAME).unlink()
    folder = models / "mine"
    files = {
        path.relative_to(folder).as_posix(): {"sha256": "1" * 64, "size_bytes": path.stat().st_size}
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip
    (folder / MANIFEST_NAME).write_text(json.dumps({"format": 1, "files": files}))
    later = time.time_ns() + 10**9
    os.utime(folder / MANIFEST_NAME, ns=(later, later))
    trusted = revisions(models, models / "elsewhere")
    assert trusted.of("mine") not in (honest, fingerprint(folder))  # without reading a byte
    os.utime(folder / MANIFEST_NAME, ns=(0, 0))
    assert revision(models) == honest


def test_large_weights_go_by_their_fingerprint_until_they_are_digested(models):
    made = revisions(models)
    made.learn("mine", at_most=1)
    look = fingerprint(models / "mine")
    assert made.of("mine") == look
    deadline = time.monotonic() + 60
    while made.of("mine") == look and time.monotonic() < deadline:
        time.sleep(0.01)
    learnt = made.of("mine")
    assert learnt == revision(models) != look
    assert made.check("mine", look) == made.check("mine", learnt) == made.check("mine", "") == look


def test_job_for_other_weights_is_refused(models):
    made = revisions(models)
    made.learn("mine", at_most=ALL)
    before = made.of("mine")
    replace_bytes(models / "mine" / WEIGHTS)
    with pytest.raises(ModelError, match="mine have been replaced since this job was planned") as caught:
        made.check("mine", before)
    assert caught.value.field == "model"


def test_model_that_is_not_there_has_no_revision(models):
    assert revisions(models).of("nobody") == "" == fingerprint(models / "nobody")


def test_preview_model_has_a_revision_without_torch(tmp_path):
    program = (
        "import sys; from pathlib import Path; from das_server.models.revision import Revisions\n"
        "made = Revisions(Path(sys.argv[1])); made.learn('das-preview'); print(made.of('das-preview'))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[4]
    command = [sys.executable, "-c", program, tmp_path]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.strip()) == 64 and ran.stdout.strip() != fingerprint(PREVIEW_FOLDER)
