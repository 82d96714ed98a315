"""Which unit of work comes next: pure bookkeeping, the same for every engine."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

from clip2video_pipe.manifests.places import Places
from clip2video_pipe.manifests.shards import Shard
from clip2video_pipe.pipeline.worker import Done, Feed
from clip2video_pipe.stages.base import Stage

TRIES = 2
TOGETHER = 2  # times the usual size that a unit may grow to, to keep together what should be

Listener = Callable[..., None]  # called as listener(event name, stage=..., ...)


@dataclass(eq=False)
class Job:
    """A stage and the items that it has yet to compute."""

    stage: Stage
    missing: Sequence[str]
    places: Places  # of the items that are there; grows as units finish
    feed: Callable[[Sequence[str]], Feed]  # the input of some of its items, once those are ready
    source: "Job | None" = None  # the job that makes its input, where that is part of this run
    finished: Callable[[Sequence[str], Shard], object] = lambda items, shard: None
    completed: Callable[[], object] = lambda: None
    together: Callable[[str], object] | None = None  # neighbours that are equal in this share a unit
    kept: bool = True  # otherwise what it makes is made for the later job alone


@dataclass(eq=False)
class Unit:
    """Some items of a job, to be written as one shard."""

    id: int
    job: Job
    items: tuple[str, ...]
    tries: int = 0
    alone: bool = False  # suspected of killing workers: nothing else may be in its worker
    waits: int = 0  # items whose input is not there yet
    since: float = 0.0  # when it was handed out, on the monotonic clock
    lost_at: str = ""  # the machine on which its worker died last

    def feed(self) -> Feed:
        return self.job.feed(self.items)


@dataclass
class Schedule:
    """Hands out units whose input is ready, those nearest to the end first.

    A job that feeds another runs at most `lookahead` units ahead of it, so that disk and memory stay flat. `record`
    writes the shard of a unit that is given up: failed rows. `find` gives a unit's shard where somebody else has
    written it by now. Of those who work at the same things each begins at a `start` of its own, a part of the way
    through, and goes elsewhere when it meets another one's: so they meet seldom, and neighbours stay neighbours, as
    later units that are cut elsewhere need.
    """

    jobs: Sequence[Job]
    shard_items: int
    record: Callable[[Unit, str, str], Shard]  # unit, class of the failure, why
    listener: Listener = lambda *_, **__: None
    find: Callable[[Unit], Shard | None] = lambda unit: None
    start: float = 0.0
    lookahead: int = 1
    running: int = 0
    _ready: dict[Job, deque[Unit]] = field(default_factory=dict)
    _left: dict[Job, int] = field(default_factory=dict)  # items to be finished
    _waiting: dict[tuple[int, str], Unit] = field(default_factory=dict)
    _ahead: dict[Unit, set[str]] = field(default_factory=dict)  # items made or being made for a later job
    _maker: dict[tuple[int, str], Unit] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=count)
    _met: set[Job] = field(default_factory=set)  # jobs whose last unit somebody else had done
    _turns: int = 0  # times that the order begins anew elsewhere

    def __post_init__(self) -> None:
        # Later jobs first: what is nearest to the end frees what it reads.
        self.jobs = sorted(self.jobs, key=lambda job: job.source is None)
        self._wanted = {job.source: set(job.missing) for job in self.jobs if job.source}
        counts: dict[Job, int] = {}
        for job in self.jobs:
            self._ready[job] = deque()
            self._left[job] = len(job.missing)
            parts = list(_units(job.missing, self.shard_items * job.stage.bulk, job.together))
            if self.start:
                parts = self._rotated(job, parts)
            counts[job] = len(parts)
            absent = set(job.source.places.missing(job.missing)) if job.source else set[str]()
            for items in parts:
                unit = self._unit(job, items, absent)
                if not unit.waits:
                    self._ready[job].append(unit)
        for job in self.jobs:
            if job.missing:
                self.listener("queued", stage=job.stage.name, items=len(job.missing), units=counts[job])

    def _unit(self, job: Job, items: Sequence[str], absent: set[str]) -> Unit:
        unit = Unit(next(self._ids), job, tuple(items))
        for item in absent.intersection(items):
            self._waiting[id(job), item] = unit
            unit.waits += 1
        return unit

    def _rotated(self, job: Job, parts: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        """Its units from the start on: that of a job which feeds another lies where the other one's does."""
        along = next((later.missing for later in self.jobs if later.source is job), job.missing)
        at, wanted = int(self.start * len(along)), set(job.missing)
        first = next((item for item in chain(islice(along, at, None), along) if item in wanted), None)
        begin = next((n for n, items in enumerate(parts) if first in items), 0)
        self._turns += job in self._wanted
        return [*parts[begin:], *parts[:begin]]

    @property
    def left(self) -> int:
        """Items that are still to be finished, of all jobs."""
        return sum(self._left.values())

    @property
    def done(self) -> bool:
        return not self.left

    def has_work(self, lane: str) -> bool:
        """Whether units of a lane are still to be finished."""
        return any(left for job, left in self._left.items() if job.stage.lane == lane)

    def ready(self, lane: str) -> int:
        """How many units of a lane could be handed out."""
        return sum(len(queue) for job, queue in self._ready.items() if job.stage.lane == lane)

    def next(self, lane: str, *, idle: bool = True, machine: str = "") -> Unit | None:
        """A unit for a worker of this lane, which counts as running from now; None where there is none for now.

        `idle`: whether the worker has nothing else in hand, as a unit that has to be alone asks for. `machine`: the
        worker's, where there are others: a unit that was lost on it is for those.
        """
        while unit := self._take(lane, idle, machine):
            if self._is_there(unit):
                self._met.add(unit.job)
            elif unit.job in self._met and self._ready[unit.job] and not unit.alone:
                self._go_elsewhere(unit)
            else:
                self._met.discard(unit.job)
                said = {"items": len(unit.items), "tries": unit.tries}
                self.listener("started", stage=unit.job.stage.name, unit=unit.id, **said)
                return unit
        return None

    def _is_there(self, unit: Unit) -> bool:
        """Whether somebody else has done this unit, or all that it is for; it is then finished."""
        if shard := self.find(unit):
            self.finish(unit, _shared(shard))
            return True
        later = next((later for later in self.jobs if later.source is unit.job), None)
        if unit.job.kept or later is None:
            return False
        readers = {self._waiting.get((id(later), item)): None for item in unit.items}
        for reader in readers:
            if reader and (shard := self.find(reader)):
                for item in reader.items:
                    self._waiting.pop((id(later), item), None)
                self.running += 1
                self.finish(reader, _shared(shard))
        if any((id(later), item) in self._waiting for item in unit.items):
            return False
        self._end(unit, errors={}, began=time.time(), ended=time.time(), shared=True)
        return True

    def _go_elsewhere(self, unit: Unit) -> None:
        """Whoever did the units before this one has it in hand, and goes on from it: leave it some way."""
        self._met.discard(unit.job)
        self._put_back(unit)
        queue = self._ready[unit.job]
        queue.appendleft(unit)
        queue.rotate(-round(len(queue) * random.uniform(0.4, 0.6)))
        self._turns += unit.job in self._wanted

    def _take(self, lane: str, idle: bool, machine: str) -> Unit | None:
        for job in self.jobs:
            queue = self._ready[job]
            if job.stage.lane != lane or not queue or self._held(job):
                continue
            unit = next((unit for unit in queue if not machine or unit.lost_at != machine), None)
            if unit is None or (unit.alone and not idle):
                continue
            queue.remove(unit)
            self.running += 1
            unit.since = time.monotonic()
            if job in self._wanted:
                self._ahead[unit] = self._wanted[job].intersection(unit.items)
                self._maker.update({(id(job), item): unit for item in unit.items})
            return unit
        return None

    def _held(self, job: Job) -> bool:
        # Where the order begins anew, a unit is left half read until it comes round.
        if job not in self._wanted or len(self._ahead) - self._turns < self.lookahead:
            return False
        # A unit further on may need more of these than the look-ahead allows: never wait for nothing.
        return self.running > 0 or any(self._ready[later] for later in self.jobs if later.source)

    def finish(self, unit: Unit, done: Done) -> None:
        """Its shard is in the store."""
        shard, job = done.shard, unit.job
        job.places.add(shard, unit.items)
        for later in self.jobs:
            if later.source is job:
                self._feed(later, unit.items)
        if job.source:
            self._consumed(job.source, unit.items)
        job.finished(unit.items, shard)
        self._end(
            unit,
            errors=shard.errors,
            shard=shard.name,
            bytes=shard.stamp.size,
            began=done.began,
            ended=done.ended,
            busy=round(done.busy, 4),
            cpu=round(done.cpu, 4),
            node=done.node,
            device=done.device,
            shared=done.shared,
        )

    def _end(self, unit: Unit, **said: Any) -> None:
        self.running -= 1
        self._left[unit.job] -= len(unit.items)
        if not self._ahead.get(unit, True):
            del self._ahead[unit]
        self.listener("finished", stage=unit.job.stage.name, unit=unit.id, items=len(unit.items), **said)
        if not self._left[unit.job]:
            unit.job.completed()

    def _feed(self, later: Job, items: Iterable[str]) -> None:
        for item in items:
            unit = self._waiting.pop((id(later), item), None)
            if unit:
                unit.waits -= 1
                if not unit.waits:
                    self._ready[later].append(unit)

    def _consumed(self, source: Job, items: Iterable[str]) -> None:
        for item in items:
            self._wanted[source].discard(item)
            maker = self._maker.pop((id(source), item), None)
            if maker in self._ahead:
                self._ahead[maker].discard(item)
                if not self._ahead[maker]:
                    del self._ahead[maker]

    def lose(self, unit: Unit, why: str, failure: str = "crashed", machine: str = "") -> None:
        """Its worker is gone. After two tries its items are tried one by one, and after two more given up.

        They then failed with the class `failure`, or `timeout` where it took too long. `machine`: where it died.
        """
        self._put_back(unit)
        unit.tries += 1
        unit.alone = True
        unit.lost_at = machine
        self.listener("lost", stage=unit.job.stage.name, unit=unit.id, items=len(unit.items), tries=unit.tries, why=why)
        if unit.tries < TRIES:
            self._ready[unit.job].appendleft(unit)
        elif len(unit.items) > 1:
            for item in reversed(unit.items):
                self._ready[unit.job].appendleft(Unit(next(self._ids), unit.job, (item,), alone=True))
        else:
            hung = time.monotonic() - unit.since >= unit.job.stage.patience(1)
            self.running += 1
            shard = self.record(unit, "timeout" if hung else failure, why)
            self.finish(unit, Done(shard, time.time(), time.time()))

    def release(self, unit: Unit) -> None:
        """Put a unit back that is not to blame: it never reached its worker, or the worker's machine is gone."""
        self._put_back(unit)
        self.listener("released", stage=unit.job.stage.name, unit=unit.id, items=len(unit.items))
        self._ready[unit.job].appendleft(unit)

    def _put_back(self, unit: Unit) -> None:
        self.running -= 1
        self._ahead.pop(unit, None)


def _shared(shard: Shard) -> Done:
    return Done(shard, time.time(), time.time(), shared=True)


def _units(items: Sequence[str], size: int, together: Callable[[str], object] | None) -> Iterator[Sequence[str]]:
    """Parts of `size` items; a part goes on while its neighbours belong together, up to TOGETHER times that."""
    start = 0
    while start < len(items):
        stop = min(start + size, len(items))
        if together:
            most = min(start + TOGETHER * size, len(items))
            while stop < most and together(items[stop - 1]) == together(items[stop]):
                stop += 1
        yield items[start:stop]
        start = stop


def summary(events: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """When each stage's first unit began and its last one ended, by stage."""
    spans: dict[str, tuple[float, float]] = {}
    for event in events:
        if event["event"] == "finished":
            began, ended = spans.get(event["stage"], (event["began"], event["ended"]))
            spans[event["stage"]] = (min(began, event["began"]), max(ended, event["ended"]))
    return spans
