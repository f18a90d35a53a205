# SPDX-License-Identifier: GPL-3.0-or-later
"""A job list of an older release is brought up to date, one of a newer release is refused and not touched."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import sqlite3
from pathlib import Path

import pytest

from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol.messages import JobInput
from das_server.store.job import JobState
from das_server.store.jobs import JobStore
from das_server.store.schema import MIGRATIONS, SCHEMA_VERSION, copy_of
from tests.support.jobs import job_id, job_inputs, job_spec

SCHEMA_1 = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, spec TEXT NOT NULL,
    inputs TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, losses INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0, created_s REAL NOT NULL,
    changed_s REAL NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE events (
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE, seq INTEGER NOT NULL, kind TEXT NOT NULL,
    time_s REAL NOT NULL, fields TEXT NOT NULL, PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE job_blobs (
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE, sha TEXT NOT NULL, is_input INTEGER NOT NULL,
    PRIMARY KEY (job, sha, is_input)
) WITHOUT ROWID;
CREATE INDEX job_blobs_by_sha ON job_blobs (sha);
PRAGMA user_version = 1;
"""
"""The tables of release 0.1, as it made them."""


def in_release_1(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def put_in_release_1(db, job, spec, inputs, state="DONE", **more):
    """Store a job with an event and a blob as release 0.1 did; ``more``: fields of the stored JSON beyond its own."""
    plain, items = dataclasses.asdict(spec), [dataclasses.asdict(one) for one in inputs]
    request = [plain, sorted(items, key=lambda one: one["role"])]
    digest = hashlib.sha256(in_release_1(request).encode()).hexdigest()
    db.execute(
        "INSERT INTO jobs (job, digest, spec, inputs, state, attempt, created_s, changed_s) "
        "VALUES (?, ?, ?, ?, ?, 1, 1000.5, 1001.5)",
        (job, digest, in_release_1(plain | more), in_release_1(items), state),
    )
    db.execute("INSERT INTO events VALUES (?, 1, 'QUEUED', 1000.5, ?)", (job, '{"position":0}'))
    db.execute("INSERT INTO job_blobs VALUES (?, ?, 1)", (job, inputs[0].sha))


FILES = Path(__file__).parent / "files"
REQUESTERS_OF_2 = ("wants", "has", "cancelled", "wants", "cancelled", "wants")


@pytest.fixture
def old(tmp_path):
    """A state folder of release 0.1 with a finished job, a waiting one, and one whose request is damaged."""
    spec = job_spec(seed=5)
    inputs, jobs = job_inputs(spec)[0], [job_id() for _ in range(3)]
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA_1)
        put_in_release_1(db, jobs[0], spec, inputs, lens=[1, 2])
        put_in_release_1(db, jobs[1], spec, inputs, state="QUEUED")
        put_in_release_1(db, jobs[2], spec, inputs)
        db.execute("UPDATE jobs SET spec = '{half' WHERE job = ?", (jobs[2],))
    return tmp_path, jobs, spec, inputs


