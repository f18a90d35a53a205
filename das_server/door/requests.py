# SPDX-License-Identifier: GPL-3.0-or-later
"""What each request asks of jobs, blobs and workers, and its reply.  Knows no socket and never imports torch."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from das_blender_addon.errors import (
    AuthenticationFailed,
    JobRejected,
    MessageTooLarge,
    ProtocolError,
    StorageError,
    VersionMismatch,
)
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.frames import CODECS
from das_blender_addon.protocol.messages import (
    CHUNK_BYTES,
    MIN_LEASE_S,
    PROTOCOL_VERSIONS,
    Capabilities,
    EstimatorCapability,
    ModelCapability,
)
from das_server import __version__
from das_server.door.callers import Caller, Peer
from das_server.door.draining import Drain
from das_server.door.overview import Overview
from das_server.limits import MAX_SENT_BYTES
from das_server.store.blobs import BlobStore, no_blob
from das_server.store.job import Job, JobState
from das_server.store.jobs import JobStore
from das_server.store.keys import AllowedKey, KeyRing
from das_server.store.reading import no_job
from das_server.tasks.base import task_module
from das_server.workers.base import Workers
from das_server.workers.dispatch import Dispatcher
from das_server.workers.speed import SpeedRecord

_log = logging.getLogger(__name__)

Z85_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
MOST_LISTED = 50
"""Jobs in one answer, which is made within milliseconds."""
Models = Callable[[], dict[str, ModelCapability]]
Estimators = Callable[[], dict[str, EstimatorCapability]]
RESULTS = ("frame", "array")
"""Roles of the artefacts that are a job's results."""
Reply = tuple[Any, bytes | None]
"""A message, and the blob that goes with it."""
Offered = tuple[list[ModelCapability], list[EstimatorCapability]]
"""All that can be asked for."""


