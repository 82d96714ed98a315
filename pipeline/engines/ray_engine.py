"""Units of work on Ray: tasks decode, one CPU each; actors embed, on a GPU each or on the CPUs that are left."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines.shares import Shares, share_out
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.schedule import Schedule, Unit
from clip2video_pipe.pipeline.worker import Done, Feed, run_unit
from clip2video_pipe.stages.base import Stage

IN_HAND = 2  # units an actor has: it reads one while it computes the other
PATIENCE = 60.0  # seconds without an answer: then it is not the work that kills an actor
DIED = "its worker died ({})"


class Actor:
    """Keeps the stages of a schedule ready for their next units."""

    def __init__(self) -> None:
        self._life = uuid.uuid4().hex
        self._turn = threading.Lock()
        self._stages: dict[str, Stage] = {}

    def ready(self, stages: Sequence[Stage]) -> str:
        """Set these stages up, and let go of others: a gallery or a model is large.

        The answer tells this process from the one that Ray starts in its place when it dies.
        """
        wanted = {stage.identity.key for stage in stages}
        with self._turn:
            self._stages = {key: stage for key, stage in self._stages.items() if key in wanted}
        for stage in stages:
            self._set_up(stage)
        return self._life

    def run(self, store: Store, stage: Stage, items: Sequence[str], feed: Feed, threads: int) -> Done:
        stage = self._set_up(stage)
        with self._turn:
            stage.use_threads(threads)
        return run_unit(store, stage, items, feed, self._turn)

    def _set_up(self, stage: Stage) -> Stage:
        key = stage.identity.key
        with self._turn:
            if key not in self._stages:
                stage.setup()
                self._stages[key] = stage
            return self._stages[key]


def run_task(store: Store, stage: Stage, items: Sequence[str], feed: Feed, threads: int) -> Done:
    stage.setup()
    stage.use_threads(threads)
    return run_unit(store, stage, items, feed)


def _check_reachable(address: str) -> None:
    """Ray would try for a minute. Raises RequestError where nobody listens at a `host:port`."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"run.address: nobody answers at {address!r}: {error}") from error


@dataclass(eq=False)
class Slot:
    """An actor and the units it has in hand."""

    handle: Any
    probe: Any  # a call of `ready` under way: until it answers the actor gets nothing; None when it has
    life: str = ""  # what it answered last
    units: dict[Any, Unit] = field(default_factory=dict)  # by reference to the result
    silent_since: float | None = None  # when it first gave no answer, on the monotonic clock
    unsure: list[Unit] = field(default_factory=list)  # lost, or only not heard of: the next answer will tell


