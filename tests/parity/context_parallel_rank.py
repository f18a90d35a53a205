# SPDX-License-Identifier: GPL-3.0-or-later
"""One rank of `test_context_parallel`: MEETING_URL RANK MODE…; prints each mode with its largest difference from the
golden output.
"""

import os
import sys

import torch
import torch.distributed as dist

from das_server.models.lean import lean_imports

with lean_imports(compiler=False):  # as a worker
    from diffusers.hooks.context_parallel import apply_context_parallel
    from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig

    from das_server.models.transformer import DasTransformer3DModel
    from tests.parity.golden_data import GOLDEN, max_difference, rotary, tensors


def split_model(mode: str, rank: int) -> DasTransformer3DModel:
    """What enable_parallelism does; in diffusers 0.42 that one divides by the number of accelerators."""
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")
    config = ParallelConfig(ContextParallelConfig(ulysses_degree=2, ulysses_anything=mode == "ulysses_anything"))
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))
    config.setup(rank, 2, torch.device("cpu"), mesh=mesh)
    for processor in model.attn_processors.values():
        processor._parallel_config = config
    apply_context_parallel(model, config.context_parallel_config, model._cp_plan)
    return model


def main(meeting: str, rank: int, modes: list[str]) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    io = tensors("transformer/io_main")
    for mode in modes:
        model = split_model(mode, rank)
        with torch.no_grad():
            output = model(
                io["hidden_states"], io["encoder_hidden_states"], io["timestep"], io["tracking_maps"], rotary(io)
            ).sample
        print(mode, max_difference(output, io["output"]), flush=True)
    dist.barrier()
    os._exit(0)  # the threads of gloo outlive Python's end and may abort the process there, long after the last result


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
