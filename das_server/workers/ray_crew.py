# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers of one server in a Ray cluster: found, started where they fit, heard, given up, ended."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from das_blender_addon.errors import DasError, StorageError
from das_server import __version__
from das_server.store.blobs import DISK, NODE_DISK, BlobStore
from das_server.workers import ray_cluster
from das_server.workers.patience import Patience
from das_server.workers.ray_member import Deaths, Member
from das_server.workers.ray_nodes import ANSWER_S, Nodes
from das_server.workers.ray_places import Place, lacking, misplaced, places_of, to_end, to_start

_log = logging.getLogger(__name__)

LOOK_S = 1.0
HEAR_S = 1.0
"""Longest answer to the question what is new."""

FETCH_BYTES = 32 << 20
"""About as much is fetched at once."""

BROKEN_AFTER_STARTS = 3
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class CrewOptions:
    """``worker``: options of the actors; ``fewest``, ``most``: workers."""

    devices: tuple[str, ...]
    model: str
    fewest: int
    most: int
    worker: dict[str, Any]
    patience: Patience


@dataclass
class Crew:
    """``say`` takes words for the server; ``ring`` is called, in any thread, when `turn` has something to do."""

    options: CrewOptions
    state: Path
    say: Callable[[dict[str, Any]], None]
    ring: Callable[[], None]
    members: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._blobs = BlobStore(self.state)
        self.nodes = Nodes(self._await)
        self._deaths: dict[str, Deaths] = {}
        self._demand: dict[str, int] = {}
        self._models: dict[str, str] | None = None
        self._inbox: queue.SimpleQueue[tuple[Callable[..., None], tuple]] = queue.SimpleQueue()
        self._look_s = 0.0

    def join(self) -> None:
        """Find the nodes, and the workers that live on from before."""
        self.nodes.join()
        answers = [(name, actor, actor.about.remote()) for name, actor in ray_cluster.actors().items()]
        deadline = time.monotonic() + 2 * ANSWER_S
        for name, actor, answer in answers:
            try:
                about = ray_cluster.wait_for(answer, max(1.0, deadline - time.monotonic()))
            except Exception as error:  # whatever Ray raises
                _log.warning("the worker %s does not answer and is ended: %s", name, error)
                ray_cluster.kill(actor)
                continue
            if about["version"] != __version__:
                ray_cluster.kill(actor)
                continue
            member = self.members[name] = Member(Place(**about["place"]), actor, pid=about["pid"])
            for word in about["lasting"]:
                member.hear_word(word)
            if about["job"]:
                member.take_order(about["job"], about["attempt"])
                member.is_held = True
            _log.info("%s (process %s) lives on with job %s", name, about["pid"], about["job"] or "none")
            self._ask(member)

    # ── What the server says ────────────────────────────────────────────────────────────────────────────────────────

    def set_demand(self, waiting: Mapping[str, int], models: Mapping[str, str]) -> None:
        """How many jobs wait, by model; the server's models and their revisions."""
        self._demand, self._models = dict(waiting), dict(models)
        for one in self.members.values():
            one.lacks = lacking(one.place, self._models)

    def run(self, name: str, order: dict[str, Any]) -> None:
        """Give a job to a worker."""
        one = self.members.get(name)
        if one is None:
            self._tell_lost(name, order["job"], order["attempt"], "was gone already", begun=False, by_others=True)
            return
        is_there = one.job == order["job"]
        one.take_order(order["job"], order["attempt"])
        self._give(one, order, is_there=is_there)

    def _give(self, one: Member, order: dict[str, Any], *, is_there: bool) -> None:
        message = {"kind": "run", **order, "weights": "", "has_checkpoint": False, "is_there": is_there}
        path, contents = self.state / "checkpoints" / f"{order['job']}.safetensors", []
        if not is_there:
            try:
                contents = [self._blobs.read_whole(sha) for sha in dict.fromkeys(i["sha"] for i in order["inputs"])]
                if path.is_file():
                    contents.append(path.read_bytes())
                    message["has_checkpoint"] = True
            except (DasError, OSError) as error:
                self._say_failed(one, error if isinstance(error, DasError) else StorageError(str(error)))
                return
        self._tell(one, message, *contents)

    def cancel(self, job: str) -> None:
        """Ask for the end of a job."""
        for one in self.members.values():
            if one.job == job:
                self._cancel(one)

    def let_go(self, job: str) -> None:
        """Nobody wants what is left of a job of an earlier server where nobody has claimed it."""
        for one in self.members.values():
            if one.job == job and one.is_held:
                one.is_held, one.is_let_go = False, True
                self._cancel(one)

    def _cancel(self, one: Member) -> None:
        if one.cancelled_s == float("inf"):
            one.cancelled_s, one.grace_s = time.monotonic(), self.options.patience.grace_s(one.beat)
            self._tell(one, {"kind": "cancel", "job": one.job})

    def turn(self) -> None:
        """Take in what has come, and look after everybody once in `LOOK_S`."""
        while not self._inbox.empty():
            call, arguments = self._inbox.get()
            try:
                call(*arguments)
            except Exception:  # a defect of ours must cost no more than this word
                _log.exception("what came from the cluster cannot be taken in")
        if time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_S
            self._look()

    def statuses(self) -> list[dict[str, Any]]:
        """`WorkerStatus` of every worker, and of places where none can be started, as maps."""
        places = {place.name: place for place in places_of(self.nodes.known.values(), self.options.devices)}
        found = [one.status() for one in self.members.values()]
        for name, deaths in self._deaths.items():
            if name in places and name not in self.members and deaths.problem:
                lost = Member(places[name], None, restarts=deaths.count, problem=deaths.problem)
                lost.state = "broken" if deaths.failed_starts >= BROKEN_AFTER_STARTS else "starting"
                found.append(lost.status())
        return sorted(found, key=lambda one: one["name"])

    # ── Nodes and workers ───────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        alive = self.nodes.look()
        now = time.monotonic()
        for one in list(self.members.values()):
            if one.place.node_id not in alive:
                self._bury(one, "was lost with its node", by_others=True)
                continue
            if one.unheard:
                self._say_again(one)
            if now >= one.ask_again_s:
                self._ask(one)
            else:
                self._judge(one, now)
        if self._models is not None:
            self._scale(now)

    def _scale(self, now: float) -> None:
        places = places_of(self.nodes.known.values(), self.options.devices)
        resting = [name for name, deaths in self._deaths.items() if now < deaths.start_at_s]
        taken = {*self.members, *resting}
        misfits = misplaced(places, taken, self._demand, models=self._models)
        starts = to_start(
            places,
            taken,
            self._demand,
            models=self._models,
            default=self.options.model,
            num_busy=sum(bool(one.job) or one.name in misfits for one in self.members.values()),
            fewest=self.options.fewest,
            most=self.options.most,
        )
        for place, model in starts:
            restarts = self._deaths.setdefault(place.name, Deaths()).count
            actor = ray_cluster.start_actor(place, self.options.worker)
            one = Member(place, actor, model, lacking(place, self._models), restarts=restarts)
            self.members[place.name] = one
            _log.info("%s is started for %s", place.name, model)
            self._tell(one, {"kind": "load", "model": model})
            self._ask(one)
        without = [one for one in self.members.values() if not one.job]
        ends = to_end(
            {one.name: now - one.idle_since_s for one in without if one.settled},
            num_workers=len(self.members),
            num_waiting=sum(self._demand.values()),
            fewest=self.options.fewest,
            most=self.options.most,
            misfits=misfits,
            num_starting=sum(one.name not in misfits for one in without),
        )
        for name in ends:
            _log.info("%s has nothing to do and is ended", name)
            ray_cluster.kill(self.members.pop(name).actor)

    def _judge(self, one: Member, now: float) -> None:
        if one.doom:
            return
        if not one.pid and not one.problem and now - one.heard_s > ANSWER_S:
            one.problem = f"Ray has not started it yet; the devices of {one.place.host} may be in use by others."
        wrong = self.options.patience.what_is_wrong(
            one.beat,
            silent_s=now - one.heard_s if one.pid else 0.0,
            is_starting=not one.about,
            ordered_s=now - one.ordered_s if one.job and not one.is_held else None,
            cancelled_s=now - one.cancelled_s,
            grace_s=one.grace_s,
        )
        if wrong:
            _log.warning("%s (process %s) %s and is killed", one.name, one.pid, wrong)
            one.doom = wrong
            ray_cluster.kill(one.actor)
            self._bury(one, wrong, by_others=False)

    def _bury(self, one: Member, how: str, *, by_others: bool) -> None:
        if self.members.get(one.name) is not one:
            return
        del self.members[one.name]
        deaths = self._deaths.setdefault(one.name, Deaths())
        got_there = one.settled or (bool(one.job) and one.begun)
        unexpected = one.problem and one.begun and not one.doom
        reason = f"The worker {one.name} {how}" + (f": {one.problem}" if unexpected else "")
        _log.warning("%s", reason)
        deaths.count += 1
        deaths.failed_starts = 0 if got_there else deaths.failed_starts + 1
        deaths.problem = "" if got_there else one.problem or f"{reason.rstrip('.')}."
        pause_s = 0.0 if got_there else min(0.25 * 2**deaths.failed_starts, LONGEST_PAUSE_S)
        deaths.start_at_s = time.monotonic() + pause_s
        if one.job:
            how = reason.removeprefix(f"The worker {one.name} ")
            self._tell_lost(one.name, one.job, one.attempt, how, begun=one.begun or one.settled, by_others=by_others)

    # ── Talking with one worker ─────────────────────────────────────────────────────────────────────────────────────

    def _await(self, reference: Any, call: Callable[..., None], *about: Any) -> None:
        def done(future: Future) -> None:
            self._inbox.put((call, (*about, future)))
            self.ring()

        ray_cluster.when_done(reference, done)

    def _tell(self, one: Member, message: dict[str, Any], *contents: bytes) -> None:
        reference = one.actor.tell.options(concurrency_group="words").remote(message, *contents)
        self._await(reference, self._told, one, message)

    def _told(self, one: Member, message: dict[str, Any], future: Future) -> None:
        error = future.exception()
        if error is not None:
            self._cannot_reach(one, error)
            one.unheard.append(message)
        elif not future.result() and one.job == message["job"]:  # what was there of the job has gone meanwhile
            self._give(one, message, is_there=False)

    def _say_again(self, one: Member) -> None:
        """What may not have come; a worker that has an order already goes on with it."""
        unheard, one.unheard = one.unheard, []
        for message in unheard:
            if message["kind"] == "load":
                self._tell(one, message)
            elif message["kind"] == "run" and one.has(message):
                self._give(one, message, is_there=message["is_there"])
        if one.job and one.cancelled_s < float("inf"):
            self._tell(one, {"kind": "cancel", "job": one.job})

    def _ask(self, one: Member) -> None:
        one.ask_again_s = float("inf")
        if not one.pid:
            self._await(one.actor.about.remote(), self._introduced, one)
        reference = one.actor.hear.options(concurrency_group="ears").remote(one.after, HEAR_S)
        self._await(reference, self._heard, one)

    def _introduced(self, one: Member, future: Future) -> None:
        if future.exception() is None:
            one.pid = future.result()["pid"]

    def _heard(self, one: Member, future: Future) -> None:
        error = future.exception()
        if error is not None:
            self._ask_later(one, error)
            return
        beat, words = future.result()
        one.hear_beat(beat)
        one.words = deque(word for word in words if word[0] > one.after)
        self._take_in(one)

    def _cannot_reach(self, one: Member, error: BaseException) -> None:
        """It is dead, or it may answer again: then it has as long as a silent one."""
        if ray_cluster.is_death(error):
            how, by_others = ray_cluster.words_of(error)
            self._bury(one, how, by_others=by_others)
        else:
            _log.warning("%s does not answer for now: %s", one.name, str(error).partition("\n")[0])

    def _ask_later(self, one: Member, error: BaseException) -> None:
        self._cannot_reach(one, error)
        one.ask_again_s = time.monotonic() + LOOK_S

    def _take_in(self, one: Member) -> None:
        """Its words in order; one that tells of blobs waits until these are here.  Then ask for more."""
        while one.words:
            number, word = one.words[0]
            is_of_job = one.hear_word(word)
            missing = self._missing(word) if is_of_job else []
            if missing:
                self._await(one.actor.fetch.remote(missing), self._fetched, one)
                return
            one.words.popleft()
            one.after = number
            if word["kind"] == "checkpoint" and is_of_job:
                self._save_checkpoint(one.job, word["content"])
            elif is_of_job:
                self._pass_on(one, word | {"field": NODE_DISK} if word.get("field") == DISK else word)
        if self.members.get(one.name) is one:
            self._ask(one)

    def _missing(self, word: dict[str, Any]) -> list[str]:
        told = [word["artefact"]] if word["kind"] == "preview" else word.get("artefacts", [])
        missing, size = {}, 0
        for artefact in told:
            if size < FETCH_BYTES and self._blobs.size_bytes(artefact["sha"]) is None:
                missing[artefact["sha"]] = None
                size += artefact["size_bytes"]
        return list(missing)

    def _fetched(self, one: Member, future: Future) -> None:
        error = future.exception()
        if error is not None:
            self._ask_later(one, error)
            return
        one.heard_s = time.monotonic()
        try:
            for content in future.result():
                self._blobs.add(content)
        except StorageError as problem:
            self._cannot_keep(one, problem)
        self._take_in(one)

    def _cannot_keep(self, one: Member, problem: StorageError) -> None:
        """What the first of its words tells of: a preview is not needed."""
        number, word = one.words[0]
        if word["kind"] == "preview":
            _log.warning("job %s: a preview is not kept: %s", one.job, problem.message)
            one.words.popleft()
            one.after = number
        else:
            self._say_failed(one, problem)

    def _pass_on(self, one: Member, word: dict[str, Any]) -> None:
        self.say({"worker": one.name, **word})
        if word["kind"] in ("done", "failed"):
            if word.get("field") not in (DISK, NODE_DISK):  # from there it goes on
                (self.state / "checkpoints" / f"{one.job}.safetensors").unlink(missing_ok=True)
            one.end_order()

    def _say_failed(self, one: Member, error: DasError) -> None:
        about = {"code": error.code, "message": error.message, "field": error.field or ""}
        self._pass_on(one, {"kind": "failed", "job": one.job, "attempt": one.attempt, **about})

    def _save_checkpoint(self, job: str, content: bytes) -> None:
        path = self.state / "checkpoints" / f"{job}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".part").write_bytes(content)
            path.with_suffix(".part").replace(path)
        except OSError as error:
            _log.warning("job %s: a checkpoint is not kept: %s", job, error.strerror)

    def _tell_lost(self, name: str, job: str, attempt: int, how: str, *, begun: bool, by_others: bool) -> None:
        about = {"job": job, "attempt": attempt, "begun": begun, "by_others": by_others}
        self.say({"kind": "lost", "worker": name, "reason": f"The worker {name} {how.rstrip('.')}.", **about})
