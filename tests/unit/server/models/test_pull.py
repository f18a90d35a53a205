# SPDX-License-Identifier: GPL-3.0-or-later
"""`das-server models pull` with the real huggingface_hub client, from a hub on a loopback port."""

import json
import shutil

import pytest

from das_server.models.checkpoint import MANIFEST_NAME, verify_model
from das_server.models.registry import PREVIEW_FOLDER, list_models, model_spec
from tests.support.hub import COMMIT, running_hub
from tests.support.server import run_das_server
from tests.support.wan import write_wan_checkpoint

FULL = "das-cogvideox-5b"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path):
    """A whole small checkpoint among files that do not belong to it."""
    folder = shutil.copytree(PREVIEW_FOLDER, tmp_path / "repository")
    for name in ("README.md", "vae/weights.bin", "transformer/notes.md", "lora/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not part of the checkpoint")
    with running_hub(model_spec(FULL).repository, folder) as hub:
        yield hub


@pytest.fixture
def pull(hub, tmp_path):
    """Run the command against the hub."""
    return puller(hub, tmp_path)


def puller(hub, tmp_path):
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "DAS_SERVER_MODELS": str(tmp_path / "models"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }

    def run(*arguments, **changes):
        return run_das_server("models", "pull", *arguments, environment=environment | changes, timeout_s=900)

    return run


def test_model_is_fetched_verified_and_goes_on_after_a_cut(hub, pull, tmp_path):
    models = tmp_path / "models"
    hub.broken = WEIGHTS
    cut = pull(FULL, "--revision", "main")
    assert cut.returncode == 50 and "Traceback" not in cut.stderr
    assert "broke off: run the same command again" in cut.stderr
    assert f"das-server models add {FULL} FOLDER" in cut.stderr
    assert not (models / FULL).exists()

    hub.broken, hub.asked[:] = "", []
    whole = pull(FULL, "--revision", COMMIT)
    assert (whole.returncode, whole.stdout) == (0, f"{models / FULL}\n"), whole.stderr
    assert WEIGHTS in hub.asked and "vae/diffusion_pytorch_model.safetensors" not in hub.asked  # it was there already
    assert verify_model(FULL, models).num_files == 10
    files = {path.relative_to(models / FULL).as_posix() for path in (models / FULL).rglob("*") if path.is_file()}
    manifest = json.loads((models / FULL / MANIFEST_NAME).read_text())
    assert files == {*manifest["files"], MANIFEST_NAME}
    assert (models / FULL / WEIGHTS).read_bytes() == (PREVIEW_FOLDER / WEIGHTS).read_bytes()
    assert manifest["source"] == {"repository": hub.repository, "commit": COMMIT}
    assert [path.name for path in models.iterdir()] == [FULL]


def test_place_that_refuses_the_model_is_named(pull, tmp_path):
    """A link that leads nowhere: there is nothing yet, and a folder cannot be moved there."""
    models = tmp_path / "models"
    models.mkdir()
    (models / FULL).symlink_to(tmp_path / "nowhere")
    done = pull(FULL, "--revision", COMMIT)
    assert done.returncode == 50 and "Traceback" not in done.stderr
    assert f"cannot be moved to {models / FULL}" in done.stderr


def test_revision_that_does_not_exist_is_named(pull):
    done = pull(FULL, "--revision", "v9")
    assert done.returncode == 50
    assert "EXCAI/Diffusion-As-Shader at v9 does not exist" in done.stderr and "Traceback" not in done.stderr


def test_hub_that_does_not_answer_is_said_to_be_out_of_reach(pull, tmp_path):
    done = pull(FULL, "--revision", COMMIT, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 50
    assert "cannot be reached from here" in done.stderr and "transformer/config.json" in done.stderr
    assert not (tmp_path / "models" / FULL).exists()


def test_model_of_another_family_is_fetched_at_the_commit_that_the_table_names(tmp_path):
    spec = model_spec("wan-vace-1.3b")
    folder, models = write_wan_checkpoint(tmp_path / "repository"), tmp_path / "models"
    (folder / "assets").mkdir()
    (folder / "assets" / "demo.json").write_text("{}")
    with running_hub(spec.repository, folder, spec.revision) as hub:
        done = puller(hub, tmp_path)(spec.name)
    assert (done.returncode, done.stdout) == (0, f"{models / spec.name}\n"), done.stderr
    manifest = json.loads((models / spec.name / MANIFEST_NAME).read_text())
    assert manifest["source"] == {"repository": spec.repository, "commit": spec.revision}
    assert verify_model(spec.name, models).num_files == len(manifest["files"]) and "assets/demo.json" not in hub.asked
    status = next(one for one in list_models(models) if one.spec.name == spec.name)
    assert status.installed and status.verifiable
