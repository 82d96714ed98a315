"""Which runs go, which were killed, and how far each stage is."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.counts import count, described, seconds_to_go
from clip2video_pipe.pipeline.events import EventLog
from clip2video_pipe.pipeline.sharing import Sharing
from clip2video_pipe.pipeline.status import LiveRuns, last_run, live_runs, unfinished

HOLDS = """
import sys, time
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.events import EventLog
with EventLog(Store(sys.argv[1]), ("runs", sys.argv[2], sys.argv[3])) as log:
    log.add("run", config=sys.argv[2])
    log.add("queued", stage="frames", items=6, units=3)
    log.add("started", stage="frames", unit=0, items=2, tries=0)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def going(tmp_path):
    """Start runs, each a process of its own that has a unit in flight."""
    started = []

    def start(name, stamp):
        command = [sys.executable, "-c", HOLDS, str(tmp_path), name, stamp]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def stamp(number):
    return f"20261125T00000{number}.000000Z"


def elsewhere(store, *parts, ago=0.0, modified=None, **said):
    """A run of another machine, whose sign of life is so many seconds old."""
    now = time.time()
    alive = {"time": now - ago, "every": 5.0, "host": "elsewhere", "pid": os.getpid(), **said}
    store.write_json(alive, *parts, "alive.json")
    store.write(json.dumps({"time": now, "event": "run"}).encode() + b"\n", *parts, "events.jsonl")
    when = now - ago if modified is None else now - modified
    os.utime(store.path(*parts, "alive.json"), (when, when))


def test_runs_that_go_are_those_whose_process_is_there(tmp_path, going):
    store = Store(str(tmp_path))
    first, _ = going("a", stamp(1)), going("a", stamp(2))
    going("b", stamp(3))
    with EventLog(store, ("runs", "a", stamp(4))):
        pass
    found = live_runs(store)
    assert [run.parts[1:] for run in found] == [("a", stamp(1)), ("a", stamp(2)), ("b", stamp(3))]
    assert (found[0].config, found[0].host, found[0].pid) == ("a", socket.gethostname(), first.pid)
    assert abs(found[0].since - time.time()) < 60
    assert len(live_runs(store, besides=("runs", "b", stamp(3)))) == 2
    first.kill()  # and nobody has waited for it: it has a number still
    time.sleep(0.2)
    assert [run.parts[2] for run in live_runs(store)] == [stamp(2), stamp(3)]


def test_a_run_that_is_held_up_is_still_there(tmp_path, going):
    store = Store(str(tmp_path))
    process = going("a", stamp(1))
    os.kill(process.pid, signal.SIGSTOP)
    alive = tmp_path / "runs" / "a" / stamp(1) / "alive.json"
    alive.write_text(json.dumps({**json.loads(alive.read_text()), "time": time.time() - 1000}))
    os.utime(alive, (0, 0))
    assert len(live_runs(store)) == 1


def test_another_process_with_the_same_number_is_not_the_run(tmp_path, going):
    process = going("a", stamp(1))
    alive = tmp_path / "runs" / "a" / stamp(1) / "alive.json"
    said = json.loads(alive.read_text())
    assert said["pid"] == process.pid
    alive.write_text(json.dumps({**said, "pid": os.getpid()}))
    assert live_runs(Store(str(tmp_path))) == []


@pytest.mark.parametrize(
    ("said", "lives"),
    [
        ({}, True),
        ({"ago": 25.0}, True),
        ({"ago": 100.0}, False),
        ({"ago": 100.0, "every": 60.0}, True),  # it says less often
        ({"ago": 600.0, "modified": 2.0}, True),  # its clock is behind
        ({"ago": -600.0}, True),  # its clock is ahead
        ({"ago": -86400.0 * 365}, False),
    ],
)
def test_a_run_of_another_machine_goes_while_its_sign_of_life_is_fresh(tmp_path, said, lives):
    store = Store(str(tmp_path))
    elsewhere(store, "runs", "a", stamp(1), **said)
    assert bool(live_runs(store)) == lives
    assert last_run(store, "a")["state"] == ("running" if lives else "killed")


def test_a_run_that_has_ended_does_not_go_whatever_is_left_of_it(tmp_path):
    store = Store(str(tmp_path))
    elsewhere(store, "runs", "a", stamp(1))
    with (tmp_path / "runs" / "a" / stamp(1) / "events.jsonl").open("a") as log:
        log.write(json.dumps({"time": time.time(), "event": "stopped", "why": "KeyboardInterrupt"}) + "\n")
    assert live_runs(store) == []
    assert last_run(store, "a")["state"] == "stopped (KeyboardInterrupt)"


def test_a_run_without_a_sign_of_life_is_killed_unless_it_has_just_begun(tmp_path):
    store = Store(str(tmp_path))
    store.write_json({}, "runs", "a", stamp(1), "config.json")
    assert last_run(store, "a")["state"] == "killed"
    now = time.strftime("%Y%m%dT%H%M%S.000000Z", time.gmtime())
    store.write_json({}, "runs", "b", now, "config.json")
    assert last_run(store, "b")["state"] == "running"


def test_what_a_killed_run_had_in_flight(tmp_path, going):
    store = Store(str(tmp_path))
    process = going("a", stamp(1))
    assert unfinished(store, "a") == {}, "it goes"
    with (tmp_path / "runs" / "a" / stamp(1) / "events.jsonl").open("a") as log:
        log.write('{"time": 1, "event": "fini')
    process.kill()
    process.wait()
    assert unfinished(store, "a") == {"frames": (1, 2)}
    with EventLog(store, ("runs", "a", stamp(2))):
        pass
    assert unfinished(store, "a") == {}
    assert unfinished(store, "never") == {}


