# SPDX-License-Identifier: GPL-3.0-or-later
"""Rank 0 of `test_group`: STATE; makes clips alone and with a second process, and prints how far they differ."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from das_blender_addon.errors import JobCancelled, ModelError
from das_server.models.adapters import AdapterUse, file_sha
from das_server.pipeline.acceleration import Acceleration
from das_server.pipeline.base import ClipJob, Watch
from das_server.pipeline.clip import make_clip
from das_server.pipeline.group import Group
from das_server.pipeline.loading import load_pipeline
from das_server.workers.companions import Companions
from tests.support.adapters import shapes_of, write_lora
from tests.support.models import gradient_clip
from tests.support.wan import write_wan_checkpoint

WAN = "wan-vace-1.3b"
COMPANION = ["--threads", "1", "--profile", "resident", "--attention-backend", "auto", "--log-level", "WARNING"]


def main(state: Path) -> None:
    """One function, though long: one clip after the other, each with what it shows."""
    os.environ["DAS_SERVER_MODELS"] = str(state / "models")
    companions = Companions(("cpu", "cpu"), ["--state", str(state), *COMPANION], state / "group")
    group = companions.join("cpu")
    pipeline = load_pipeline("das-preview", device="cpu")
    group.tell("load", model="das-preview", float8=False)
    group.wait()
    lora = write_lora(state / "ink.safetensors", shapes_of(pipeline.transformer))
    ink = AdapterUse("ink", lora, file_sha(lora), 1.0)

    def clip(size, **options):
        video, picture = gradient_clip(*size)
        options = {"num_inference_steps": 2, "output_type": "latent"} | options
        return pipeline("a boat", video, picture, generator=torch.Generator().manual_seed(7), **options)

    def compare(name, size, *, loras=(), **options):
        both = []
        for one in (None, group):
            # As a worker does, each time before a clip.
            pipeline.group = one
            pipeline.adapters.used = None  # tell the other process, too
            pipeline.use_adapters(loras)
            both.append(clip(size, **options))
        difference = (both[0].latents - both[1].latents).abs().max().item()
        said = both[1].settings
        guided = said.get("guided_steps", said["compiled"])
        print(json.dumps([name, difference, said["rows"], guided]), flush=True)

    compare("guided", (9, 48, 32), guidance_scale=6.0)
    compare("plain", (9, 48, 32), guidance_scale=1.0)
    compare("long", (17, 80, 48), guidance_scale=1.0)
    compare("odd", (17, 72, 56), guidance_scale=1.0)
    compare("lora", (9, 48, 32), guidance_scale=6.0, loras=[ink])
    pipeline.group, pipeline.adapters.used = group, None
    pipeline.use_adapters([ink])
    with suppress(ModelError):
        pipeline.use_adapters([AdapterUse("lost", state / "lost.safetensors", "0" * 64, 1.0)])
    pipeline.use_adapters([])  # as a job without any does: both processes have none
    both = clip((9, 48, 32), guidance_scale=6.0)
    pipeline.group = None
    alone = clip((9, 48, 32), guidance_scale=6.0)
    difference = (both.latents - alone.latents).abs().max().item()
    print(json.dumps(["after a lost one", difference, both.settings["rows"], None]), flush=True)
    compare("without", (9, 48, 32), guidance_scale=1.0)
    compare("fast", (9, 48, 32), guidance_scale=6.0, num_inference_steps=10, speed="fast")
    def cancel(name, after, **options):
        """Blocks that begin on this device once so many have and the clip is to stop; how the next clip differs."""
        pipeline.group = group
        begun = []
        note = lambda *_: begun.append(1)  # noqa: E731
        hooks = [block.register_forward_pre_hook(note) for block in pipeline.transformer.transformer_blocks]

        try:
            clip((9, 48, 32), should_stop=lambda: len(begun) >= after, num_inference_steps=8, **options)
            said = "made"
        except JobCancelled:
            said = "cancelled"
        for hook in hooks:
            hook.remove()
        late = len(begun) - after
        both = [clip((9, 48, 32), **options).latents]
        pipeline.group = None
        both.append(clip((9, 48, 32), **options).latents)
        print(json.dumps([name, (both[0] - both[1]).abs().max().item(), said, late]), flush=True)

    cancel("cancelled, a row each", 4, guidance_scale=6.0)
    cancel("cancelled, split", 4, guidance_scale=1.0)
    ran = []

    def compiler(graph, inputs):
        return lambda *arguments: ran.append(1) or graph(*arguments)

    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=compiler)
    pipeline.acceleration = Acceleration("native", True, "")
    compare("compiled, split", (9, 48, 32), guidance_scale=1.0)
    print(json.dumps(["programs that ran", len(ran), "", pipeline.acceleration.compiled]), flush=True)
    share_wan(state, group)
    os._exit(0)  # the threads of gloo outlive Python's end


def share_wan(state: Path, group: Group) -> None:
    """A guided clip of the other family by both, with the prompts' encoder here only; and one that is cancelled."""
    write_wan_checkpoint(state / "models" / WAN)
    group.tell("load", model=WAN, float8=False)
    group.wait()
    pipeline = load_pipeline(WAN, device="cpu")
    video, picture = gradient_clip(9, 48, 32)
    begun = []
    pipeline.transformer.blocks[0].register_forward_pre_hook(lambda *_: begun.append(1))

    def clip(shared, guidance=5.0, should_stop=lambda: False):
        pipeline.group = group if shared else None
        job = ClipJob("a boat", video, picture, num_inference_steps=3, guidance_scale=guidance, seed=7)
        return make_clip(pipeline, job, Watch(should_stop=should_stop))

    def say(name, said, *rest):
        difference = (clip(False).latents - clip(True).latents).abs().max().item()
        print(json.dumps([name, difference, said, *rest]), flush=True)

    begun.clear()
    rows = clip(True).settings["rows"]
    say("wan", rows, len(begun))
    assert "rows" not in clip(True, guidance=1.0).settings
    begun.clear()
    with suppress(JobCancelled):
        clip(True, should_stop=lambda: len(begun) >= 2)
        rows = "made"
    say("wan, cancelled", rows, len(begun))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
