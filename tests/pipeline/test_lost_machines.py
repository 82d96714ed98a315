"""What becomes of units that are lost on Ray, and of the machines they are lost on: on a Ray that is made up."""

import socket
from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError, RuntimeEnvSetupError, TaskUnschedulableError, WorkerCrashedError

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines import ray_engine
from clip2video_pipe.pipeline.errors import EngineError
from clip2video_pipe.pipeline.schedule import Schedule


class MadeUpRay:
    """Machines of two cores each; a call is made when it is waited for, and `meets` says what it meets with there."""

    def __init__(self):
        self.doors, self.machines, self.calls, self.asked = [], {}, {}, []
        self.meets = lambda machine, function: None  # an exception, in place of the call

    def add(self, name, **more):
        door = socket.create_server(("127.0.0.1", 0))
        self.doors.append(door)
        host, port = door.getsockname()
        said = {"NodeID": name, "NodeManagerHostname": name, "NodeManagerAddress": host, "NodeManagerPort": port}
        self.machines[name] = said | {"Alive": True, "Resources": {"CPU": 2.0}} | more
        return door

    def nodes(self):
        return list(self.machines.values())

    def remote(self, made):
        def options(scheduling_strategy, **_):
            def call(function):
                def later(*given):
                    ref = object()
                    self.calls[ref] = scheduling_strategy.node_id, function, given
                    return ref

                return SimpleNamespace(remote=later)

            if isinstance(made, type):
                actor = made()
                handle = SimpleNamespace(ready=call(actor.ready), run=call(actor.run))
                return SimpleNamespace(remote=lambda: handle)
            return call(made)

        return SimpleNamespace(options=options)

    def wait(self, refs, num_returns, timeout):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        machine, function, given = self.calls.pop(ref)
        self.asked.append((machine, function.__name__))
        if error := self.meets(machine, function.__name__):
            raise error
        return function(*given)

    def is_initialized(self):
        return True

    def kill(self, handle):
        pass

    def cancel(self, ref, force):
        pass


@pytest.fixture
def made_up(monkeypatch):
    ray = MadeUpRay()
    monkeypatch.setattr(ray_engine, "ray", ray)
    monkeypatch.setattr(ray_engine, "_on", lambda node: SimpleNamespace(node_id=node.id))
    monkeypatch.setattr(ray_engine, "LOOK_EVERY", 0.0)
    yield ray
    for door in ray.doors:
        door.close()


@pytest.fixture
def go(made_up, pipeline, tmp_path):
    """Run both stages over so many items; gives the second step, and the events."""

    def run(items=40, jobs=slice(None), engine=None, listen=lambda event, **said: None):
        steps, every = pipeline.chain(Store(str(tmp_path)), [f"i{n}" for n in range(items)])
        events, store = [], Store(str(tmp_path))

        def listener(event, **said):
            events.append({"event": event, **said})
            listen(event, **said)

        schedule = Schedule(every[jobs], 1, pipeline.recorder(store), listener)
        with engine or ray_engine.RayEngine("local") as ray:
            ray.run(schedule, store)
        return steps, events

    return run


def named(events, event):
    return [said for said in events if said["event"] == event]


def test_an_environment_that_cannot_be_set_up_ends_the_run(made_up, go):
    made_up.add("a")
    made_up.meets = lambda machine, function: RuntimeEnvSetupError("no space left") if function == "run_task" else None
    with pytest.raises(EngineError, match="no space left"):
        go()


def test_a_machine_that_loses_all_it_is_given_is_used_no_more(made_up, go):
    made_up.add("bad")
    made_up.add("good")
    made_up.meets = lambda machine, function: (
        WorkerCrashedError() if (machine, function) == ("bad", "run_task") else None
    )
    steps, events = go()
    assert steps[1].manifest.counts["ok"] == 40
    [gone] = named(events, "gone")
    assert gone["why"].startswith("bad is not used any more")
    assert len(named(events, "lost")) == ray_engine.IN_A_ROW - 1