def finished(stage, unit, items, began, ended, **more):
    said = {"stage": stage, "unit": unit, "items": items, "began": began, "ended": ended, "errors": {}}
    return {"time": ended, "event": "finished", **said, **more}


def event(kind, stage, **said):
    return {"time": 0.0, "event": kind, "stage": stage, **said}


def test_units_are_done_in_flight_or_left():
    planned = {"frames": {"items": 10, "there": 2}, "captions": {"items": 5, "there": 5}}
    events = [
        {"time": 0.0, "event": "planned", "stages": planned},
        event("queued", "frames", items=8, units=4),
        *(event("started", "frames", unit=n, items=2, tries=0) for n in range(3)),
        finished("frames", 0, 2, 0.0, 10.0, errors={"timeout": 1}),
        event("lost", "frames", unit=1, items=2, tries=1, why="died"),
    ]
    frames, captions = described(count(events), 10.0, going=True)
    assert (captions["status"], frames["status"]) == ("cached", "going")
    assert [stage["status"] for stage in described(count(events), 10.0, going=False)] == ["unfinished", "cached"]
    assert frames["units"] == {"done": 1, "in_flight": 1, "left": 2}
    assert (frames["asked"], frames["there"], frames["items"], frames["done"]) == (10, 2, 8, 2)
    assert (frames["failed"], frames["errors"], frames["lost"]) == (1, {"timeout": 1}, 1)
    events += [
        event("started", "frames", unit=1, items=2, tries=1),
        event("lost", "frames", unit=1, items=2, tries=2, why="died"),  # now one by one
    ]
    frames = next(described(count(events), 10.0, going=True))
    assert frames["units"] == {"done": 1, "in_flight": 1, "left": 3}
    assert (frames["lost"], frames["given_up"]) == (2, 1)
    events.append(event("released", "frames", unit=2, items=2))  # the machine that had it has gone
    assert next(described(count(events), 10.0, going=True))["units"] == {"done": 1, "in_flight": 0, "left": 4}


def test_the_rate_is_that_of_the_last_minute():
    slow = [finished("frames", n, 1, 10.0 * n, 10.0 * (n + 1)) for n in range(100)]  # until 1000
    fast = [finished("frames", 100 + n, 1, 1000.0 + n, 1001.0 + n) for n in range(100)]  # until 1100
    stages = count([event("queued", "frames", items=300, units=300), *slow, *fast])
    assert stages["frames"].rate == pytest.approx(200 / 1100)
    assert stages["frames"].recent_rate(1100.0) == pytest.approx(1.0, rel=0.05)
    each, together = seconds_to_go(stages, 1100.0)
    assert each["frames"] == together == pytest.approx(100.0, rel=0.05)
    assert stages["frames"].recent_rate(1200.0) < 0.1, "nothing has come for a while"


def test_units_that_take_long_have_a_rate_too():
    units = [finished("frames", n, 5, 600.0 * n, 600.0 * (n + 1)) for n in range(10)]
    stages = count([event("queued", "frames", items=100, units=20), *units])
    assert stages["frames"].recent_rate(6300.0) == pytest.approx(20 / 2700)


def test_the_time_to_go_is_that_of_the_stage_that_takes_longest():
    stages = count(
        [
            event("queued", "frames", items=20, units=2),
            event("queued", "video_embeddings", items=20, units=2),
            finished("frames", 0, 10, 0.0, 10.0),
        ]
    )
    assert seconds_to_go(stages, 10.0) == ({"frames": 10.0, "video_embeddings": None}, None)
    stages["video_embeddings"].finished.append((10.0, 10))
    stages["video_embeddings"].began, stages["video_embeddings"].done = 5.0, 10
    assert seconds_to_go(stages, 10.0) == ({"frames": 10.0, "video_embeddings": 5.0}, 10.0)


def test_a_run_that_many_came_after_still_goes(tmp_path, going, monkeypatch):
    """And those that have ended are asked once, however often it is looked at who goes."""
    store = Store(str(tmp_path))
    going("a", stamp(1).replace("2026", "2025"))
    for number in range(40):
        with EventLog(store, ("runs", "a", f"20251125T0100{number:02}.000000Z")):
            pass
    runs = LiveRuns(store)
    asked = []
    real = Store.read
    monkeypatch.setattr(Store, "read", lambda self, *parts: asked.append(parts) or real(self, *parts))
    assert len(runs.look()) == 1 and len(asked) == 41
    assert len(runs.look()) == 1 and len(asked) == 42


def test_a_look_at_other_runs_keeps_nobody_waiting(tmp_path, monkeypatch):
    answer, asked = threading.Event(), threading.Event()
    sharing = Sharing(Store(str(tmp_path)), ("runs", "a", stamp(1)), ())
    assert not sharing.others

    def look():
        asked.set()
        answer.wait(60)
        return ["another"]

    monkeypatch.setattr(sharing, "_runs", SimpleNamespace(look=look))
    monkeypatch.setattr("clip2video_pipe.pipeline.sharing.LOOK_EVERY", -1)
    assert not sharing.others and asked.wait(60)
    answer.set()
    sharing._looking.join()
    assert sharing.others
