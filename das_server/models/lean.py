# SPDX-License-Identifier: GPL-3.0-or-later
"""A lean start: diffusers imported without the large libraries that it looks for and our processes do not use by it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

UNUSED = ("transformers", "peft", "scipy")
"""What diffusers imports wherever it is installed, for pipelines and files that are not ours.  The text encoder imports
transformers itself, once there is a prompt to encode, and `pipeline.adapters` peft, which imports transformers, with
the first LoRA."""

COMPILER = "torch._dynamo"


@contextmanager
def lean_imports(*, compiler: bool) -> Iterator[None]:
    """Inside, what is imported does not find `UNUSED`; afterwards everybody does.  ``compiler`` False: nor torch's
    compiler, without which what diffusers marks for it stays as it is, so that nothing may be compiled.

    What is imported already stays; then there is nothing to save.
    """
    import torch.compiler

    hidden = [name for name in (*UNUSED, *([] if compiler else [COMPILER])) if name not in sys.modules]
    mark = torch.compiler.disable
    sys.modules.update(dict.fromkeys(hidden))  # None: an import fails, and it is said not to be installed
    if COMPILER in hidden:
        torch.compiler.disable = _leave
    try:
        yield
    finally:
        torch.compiler.disable = mark
        for name in hidden:
            sys.modules.pop(name, None)


def _leave(fn: Callable | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """In place of `torch.compiler.disable`."""
    return fn if fn is not None else lambda fn: fn
