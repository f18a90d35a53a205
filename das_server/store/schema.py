# SPDX-License-Identifier: GPL-3.0-or-later
"""The job list's file: its tables, and how the file of an older release becomes one of this release.

Schema 1: release 0.1.  Schema 2: the digest of a request leaves out settings at their defaults, so that a later release
with one setting more knows the requests of an earlier one again.  Schema 3: several requesters may want one job, and a
job that ended may run once more under an id of the server's own (``asked``: the id that clients use); what is known of
a job's part in the deaths of workers and servers (``furthest``, ``suspect``).  Schema 4: a job has an ``owner``, and so
has a blob: whoever has sent it; ``lived_s``: when a job changed last, by `LivedClock`.  Schema 5: a job has a
``priority``.

A step of `MIGRATIONS` may change tables and the JSON in them; it leaves fields that it does not know, and jobs that
cannot be read, as they are.  A file of a newer release is refused and not touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from das_blender_addon.errors import StorageError
from das_server.store.job import job_from_row, request_digest
from das_server.store.requesters import CANCELLED, HAS, WANTS

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 5

_MAGIC = b"SQLite format 3\0"
_VERSION_AT = slice(60, 64)
"""Bytes of ``user_version`` in the header of an SQLite file (sqlite.org/fileformat.html, section 1.3)."""

_REQUESTERS = """CREATE TABLE requesters (
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    requester TEXT NOT NULL,
    state TEXT NOT NULL,
    lease_s REAL NOT NULL,
    PRIMARY KEY (job, requester)
) WITHOUT ROWID"""

_BLOB_OWNERS = """CREATE TABLE blob_owners (
    sha TEXT NOT NULL,
    owner TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (sha, owner)
) WITHOUT ROWID"""

_JOBS_BY_ASKED = "CREATE INDEX jobs_by_asked ON jobs (asked, number)"
_JOBS_BY_OWNER = "CREATE INDEX jobs_by_owner ON jobs (owner, state)"

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    spec TEXT NOT NULL,
    inputs TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    created_s REAL NOT NULL,
    changed_s REAL NOT NULL,
    asked TEXT NOT NULL DEFAULT '',
    furthest INTEGER NOT NULL DEFAULT -1,
    suspect INTEGER NOT NULL DEFAULT 0,
    owner TEXT NOT NULL DEFAULT '',
    lived_s REAL NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE events (
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    time_s REAL NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE job_blobs (
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    sha TEXT NOT NULL,
    is_input INTEGER NOT NULL,
    PRIMARY KEY (job, sha, is_input)
) WITHOUT ROWID;
CREATE INDEX job_blobs_by_sha ON job_blobs (sha);
{_JOBS_BY_ASKED};
{_REQUESTERS};
{_BLOB_OWNERS};
{_JOBS_BY_OWNER};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def open_job_list(path: Path) -> sqlite3.Connection:
    """The job list at ``path``, made or brought to this release's schema where needed.

    Raises `StorageError` for a file of a newer release, which stays as it is, and `sqlite3.Error`.
    """
    _refuse_newer(path, _version_in_header(path))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.text_factory = lambda text: text.decode(errors="surrogateescape")  # `job` says what is damaged
        version = _version_of(db)  # more than the header's where the last server had no time to tidy up
        _refuse_newer(path, version)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
            db.executescript(_SCHEMA)
        elif version < SCHEMA_VERSION:
            _migrate(db, path, max(version, 1))
    except BaseException:
        db.close()
        raise
    return db


def open_or_replace_job_list(path: Path) -> sqlite3.Connection:
    """`open_job_list`; a file that is damaged is set aside, and what can be read of it goes on in a new one."""
    try:
        db = open_job_list(path)
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem == "ok":
            return db
        db.close()
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # no room, no permission, a lock: the file is none the worse
            raise
        problem = str(error)
    kept = path.with_suffix(f".damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{end}", f"{kept}{end}")
    db = open_job_list(path)
    saved = {table: _salvage(kept, db, table) for table in ("jobs", "events", "job_blobs", "requesters", "blob_owners")}
    words = ", ".join(f"{count} of {table}" for table, count in saved.items())
    _log.error("%s is damaged (%s) and was set aside as %s; rows that could be saved: %s", path, problem, kept, words)
    return db


def _salvage(damaged: Path, db: sqlite3.Connection, table: str) -> int:
    """Copy what can be read of a table → how many rows."""
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    sql = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    count = 0
    db.execute("BEGIN")
    with contextlib.closing(sqlite3.connect(damaged)) as old:
        old.text_factory = bytes
        try:
            for row in old.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                with contextlib.suppress(sqlite3.IntegrityError):  # a part of a job that was not saved
                    db.execute(sql, [_as_text(value) for value in row])
                    count += 1
        except sqlite3.DatabaseError:  # here the damage begins
            pass
    db.execute("COMMIT")
    return count


def _as_text(value: object) -> object:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def copy_of(path: Path, version: int) -> Path:
    """Where the job list is kept as it was with schema ``version``, before it was brought to a newer one."""
    return path.with_suffix(f".schema-{version}{path.suffix}")


def _migrate(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Bring the file from schema ``version`` to ours, all of it or nothing, and keep a copy of what it was."""
    kept = copy_of(path, version)
    with contextlib.closing(sqlite3.connect(kept)) as copy:
        db.backup(copy)
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, SCHEMA_VERSION):
            MIGRATIONS[step](db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    _log.info("%s was brought from schema %s to %s; %s is a copy from before", path, version, SCHEMA_VERSION, kept)


def _leave_defaults_out_of_digests(db: sqlite3.Connection) -> None:
    for job in map(job_from_row, db.execute("SELECT * FROM jobs").fetchall()):
        if not job.problem:
            digest = request_digest(job.spec, list(job.inputs))
            db.execute("UPDATE jobs SET digest = ? WHERE job = ?", (digest, job.job))


def _let_several_want_one_job(db: sqlite3.Connection) -> None:
    """Every job has one requester, its client of an older release, which sends no id of its own."""
    db.execute("ALTER TABLE jobs ADD COLUMN asked TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE jobs ADD COLUMN furthest INTEGER NOT NULL DEFAULT -1")
    db.execute("ALTER TABLE jobs ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE jobs SET asked = job")
    db.execute(_JOBS_BY_ASKED)
    db.execute(_REQUESTERS)
    db.execute(
        "INSERT INTO requesters SELECT job, '', "
        "CASE WHEN acknowledged THEN ? WHEN cancel_requested THEN ? ELSE ? END, 0 FROM jobs",
        (HAS, CANCELLED, WANTS),
    )


def _let_jobs_have_owners(db: sqlite3.Connection) -> None:
    """Those of an older release are everybody's, as they were."""
    db.execute("ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE jobs ADD COLUMN lived_s REAL NOT NULL DEFAULT 0")
    db.execute(_BLOB_OWNERS)
    db.execute(_JOBS_BY_OWNER)


def _let_jobs_have_priorities(db: sqlite3.Connection) -> None:
    """Nobody waits at a screen for those of an older release, as far as is known."""
    db.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _leave_defaults_out_of_digests,
    2: _let_several_want_one_job,
    3: _let_jobs_have_owners,
    4: _let_jobs_have_priorities,
}
"""Schema → what makes it the next one."""


def _version_in_header(path: Path) -> int:
    """The schema that the file itself names, 0 for none."""
    try:
        with open(path, "rb") as file:
            header = file.read(_VERSION_AT.stop)
    except OSError:  # not there, or SQLite will say what it is
        return 0
    return int.from_bytes(header[_VERSION_AT], "big") if header.startswith(_MAGIC) else 0


def _version_of(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _refuse_newer(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer release of the server (schema {version}, this one knows {SCHEMA_VERSION}) "
            "and was not touched; install that release again, or use another state folder."
        )
