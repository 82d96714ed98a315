"""One contract for both engines; and what only Ray can lose."""

import pytest

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines.inline import InlineEngine
from clip2video_pipe.pipeline.schedule import Schedule


@pytest.fixture(params=["inline", "ray"])
def engine(request):
    if request.param == "inline":
        return InlineEngine()
    request.getfixturevalue("ray_session")
    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    return RayEngine("local")


def run(pipeline, engine, store, items, shard_items=3, stages=None):
    events = []
    steps, jobs = pipeline.chain(store, items, *(stages or ()))
    schedule = Schedule(
        jobs, shard_items, pipeline.recorder(store), lambda event, **said: events.append({"event": event, **said})
    )
    with engine:
        engine.run(schedule, store)
    return steps, events


def test_both_stages_are_done_and_committed(pipeline, engine, tmp_path):
    items = [f"i{n}" for n in range(10)]
    steps, events = run(pipeline, engine, Store(str(tmp_path)), items)
    assert [step.manifest.counts["ok"] for step in steps] == [10, 10]
    assert steps[1].manifest.table()["text"].to_pylist() == [item * 4 for item in items]
    finished = [e for e in events if e["event"] == "finished"]
    assert sum(e["items"] for e in finished) == 20


def test_the_second_stage_begins_before_the_first_is_done(pipeline, engine, tmp_path):
    stages = pipeline.Doubling(pause=0.05), pipeline.Second()
    _, events = run(pipeline, engine, Store(str(tmp_path)), [f"i{n}" for n in range(30)], 2, stages)
    finished = [e for e in events if e["event"] == "finished"]
    first = [e for e in finished if e["stage"] == "doubling"]
    second = [e for e in finished if e["stage"] == "second"]
    assert min(e["began"] for e in second) < max(e["ended"] for e in first)


def test_an_exception_of_a_stage_ends_the_run_as_itself(pipeline, engine, tmp_path):
    stages = pipeline.Doubling(fails=True), pipeline.Second()
    with pytest.raises(ZeroDivisionError):
        run(pipeline, engine, Store(str(tmp_path)), ["a", "b"], stages=stages)


@pytest.mark.parametrize("stage", ["doubling", "second"])
def test_an_item_that_kills_its_worker_is_recorded_and_the_others_are_kept(pipeline, ray_session, tmp_path, stage):
    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    stages = pipeline.Doubling(poison="i4" * (stage == "doubling")), pipeline.Second(poison="i4" * (stage == "second"))
    items = [f"i{n}" for n in range(8)]
    steps, events = run(pipeline, RayEngine("local"), Store(str(tmp_path)), items, 4, stages)
    step = steps[0] if stage == "doubling" else steps[1]
    assert step.manifest.counts["errors"] == {"crashed": 1}
    assert step.manifest.places["i4"].outcome.error == "crashed"
    assert steps[1].manifest.counts["asked"] == 8
    tries = [e["items"] for e in events if e["event"] == "lost" and e["stage"] == stage]
    assert tries[-2:] == [1, 1]


def test_each_actor_has_a_gpu_of_its_own(pipeline, ray_session, tmp_path):
    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    stages = pipeline.Doubling(), pipeline.Second(on_gpu=True, pause=0.3)
    items = [f"i{n}" for n in range(24)]  # enough for an actor that starts late
    steps, _ = run(pipeline, RayEngine("local"), Store(str(tmp_path)), items, 1, stages)
    assert set(steps[1].manifest.table()["text"].to_pylist()) == {"0", "1"}


def test_a_run_without_use_for_a_gpu_takes_none(pipeline, ray_session, tmp_path):
    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    engine = RayEngine("local")
    run(pipeline, engine, Store(str(tmp_path)), ["a", "b"])
    assert all(node.share.actor_gpus == 0 for node in engine._nodes.values())


def test_a_stage_that_kills_its_worker_as_it_is_set_up_ends_the_run(pipeline, ray_session, tmp_path, monkeypatch):
    from clip2video_pipe.pipeline.engines import ray_engine
    from clip2video_pipe.pipeline.errors import EngineError

    monkeypatch.setattr(ray_engine, "PATIENCE", 1.0)

    stages = pipeline.Doubling(), pipeline.Second(dies_at_setup=True)
    with pytest.raises(EngineError, match="cannot be started"):
        run(pipeline, ray_engine.RayEngine("local"), Store(str(tmp_path)), ["a", "b"], stages=stages)


def test_an_address_where_nobody_listens_is_said_at_once():
    from clip2video_pipe.pipeline.engines.ray_engine import _check_reachable
    from clip2video_pipe.pipeline.errors import RequestError

    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(RequestError, match="nobody answers"):
            _check_reachable(address)
    for address in ("local", "auto"):
        _check_reachable(address)


def test_an_actor_lets_go_of_stages_that_are_over(pipeline):
    """A gallery or a model is large: two of them would break what `score.memory` promises."""
    from clip2video_pipe.pipeline.engines.carriers import Actor

    first, second = pipeline.Doubling(), pipeline.Second()
    actor = Actor()
    life = actor.ready([first])
    assert actor.ready([second]) == life
    assert list(actor._stages) == [second.identity.key]
