"""Units of work on Ray: tasks decode, one CPU each; actors embed, on a GPU each or on the CPUs that are left.

Each unit goes to a machine of the engine's choice: Ray does not say what becomes of a task whose machine is cut off, so
the engine has to know what is where.
"""

import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines.carriers import Actor, answer, run_task
from clip2video_pipe.pipeline.engines.machines import Node, Slot, count
from clip2video_pipe.pipeline.engines.shares import Share, share_out
from clip2video_pipe.pipeline.engines.shipping import runtime_env
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.schedule import Schedule
from clip2video_pipe.pipeline.words import several
from clip2video_pipe.stages.base import Stage

IN_HAND = 2  # units an actor has: it reads one while it computes the other
PATIENCE = 60.0  # seconds without an answer: then it is not the work that kills an actor, or a machine's tasks
IN_A_ROW = 5  # different units lost in one place, and none finished there in between: then it is not the work
LOOK_EVERY = 2.0  # seconds between looks at which machines there are
AGAIN = 30.0  # seconds until one that did not is tried again: Ray names it for a minute more
STARTING = 10.0  # seconds without an answer, and with nothing under way, before that is said
WORKING = 60.0  # the same while units are under way, some of which may only wait for a place
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


def _token_hint() -> str:
    """Ray asks for a token where its head found one, and never sends one that it was not told to send."""
    if "RAY_AUTH_MODE" in os.environ or not (Path.home() / ".ray" / "auth_token").exists():
        return ""
    return "; where it asks for a token, say RAY_AUTH_MODE=token in the environment"


def connect(address: str, ship_code: bool) -> bool:
    """Join the cluster at `address`, or start one for `local`; whether there was none that this process had joined.

    Raises RequestError.
    """
    _check_reachable(address)
    if ray.is_initialized():
        return False
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local":  # nobody asks for its metrics, and where they can be had Ray takes 4 s more to start
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == "local" else None,
            runtime_env=runtime_env(ship_code),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == "local":
            raise
        reason = str(error).splitlines()[0]
        raise RequestError(f"run.address: no Ray cluster at {address!r}: {reason}{_token_hint()}") from error
    except BaseException:
        ray.shutdown()  # stopped while it started: what has been started goes too
        raise
    gc.freeze()  # what Ray has brought stays to the end: no collection has to look at it again
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray puts in its own, which ends the process in a stack trace
    return True


