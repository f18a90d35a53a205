# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server says of itself, for tests that need no server."""

from das_blender_addon.protocol.messages import Capabilities, ModelCapability


def model_capability(**changes) -> ModelCapability:
    """A small model: windows of 5 and 9 frames, 96×64 pixels, reads a carried video."""
    values = {
        "name": "tiny",
        "label": "Tiny",
        "num_frames": [5, 9],
        "sizes": [[96, 64]],
        "default_steps": 2,
        "exact_steps": [],
        "default_guidance": 1.0,
        "default_tracking_range": "signed",
        "uses_prompt": False,
        "inputs": ["carried_video"],
        "licence": "GPL-3.0-or-later",
        "installed": True,
    }
    return ModelCapability(**{**values, **changes})


def capabilities_of(*models: ModelCapability) -> Capabilities:
    """A server with these models, the first of them its default."""
    names = ["zlib", "raw"]
    return Capabilities(models[0].name, models=list(models), codecs=names, max_blob_bytes=1 << 30, devices=["cpu"])
