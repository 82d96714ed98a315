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


class Together:
    """Runs over the same items, a tick at a time: what one has finished another one finds after that tick."""

    def __init__(self, pipeline, folder, starts, kept=True, group=1):
        self.written, self.made, self.started = {}, [], []
        self.schedules = [
            self.schedule(pipeline, folder / str(n), start, kept, group) for n, start in enumerate(starts)
        ]

    def schedule(self, pipeline, folder, start, kept, group):
        items = [f"i{n:04}" for n in range(600)]
        _, jobs = pipeline.chain(Store(str(folder)), items)
        jobs[0].together = lambda item: int(item[1:]) // group
        jobs[0].kept = kept
        for job in jobs:
            job.completed = lambda: None
        return Schedule(jobs, 4, None, find=self.find, start=start, lookahead=20)

    def find(self, unit):
        return self.written.get((unit.job.stage.name, unit.items))

    def run(self, workers=8, keeps=("doubling", "second")):
        """How many ticks until all are done; `made` are the units of each that were computed."""
        ticks = 0
        while not all(schedule.done for schedule in self.schedules):
            ticks += 1
            in_hand = [
                (s, unit) for s in self.schedules for lane in ("task", "actor") for unit in take(s, lane, workers)
            ]
            for schedule, unit in in_hand:
                result = done(unit)
                if unit.job.stage.name in keeps:
                    self.written[unit.job.stage.name, unit.items] = result.shard
                self.made.append(unit.job.stage.name)
                schedule.finish(unit, result)
        return ticks


def take(schedule, lane, most):
    return [unit for _ in range(most) if (unit := schedule.next(lane))]


def test_a_start_of_its_own_does_not_slow_a_run_down(pipeline, tmp_path):
    """Units that are cut apart at other places than those that read them would each wait for two of them."""
    in_order = Together(pipeline, tmp_path / "a", [0.0], group=3).run()
    assert Together(pipeline, tmp_path / "b", [0.61], group=3).run() <= in_order + 2


@pytest.mark.parametrize("starts", [(0.0, 0.37), (0.5, 0.45), (0.0, 0.3, 0.9)])
def test_runs_at_the_same_time_meet_seldom(pipeline, tmp_path, starts):
    runs = Together(pipeline, tmp_path, starts, group=3)
    alone = Together(pipeline, tmp_path / "alone", [0.0], group=3)
    ticks = alone.run()
    assert runs.run() < ticks * 1.5 / len(starts) + 3
    for stage in ("doubling", "second"):
        assert runs.made.count(stage) < 1.6 * alone.made.count(stage)


def test_what_is_made_for_what_another_run_has_done_is_not_made(pipeline, tmp_path):
    runs = Together(pipeline, tmp_path, [0.0], kept=False, group=3)
    runs.run(keeps=("second",))
    before = len(runs.made)
    events = []
    again = runs.schedule(pipeline, tmp_path / "again", 0.3, False, 3)
    again.listener = lambda event, **said: events.append((event, said["stage"], said["items"]))
    assert again.next("task") is None and again.next("actor") is None
    assert again.done and len(runs.made) == before
    assert sum(items for event, stage, items in events if (event, stage) == ("finished", "doubling")) == 600


def test_a_unit_that_was_lost_goes_to_another_machine(make):
    schedule = make(list("abcd"), 2)
    unit = schedule.next("task", machine="a")
    schedule.lose(unit, "died", machine="a")
    assert schedule.next("task", machine="a").items == ("c", "d")
    assert schedule.next("task", machine="b") is unit
