"""How runs go, and how they went, read from what they write: also those of other machines, and killed ones."""

import os
import re
import socket
import time
from calendar import timegm
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.counts import count, described, seconds_to_go
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import (
    ALIVE,
    LAST,
    READERS,
    RUNS,
    Event,
    last_event,
    machine,
    process_start,
    read_events,
)
from clip2video_pipe.pipeline.words import several

SILENT = 30.0  # seconds without a sign of life, at least, after which a run is taken for killed
BEATS = 4  # signs of life that a run may miss
AHEAD = 3600.0  # seconds that the clock of another machine may be ahead of this one's


@dataclass(frozen=True)
class LiveRun:
    """A run that is going now; `parts` is its folder in the store, `since` seconds since the epoch."""

    parts: tuple[str, ...]
    config: str
    host: str
    pid: int
    since: float


def live_runs(store: Store, besides: Sequence[str] = ()) -> list[LiveRun]:
    """The runs of this store, of any config, that are going now, oldest first; `besides` is the folder of one's own.

    A request or two for each run that the store has heard of. Of this machine the process tells; of another one its
    sign of life, which may be half a minute old, so that a run that was killed a moment ago still counts.
    """
    return LiveRuns(store, besides).look()


class LiveRuns:
    """`live_runs`, for those who ask again and again: runs that are known to have ended are not asked any more."""

    def __init__(self, store: Store, besides: Sequence[str] = ()) -> None:
        self._store = store
        self._over = {tuple(besides)}

    def look(self) -> list[LiveRun]:
        with ThreadPoolExecutor(READERS) as pool:
            names = self._store.folders(RUNS)
            stamps = pool.map(lambda name: self._store.folders(RUNS, name), names)
            folders = [(RUNS, name, stamp) for name, some in zip(names, stamps, strict=True) for stamp in some]
            found = list(pool.map(self._live, [parts for parts in folders if parts not in self._over]))
        return sorted((run for run in found if run), key=lambda run: run.since)

    def _live(self, parts: tuple[str, ...]) -> LiveRun | None:
        said = _sign_of_life(self._store, parts)
        if said is None:
            if time.time() - _stamped(parts[-1]) > AHEAD:  # one that has just begun has not shown itself yet
                self._over.add(parts)
            return None
        if not _is_alive(self._store, parts, said):
            return None  # it may have been out of reach, and show itself again
        last = last_event(self._store, parts)
        if last and last["event"] in LAST:  # its sign of life could not be removed
            self._over.add(parts)
            return None
        return LiveRun(parts, parts[1], str(said["host"]), int(said["pid"]), float(said.get("since", said["time"])))


def _sign_of_life(store: Store, parts: Sequence[str]) -> dict[str, Any] | None:
    said = store.read_json(*parts, ALIVE)
    return said if isinstance(said, dict) and {"time", "every", "host", "pid"} <= said.keys() else None


def _is_alive(store: Store, parts: Sequence[str], said: dict[str, Any]) -> bool:
    """Whether the run that wrote this sign of life is still there.

    Its process tells where it is one of this machine: also if it is held up, or the sign could not be written of late.
    """
    here = said["machine"] == machine() if "machine" in said else said["host"] == socket.gethostname()
    if here:
        if said.get("started") is not None:
            return bool(process_start(said["pid"]) == said["started"])
        if not _process_runs(said["pid"]):
            return False
    # Its clock may differ from ours: what the store says of the file is by a clock of its own.
    stamp = store.stamp(*parts, ALIVE)
    written = [said["time"], *([stamp.modified / 1e9] if stamp and stamp.modified else [])]
    limit = max(SILENT, BEATS * said["every"])
    return any(-AHEAD < time.time() - when < limit for when in written)


def _process_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def last_run(store: Store, name: str) -> dict[str, Any]:
    """What `status --json` says of the last run of config `name`. Raises RequestError without one.

    `state` is `done`, `stopped (why)`, `running`, or `killed`; of a stage `items`, `done` and `failed` count this run's
    items, `rate` is items a second between its first and its last unit, `recent_rate` that of the last minute.
    """
    runs = store.folders(RUNS, name)
    if not runs:
        raise RequestError(f"no run of {name!r} in {store.path()!r} yet; start one with 'clip2video-pipe run'")
    parts = (RUNS, name, runs[-1])
    state, events = _look(store, parts)
    going = state == "running"
    now = time.time() if going else max((event["time"] for event in events), default=0.0)
    stages = count(events)
    return {
        "run_dir": store.path(*parts),
        "state": state,
        "seconds": round(now - events[0]["time"], 3) if events else None,
        "stages": list(described(stages, now, going=going)),
        "seconds_to_go": seconds_to_go(stages, now)[1] if going else None,
        "metrics": store.read_json(*parts, "metrics.json"),
    }


def unfinished(store: Store, name: str) -> dict[str, tuple[int, int]]:
    """Units, and their items, that the last run of config `name` had in flight when it was killed or stopped, by stage.

    Empty where it was neither.
    """
    return _unfinished(store, name)[1]


def left_behind(store: Store, name: str, again: Collection[str]) -> Iterator[str]:
    """Lines that say what the last run of config `name` had in flight when it was killed or stopped.

    `again`: the stages of which this run has something to do.
    """
    state, stages = _unfinished(store, name)
    for stage, (units, items) in stages.items():
        were, them = ("was", "it is") if units == 1 else ("were", "they are")
        end = f"; {them} done again" if stage in again else ""
        held = f"{several(units, 'shard')} ({several(items, 'item')})"
        yield f"the last run was {state}: {held} of {stage} {were} in flight{end}"


def _unfinished(store: Store, name: str) -> tuple[str, dict[str, tuple[int, int]]]:
    runs = store.folders(RUNS, name)
    last = last_event(store, (RUNS, name, runs[-1])) if runs else None
    if last is None or last["event"] == "done":
        return "done", {}
    state, events = _look(store, (RUNS, name, runs[-1]))
    if state in ("done", "running"):
        return state, {}
    stages = {s.stage: (len(s.in_flight), sum(s.in_flight.values())) for s in count(events).values() if s.in_flight}
    return state.partition(" ")[0], stages


def _look(store: Store, parts: tuple[str, ...]) -> tuple[str, list[Event]]:
    """The state of a run, and its events. Whether it lives is asked first: what ends in between has then said so."""
    said = _sign_of_life(store, parts)
    alive = _is_alive(store, parts, said) if said else None
    events = read_events(store, parts)
    for event in reversed(events[-2:]):
        if event["event"] == "done":
            return "done", events
        if event["event"] == "stopped":
            return f"stopped ({event.get('why', '?')})", events
    if alive is None:  # it has just begun, or is older than signs of life
        alive = not events and time.time() - _stamped(parts[-1]) < SILENT
    return "running" if alive else "killed", events


def _stamped(stamp: str) -> float:
    """When the run of this folder began, in seconds since the epoch; 0 where its name does not tell."""
    if not re.fullmatch(r"\d{8}T\d{6}\.\d+Z", stamp):
        return 0.0
    return float(timegm(time.strptime(stamp.partition(".")[0], "%Y%m%dT%H%M%S")))