class RayEngine:
    """Joins the Ray that this process has, or the cluster at `address`, or starts one of its own for the run."""

    def __init__(self, address: str, ship_code: bool = False) -> None:
        self._address = address
        self._ship_code = ship_code
        self._started = False
        self._nodes: dict[str, Node] = {}
        self._looked = 0.0
        self._asked = 0.0  # when it was first looked which machines there are; 0 when one has been taken in
        self._not_before: dict[str, float] = {}  # machines that are not there, or do not work: when to try them again
        self._where: dict[Any, tuple[Node, Slot]] = {}  # of calls under way
        self._stages: list[Stage] = []
        self._stack = ExitStack()
        self._task = ray.remote(run_task)  # one for all: Ray sends the code of each to the cluster

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
        self._started = connect(self._address, self._ship_code) or self._started
        self._prepare(schedule)
        told = time.monotonic()
        while not schedule.done:
            self._look(schedule)
            self._dispatch(schedule, store)
            ready = self._wait()
            for ref in ready:
                self._collect(ref, schedule)
            if ready:
                told = time.monotonic()
            elif time.monotonic() - told > (WORKING if schedule.running else STARTING):
                told = time.monotonic()
                schedule.listener("waiting", stage="ray", items=0, why=self._waits_for(schedule))

    def _wait(self) -> list[Any]:
        """Calls that have ended, all of them as soon as one has."""
        self._where = {ref: (node, slot) for node in self._nodes.values() for slot in node.places for ref in slot.calls}
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
        if schedule.running:
            return f"nothing of {schedule.running} shards under way has ended for a minute; is the cluster full?"
        return "no worker has started yet; is the cluster full?"

    def _prepare(self, schedule: Schedule) -> None:
        """Make actors, where there is first work for them; those that are there get the schedule's stages.

        Raises EngineError.
        """
        # Set up before there is a unit: it goes on while the first videos are decoded, what is wrong with weights is
        # known early, and a worker that dies of it is told from one that dies of a video.
        self._stages = [job.stage for job in schedule.jobs if job.stage.lane == "actor"]
        gpus = _use_gpus([node.said for node in self._nodes.values()], schedule)
        for node in list(self._nodes.values()):
            share = self._share(node.said, schedule, gpus)
            if share.actors and (not node.slots or share.actor_gpus > node.share.actor_gpus):
                self._let_go(node)
                del self._nodes[node.id]
                self._join(node.said, schedule, gpus)
                continue
            for slot in node.slots:
                slot.probe = self._ask(node, slot)
        self._looked = 0.0
        self._look(schedule)

    def _look(self, schedule: Schedule) -> None:
        """Take in machines that have joined, let go of those that have left. Raises EngineError."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {node["NodeID"]: node for node in every if node["Alive"]}
        for gone in self._nodes.keys() - alive.keys():
            self._lose(self._nodes[gone], schedule)
        gpus = _use_gpus(alive.values(), schedule)
        first = not self._nodes
        for joined in alive.keys() - self._nodes.keys():
            if now < self._not_before.get(joined, 0.0):
                continue
            node = self._join(alive[joined], schedule, gpus)
            if not node:
                self._not_before[joined] = now + AGAIN
            elif not first:
                schedule.listener("joined", stage="ray", items=0, why=f"{node.name} has joined, and is used")
        self._check_taken_in(alive.values())
        actors = sum(len(node.slots) for node in self._nodes.values())
        schedule.lookahead = max(1, 2 * actors + sum(node.share.decoders for node in self._nodes.values()))

    def _check_taken_in(self, alive: Iterable[dict[str, Any]]) -> None:
        """Raises EngineError where none of the machines could be reached for too long, from the start."""
        if self._nodes:
            self._asked = math.inf
        self._asked = self._asked or time.monotonic()
        doors = [f"{said['NodeManagerAddress']}:{said['NodeManagerPort']}" for said in alive]
        if doors and time.monotonic() - self._asked > PATIENCE:
            raise EngineError(
                f"no machine of the cluster answers here: tried {', '.join(doors[:4])}{', ...' * (len(doors) > 4)}; "
                "start the run on one of them, or reach the cluster through ray://"
            )

    def _share(self, said: dict[str, Any], schedule: Schedule, gpus: bool) -> Share:
        return share_out(
            count(said, "CPU"),
            count(said, "GPU") if gpus else 0,
            embedding=bool(self._stages),
            decoding=schedule.has_work("task"),
            gpus_elsewhere=gpus,
        )

    def _join(self, said: dict[str, Any], schedule: Schedule, gpus: bool) -> Node | None:
        """Take in a machine; None where it does not answer (yet, or any more)."""
        share = self._share(said, schedule, gpus)
        node = Node(said, share, seen=not self._address.startswith("ray://"))
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
            slot = Slot(remote.remote())
            slot.probe = self._ask(node, slot)
            node.slots.append(slot)
        self._nodes[node.id] = node
        return node

    def _ask(self, node: Node, slot: Slot) -> Any:
        """A question that is answered when there can be work for it."""
        if slot.handle:
            return slot.handle.ready.remote(self._stages)
        remote = ray.remote(answer).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node))
        return remote.remote()

    def _lose(self, node: Node, schedule: Schedule, why: str = "has gone", until: float = AGAIN) -> None:
        """A machine has gone, `until` seconds from now. What it had in hand is done elsewhere: no item is to blame."""
        del self._nodes[node.id]
        self._not_before[node.id] = time.monotonic() + until
        units = [u for slot in node.places for u in (*slot.units.values(), *(unit for unit, _ in slot.unsure))]
        what = several(len(units), "shard that it had in hand is", "shards that it had in hand are")
        said = f"{node.name} {why}; {what} done elsewhere"
        schedule.listener("gone", stage="ray", items=0, why=said)
        self._let_go(node)
        for unit in units:
            schedule.release(unit)

    def _give_up(self, node: Node, slot: Slot, schedule: Schedule, why: str) -> None:
        """A machine answers, and does not work. Raises EngineError where none is left that does the same."""
        self._lose(node, schedule, f"is not used any more: {why}", until=math.inf)
        others = self._nodes.values()
        if not any(other.slots if slot.handle else other.share.decoders for other in others):
            raise EngineError(
                f"{node.name}: {why}; is the package installed on each node, and is there memory enough? "
                "What is done is kept"
            )

    def _let_go(self, node: Node) -> None:
        for slot in node.slots:
            ray.kill(slot.handle)
        for task in node.tasks.units:
            ray.cancel(task, force=True)

    def _dispatch(self, schedule: Schedule, store: Store) -> None:
        nodes = list(self._nodes.values())
        slots = [(node, slot) for node in nodes for slot in node.slots]
        several = sum(bool(node.slots) for node in nodes) > 1
        for _ in range(IN_HAND):  # one each before any has two
            for node, slot in slots:
                self._fill(node, slot, schedule, store, node.id if several else "")
        busy, decoders = sum(len(node.tasks.units) for node in nodes), sum(node.share.decoders for node in nodes)
        # Where there are fewer units than cores for them, a unit uses several.
        threads = max(1, decoders // max(1, schedule.ready("task") + busy))
        fit = [node for node in nodes if not node.tasks.probe]
        free = [node for node in fit for _ in range(node.share.decoders - len(node.tasks.units))]
        several = sum(bool(node.share.decoders) for node in nodes) > 1
        for node in sorted(free, key=lambda node: len(node.tasks.units) / node.share.decoders):
            if not (unit := schedule.next("task", machine=node.id if several else "")):
                continue
            remote = self._task.options(
                num_cpus=1, max_retries=0, name=unit.job.stage.name, scheduling_strategy=_on(node)
            )
            node.tasks.units[remote.remote(store, unit.job.stage, unit.items, unit.feed(), threads)] = unit

    def _fill(self, node: Node, slot: Slot, schedule: Schedule, store: Store, machine: str) -> None:
        if slot.probe or len(slot.units) >= IN_HAND or any(unit.alone for unit in slot.units.values()):
            return
        if unit := schedule.next("actor", idle=not slot.units, machine=machine):
            threads = node.share.threads if schedule.has_work("task") else node.share.threads_alone
            ref = slot.handle.run.remote(store, unit.job.stage, unit.items, unit.feed(), threads)
            slot.units[ref] = unit

    def _collect(self, ref: Any, schedule: Schedule) -> None:
        node, slot = self._where[ref]
        if node.id not in self._nodes:
            return  # it was lost in the meantime, and all that it had with it
        if ref == slot.probe:
            self._probed(node, slot, schedule)
            return
        unit = slot.units[ref]
        try:
            done = ray.get(ref)
        except RayTaskError as error:  # the code raised: its own exception, not the cluster's
            raise error.cause from error
        except RuntimeEnvSetupError as error:
            raise _unprepared(node, error) from error
        except RayError as error:
            if not node.is_there:
                self._lose(node, schedule)
                return
            del slot.units[ref]
            slot.unsure.append((unit, error))
            slot.probe = slot.probe or self._ask(node, slot)
        else:
            del slot.units[ref]
            slot.row.clear()
            schedule.finish(unit, done)

    def _probed(self, node: Node, slot: Slot, schedule: Schedule) -> None:
        """What was lost is charged if its actor has died, or its machine goes on: one that stops ends workers first.

        And a restarting actor looks idle, so it gets work when it has answered.
        """
        try:
            life = ray.get(slot.probe)
        except RayTaskError as error:
            raise error.cause from error
        except RuntimeEnvSetupError as error:
            raise _unprepared(node, error) from error
        except RayError as error:
            if not node.is_there:
                self._lose(node, schedule)
                return
            # Out of reach is how Ray also calls one that has died and will be started again: nobody knows yet.
            slot.silent_since = slot.silent_since or time.monotonic()
            if time.monotonic() - slot.silent_since > PATIENCE:
                what = (
                    "an actor cannot be started, or dies as it sets the model up" if slot.handle else "no task starts"
                )
                self._give_up(node, slot, schedule, f"{what} ({type(error).__name__})")
                return
            time.sleep(0.1)
            slot.probe = self._ask(node, slot)
            return
        slot.probe, slot.silent_since = None, None
        lives, slot.life = bool(slot.handle) and life == slot.life, life
        while slot.unsure:
            unit, lost = slot.unsure[0]
            if not lives:
                slot.row.add(unit.id)
            if len(slot.row) >= IN_A_ROW:
                said = f"{IN_A_ROW} shards in a row were lost there ({type(lost).__name__})"
                self._give_up(node, slot, schedule, said)
                return
            del slot.unsure[0]
            if lives:
                schedule.release(unit)
            else:
                failure = "out-of-memory" if isinstance(lost, OutOfMemoryError) else "crashed"
                schedule.lose(unit, DIED.format(type(lost).__name__), failure, node.id)


def _unprepared(node: Node, error: RuntimeEnvSetupError) -> EngineError:
    reason = (error.error_message or "Ray does not say why").strip().splitlines()[-1]
    return EngineError(f"{node.name}: what a worker needs could not be put there (run.ship_code): {reason}")


def _use_gpus(machines: Iterable[dict[str, Any]], schedule: Schedule) -> bool:
    return any(job.stage.wants_gpu for job in schedule.jobs) and any(count(said, "GPU") for said in machines)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)
