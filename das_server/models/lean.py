# SPDX-License-Identifier: GPL-3.0-or-later
"""A lean start: diffusers and transformers imported without the large libraries that they look for and our processes do
not use by them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

UNUSED = ("transformers", "peft", "scipy")
"""What diffusers imports wherever it is installed, for pipelines and files that are not ours.  The text encoder imports
transformers itself, once there is a prompt to encode, and `pipeline.adapters` peft, which imports transformers, with
the first LoRA."""

COMPILER = "torch._dynamo"
INDEXING, ASSIGNMENT = f"{COMPILER}._trace_wrapped_higher_order_op", "scipy.optimize"
"""Of which transformers uses one function each: for masks of a kind, and to train detectors."""


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


def of_transformers(name: str) -> Any:
    """The class ``name`` of transformers, which is imported without PyTorch's compiler and its distributed tensors, and
    SciPy's optimisation: they take most of the time, for models and trainers that are not ours.  The models that it
    makes compute the same, and are not to be compiled.

    Raises `ImportError`.
    """
    import torch.distributed
    import transformers

    if "transformers.modeling_utils" in sys.modules:  # it has been imported; there is nothing to save
        return getattr(transformers, name)
    standing_in = {name: module for name, module in _absent().items() if name not in sys.modules}
    sys.modules.update(standing_in)
    is_distributed = torch.distributed.is_available
    torch.distributed.is_available = lambda: False  # transformers asks once
    try:
        return getattr(transformers, name)
    except (ImportError, AttributeError):  # a release that looks for more: it is given all
        pass
    finally:
        torch.distributed.is_available = is_distributed
        for absent, module in standing_in.items():
            if sys.modules.get(absent) is module:  # nothing has asked for the true one
                del sys.modules[absent]
    return getattr(transformers, name)


def leave_compiler_out() -> None:
    """From now on PyTorch finds its compiler imported, with what optimisers ask of it where nothing is compiled: that a
    function is none of its business.  Whoever asks for more of its attributes has it imported; its modules are not
    found until then.
    """
    sys.modules.setdefault(COMPILER, _Compiler(COMPILER))


class _Config:
    """What `torch.utils.checkpoint` reads of the compiler's, as it is by default."""

    error_on_nested_fx_trace = True

    def __getattr__(self, name: str) -> Any:
        return getattr(_imported(COMPILER).config, name)


class _Compiler(ModuleType):
    """Stands for the compiler; marks nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_imported(COMPILER), name)

    @staticmethod
    def disable(fn: Callable | None = None, recursive: bool = True, **_: Any) -> Any:
        return _leave(fn)

    allow_in_graph = assume_constant_result = staticmethod(lambda fn: fn)
    graph_break = staticmethod(lambda: None)
    config = _Config()
    eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))
    """What accelerate asks of every model, whether it has been compiled, is of no model."""


def _imported(name: str) -> ModuleType:
    """The module, with nothing in the compiler's place."""
    if isinstance(sys.modules.get(COMPILER), _Compiler):
        del sys.modules[COMPILER]
    return importlib.import_module(name)


def _absent() -> dict[str, ModuleType]:
    """What stands in `sys.modules` for what is left out, with what transformers takes of it."""
    indexing, assignment = ModuleType(INDEXING), ModuleType(ASSIGNMENT)
    indexing.TransformGetItemToIndex = _later(INDEXING, "TransformGetItemToIndex")
    assignment.linear_sum_assignment = _later(ASSIGNMENT, "linear_sum_assignment")
    return {COMPILER: _Compiler(COMPILER), INDEXING: indexing, ASSIGNMENT: assignment}


def _later(module: str, name: str) -> Callable:
    """What ``module`` has as ``name``, imported when it is called."""
    return lambda *arguments, **options: getattr(_imported(module), name)(*arguments, **options)


def _leave(fn: Callable | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """In place of `torch.compiler.disable`."""
    return fn if fn is not None else lambda fn: fn
