# SPDX-License-Identifier: GPL-3.0-or-later
"""A soak: clients make jobs while servers, workers and clients are killed and the network is cut, by a fixed seed."""

from __future__ import annotations

import collections
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from das_blender_addon.client.client import DasClient
from das_blender_addon.client.connection import ATTEMPT_S
from das_blender_addon.client.take import run_job
from das_blender_addon.protocol.messages import PROGRESS_STAGES
from tests.support.proxy import Proxy
from tests.support.server import ROOT, ServerProcess
from tests.support.soak_client import read_notes, request
from tests.support.wire import kill, sha_of

NUM_KINDS = 3
"""Different jobs, made once in peace: what their frames have to be."""

STEPS = 10
MISHAPS = {"worker killed": 5, "client killed": 4, "network cut": 4, "server killed": 2}
"""What happens, and how often in relation."""

LIFE = re.compile(r"Q+(S[pv]*RQ*)*S[pv]*D")
LETTERS = {"QUEUED": "Q", "STARTED": "S", "RETRY": "R", "PROGRESS": "p", "PREVIEW": "v", "DONE": "D", "WAITING": ""}


@dataclass
class Outcome:
    """What came of a soak; all but the first four are to be empty.  ``seconds``: of the storm and what came after."""

    jobs: int
    seconds: float
    mishaps: collections.Counter
    attempts: int
    lost: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [*self.lost, *self.given_up, *self.duplicated, *self.wrong, *self.disorder]

    def __str__(self) -> str:
        happened = ", ".join(f"{what} {count} times" for what, count in sorted(self.mishaps.items()))
        named = ("lost", "given_up", "duplicated", "wrong", "disorder")
        counts = ", ".join(f"{name.replace('_', ' ')} {len(getattr(self, name))}" for name in named)
        return f"{self.jobs} jobs in {self.attempts} attempts and {self.seconds:.0f} s; {happened}: {counts}"


