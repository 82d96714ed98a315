"""What a run writes down as it goes: nothing is lost but the last seconds, and trouble with it is said in one line."""

import json
import os
import time
from pathlib import Path

import pytest

from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.pipeline import events
from clip2video_pipe.pipeline.events import EventLog, last_event, read_events

RUN = ("runs", "a", "20261125T000000.000000Z")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(events, "BEAT", 0.01)
    monkeypatch.setattr(events, "FAR_BEAT", 0.01)


def until(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def full_disk(store):
    folder = Path(store.path(*RUN))
    folder.mkdir(parents=True)
    (folder / "events.jsonl").symlink_to("/dev/full")


def test_a_sign_of_life_is_renewed_and_goes_at_the_end(tmp_path, quick):
    store = Store(str(tmp_path))
    with EventLog(store, RUN) as log:
        log.add("run")
        first = store.read_json(*RUN, "alive.json")
        assert first["pid"] == os.getpid()
        assert first["every"] == 0.01
        until(lambda: store.read_json(*RUN, "alive.json")["time"] > first["time"])
    assert store.read(*RUN, "alive.json") is None
    assert [event["event"] for event in read_events(store, RUN)] == ["run", "done"]


def test_a_sign_of_life_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(events, "SILENT", 0.05)
    store, said = Store(str(tmp_path)), []
    in_the_way = tmp_path.joinpath(*RUN, "alive.json")
    in_the_way.mkdir(parents=True)
    with EventLog(store, RUN, said.append) as log:
        until(lambda: said)
        time.sleep(0.1)
        assert len(said) == 1
        assert "sign of life cannot be written" in said[0]
        in_the_way.rmdir()
        until(in_the_way.is_file)
        log.add("run")
    assert [event["event"] for event in read_events(store, RUN)] == ["run", "done"]


def test_a_full_disk_is_one_line(tmp_path):
    store = Store(str(tmp_path))
    full_disk(store)
    with (
        pytest.raises(StoreError, match=r"events\.jsonl cannot be written to: No space left.*goes on"),
        EventLog(store, RUN) as log,
    ):
        log.add("run")


def test_a_full_disk_does_not_hide_what_a_run_ended_with(tmp_path):
    store = Store(str(tmp_path))
    full_disk(store)
    with pytest.raises(ZeroDivisionError), EventLog(store, RUN):
        raise ZeroDivisionError
    with pytest.raises(StoreError), EventLog(store, RUN):
        pass  # nobody would see that it is done


def test_an_event_after_a_torn_one_is_read(tmp_path):
    """The disk was full, and has room again for the last line."""
    store = Store(str(tmp_path))
    with EventLog(store, RUN) as log:
        log.add("run")
        log._file.write(b'{"time": 1, "eve')
        log._torn = True
    assert [event["event"] for event in read_events(store, RUN)] == ["run", "done"]


def test_an_object_store_has_the_events_while_the_run_goes(s3, quick, monkeypatch):
    monkeypatch.setattr(events, "PART_BYTES", 200)
    store = Store("s3://bucket/store")
    with EventLog(store, RUN) as log:
        for number in range(20):
            log.add("finished", number=number)
            time.sleep(0.01)
        until(lambda: len(read_events(store, RUN)) == 20)  # what a killed run would leave
        assert log.events() == read_events(store, RUN)
        parts = [name for name in store.stamps(*RUN) if name.startswith("events-")]
        assert len(parts) > 2
        assert all(len(store.read(*RUN, name)) < 1000 for name in parts), "a part does not grow for ever"
        written = store.stamps(*RUN)
        time.sleep(0.1)
        assert store.stamps(*RUN).keys() == written.keys(), "nothing new, nothing sent"
    found = read_events(store, RUN)
    assert [event.get("number") for event in found] == [*range(20), None]
    assert last_event(store, RUN)["event"] == "done"
    assert store.read(*RUN, "alive.json") is None


def test_a_part_that_is_stuck_on_its_way_does_not_take_the_place_of_the_end(s3, monkeypatch):
    """The sender hangs when the run ends, and what it sends arrives after all."""
    monkeypatch.setattr(events, "FAR_BEAT", 0.01)
    monkeypatch.setattr(events, "PATIENCE", 0.05)
    store = Store("s3://bucket/store")
    write, held = Store.write, []

    def slow(self, data, *parts):
        if parts[-1] == "events-00001.jsonl" and not held:
            held.append((data, parts))
            time.sleep(0.5)
        write(self, data, *parts)

    monkeypatch.setattr(Store, "write", slow)
    with EventLog(store, RUN) as log:
        log.add("run")
        until(lambda: held)
        log.add("finished", number=1)
    time.sleep(0.6)
    assert json.loads(store.read(*RUN, "events-00001.jsonl"))["event"] == "run"
    assert [event["event"] for event in read_events(store, RUN)] == ["run", "finished", "done"]
