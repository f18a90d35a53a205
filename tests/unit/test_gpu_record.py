# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a GPU: what is known when it is cut off, and what is left out when time runs out."""

import json

from tests.bench.gpu_record import Part, Record, run_parts


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
