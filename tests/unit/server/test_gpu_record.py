# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a GPU: what is known when it is cut off, and what is left out when time runs out."""

import ast
import json
import sys
from pathlib import Path

import torch

from tests.bench.denoise_checkpoint import FULL, TEXT_ENCODER, shapes_of, text_encoder_shapes
from tests.bench.gpu_record import Part, Record, run_parts

ROOT = Path(__file__).resolve().parents[3]
THERE = {"torch", "diffusers", "numpy", "PIL", "safetensors", "huggingface_hub"}
"""diffusers, and what comes with it."""
NOT_NEEDED = {"transformers", "peft"}
"""Asked for late, and not by a clip whose prompts are there and which has no LoRA."""


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_every_figure_is_on_disk_before_the_next_is_measured(tmp_path):
    path = tmp_path / "out" / "bench.json"
    record = Record(path, {"device": "a GPU"})
    seen = []

    def measure():
        record.put("first", 1.5, "s", aim="≤ 2 s")
        seen.append(json.loads(path.read_text()))
        record.put("second", 2.5, "s")

    run_parts([Part("both", 1, measure)], record, limit_s=10)
    assert [row["name"] for row in seen[0]["rows"]] == ["first"] and not seen[0]["finished"]
    said = json.loads(path.read_text())
    assert [row["value"] for row in said["rows"]] == [1.5, 2.5] and said["finished"]
    assert "| first | 1.5 s | ≤ 2 s |" in path.with_suffix(".md").read_text()


def test_parts_that_there_is_no_time_for_are_left_out_and_shorter_ones_are_not(tmp_path):
    clock, record = Clock(), Record(tmp_path / "bench.json", {})

    def takes(time_s):
        def measure():
            clock.now_s += time_s
            record.put(f"{time_s} s", time_s, "s")

        return measure

    parts = [Part("a", 50, takes(70)), Part("b", 40, takes(40)), Part("c", 20, takes(20))]
    run_parts(parts, record, limit_s=100, clock=clock)
    assert [row.value for row in record.rows] == [70, 20]
    assert record.left_out == {"b": "30 s were left and it takes about 40 s"}


def test_part_that_fails_costs_no_other(tmp_path):
    record = Record(tmp_path / "bench.json", {})

    def fail():
        raise RuntimeError("CUDA error: no kernel image\nand more")

    run_parts([Part("a", 0, fail), Part("b", 0, lambda: record.put("b", 1, ""))], record, limit_s=10)
    assert record.left_out == {"a": "RuntimeError: CUDA error: no kernel image"} and len(record.rows) == 1
    assert "| a | – (RuntimeError" in (tmp_path / "bench.md").read_text()


def test_parts_fit_the_six_minutes_as_guessed():
    from tests.bench import gpu_report

    guessed = sum(part.expected_s for part in gpu_report.Report(None, None, []).parts())
    assert gpu_report.START_S + guessed <= gpu_report.LIMIT_S == 360


def test_report_imports_nothing_that_a_machine_with_torch_and_diffusers_lacks():
    """At the head of all files that it loads; and late in functions, but for what no clip without texts asks for."""
    seen, to_read = set(), [ROOT / "tests" / "bench" / "gpu_report.py"]
    foreign, late = set(), set()
    while to_read:
        path = to_read.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_head = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            for module, names in _imported(node, path):
                files = [_file_of(module, path), *(_file_of(f"{module}.{name}", path) for name in names)]
                if any(files) and id(node) in at_head:
                    to_read += [file for file in files if file is not None]
                elif not any(files) and module.partition(".")[0] not in sys.stdlib_module_names:
                    (foreign if id(node) in at_head else late).add(module.partition(".")[0])
    assert foreign <= THERE and late <= THERE | NOT_NEEDED
    assert len(seen) > 30 and ROOT / "das_server" / "models" / "weights.py" in seen


def _imported(node, path):
    """Absolute (module, names) of an import statement."""
    if isinstance(node, ast.Import):
        return [(alias.name, []) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
    return [(".".join([*package, *([node.module] if node.module else [])]), [alias.name for alias in node.names])]


def _file_of(module, path):
    """The repository's file of a module, beside ``path`` or from the root; None for another's."""
    parts = module.split(".")
    for folder in (path.parent, ROOT) if len(parts) == 1 else (ROOT,):
        for file in (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py")):
            if file.is_file():
                return file
    return None


def test_text_encoder_of_holes_has_the_tensors_of_a_real_one():
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**(TEXT_ENCODER | FULL.text_encoder)))
    assert text_encoder_shapes(**FULL.text_encoder) == shapes_of(model)
