# SPDX-License-Identifier: GPL-3.0-or-later
"""One rank of `test_context_parallel`: MODE MEETING_URL RANK; prints its largest difference from the golden output."""

import sys

import torch
import torch.distributed as dist
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig

from das_server.models.transformer import DasTransformer3DModel
from tests.parity.golden_data import GOLDEN, max_difference, rotary, tensors


def main(mode: str, meeting: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")

    # What enable_parallelism does; in diffusers 0.42 that one divides by the number of accelerators.
    config = ParallelConfig(ContextParallelConfig(ulysses_degree=2, ulysses_anything=mode == "ulysses_anything"))
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))
    config.setup(rank, 2, torch.device("cpu"), mesh=mesh)
    for processor in model.attn_processors.values():
        processor._parallel_config = config
    apply_context_parallel(model, config.context_parallel_config, model._cp_plan)

    io = tensors("transformer/io_main")
    with torch.no_grad():
        output = model(
            io["hidden_states"], io["encoder_hidden_states"], io["timestep"], io["tracking_maps"], rotary(io)
        ).sample
    print(max_difference(output, io["output"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
