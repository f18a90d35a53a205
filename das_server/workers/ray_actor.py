# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker as a Ray actor: what comes in and goes out is bytes, its disk is its node's own, and it outlives its server.

A server (`ray_crew`) asks for what is new (`hear`), says what is to be done (`tell`) and takes results away (`fetch`).
What the worker says is kept until the next question shows that it has come, and the last result until the next job,
so that nothing is lost with a server, and nothing is made twice.  Who is asked nothing for `KEEP_S` ends, once his
job is over.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from das_blender_addon.errors import DasError, JobCancelled, ModelError, StorageError
from das_server import __version__
from das_server.config import default_state_folder
from das_server.models.revision import Revisions
from das_server.store.blobs import DISK, BlobStore, storage_errors
from das_server.workers.devices import SLEEPING_THREADS
from das_server.workers.sockets import SocketFolder
from das_server.workers.talk import Talk

if TYPE_CHECKING:
    from das_server.workers.runner import Worker

_log = logging.getLogger(__name__)

KEEP_S = 600.0
"""How long a worker waits for a server to come back."""

LAST_WORDS_S = 5.0
"""How long a worker that ends waits for a server to hear why."""


class KeptTalk(Talk):
    """What is said is kept for whoever asks."""

    def __init__(self, name: str):
        super().__init__(name)
        self._said = threading.Condition()
        self._words: list[tuple[int, dict[str, Any]]] = []
        self._number = 0
        self._result: dict[str, Any] = {}
        self.lasting: dict[str, dict[str, Any]] = {}
        """The last "ready" and the last "problem", for a server that comes later."""
        self._attempt = ("", 0)
        self.asked_s = time.monotonic()

    def say(self, kind: str, **fields: Any) -> None:
        with self._said:
            self._number += 1
            word = {"kind": kind, **fields}
            self._words.append((self._number, word))
            if kind == "done" or (kind == "failed" and not _may_end_otherwise(fields)):
                self._result = word
            if kind in ("ready", "problem"):
                self.lasting[kind] = word
            self._said.notify_all()

    def end(self, problem: str, status: int) -> None:
        self.say("problem", message=problem)
        deadline = time.monotonic() + LAST_WORDS_S
        with self._said:
            while self._words and time.monotonic() < deadline:
                self._said.wait(0.1)
        os._exit(status)

    def note_checkpoint(self, order: dict[str, Any], path: Path) -> None:
        with self._said:  # the newest is enough
            self._words = [one for one in self._words if one[1]["kind"] != "checkpoint"]
        self.say("checkpoint", job=order["job"], attempt=order["attempt"], content=path.read_bytes())

    def hear(self, message: dict[str, Any]) -> None:
        if message["kind"] == "run":
            self.forget_result(message)
        super().hear(message)

    def forget_result(self, order: dict[str, Any]) -> None:
        """From now on only this order counts."""
        with self._said:
            self._attempt, self._result = (order["job"], order["attempt"]), {}

    def listen(self, after: int, wait_s: float) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        """(how the worker stands, what it said since number ``after``), once there is something or after a while."""
        self.asked_s = time.monotonic()
        with self._said:
            self._words = [one for one in self._words if one[0] > after]
            self._said.notify_all()
            if not self._words:
                self._said.wait_for(lambda: self._words, wait_s)
            job, attempt = self._attempt
            words = [(number, self._of_now(one, job, attempt)) for number, one in self._words]
        return self._heartbeat(time.monotonic()), words

    def held(self) -> tuple[str, int]:
        """(job, attempt) that runs, waits or whose result is still here; ("", 0) for none."""
        with self._lock:
            is_on = self._attempt[0] and (self._attempt[0] in self._waiting or bool(self._current))
        return self._attempt if is_on or self._result else ("", 0)

    def take_over(self, job: str, attempt: int) -> bool:
        """Whether the job is here already: then it goes on as this attempt."""
        if self.held()[0] != job:
            return False
        with self._said:
            self._attempt = (job, attempt)
            result = dict(self._result)
        if result:
            self.say(**result | {"attempt": attempt})
        return True

    @staticmethod
    def _of_now(message: dict[str, Any], job: str, attempt: int) -> dict[str, Any]:
        return message | {"attempt": attempt} if job and message.get("job") == job else message


