# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of a soak, in a process of its own: makes one job after the other and notes what came of each.

python -m tests.support.soak_client ADDRESS FOLDER PATIENCE_S
FOLDER/jobs.json: what to make; FOLDER/done.jsonl: the notes; PATIENCE_S: how long an answer may take before the client
asks on another connection.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from das_blender_addon.client import connection, take
from das_blender_addon.client.client import DasClient
from das_blender_addon.client.take import JobEvent, JobRequest, Log, run_job
from das_blender_addon.errors import DasError, TransportError
from das_blender_addon.protocol.png import encode_png
from tests.support.jobs import carried_video, first_frame, job_spec, tracking_video
from tests.support.wire import sha_of

disorder: list[str] = []


class Listening(DasClient):
    """Notes events that come in another order than they were numbered, or twice."""

    def attach(self, job, after=0, **options):
        self.last_seq = after
        return super().attach(job, after, **options)

    def next_event(self, *arguments, **options):
        event = super().next_event(*arguments, **options)
        if event is not None:
            if event.seq != self.last_seq + 1:
                disorder.append(f"{event.job}: {event.kind} {event.seq} after {self.last_seq}")
            self.last_seq = event.seq
        return event


def request(seed: int, steps: int) -> JobRequest:
    """What a job of a soak asks for."""
    spec = job_spec(seed=seed, num_inference_steps=steps, prompt="a red ball")
    return JobRequest(spec, tracking_video(), encode_png(first_frame()), carried_video())


def say(event: JobEvent) -> None:
    """What a user would read, with the time."""
    if isinstance(event, Log):
        print(f"{time.strftime('%H:%M:%S')} {event.text}", flush=True)


def make(address: str, job: dict, folder: Path) -> dict:
    """Make one job, however often the server goes away meanwhile → what came of it."""
    while True:
        try:
            asked = request(job["seed"], job["steps"])
            made = run_job(address, asked, folder / job["job"], job_id=job["job"], on_event=say)
        except TransportError:
            time.sleep(0.2)
            continue
        except DasError as error:
            return {"job": job["job"], "error": f"{error.code}: {error.message}", "disorder": disorder}
        shas = [sha_of(path.read_bytes()) for path in made.frames]
        return {"job": job["job"], "run": made.job_id, "frames": shas, "disorder": disorder}


def main() -> None:
    """Make the jobs that are not noted yet."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    connection.ATTEMPT_S = float(sys.argv[3])
    take.DasClient = Listening
    notes = folder / "done.jsonl"
    done = {note["job"] for note in read_notes(notes)}
    for job in json.loads((folder / "jobs.json").read_text()):
        if job["job"] not in done:
            note = make(address, job, folder)
            with open(notes, "a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_notes(path: Path) -> list[dict]:
    """The whole lines of a file of notes, whose last one may be cut."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    main()
