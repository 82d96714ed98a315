"""How the last run of a config went, read from what it wrote."""

import json
import os
import socket
from typing import Any

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.progress import EVENTS
from clip2video_pipe.pipeline.run import RUNS


def last_run(store: Store, name: str) -> dict[str, Any]:
    """`run_dir`, `state`, `stages` and `metrics` of the last run of config `name`. Raises RequestError without one.

    `state` is `done`, `stopped (why)`, `running`, or `killed`; a stage's `done` and `failed` count this run's items,
    and `rate` is items a second between its first and its last unit.
    """
    runs = store.folders(RUNS, name)
    if not runs:
        raise RequestError(f"no run of {name!r} in {store.path()!r} yet; start one with 'clip2video-pipe run'")
    parts = (RUNS, name, runs[-1])
    lines = (store.read(*parts, EVENTS) or b"").decode("utf-8", "replace").splitlines()
    events = [event for event in map(_parse, lines) if event]
    return {
        "run_dir": store.path(*parts),
        "state": _state(events),
        "stages": _stages(events),
        "metrics": store.read_json(*parts, "metrics.json"),
    }


def _parse(line: str) -> dict[str, Any] | None:
    """An event; None for the half line of a run that was killed while it wrote."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _state(events: list[dict[str, Any]]) -> str:
    for event in reversed(events):
        if event["event"] == "done":
            return "done"
        if event["event"] == "stopped":
            return f"stopped ({event['why']})"
    started = next((event for event in events if event["event"] == "run"), None)
    return "running" if started is None or _is_running(started["host"], started["pid"]) else "killed"


def _is_running(host: str, pid: int) -> bool:
    """Whether a process still runs; one on another machine is taken at its word."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stages(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "queued":
            stages[event["stage"]] = {"items": event["items"], "done": 0, "failed": 0, "began": None, "ended": None}
        elif event["event"] == "finished":
            stage = stages[event["stage"]]
            stage["done"] += event["items"]
            stage["failed"] += sum(event["errors"].values())
            stage["began"] = min(stage["began"] or event["began"], event["began"])
            stage["ended"] = max(stage["ended"] or event["ended"], event["ended"])
    return [
        {
            "stage": name,
            "items": stage["items"],
            "done": stage["done"],
            "failed": stage["failed"],
            "rate": stage["done"] / max(1e-3, stage["ended"] - stage["began"]) if stage["done"] else None,
        }
        for name, stage in stages.items()
    ]