def rows(path, table):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def version(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def test_every_older_schema_has_its_step():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_job_list_of_the_first_release_is_brought_up_to_date_and_told(old, caplog):
    folder, (done, waiting, damaged), spec, inputs = old
    path = folder / "jobs.sqlite3"
    before = {table: rows(path, table) for table in ("jobs", "events", "job_blobs")}
    caplog.set_level(logging.INFO)
    store = JobStore(folder)
    assert store.submit(done, spec, inputs)[1] and store.submit(waiting, spec, inputs)[1]
    with pytest.raises(JobRejected, match="another request"):
        store.submit(done, job_spec(seed=6), inputs)
    assert store.next_queued().job == waiting and store.get(done).state is JobState.DONE
    assert "cannot be read" in store.get(damaged).problem
    store.close()

    assert version(path) == SCHEMA_VERSION
    digest, columns = 2, len(before["jobs"][0])
    for old_row, new_row in zip(before["jobs"], rows(path, "jobs"), strict=True):
        assert old_row[:digest] + old_row[digest + 1 :] == new_row[:digest] + new_row[digest + 1 : columns]
        assert (old_row[digest] == new_row[digest]) == (old_row[1] == damaged)
    assert rows(path, "events") == before["events"] and rows(path, "job_blobs") == before["job_blobs"]
    assert '"lens":[1,2]' in rows(path, "jobs")[0][3]

    kept = copy_of(path, 1)
    assert f"from schema 1 to {SCHEMA_VERSION}" in caplog.text and str(kept) in caplog.text
    assert version(kept) == 1 and rows(kept, "jobs") == before["jobs"]


def test_job_list_of_schema_2_gets_one_requester_for_each_job(tmp_path):
    """The file was written by the release before: 0 done, 1 done and acknowledged, 2 runs and is to be cancelled,
    3 runs, 4 cancelled, 5 waits."""
    path = tmp_path / "jobs.sqlite3"
    shutil.copyfile(FILES / "jobs_schema_2.sqlite3", path)
    jobs, spec = [digit * 32 for digit in "012345"], job_spec(seed=5)
    before = {table: rows(path, table) for table in ("jobs", "events", "job_blobs")}
    inputs = [JobInput(**one) for one in json.loads(before["jobs"][0][4])]
    assert version(path) == 2 and [one.role for one in inputs] == ["tracking_video", "first_frame", "first_frame_xy"]
    store = JobStore(tmp_path)
    assert rows(path, "requesters") == [(job, "", state, 0.0) for job, state in zip(jobs, REQUESTERS_OF_2, strict=True)]
    assert [row[:-6] for row in rows(path, "jobs")] == before["jobs"] and rows(path, "events") == before["events"]
    assert rows(path, "job_blobs") == before["job_blobs"]
    for job in jobs:
        assert store.submit(job, spec, inputs)[1]
    assert store.acknowledge(jobs[0]) == ["f" * 64]
    new = store.submit(jobs[4], spec, inputs, requester="a" * 32, anew=True)[0]
    assert new.job not in jobs and store.run_of(jobs[4], "a" * 32) == new and store.run_of(jobs[4]).job == jobs[4]
    store.close()


def test_upgraded_job_list_equals_a_new_one(old, tmp_path_factory):
    def tables(folder):
        JobStore(folder).close()
        with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3")) as db:
            made = db.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name").fetchall()
        return {name: "".join(sql.split()) for name, sql in made if not name.startswith("sqlite_")}

    assert tables(old[0]) == tables(tmp_path_factory.mktemp("new"))


def test_upgrade_that_fails_half_way_changes_nothing(old):
    folder, (done, waiting, _), spec, inputs = old
    path = folder / "jobs.sqlite3"
    refuse = f"BEFORE UPDATE ON jobs WHEN OLD.job = '{waiting}' BEGIN SELECT RAISE (ABORT, 'no more'); END"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TRIGGER half_way {refuse}")
    before = rows(path, "jobs")
    with pytest.raises(StorageError, match="no more"):
        JobStore(folder)
    assert rows(path, "jobs") == before and version(path) == 1
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER half_way")
    store = JobStore(folder)
    assert store.submit(done, spec, inputs)[1]
    store.close()


@pytest.mark.parametrize("tidy", [True, False], ids=["closed", "killed"])
def test_job_list_of_a_newer_release_is_refused_and_not_touched(tmp_path, tidy):
    store = JobStore(tmp_path)
    spec = job_spec()
    store.submit(job_id(), spec, job_inputs(spec)[0])
    path = tmp_path / "jobs.sqlite3"
    store._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    if tidy:
        store.close()
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StorageError, match=f"newer release .*schema {SCHEMA_VERSION + 1},.* not touched"):
        JobStore(tmp_path)
    if tidy:
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    else:
        store.close()
    assert version(path) == SCHEMA_VERSION + 1 and len(rows(path, "jobs")) == 1


@pytest.mark.parametrize("damage", ["a page in the middle", "the header", "all of it"])
def test_damaged_job_list_is_set_aside_and_what_can_be_read_goes_on(tmp_path, caplog, damage):
    store = JobStore(tmp_path)
    spec = job_spec()
    jobs = [job_id() for _ in range(60)]
    for job in jobs:
        store.submit(job, spec, job_inputs(spec)[0], requester="ab" * 16)
    store.close()
    path = tmp_path / "jobs.sqlite3"
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    at = {"a page in the middle": slice(len(content) - 12 * size, len(content) - 11 * size), "the header": slice(0, 16)}
    span = at.get(damage, slice(0, len(content)))
    content[span] = bytes([0xA5]) * len(content[span])
    path.write_bytes(content)
    store = JobStore(tmp_path)
    saved = [job for job in jobs if store.find(job) is not None]
    assert "is damaged" in caplog.text and len(list(tmp_path.glob("jobs.damaged-*.sqlite3"))) == 1
    if damage == "a page in the middle":
        assert saved and all(store.get(job).spec == spec for job in saved)
    new = job_id()
    store.submit(new, spec, job_inputs(spec)[0])
    store.close()
    store = JobStore(tmp_path)
    assert store.get(new).spec == spec and len(list(tmp_path.glob("jobs.damaged-*.sqlite3"))) == 1
    store.close()
