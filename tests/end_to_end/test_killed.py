"""Killed in the middle, the next run computes only what is missing, and ends with the same tables."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store


def kill_after(project, stage, shards, *words, event="finished"):
    """Start a run as a process of its own and SIGKILL it once so many shards of a stage are finished, or started."""
    command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", str(project.config), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while counted(project, event, stage) < shards:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < give_up
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def counted(project, kind, stage):
    lines = [line for log in project.store.glob("runs/*/*/events.jsonl") for line in log.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return sum(event["event"] == kind and event["stage"] == stage for event in events)


def tables(project, result):
    store = Store(str(project.store))
    names = {name: stage["manifest"] for name, stage in result["stages"].items()}
    return {name: load(store, name, manifest).table().to_pylist() for name, manifest in names.items()}


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize(("stage", "shards"), [("frames", 1), ("video_embeddings", 2)])
def test_the_next_run_goes_on(project, tmp_path, clips, engine, stage, shards):
    slow = ["--set", "run.shard_items=1", "--engine", engine]
    kill_after(project, stage, shards, *slow)
    files = {path: path.stat().st_mtime_ns for path in project.store.rglob("*.parquet")}
    result = project.run("--set", "run.shard_items=1")
    before = sum(path.parts[-3] == stage for path in files)
    assert result["stages"][stage]["reused"] >= before >= shards  # workers may finish what they had in hand
    assert result["stages"][stage]["computed"] + result["stages"][stage]["reused"] == 6
    for path, written in files.items():
        assert path.stat().st_mtime_ns == written, "a finished shard was written again"
    undisturbed = project.elsewhere(tmp_path / "undisturbed")
    expected = undisturbed.run("--set", "run.shard_items=1")
    assert result["metrics"] == expected["metrics"]
    assert tables(project, result) == tables(undisturbed, expected)


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_the_next_run_says_what_was_in_flight(project, engine):
    kill_after(project, "frames", 1, "--set", "run.shard_items=1", "--engine", engine, event="started")
    log = next(project.store.glob("runs/*/*/events.jsonl"))
    events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    units = {kind: {(e["stage"], e["unit"]) for e in events if e["event"] == kind} for kind in ("started", "finished")}
    in_flight = Counter(stage for stage, _ in units["started"] - units["finished"])
    assert in_flight, "it was killed in the middle of something"
    _, out, _ = project.command("status", "--json")
    found = json.loads(out)
    assert found["state"] == "killed"
    assert {s["stage"]: s["units"]["in_flight"] for s in found["stages"] if s["units"]["in_flight"]} == in_flight
    code, _, err = project.command("run", "--set", "run.shard_items=1")
    assert code == 0
    said = [line for line in err.splitlines() if line.startswith("the last run was killed: ")]
    assert {line.split(" of ")[1].split()[0]: int(line.split(": ")[1].split()[0]) for line in said} == in_flight
    code, _, err = project.command("run")
    assert "the last run was" not in err


def test_a_leftover_of_a_killed_writer_is_harmless(project):
    result = project.run()
    folder = project.store / "frames" / result["stages"]["frames"]["key"]
    (folder / ".half.parquet.0123.tmp").write_bytes(b"half a shard")
    (folder / "notashard.parquet").write_bytes(b"half a shard")
    assert project.computed() == {}
    assert project.computed("--set", "run.shard_items=1") == {}
