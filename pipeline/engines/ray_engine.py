"""Units of work on Ray: tasks decode, one CPU each; actors embed, on a GPU each or on the CPUs that are left.

Each unit goes to a machine of the engine's choice: Ray does not say what becomes of a task whose machine is cut off, so
the engine has to know what is where.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines.carriers import Actor, run_task
from clip2video_pipe.pipeline.engines.shares import Share, share_out
from clip2video_pipe.pipeline.engines.shipping import runtime_env
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.schedule import Schedule, Unit
from clip2video_pipe.stages.base import Stage

IN_HAND = 2  # units an actor has: it reads one while it computes the other
PATIENCE = 60.0  # seconds without an answer: then it is not the work that kills an actor
LOOK_EVERY = 2.0  # seconds between looks at which machines there are
REACH = 2.0  # seconds for a machine to answer
DIED = "its worker died ({})"


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


@dataclass(eq=False)
class Node:
    """A machine of the cluster, and what it has in hand."""

    id: str
    name: str
    door: tuple[str, int]  # where Ray listens on it
    share: Share
    slots: list[Slot] = field(default_factory=list)
    tasks: dict[Any, Unit] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether it answers; Ray takes a while to tell."""
        try:
            socket.create_connection(self.door, timeout=REACH).close()
        except OSError:
            return False
        return True


