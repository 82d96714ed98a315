"""What a plan would cost, from what earlier runs of the same stages did: seconds, bytes and GPU-hours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.events import READERS, RUNS, Event, read_events
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.stages.similarity import Similarity

NEWEST = 10  # runs of a config that are looked at
TAKEN = 3  # runs that a rate is taken from: the newest ones of the best kind there is


def planned(steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Of each stage the items asked for and there, its key, and its `kind`: all that tells how long an item takes."""
    return {
        step.name: {
            "items": len(step.items),
            "there": len(step.items) - len(step.missing),
            "key": step.identity.key,
            "kind": _kind(step),
        }
        for step in steps
        if step.stage
    }


def _kind(step: Step) -> str:
    """The same for stages that differ only in their weights and in what they read."""
    identity = step.identity
    return keys.digest([identity.stage, identity.version, dict(identity.params)])


def spent(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """What the finished units of each stage took; `workers` is how many units were under way at a time, at most,
    `machines` on how many.

    `worker_seconds` are their times added up, `wall_seconds` the time in which any was under way, `busy_seconds` that
    in which they computed, `core_seconds` what their cores did, where they say it. Units that another run did, which
    took none of this one's time, are not counted.
    """
    units: dict[str, list[Event]] = {}
    said: dict[str, Any] = {}
    for event in events:
        if event["event"] == "planned":
            said |= event["stages"]
        elif (
            event["event"] == "finished" and not event.get("shared") and None not in map(event.get, ("began", "ended"))
        ):
            units.setdefault(event["stage"], []).append(event)
    return {stage: _spent(found, said.get(stage, {})) for stage, found in units.items()}


def _spent(units: Sequence[Event], said: Mapping[str, Any]) -> dict[str, Any]:
    spans = sorted((unit["began"], unit["ended"]) for unit in units)
    wall, until = 0.0, -math.inf
    for began, ended in spans:
        wall += max(0.0, ended - max(began, until))
        until = max(until, ended)
    # One that ends as another begins is not beside it.
    edges = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    under_way = most = 0
    for _, step in edges:
        under_way += step
        most = max(most, under_way)
    cores = [unit["cpu"] for unit in units if unit.get("cpu") is not None]
    return {
        "key": said.get("key"),
        "kind": said.get("kind"),
        "items": sum(unit["items"] for unit in units),
        "failed": sum(sum((unit.get("errors") or {}).values()) for unit in units),
        "bytes": sum(unit.get("bytes") or 0 for unit in units),
        "wall_seconds": round(wall, 3),
        "worker_seconds": round(sum(ended - began for began, ended in spans), 3),
        "busy_seconds": round(sum(unit.get("busy") or 0.0 for unit in units), 3),
        "core_seconds": round(sum(cores), 3) if len(cores) == len(units) else None,
        "workers": max(1, most),
        "machines": len({unit.get("node") for unit in units}),
        "device": "gpu" if any(unit.get("device") == "gpu" for unit in units) else "cpu",
    }


@dataclass(frozen=True)
class Estimate:
    """Of what a stage has missing: of one worker's `seconds`, divided among as many as there were."""

    seconds: float
    bytes: int
    gpu_hours: float | None  # None: no GPU takes part
    source: str  # the run that it comes from, the newest one

    def said(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "bytes": self.bytes, "gpu_hours": self.gpu_hours, "from": self.source}


UNKNOWN: Mapping[str, Any] = {"seconds": None, "bytes": None, "gpu_hours": None, "from": None}


@dataclass(frozen=True)
class _Run:
    parts: tuple[str, ...]
    spent: Mapping[str, Mapping[str, Any]]  # by stage


class History:
    """The last runs of a store, of any config: what their stages took. Read when first asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def rates(self, stage: str, key: str | None, kind: str | None) -> tuple[list[Mapping[str, Any]], str] | None:
        """What the newest few runs of a stage took, and the folder of the newest; None where there was none.

        Those of its key, else those of its kind, else any; of each those that were finished before those that were
        not. All on the same kind of device.
        """
        wanted: list[Mapping[str, str]] = [{"key": key}] if key else []
        wanted += [{"kind": kind}] if kind else []
        for like_it in (*wanted, {}):
            for others in (False, True):  # those are read only where they are needed
                runs = [run for run in (self._others if others else self._finished) if stage in run.spent]
                found = [(run, run.spent[stage]) for run in runs if like_it.items() <= run.spent[stage].items()]
                if found:
                    newest, first = found[0]
                    like = [said for _, said in found if said["device"] == first["device"]]
                    return like[:TAKEN], self._store.path(*newest.parts)
        return None

    @cached_property
    def _folders(self) -> list[tuple[str, ...]]:
        """Newest first, whatever the config."""
        store = self._store
        found = [(RUNS, name, stamp) for name in store.folders(RUNS) for stamp in store.folders(RUNS, name)[-NEWEST:]]
        return sorted(found, key=lambda parts: parts[2], reverse=True)

    @cached_property
    def _finished(self) -> list[_Run]:
        def read(parts: tuple[str, ...]) -> _Run | None:
            said = self._store.read_json(*parts, "run.json")
            if not isinstance(said, dict):
                return None
            return _Run(parts, {row["stage"]: row["spent"] for row in said["stages"] if row.get("spent")})

        with ThreadPoolExecutor(READERS) as pool:
            return [run for run in pool.map(read, self._folders) if run]

    @cached_property
    def _others(self) -> list[_Run]:
        """Runs that were killed or stopped, or go on: what they have finished."""
        finished = {run.parts for run in self._finished}
        return [_Run(parts, spent(read_events(self._store, parts))) for parts in self._folders if parts not in finished]


def estimate(rates: Sequence[Mapping[str, Any]], source: str, items: int, units: int, alone: bool) -> Estimate:
    """For `items` in so many units. `alone`: one worker does one unit after the other, as the inline engine does."""
    share = items / max(1, sum(said["items"] for said in rates))
    workers = 1 if alone else max(1, min(units, max(said["workers"] for said in rates)))
    worker_seconds = share * sum(said["worker_seconds"] for said in rates)
    busy = share * sum(said["busy_seconds"] or said["worker_seconds"] for said in rates)
    return Estimate(
        seconds=round(worker_seconds / workers, 3),
        bytes=round(share * sum(said["bytes"] for said in rates)),
        gpu_hours=round(busy / 3600, 6) if rates[0]["device"] == "gpu" else None,
        source=source,
    )


def estimates(plan: Plan, scoring: Sequence[Step]) -> tuple[dict[str, Estimate | None], dict[str, Any]]:
    """Of each stage that has something to compute, None where no earlier run tells; and of all together.

    `scoring` are the plan's scoring steps, where those are known yet. Of all: `seconds`, `bytes`, `gpu_hours` of the
    stages that can be told, and `complete`, whether those are all.
    """
    history, alone = History(plan.store), plan.config.run.engine == "inline"
    found: dict[str, Estimate | None] = {}
    lanes: dict[str, float] = {}
    for step in [*plan.steps, *scoring]:
        if step.stage is None or not step.missing:
            continue
        units = math.ceil(len(step.missing) / (plan.config.run.shard_items * step.stage.bulk))
        rates = history.rates(step.name, step.identity.key, _kind(step))
        found[step.name] = rates and estimate(*rates, len(step.missing), units, alone)
        # What shares workers is done one after the other; so is all in one process, and what scores.
        lane = step.name if step in scoring else "one" if alone else step.stage.lane
        lanes[lane] = lanes.get(lane, 0.0) + _seconds(found[step.name])
    scores = sum(lanes.pop(step.name, 0.0) for step in scoring)
    if plan.captions and not scoring:
        rates = history.rates(Similarity.name, None, None)
        units = math.ceil(len(plan.queries) / (plan.config.run.shard_items * Similarity.bulk))
        last = found[Similarity.name] = rates and estimate(*rates, len(plan.queries), units, alone)
        scores += _seconds(last)
    known = [one for one in found.values() if one]
    hours = [one.gpu_hours for one in known if one.gpu_hours is not None]
    return found, {
        "seconds": round(max(lanes.values(), default=0.0) + scores, 3),
        "bytes": sum(one.bytes for one in known),
        "gpu_hours": round(sum(hours), 6) if hours else None,
        "complete": len(known) == len(found),
    }


def _seconds(found: Estimate | None) -> float:
    return found.seconds if found else 0.0