class Requests:
    """Answers requests.  ``models``: what can be asked for now, by name.  ``speed``: how fast it was made so far.
    ``follow(peer, job, after)``: called for a peer that wants a job's events from there on."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        workers: Workers,
        dispatcher: Dispatcher,
        *,
        follow: Callable[[bytes, str, int], None],
        models: Models,
        default_model: str,
        max_blob_bytes: int,
        speed: SpeedRecord | None = None,
        keys: KeyRing | None = None,
        max_sent_bytes: int = MAX_SENT_BYTES,
        drain: Drain | None = None,
        estimators: Estimators = dict,
    ):
        self._estimators = estimators
        self._keys = keys
        self._drain = drain or Drain()
        self._overview = Overview(store, dispatcher, self._drain)
        self._max_sent_bytes = max_sent_bytes
        self._store = store
        self._blobs = blobs
        self._workers = workers
        self._dispatcher = dispatcher
        self._follow = follow
        self._models = models
        self._default_model = default_model
        self._max_blob_bytes = max_blob_bytes
        self._speed = speed
        self._server_id = uuid.uuid4().hex
        self._started_s = time.monotonic()
        self._offered: tuple[float, Offered] | None = None
        self._handlers: dict[type, Callable[..., Reply]] = {
            messages.Put: self._put,
            messages.Submit: self._submit,
            messages.Attach: self._attach,
            messages.Fetch: self._fetch,
            messages.Cancel: self._cancel,
            messages.Ack: self._ack,
            messages.Ping: lambda peer, message, blob: (messages.Pong(message.request), None),
            messages.Status: self._status,
            messages.ListJobs: self._list_jobs,
            messages.Requeue: self._requeue,
            messages.Drain: self._begin_drain,
        }

    def totals(self) -> dict[str, Any]:
        """As in a status, of everybody's jobs."""
        return self._overview.totals(None)

    @staticmethod
    def waits_for_the_disk(message: Any) -> bool:
        """Whether what `work` gives may be called from another thread, and should: it is about blobs only."""
        return isinstance(message, messages.Put | messages.Fetch)

    def work(
        self, peer: Peer, message: Any, blob: memoryview | None, *, results_gone: bool = False
    ) -> Callable[[], Reply]:
        """What gives the reply to one request of ``peer``.  Raises what the request fails of, now or then."""
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is not a request.", field="type")
        if isinstance(message, messages.Put | messages.Fetch):  # the job list is asked here, the disk there
            owner = peer.caller.owner
            is_known = peer.caller.is_admin or self._store.owns_blob(owner, message.sha)
            if isinstance(message, messages.Put) and not is_known:
                self._check_share(owner, message.size_bytes)
            return lambda: handler(owner, is_known, message, blob)
        if isinstance(message, messages.Submit):
            return lambda: handler(peer, message, results_gone)
        return lambda: handler(peer, message, blob)

    def answer(self, peer: Peer, message: Any, blob: memoryview | None, *, results_gone: bool = False) -> Reply:
        """The reply to one request of ``peer``; ``results_gone``: see `look_at_results`.  Raises what the request fails
        of."""
        return self.work(peer, message, blob, results_gone=results_gone)()

    def look_at_results(self, peer: Peer, message: Any) -> Callable[[], bool] | None:
        """Where `answer` goes by whether the results of an earlier run are there: what reads all of them → whether they
        are gone, for another thread; `answer` is told."""
        if not isinstance(message, messages.Submit) or not message.again or not message.requester:
            return None
        known = self._store.run_of(message.job, message.requester, peer.caller.owner)
        if known is None or known.state is not JobState.DONE:
            return None
        done = self._store.last_event(known.job, "DONE")
        frames = [one for one in done.fields["artefacts"] if one["role"] in RESULTS] if done else []
        return lambda: not frames or not all(self._blobs.is_whole(one["sha"], one["size_bytes"]) for one in frames)

    def note_reply(self, peer: Peer, message: Any, reply: Reply) -> None:
        """What waited for the disk is done."""
        if isinstance(message, messages.Put) and reply[0].received_bytes == message.size_bytes:
            if not self._store.owns_blob(peer.caller.owner, message.sha):
                self._store.own_blob(message.sha, peer.caller.owner, message.size_bytes)

    def exchange(self, key: AllowedKey, message: Any) -> Callable[[], Reply]:
        """What gives the reply to a request with a key for one use, which is only exchanged for one that stays; it
        waits for the disk, and may be called from another thread."""
        if not isinstance(message, messages.Pair):
            raise AuthenticationFailed(
                "A key for one use only pairs; paste the line of das-server keys pair into the preferences (Pair…), or "
                "give it to das pair.",
                field="server",
            )
        if not Z85_KEY.fullmatch(message.key):
            raise ProtocolError("PAIR.key is no public key of 40 characters in Z85.", field="key")

        def exchanged() -> Reply:
            paired = self._keys.exchange(key.public, message.key, message.machine[:100])
            _log.info("a machine of %s is let in from now on", paired.user)
            return messages.Paired(message.request, paired.user), None

        return exchanged

    def look_at_offers(self) -> Callable[[], Offered]:
        """What looks at all that can be asked for, in the folders of today, for `greet`; for another thread, one at a
        time.  Those who come while it looks share the next look."""
        asked_s = time.monotonic()

        def look() -> Offered:
            if self._offered is None or self._offered[0] < asked_s:
                began_s = time.monotonic()
                self._offered = began_s, (list(self._models().values()), list(self._estimators().values()))
            return self._offered[1]

        return look

    def greet(self, message: messages.Hello, offered: Offered) -> Reply:
        """The reply to HELLO."""
        common = [version for version in PROTOCOL_VERSIONS if version in message.versions]
        if not common:
            raise VersionMismatch(
                f"The client speaks protocol {_words(message.versions[:8])}, this server {__version__} speaks "
                f"{_words(PROTOCOL_VERSIONS)}; install matching releases.",
                field="versions",
            )
        devices = [one.device_label or one.device for one in self._workers.status()]
        models, estimators = offered
        if self._speed is not None:
            models = [replace(one, is_fast=self._speed.is_fast(one.name, devices)) for one in models]
        capabilities = Capabilities(
            default_model=self._default_model,
            models=models,
            codecs=list(CODECS),
            max_blob_bytes=self._max_blob_bytes,
            devices=devices,
            estimators=estimators,
        )
        server = f"das-server {__version__}"
        return messages.Welcome(message.request, common[0], self._server_id, server, capabilities), None

    def _put(self, owner: str, is_known: bool, message: messages.Put, blob: memoryview):
        about = {"sender": owner, "is_known": is_known}
        received = self._blobs.put(message.sha, message.size_bytes, message.offset, blob, **about)
        return messages.Have(message.request, message.sha, received), None

    def _submit(self, peer: Peer, message: messages.Submit, results_gone: bool):
        _check_lease(message.lease_s)
        spec, inputs = message.spec, message.inputs
        known = self._store.run_of(message.job, message.requester, peer.caller.owner)
        anew = known is not None and self._is_to_run_once_more(known, message, peer.caller.owner, results_gone)
        if known is None or anew:
            task = task_module(spec.task)
            uses_estimator = getattr(task, "USES", "") == "estimator"
            task.check(spec, inputs, (self._estimator if uses_estimator else self._model)(spec.model))
            self._dispatcher.check_weights(spec.model, spec.model_revision)
            missing = self._missing_blobs(inputs, peer.caller)
            if missing:
                return messages.Need(message.request, message.job, missing), None
            self._dispatcher.check_room()
        job, duplicate = self._store.submit(
            message.job,
            spec,
            inputs,
            requester=message.requester,
            lease_s=message.lease_s,
            anew=anew,
            owner=peer.caller.owner,
            priority=message.priority,
        )
        self._dispatcher.heard_of(job.job, message.requester, message.lease_s)
        if not duplicate:
            _log.info("job %s: accepted, %s with %s at %s×%s", job.job, spec.task, spec.model, spec.width, spec.height)
            if anew:
                _log.info("job %s: it is %s once more, which was %s", job.job, message.job, known.state.value)
        return messages.Accepted(message.request, job.job, duplicate, self._dispatcher.outlook(job)[0]), None

    def _is_to_run_once_more(self, known: Job, message: messages.Submit, owner: str, results_gone: bool) -> bool:
        """Whether a job that is over is made anew for this requester, and not handed out as it ended."""
        requester = message.requester
        if not requester or not known.state.is_final or self._store.wants_no_more(message.job, requester, owner):
            return False
        if known.state is JobState.DONE:
            return message.again and results_gone
        return known.state is JobState.CANCELLED or not self._store.has_requester(known.job, requester)

    def _attach(self, peer: Peer, message: messages.Attach, blob: None):
        _check_lease(message.lease_s)
        job = self._get(peer, message.job)
        last_seq = self._store.last_seq(job.job)
        if message.after < last_seq or not job.state.is_final:
            self._follow(peer.routing_id, job.job, message.after)
        if message.requester:
            self._store.join(job.job, message.requester, message.lease_s)
            self._dispatcher.heard_of(job.job, message.requester, message.lease_s)
        return messages.Attached(message.request, job.job, last_seq), None

    def _fetch(self, owner: str, is_known: bool, message: messages.Fetch, blob: None):
        if message.length > CHUNK_BYTES:
            raise MessageTooLarge(
                f"A piece of {message.length} bytes is over the limit of {CHUNK_BYTES}.", field="length"
            )
        if not is_known:
            raise no_blob(message.sha)
        piece = self._blobs.read(message.sha, message.offset, message.length)
        size = self._blobs.size_bytes(message.sha)
        if size is None:
            raise StorageError(f"The server has just forgotten the blob {message.sha[:12]}….", field="sha")
        return messages.Chunk(message.request, message.sha, message.offset, size), piece

    def _cancel(self, peer: Peer, message: messages.Cancel, blob: None):
        owner = peer.caller.sees
        run = message.job if message.everybody else self._store.latest_run(message.job, message.requester, owner)
        self._get(peer, run)
        job = self._dispatcher.cancel(run, message.requester, everybody=message.everybody)
        others = 0 if job.state.is_final else self._store.num_wanting(job.job)
        _log.info("job %s: a requester cancels it while %s; others want it: %s", job.job, job.state.value, others)
        return messages.Cancelling(message.request, message.job, job.state.value, others), None

    def _ack(self, peer: Peer, message: messages.Ack, blob: None):
        self._get(peer, message.job)
        self._dispatcher.done_with(message.job, message.requester)
        unneeded = self._store.acknowledge(message.job, message.requester)
        self._blobs.let_go(unneeded, before_s=self._store.oldest_running_s())
        return messages.Acked(message.request, message.job), None

    def _status(self, peer: Peer, message: messages.Status, blob: None):
        uptime_s = time.monotonic() - self._started_s
        about = self._overview.all_of(peer.caller)
        return messages.StatusReport(message.request, self._server_id, uptime_s, *about), None

    def _list_jobs(self, peer: Peer, message: messages.ListJobs, blob: None):
        limit = min(message.limit, MOST_LISTED)
        jobs = self._store.listed(message.states, message.prefix, message.before, limit, peer.caller.sees)
        return messages.JobList(message.request, [self._overview.of(job) for job in jobs]), None

    def _requeue(self, peer: Peer, message: messages.Requeue, blob: None):
        gone = [one.role for one in self._get(peer, message.job).inputs if self._blobs.size_bytes(one.sha) is None]
        if gone:
            raise JobRejected(
                f"The inputs of the job {message.job} are no longer on the server ({', '.join(gone)}); ask for it "
                "again where it was asked for.",
                field="job",
            )
        self._dispatcher.check_room()
        run = self._store.run_again(message.job)
        _log.info("job %s: it is %s once more, on request", run.job, message.job)
        return messages.Requeued(message.request, message.job, run.job), None

    def _begin_drain(self, peer: Peer, message: messages.Drain, blob: None):
        if not peer.caller.is_admin:
            raise JobRejected(
                "Only the user who runs the server, and those named by its --admins, may drain it.", field="server"
            )
        self._drain.begin(message.within_s)
        counts = self._store.counts()
        return messages.Draining(message.request, counts.get("RUNNING", 0), counts.get("QUEUED", 0)), None

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, name: str) -> ModelCapability:
        models = self._models()
        if name not in models:
            raise JobRejected(
                f"The model {name[:80]!r} does not exist; this server knows {', '.join(models)}.", field="model"
            )
        if not models[name].installed:
            usable = ", ".join(one.name for one in models.values() if one.installed)
            raise JobRejected(
                f"The model {name} is known but its weights are not installed; use one of {usable}.", field="model"
            )
        return models[name]

    def _estimator(self, name: str) -> EstimatorCapability:
        estimators = self._estimators()
        if name not in estimators:
            raise JobRejected(
                f"The estimator {name[:80]!r} does not exist; this server knows {', '.join(estimators) or 'none'}.",
                field="model",
            )
        if not estimators[name].installed:
            raise JobRejected(estimators[name].remedy, field="model")
        return estimators[name]

    def _check_share(self, owner: str, size_bytes: int) -> None:
        sent = self._store.sent_bytes(owner)
        if sent + size_bytes > self._max_sent_bytes:
            raise StorageError(
                f"The server keeps {sent} bytes that you have sent; {size_bytes} more are over your share of "
                f"{self._max_sent_bytes}: acknowledge jobs, or wait until old ones are forgotten."
            )

    def _get(self, peer: Peer, job: str) -> Job:
        """The job, as far as it is the peer's; another's is as unknown as one that is not there."""
        found = self._store.find(job)
        if found is None or not peer.caller.may(found.owner):
            raise no_job(job)
        return found

    def _missing_blobs(self, inputs: list[messages.JobInput], caller: Caller) -> list[str]:
        missing = []
        for one in inputs:
            is_known = caller.is_admin or self._store.owns_blob(caller.owner, one.sha)
            size = self._blobs.use(one.sha) if is_known else None
            if size is None:
                missing.append(one.sha)
            elif size != one.size_bytes:
                raise JobRejected(
                    f"The input {one.role} is said to have {one.size_bytes} bytes but has {size}.", field=one.role
                )
        return missing


def _check_lease(lease_s: float) -> None:
    if 0 < lease_s < MIN_LEASE_S:
        raise JobRejected(
            f"A lease of {lease_s:g} s is too short; use 0 for none, or {MIN_LEASE_S:g} s and more.", field="lease_s"
        )


def _words(versions: Any) -> str:
    return ", ".join(str(version) for version in versions) or "none"
