# SPDX-License-Identifier: GPL-3.0-or-later
"""Safetensors files of tensors that may be spread over the processes of a run: each is whole only while it is written.

All of a large model's weights, averages and moments at once would fit neither a device nor, eight times, a machine.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import safe_open

from .sharding import whole

STORED_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
                torch.int64: "I64"}
"""What the format calls a dtype."""


def write_tensors(path: Path | None, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a file. All ranks together, of which one gives the `path`; the others help to put the tensors together."""
    # Large elements first: every tensor then begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    with path.open("wb") if path is not None else nullcontext() as file:
        if file is not None:
            file.write(_header(ordered))
        for _, tensor in ordered:
            value = whole(tensor)
            if file is not None:
                file.write(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
            del value


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of a file on the CPU, one after the other."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 — it is no dictionary
            yield name, file.get_tensor(name)


def _header(entries: list[tuple[str, torch.Tensor]]) -> bytes:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in entries:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": STORED_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