class RayEngine:
    """Joins the Ray that this process has, or the cluster at `address`, or starts one of its own for the run."""

    def __init__(self, address: str, ship_code: bool = False) -> None:
        self._address = address
        self._ship_code = ship_code
        self._started = False
        self._nodes: dict[str, Node] = {}
        self._looked = 0.0
        self._where: dict[Any, tuple[Node, Slot | None]] = {}  # of calls under way
        self._stages: list[Stage] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Ray says what happens to workers on the standard output, whatever it is told; that is for results.
        self._stack.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            for node in self._nodes.values():
                self._let_go(node)
            if self._started:
                ray.shutdown()

    def run(self, schedule: Schedule, store: Store) -> None:
        self._connect()
        self._prepare(schedule)
        told = time.monotonic()
        while not schedule.done:
            self._look(schedule)
            self._dispatch(schedule, store)
            ready = self._wait()
            for ref in ready:
                self._collect(ref, schedule)
            if ready or schedule.running:
                told = time.monotonic()
            elif time.monotonic() - told > 10:
                told = time.monotonic()
                schedule.listener("waiting", stage="ray", items=0, why=self._waits_for(schedule))

    def _wait(self) -> list[Any]:
        """Calls that have ended, all of them as soon as one has."""
        self._where = {ref: (node, slot) for node in self._nodes.values() for ref, slot in _calls(node)}
        waiting = list(self._where)
        if not waiting:
            time.sleep(0.1)
            return []
        ready, others = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY)
        if ready and others:
            more, _ = ray.wait(others, num_returns=len(others), timeout=0)
            ready += more
        return ready

    def _waits_for(self, schedule: Schedule) -> str:
        if schedule.ready("actor") and not any(node.slots for node in self._nodes.values()):
            return "no machine that embeds is left; waiting for one to join (Ctrl-C keeps what is done)"
        return "no worker has started yet; is the cluster full?"

    def _connect(self) -> None:
        _check_reachable(self._address)
        if ray.is_initialized():
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self._address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if self._address == "local" else None,
                runtime_env=runtime_env(self._ship_code),
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
        # Set up before there is a unit: it goes on while the first videos are decoded, what is wrong with weights is
        # known early, and a worker that dies of it is told from one that dies of a video.
        self._stages = [job.stage for job in schedule.jobs if job.stage.lane == "actor"]
        for node in self._nodes.values():
            for slot in node.slots:
                slot.probe = slot.handle.ready.remote(self._stages)
        self._looked = 0.0
        self._look(schedule)

    def _look(self, schedule: Schedule) -> None:
        """Take in machines that have joined, let go of those that have left."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {node["NodeID"]: node for node in every if node["Alive"]}
        for gone in self._nodes.keys() - alive.keys():
            self._lose(self._nodes[gone], schedule)
        gpus = any(job.stage.wants_gpu for job in schedule.jobs) and any(_count(n, "GPU") for n in alive.values())
        first = not self._nodes
        for joined in alive.keys() - self._nodes.keys():
            node = self._join(alive[joined], schedule, gpus)
            if node and not first:
                schedule.listener("joined", stage="ray", items=0, why=f"{node.name} has joined, and is used")
        actors = sum(len(node.slots) for node in self._nodes.values())
        schedule.lookahead = max(1, 2 * actors + sum(node.share.decoders for node in self._nodes.values()))

    def _join(self, said: dict[str, Any], schedule: Schedule, gpus: bool) -> Node | None:
        """Take in a machine; None where it does not answer (yet, or any more)."""
        share = share_out(
            _count(said, "CPU"),
            _count(said, "GPU") if gpus else 0,
            embedding=bool(self._stages),
            decoding=schedule.has_work("task"),
            gpus_elsewhere=gpus,
        )
        door = said["NodeManagerAddress"], said["NodeManagerPort"]
        node = Node(said["NodeID"], said["NodeManagerHostname"], door, share)
        if not node.is_there:
            return None
        for _ in range(share.actors):
            remote = ray.remote(Actor).options(
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=IN_HAND,
                num_cpus=share.actor_cpus,
                num_gpus=share.actor_gpus,
                scheduling_strategy=_on(node),
            )
            handle: Any = remote.remote()
            node.slots.append(Slot(handle, handle.ready.remote(self._stages)))
        self._nodes[node.id] = node
        return node

    def _lose(self, node: Node, schedule: Schedule) -> None:
        """A machine has gone. What it had in hand is done elsewhere, and no item is to blame."""
        del self._nodes[node.id]
        units = [*node.tasks.values(), *(u for slot in node.slots for u in (*slot.units.values(), *slot.unsure))]
        said = f"{node.name} has gone; {len(units)} shards that it had in hand are done elsewhere"
        schedule.listener("gone", stage="ray", items=0, why=said)
        self._let_go(node)
        for unit in units:
            schedule.release(unit)

    def _let_go(self, node: Node) -> None:
        for slot in node.slots:
            ray.kill(slot.handle)
        for task in node.tasks:
            ray.cancel(task, force=True)

    def _dispatch(self, schedule: Schedule, store: Store) -> None:
        nodes = list(self._nodes.values())
        slots = [(node, slot) for node in nodes for slot in node.slots]
        for _ in range(IN_HAND):  # one each before any has two
            for node, slot in slots:
                self._fill(node, slot, schedule, store)
        busy, decoders = sum(len(node.tasks) for node in nodes), sum(node.share.decoders for node in nodes)
        # Where there are fewer units than cores for them, a unit uses several.
        threads = max(1, decoders // max(1, schedule.ready("task") + busy))
        free = [node for node in nodes for _ in range(node.share.decoders - len(node.tasks))]
        for node in sorted(free, key=lambda node: len(node.tasks) / node.share.decoders):
            if not (unit := schedule.next("task")):
                return
            remote = ray.remote(run_task).options(
                num_cpus=1, max_retries=0, name=unit.job.stage.name, scheduling_strategy=_on(node)
            )
            node.tasks[remote.remote(store, unit.job.stage, unit.items, unit.feed(), threads)] = unit

    def _fill(self, node: Node, slot: Slot, schedule: Schedule, store: Store) -> None:
        if slot.probe or len(slot.units) >= IN_HAND or any(unit.alone for unit in slot.units.values()):
            return
        if unit := schedule.next("actor", idle=not slot.units):
            threads = node.share.threads if schedule.has_work("task") else node.share.threads_alone
            ref = slot.handle.run.remote(store, unit.job.stage, unit.items, unit.feed(), threads)
            slot.units[ref] = unit

    def _collect(self, ref: Any, schedule: Schedule) -> None:
        node, slot = self._where[ref]
        if node.id not in self._nodes:
            return  # it was lost in the meantime, and all that it had with it
        if slot and ref == slot.probe:
            self._probed(node, slot, schedule)
            return
        unit = slot.units[ref] if slot else node.tasks[ref]
        try:
            done = ray.get(ref)
        except RayTaskError as error:  # the code raised: its own exception, not the cluster's
            raise error.cause from error
        except RayError as error:
            if not node.is_there:
                self._lose(node, schedule)
            elif slot:
                del slot.units[ref]
                slot.unsure.append(unit)
                slot.probe = slot.probe or slot.handle.ready.remote(self._stages)
            else:
                del node.tasks[ref]
                schedule.lose(unit, DIED.format(type(error).__name__))
        else:
            del (slot.units if slot else node.tasks)[ref]
            schedule.finish(unit, done)

    def _probed(self, node: Node, slot: Slot, schedule: Schedule) -> None:
        """A restarting actor looks idle, so it gets work when it has answered; what it lost is charged if it died."""
        try:
            life = ray.get(slot.probe)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            if not node.is_there:
                self._lose(node, schedule)
                return
            # Out of reach is how Ray also calls one that has died and will be started again: nobody knows yet.
            slot.silent_since = slot.silent_since or time.monotonic()
            if time.monotonic() - slot.silent_since > PATIENCE:
                raise EngineError(
                    f"a Ray actor cannot be started, or dies as it sets the model up ({type(error).__name__}); "
                    "is the package installed on each node, and is there memory enough?"
                ) from error
            time.sleep(0.1)
            slot.probe = slot.handle.ready.remote(self._stages)
            return
        slot.probe, slot.silent_since = None, None
        unsure, slot.unsure = slot.unsure, []
        for unit in unsure:
            if life == slot.life:
                schedule.release(unit)
            else:
                schedule.lose(unit, DIED.format("it was started again"))
        slot.life = life


def _calls(node: Node) -> Iterator[tuple[Any, Slot | None]]:
    """References of all that a machine has in hand, and the actor that has it."""
    yield from ((ref, None) for ref in node.tasks)
    for slot in node.slots:
        yield from ((ref, slot) for ref in slot.units)
        if slot.probe:
            yield slot.probe, slot


def _count(node: dict[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)
