"""Units come when their input is ready, the look-ahead is bounded, and a killer is found."""

from itertools import count

import pytest

from clip2video_pipe.manifests.shards import Shard
from clip2video_pipe.manifests.store import Stamp, Store
from clip2video_pipe.pipeline.schedule import Schedule
from clip2video_pipe.pipeline.worker import Done

NAMES = count()


def done(unit):
    return Done(Shard(f"shard{next(NAMES)}", len(unit.items), (), Stamp(1, 2)), 0.0, 1.0)


@pytest.fixture
def make(pipeline, tmp_path):
    def schedule(items, shard_items, lookahead=2, first_missing=None):
        _, jobs = pipeline.chain(Store(str(tmp_path)), items)
        for job in jobs:
            job.completed = lambda: None
        if first_missing is not None:
            jobs[0].missing = first_missing
            there = [item for item in items if item not in first_missing]
            jobs[0].places.add(Shard("there", len(there), (), Stamp(1, 2)), there)
        return Schedule(jobs, shard_items, lambda unit, failure, why: done(unit).shard, lookahead=lookahead)

    return schedule


def test_the_second_stage_starts_with_the_first_finished_shard(make):
    schedule = make(list("abcdef"), 2)
    first = schedule.next("task")
    assert schedule.next("actor") is None
    schedule.finish(first, done(first))
    assert schedule.next("actor").items == ("a", "b")


def test_decoding_stays_within_the_look_ahead(make):
    schedule = make(list("abcdefgh"), 1, lookahead=3)
    units = [schedule.next("task") for _ in range(4)]
    assert units[3] is None
    for unit in units[:3]:
        schedule.finish(unit, done(unit))
    assert schedule.next("task") is None, "three shards lie there that nobody has read"
    reader = schedule.next("actor")
    schedule.finish(reader, done(reader))
    assert schedule.next("task") is not None


def test_a_reader_that_needs_more_than_the_look_ahead_does_not_wait_for_ever(make):
    # The second stage wants all eight in one shard, the first makes every other one, each alone.
    items = list("abcdefgh")
    schedule = make(items, 8, lookahead=1, first_missing=[])
    assert schedule.next("actor").items == tuple(items)
    schedule = make(items, 1, lookahead=1, first_missing=list("bdfh"))
    seen = []
    while not schedule.done:
        unit = schedule.next("actor") or schedule.next("task")
        seen.append(unit.items)
        schedule.finish(unit, done(unit))
    assert len(seen) == 12


def test_everything_is_handed_out_once(make):
    schedule = make([f"i{n}" for n in range(50)], 7)
    counts = {}
    while not schedule.done:
        unit = schedule.next("actor") or schedule.next("task")
        for item in unit.items:
            key = unit.job.stage.name, item
            counts[key] = counts.get(key, 0) + 1
        schedule.finish(unit, done(unit))
    assert len(counts) == 100
    assert set(counts.values()) == {1}


def test_the_item_that_kills_its_worker_is_found_and_the_others_are_kept(make):
    schedule = make(list("abcd"), 4)
    lost, kept = [], set()
    while schedule.has_work("task"):
        unit = schedule.next("task")
        if "c" in unit.items:
            lost.append(unit.items)
            schedule.lose(unit, "died")
        else:
            kept |= set(unit.items)
            schedule.finish(unit, done(unit))
    assert lost == [tuple("abcd"), tuple("abcd"), ("c",), ("c",)]
    assert kept == set("abd")


def test_a_suspect_gets_a_worker_that_has_nothing_else(make):
    schedule = make(list("abcd"), 2)
    unit = schedule.next("task")
    schedule.lose(unit, "died")
    assert schedule.next("task", idle=False) is None
    assert schedule.next("task", idle=True) is unit


def test_what_never_started_is_not_charged(make):
    schedule = make(list("ab"), 2)
    unit = schedule.next("task")
    schedule.release(unit)
    assert schedule.next("task") is unit
    assert unit.tries == 0


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["a1", "a2", "a3", "b1", "c1"], [("a1", "a2", "a3"), ("b1", "c1")]),
        (["a1", "b1", "b2", "b3", "c1"], [("a1", "b1", "b2", "b3"), ("c1",)]),
        ([f"a{n}" for n in range(5)], [("a0", "a1", "a2", "a3"), ("a4",)]),
        (list("abcde"), [("a", "b"), ("c", "d"), ("e",)]),
    ],
)
def test_what_belongs_together_shares_a_unit_up_to_twice_its_size(pipeline, tmp_path, items, expected):
    _, jobs = pipeline.chain(Store(str(tmp_path)), items)
    jobs[0].together = lambda item: item[0]
    schedule = Schedule(jobs, 2, lambda unit, failure, why: done(unit).shard, lookahead=9)
    units = []
    while unit := schedule.next("task"):
        units.append(unit.items)
    assert units == expected
