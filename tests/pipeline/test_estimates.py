"""What a plan would cost: from the runs that are most like it."""

import json

import pytest

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.estimates import History, estimate, spent


def finished(stage, items, began, ended, **more):
    return {"time": ended, "event": "finished", "stage": stage, "items": items, "began": began, "ended": ended, **more}


def test_what_a_stage_took():
    events = [
        {"time": 0.0, "event": "planned", "stages": {"frames": {"items": 9, "there": 0, "key": "k", "kind": "c"}}},
        finished("frames", 4, 0.0, 10.0, busy=8.0, bytes=100, errors={"timeout": 1}, cpu=9.0),
        finished("frames", 4, 5.0, 15.0, busy=8.0, bytes=100, errors={}, cpu=9.0, node="another"),
        finished("frames", 1, 15.0, 20.0, busy=1.0, bytes=10, errors={}, cpu=1.0),
        finished("frames", 1, 100.0, 101.0, busy=1.0, bytes=10, errors={}, cpu=1.0),
        finished("frames", 9, 200.0, 200.0, busy=0.0, bytes=10, errors={}, cpu=0.0, shared=True),
    ]
    assert spent(events)["frames"] == {
        "key": "k", "kind": "c", "items": 10, "failed": 1, "bytes": 220, "wall_seconds": 21.0, "worker_seconds": 26.0,
        "busy_seconds": 18.0, "core_seconds": 20.0, "workers": 2, "machines": 2, "device": "cpu",
    }  # fmt: skip


def test_what_another_run_did_tells_nothing():
    assert spent([finished("frames", 4, 0.0, 0.0, busy=0.0, cpu=0.0, shared=True)]) == {}


def test_events_that_say_less_count_too():
    """Of an older version, or of a version to come."""
    said = spent([finished("frames", 4, 0.0, 10.0), {"time": 1.0, "event": "finished", "stage": "frames", "items": 3}])
    assert said["frames"]["items"] == 4
    assert (said["frames"]["core_seconds"], said["frames"]["key"], said["frames"]["bytes"]) == (None, None, 0)


def took(**more):
    said = {"key": "k", "kind": "c", "items": 10, "failed": 0, "bytes": 1000, "wall_seconds": 10.0}
    return {
        **said,
        "worker_seconds": 40.0,
        "busy_seconds": 30.0,
        "core_seconds": None,
        "workers": 4,
        "device": "cpu",
    } | more


def test_an_estimate_shares_the_work_among_workers():
    found = estimate([took()], "run", items=100, units=50, alone=False)
    assert (found.seconds, found.bytes, found.gpu_hours) == (100.0, 10000, None)
    assert estimate([took()], "run", items=100, units=2, alone=False).seconds == 200.0, "two units keep two busy"
    assert estimate([took()], "run", items=100, units=50, alone=True).seconds == 400.0
    both = estimate([took(), took(items=30, worker_seconds=40.0)], "run", items=100, units=50, alone=False)
    assert both.seconds == 50.0, "by items, not by runs"


def test_gpu_hours_are_those_that_it_computes():
    assert estimate([took(device="gpu")], "run", 1200, 50, alone=False).gpu_hours == 1.0
    events = [finished("video_embeddings", 4, 0.0, 10.0, busy=9.0, device="gpu")]
    assert spent(events)["video_embeddings"]["device"] == "gpu"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def ran(store, config, number, **more):
    parts = ("runs", config, f"20261125T0000{number:02d}.000000Z")
    store.write_json({"stages": [{"stage": "frames", "spent": took(**more)}, {"stage": "videos"}]}, *parts, "run.json")
    return store.path(*parts)


def test_the_run_most_like_it_tells(store):
    other = ran(store, "b", 9, key="other", kind="other", items=1)
    alike = ran(store, "b", 8, key="other", kind="c", items=2)
    same = ran(store, "a", 1, items=3)
    history = History(store)
    assert [history.rates("frames", "k", "c")[n] for n in (0, 1)] == [[took(items=3)], same]
    assert history.rates("frames", "new", "c")[1] == alike, "the newest of that kind"
    assert history.rates("frames", "new", "new")[1] == other
    assert history.rates("video_embeddings", "k", "c") is None


def test_the_newest_few_of_one_kind_of_device_tell(store):
    for number in range(6):
        ran(store, "a", number, items=number + 1)
    ran(store, "a", 6, items=99, device="gpu")
    ran(store, "a", 7, items=7)
    rates, source = History(store).rates("frames", "k", "c")
    assert [said["items"] for said in rates] == [7, 6, 5]
    assert source.endswith("07.000000Z")


def test_a_killed_run_tells_where_no_other_does(store):
    parts = ("runs", "a", "20261125T000010.000000Z")
    events = [
        {"time": 0.0, "event": "planned", "stages": {"frames": {"items": 9, "there": 0, "key": "k", "kind": "c"}}},
        finished("frames", 5, 0.0, 10.0, busy=8.0, bytes=100, errors={}),
    ]
    store.write("".join(json.dumps(event) + "\n" for event in events).encode() + b'{"half', *parts, "events.jsonl")
    rates, source = History(store).rates("frames", "k", "c")
    assert (rates[0]["items"], source) == (5, store.path(*parts))
    done = ran(store, "b", 1)
    assert History(store).rates("frames", "k", "c")[1] == done
