# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker says of an error that ended its job."""

from __future__ import annotations

from das_blender_addon.errors import DasError, JobError, OutOfMemory
from das_server.pipeline.device_errors import is_out_of_host_memory, is_out_of_memory


def error_of(error: Exception, device_label: str) -> DasError:
    """The error as one of the tree."""
    if isinstance(error, DasError):
        return error
    if is_out_of_memory(error):
        place = "this machine" if is_out_of_host_memory(error) else device_label
        return OutOfMemory(
            f"The job does not fit the memory of {place}; use fewer or smaller frames, or a smaller memory profile."
        )
    name = type(error).__name__
    return JobError(f"The job failed with {name}: {first_line(error)}; the server's log has the details.")


def first_line(error: Exception) -> str:
    """What it says, as far as its first line."""
    return str(error).splitlines()[0] if str(error) else "no message"