class RayEngine:
    """Joins the Ray that this process has, or the cluster at `address`, or starts one of its own for the run."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._started = False
        self._slots: list[Slot] = []
        self._tasks: dict[Any, Unit] = {}
        self._shares: Shares
        self._stages: list[Stage] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in self._slots:
            ray.kill(slot.handle)
        for task in self._tasks:
            ray.cancel(task, force=True)
        if self._started:
            ray.shutdown()

    def run(self, schedule: Schedule, store: Store) -> None:
        self._connect()
        self._prepare(schedule)
        while not schedule.done:
            self._dispatch(schedule, store)
            waiting = [*self._tasks, *(ref for slot in self._slots for ref in self._refs(slot))]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=10)
            if not ready and not schedule.running:
                schedule.listener(
                    "waiting", stage="ray", items=0, why="no worker has started yet; is the cluster full?"
                )
            for ref in ready:
                self._collect(ref, schedule)

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        _check_reachable(self._address)
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self._address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if self._address == "local" else None,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            if self._address == "local":
                raise
            reason = str(error).splitlines()[0]
            raise RequestError(f"run.address: no Ray cluster at {self._address!r}: {reason}") from error
        except BaseException:
            ray.shutdown()  # stopped while it started: what has been started goes too
            raise
        self._started = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray puts in its own, which ends the process in a stack trace

    def _prepare(self, schedule: Schedule) -> None:
        """Make actors, where there is first work for them; those that are there get the schedule's stages."""
        embedding = schedule.has_work("actor")
        # Set up before there is a unit: it goes on while the first videos are decoded, what is wrong with weights is
        # known early, and a worker that dies of it is told from one that dies of a video.
        self._stages = [job.stage for job in schedule.jobs if job.stage.lane == "actor"]
        if not self._slots:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            wants_gpu = any(job.stage.wants_gpu for job in schedule.jobs)
            self._shares = share_out(
                [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]],
                int(resources.get("GPU", 0)) if wants_gpu else 0,
                embedding=embedding,
                decoding=schedule.has_work("task"),
            )
            remote = ray.remote(Actor).options(
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=IN_HAND,
                num_cpus=self._shares.actor_cpus,
                num_gpus=self._shares.actor_gpus,
            )
            handles: list[Any] = [remote.remote() for _ in range(self._shares.actors)]
            self._slots = [Slot(handle, handle.ready.remote(self._stages)) for handle in handles]
        else:
            for slot in self._slots:
                slot.probe = slot.handle.ready.remote(self._stages)
        schedule.lookahead = 2 * len(self._slots) + self._shares.decoders

    def _dispatch(self, schedule: Schedule, store: Store) -> None:
        for _ in range(IN_HAND):  # one each before any has two
            for slot in self._slots:
                self._fill(slot, schedule, store)
        # Where there are fewer units than cores for them, a unit uses several.
        threads = max(1, self._shares.decoders // max(1, schedule.ready("task") + len(self._tasks)))
        while len(self._tasks) < self._shares.decoders and (unit := schedule.next("task")):
            remote = ray.remote(run_task).options(num_cpus=1, max_retries=0, name=unit.job.stage.name)
            self._tasks[remote.remote(store, unit.job.stage, unit.items, unit.feed(), threads)] = unit

    def _fill(self, slot: Slot, schedule: Schedule, store: Store) -> None:
        if slot.probe or len(slot.units) >= IN_HAND or any(unit.alone for unit in slot.units.values()):
            return
        if unit := schedule.next("actor", idle=not slot.units):
            threads = self._shares.threads if schedule.has_work("task") else self._shares.threads_alone
            ref = slot.handle.run.remote(store, unit.job.stage, unit.items, unit.feed(), threads)
            slot.units[ref] = unit

    def _refs(self, slot: Slot) -> list[Any]:
        return [*slot.units, slot.probe] if slot.probe else list(slot.units)

    def _collect(self, ref: Any, schedule: Schedule) -> None:
        slot = next((slot for slot in self._slots if ref in self._refs(slot)), None)
        if slot and ref == slot.probe:
            self._probed(slot, schedule)
            return
        unit = slot.units.pop(ref) if slot else self._tasks.pop(ref)
        try:
            schedule.finish(unit, ray.get(ref))
        except RayTaskError as error:  # the code raised: its own exception, not the cluster's
            raise error.cause from error
        except RayError as error:
            if slot is None:
                schedule.lose(unit, DIED.format(type(error).__name__), time.time)
                return
            slot.unsure.append(unit)
            slot.probe = slot.probe or slot.handle.ready.remote(self._stages)

    def _probed(self, slot: Slot, schedule: Schedule) -> None:
        """A restarting actor looks idle, so it gets work when it has answered; what it lost is charged if it died."""
        why = ""
        try:
            life = ray.get(slot.probe)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            # Out of reach is how Ray also calls one that has died and will be started again: nobody knows yet.
            life = None if isinstance(error, ActorUnavailableError) else ""
            why = DIED.format(type(error).__name__)
            slot.silent_since = slot.silent_since or time.monotonic()
            if time.monotonic() - slot.silent_since > PATIENCE:
                raise EngineError(
                    f"a Ray actor cannot be started, or dies as it sets the model up ({type(error).__name__}); "
                    "is the package installed on each node, and is there memory enough?"
                ) from error
            time.sleep(0.1)
            slot.probe = slot.handle.ready.remote(self._stages)
        else:
            slot.probe, slot.silent_since = None, None
        if life is None:
            return
        unsure, slot.unsure = slot.unsure, []
        for unit in unsure:
            if life == slot.life:
                schedule.release(unit)
            else:
                schedule.lose(unit, why or DIED.format("it was started again"), time.time)
        slot.life = life or slot.life