def _may_end_otherwise(failed: dict[str, Any]) -> bool:
    """Whether another attempt may succeed where this one was cancelled or found a disk full."""
    return failed["code"] == JobCancelled.code or (failed["code"], failed["field"]) == (StorageError.code, DISK)


class WorkerActor:
    """The actor's class.  ``place``: a `Place` as a map, for a server that comes later; ``options``: those of
    `runner.Worker`, "log_level" and "stall_timeout_s"."""

    def __init__(self, place: dict[str, Any], options: dict[str, Any]):
        self._place, options, name = place, dict(options), place["name"]
        logging.basicConfig(
            level=options.pop("log_level"), format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s"
        )
        for variable, value in {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **SLEEPING_THREADS}.items():
            os.environ.setdefault(variable, value)
        self._folder = SocketFolder()  # swept by the next one, if this process is killed
        self._blobs = BlobStore(self._folder.path)
        self._talk = KeptTalk(name)
        self._stall_s = options.pop("stall_timeout_s")
        threading.Thread(target=self._work, args=(options,), name="work", daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def about(self) -> dict[str, Any]:
        """Who this is, what it holds, and what it has said that still counts."""
        job, attempt = self._talk.held()
        about = {"pid": os.getpid(), "version": __version__, "job": job, "attempt": attempt}
        return about | {"place": self._place, "lasting": list(self._talk.lasting.values())}

    def hear(self, after: int, wait_s: float) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        """See `KeptTalk.listen`."""
        return self._talk.listen(after, wait_s)

    def tell(self, message: dict[str, Any], *contents: bytes) -> bool:
        """One message of the server.  ``contents``: of "run", the blobs of its inputs and, with "has_checkpoint", the
        file where an earlier attempt goes on; none where the job "is_there": then it goes on, or, where it is not there
        any more, this is False."""
        if message["kind"] == "run":
            if self._talk.take_over(message["job"], message["attempt"]):
                return True
            if message["is_there"]:
                return False
            self._talk.forget_result(message)  # its blobs make room
            try:
                self._unpack(message, contents)
            except DasError as error:
                self._talk.fail(message, error)
                return True
        self._talk.hear(message)
        return True

    def fetch(self, shas: list[str]) -> list[bytes]:
        """Blobs that the worker has told of."""
        return [self._blobs.read_whole(sha) for sha in shas]

    def _unpack(self, message: dict[str, Any], contents: tuple[bytes, ...]) -> None:
        with storage_errors(f"what the job needs on the node {socket.gethostname()}"):
            for folder in ("blobs", "checkpoints"):
                for path in (self._folder.path / folder).glob("*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            count = len(contents) - int(message["has_checkpoint"])
            for content in contents[:count]:
                self._blobs.add(content)
            if message["has_checkpoint"]:
                path = self._folder.path / "checkpoints" / f"{message['job']}.safetensors"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(contents[-1])

    def _work(self, options: dict[str, Any]) -> None:
        try:
            self._worker(options).run_forever()
        except BaseException:
            _log.exception("the worker broke")
            os._exit(1)

    def _worker(self, options: dict[str, Any]) -> Worker:
        from das_server.workers.runner import Worker  # brings torch

        notes = default_state_folder() / "kernel_notes"
        check = check_of_this_node()
        return Worker(self._talk, self._folder.path, kernel_notes=notes, check_weights=check, **options)

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            beat = self._talk._heartbeat(time.monotonic())
            is_at_work = beat["job"] and beat["since_progress_s"] < self._stall_s
            if time.monotonic() - self._talk.asked_s > KEEP_S and not is_at_work:
                _log.info("no server asks for anything any more: the worker ends")
                self._folder.close()
                os._exit(0)


def check_of_this_node():
    """A function of (model, revision) that raises `ModelError` unless this machine's weights are those."""
    revisions = revisions_of_this_node()

    def check(model: str, revision: str) -> None:
        if revision and revisions.of(model) != revision:
            raise ModelError(
                f"The weights of {model} on {socket.gethostname()} are not those of the server; install the same there "
                "(das-server models verify says which they are).",
                field="model",
            )

    return check


def revisions_of_this_node() -> Revisions:
    """What the weights on this machine are called; their digests are kept in the folder of user data."""
    state = default_state_folder()
    state.mkdir(parents=True, exist_ok=True)
    return Revisions(state)
