# SPDX-License-Identifier: GPL-3.0-or-later
"""What kind of trouble an error of PyTorch means, by its class and words.  Never imports torch.

PyTorch has a class of its own for its allocator's shortage only: what CUDA's libraries lack reaches us as a
RuntimeError, "CUDA error: …" or "cuDNN error: …", and so does a device that is beyond use.
"""

from __future__ import annotations

from das_blender_addon.errors import OutOfMemory

SHORTAGES_ON_DEVICE = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""Words for too little device memory; the device goes on working."""

REFUSALS = (
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_ARCH_MISMATCH",
    "CUBLAS_STATUS_INVALID_VALUE",
    "CUDA error: no kernel image is available",
    "CUDA error: invalid device function",
    "CUDA error: invalid configuration argument",
    "CUDA error: invalid argument",
    "CUDA error: too many resources requested for launch",
)
"""Words for a kernel that was never begun; the device goes on working (CUDA's reference, cudaError_t; cuBLAS's,
cublasStatus_t)."""

SHORTAGES_ON_HOST = ("DefaultCPUAllocator: can't allocate", "DefaultCPUAllocator: not enough memory")
"""Words of PyTorch for too little memory of the machine, on Linux and on Windows."""


def is_out_of_device_memory(error: BaseException) -> bool:
    """Whether an accelerator's memory did not suffice, or `OutOfMemory` said so beforehand."""
    if isinstance(error, OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGES_ON_DEVICE)


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether the machine's own memory did not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGES_ON_HOST)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether any memory did not suffice."""
    return is_out_of_device_memory(error) or is_out_of_host_memory(error)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device is beyond use for this process: after such an error of CUDA every call ends in it."""
    return "CUDA error" in str(error) and not is_out_of_memory(error) and not is_refusal(error)


def is_refusal(error: BaseException) -> bool:
    """Whether the device did not take up a kernel, and goes on working."""
    return any(refusal in str(error) for refusal in REFUSALS)