def test_the_run_ends_where_no_machine_is_left_that_works(made_up, go):
    made_up.add("bad")
    made_up.meets = lambda machine, function: WorkerCrashedError() if function == "run_task" else None
    with pytest.raises(EngineError, match=r"bad: 5 shards in a row .*WorkerCrashedError"):
        go()


def test_a_machine_that_starts_no_task_is_used_no_more(made_up, go, monkeypatch):
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.0)
    made_up.add("bad")
    made_up.add("good")
    made_up.meets = lambda machine, function: (
        WorkerCrashedError() if machine == "bad" and function in ("run_task", "answer") else None
    )
    steps, events = go()
    assert steps[1].manifest.counts["ok"] == 40
    assert "no task starts" in named(events, "gone")[0]["why"]
    assert named(events, "lost") == []


def test_a_worker_that_takes_too_much_memory_is_told_from_one_that_crashes(made_up, go):
    made_up.add("a")
    failed = iter([OutOfMemoryError("too much")] * 2)
    made_up.meets = lambda machine, function: next(failed, None) if function == "run_task" else None
    steps, _ = go(items=3)
    assert steps[0].manifest.counts["errors"] == {"out-of-memory": 1}


def test_a_machine_that_is_stopped_in_order_charges_nobody(made_up, go):
    """Its workers end while it still answers."""
    door = made_up.add("leaves")
    made_up.add("stays")

    def meets(machine, function):
        if machine == "leaves" and function == "run_task":
            return WorkerCrashedError()
        if machine == "leaves" and function == "answer":
            door.close()
            return TaskUnschedulableError("the node is gone")
        return None

    made_up.meets = meets
    steps, events = go()
    assert steps[1].manifest.counts["ok"] == 40
    assert named(events, "lost") == [] and len(named(events, "gone")) == 1


def test_work_for_actors_that_comes_after_decoding_alone_gets_them(made_up, go):
    made_up.add("a")
    engine = ray_engine.RayEngine("local")
    go(jobs=slice(0, 1), engine=engine)
    assert not any(node.slots for node in engine._nodes.values())
    steps, events = go(engine=engine)
    assert steps[1].manifest.counts["ok"] == 40
    assert named(events, "joined") == []


def test_a_machine_that_does_not_answer_is_not_asked_again_at_once(made_up, go, monkeypatch):
    made_up.add("a")
    made_up.add("silent").close()
    asked = []
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda door, timeout: asked.append(door) or real(door, timeout))
    go()
    assert asked.count(("127.0.0.1", made_up.machines["silent"]["NodeManagerPort"])) == 1


def test_a_cluster_whose_machines_cannot_be_reached_ends_the_run(made_up, go, monkeypatch):
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.0)
    made_up.add("a").close()
    door = f"127.0.0.1:{made_up.machines['a']['NodeManagerPort']}"
    with pytest.raises(EngineError, match=rf"tried {door}.*ray://"):
        go()


def test_through_ray_s_own_door_machines_need_not_be_reached(made_up, go, monkeypatch):
    made_up.add("a").close()
    monkeypatch.setattr(ray_engine, "_check_reachable", lambda address: None)
    steps, _ = go(engine=ray_engine.RayEngine("ray://far:10001"))
    assert steps[1].manifest.counts["ok"] == 40


def test_a_full_cluster_is_not_waited_for_in_silence(made_up, go, monkeypatch):
    made_up.add("a")
    monkeypatch.setattr(ray_engine, "WORKING", 0.0)
    monkeypatch.setattr(made_up, "wait", lambda refs, **_: ([], refs))

    def listen(event, **said):
        if event == "waiting":
            raise InterruptedError(said["why"])

    with pytest.raises(InterruptedError, match=r"shards under way .*is the cluster full"):
        go(listen=listen)