class Soak:
    """``num_jobs`` jobs of ``num_clients`` clients on ``server``, which runs; everything happens by ``seed``.
    ``patience_s``: how long an answer may take before a client asks on another connection; ``longest_pause_s``: between
    two mishaps."""

    def __init__(
        self,
        server: ServerProcess,
        folder: Path,
        *,
        num_jobs: int,
        num_clients: int = 8,
        seed: int = 12,
        patience_s: float = ATTEMPT_S,
        longest_pause_s: float = 1.5,
    ):
        self._server, self._folder = server, folder
        self._patience_s, self._longest_pause_s = patience_s, longest_pause_s
        self._random = random.Random(seed)
        self._proxy = Proxy(int(server.address.rpartition(":")[2]))
        self._jobs = [
            {"job": f"{seed:016x}{number:016x}", "seed": number % NUM_KINDS, "steps": STEPS}
            for number in range(num_jobs)
        ]
        self._folders = [folder / f"client-{number}" for number in range(num_clients)]
        self._clients: dict[Path, subprocess.Popen] = {}
        self._mishaps: collections.Counter[str] = collections.Counter()

    def run(self, *, storm_s: float, limit_s: float) -> Outcome:
        """A storm of ``storm_s`` seconds or until all is made, then peace until all is made, ``limit_s`` at most."""
        expected = [self._make_in_peace(seed) for seed in range(NUM_KINDS)]
        began = time.monotonic()
        try:
            for number, folder in enumerate(self._folders):
                folder.mkdir(parents=True)
                (folder / "jobs.json").write_text(json.dumps(self._jobs[number :: len(self._folders)]))
                self._start_client(folder)
            while time.monotonic() - began < storm_s and not self._is_over():
                time.sleep(self._random.uniform(0.1, self._longest_pause_s))
                self._mishap()
            while time.monotonic() - began < limit_s and not self._is_over():
                time.sleep(0.1)
        finally:
            for process in self._clients.values():
                process.kill()
                process.wait()
            self._proxy.close()
        seconds = time.monotonic() - began
        self._server.stop()
        return self._look_at_it(expected, seconds)

    # ── The storm ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _mishap(self) -> None:
        what = self._random.choices(list(MISHAPS), list(MISHAPS.values()))[0]
        index, dark_s = self._random.randrange(len(self._folders)), self._random.uniform(0.0, 1.0)
        if what == "client killed":
            process = self._clients[self._folders[index]]
            if process.poll() is not None:
                return
            process.kill()
            process.wait()
            self._start_client(self._folders[index])
        elif what == "network cut":
            self._proxy.cut(dark_s)
        elif what == "server killed":
            self._server.kill()
            self._server.start()
        else:
            with DasClient(self._server.address, timeout_s=60) as client:
                pid = client.status().workers[0]["pid"]
            if not pid:
                return
            try:
                kill(pid)
            except ProcessLookupError:  # it has just gone by itself
                return
        self._mishaps[what] += 1

    def _start_client(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.soak_client", self._proxy.address, str(folder)]
        command.append(str(self._patience_s))
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            self._clients[folder] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def _is_over(self) -> bool:
        return all(process.poll() is not None for process in self._clients.values())

    def _make_in_peace(self, seed: int) -> list[str]:
        made = run_job(self._server.address, request(seed, STEPS), self._folder / f"peace-{seed}", timeout_s=60)
        return [sha_of(path.read_bytes()) for path in made.frames]

    # ── What came of it ─────────────────────────────────────────────────────────────────────────────────────────────

    def _look_at_it(self, expected: list[list[str]], seconds: float) -> Outcome:
        notes = {note["job"]: note for folder in self._folders for note in read_notes(folder / "done.jsonl")}
        outcome = Outcome(len(self._jobs), seconds, self._mishaps, 0)
        for job in self._jobs:
            name, note = job["job"], notes.get(job["job"])
            if note is None:
                outcome.lost.append(f"{name} never ended for its client")
            elif "error" in note:
                outcome.given_up.append(f"{name}: {note['error']}")
            elif note["frames"] != expected[job["seed"]]:
                outcome.wrong.append(f"{name} has other frames than in peace")
        outcome.disorder += sorted({line for note in notes.values() for line in note["disorder"]})
        self._look_at_stored(outcome)
        return outcome

    def _look_at_stored(self, outcome: Outcome) -> None:
        """Each job has one run, whose events are numbered from 1 on and follow one another as they may."""
        with sqlite3.connect(self._server.state / "jobs.sqlite3") as db:
            for job in (one["job"] for one in self._jobs):
                runs = [row[0] for row in db.execute("SELECT job FROM jobs WHERE asked = ? ORDER BY number", (job,))]
                if not runs:
                    outcome.lost.append(f"{job} is not stored")
                elif len(runs) > 1:
                    outcome.duplicated.append(f"{job} was made {len(runs)} times")
                for run in runs:
                    sql = "SELECT seq, kind, fields FROM events WHERE job = ? ORDER BY seq"
                    events = [(seq, kind, json.loads(fields)) for seq, kind, fields in db.execute(sql, (run,))]
                    outcome.attempts += sum(kind == "STARTED" for _, kind, _ in events)
                    outcome.disorder += [f"{run}: {problem}" for problem in problems_of(events)]


def problems_of(events: list[tuple[int, str, dict]]) -> list[str]:
    """What is wrong with the order of a job's events (seq, kind, fields) that ended well."""
    found = []
    if [seq for seq, _, _ in events] != list(range(1, len(events) + 1)):
        found.append(f"numbered {[seq for seq, _, _ in events]}")
    life = "".join(LETTERS.get(kind, "?") for _, kind, _ in events)
    if not LIFE.fullmatch(life):
        found.append(f"its life is {life}")
    last = (0, 0)
    for seq, kind, fields in events:
        if kind == "STARTED":
            last = (0, 0)
        elif kind == "PROGRESS":
            now = (PROGRESS_STAGES.index(fields["stage"]), fields["step"])
            if now < last:
                found.append(f"event {seq} goes back to {fields}")
            last = now
    return found
