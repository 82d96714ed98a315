"""A file appears whole or not at all; a shard holds exactly the rows that were asked for."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests import faults, keys, shards
from clip2video_pipe.manifests.manifest import Known, StageIdentity, commit
from clip2video_pipe.manifests.places import Places
from clip2video_pipe.manifests.schemas import FAILED, ITEM, OK
from clip2video_pipe.manifests.store import Damaged, Store, StoreError
from clip2video_pipe.pipeline.plan import Step

IDENTITY = StageIdentity("stage", 1, {}, {})
KEY = IDENTITY.key
SCHEMA = pa.schema([*ITEM, pa.field("value", pa.int64())])


def rows(items, first=0):
    outcomes = [shards.Outcome(OK)] * len(items)
    return shards.outcome_table(SCHEMA, items, outcomes, {"value": range(first, first + len(items))})


def write(store, items, group=2):
    with shards.ShardWriter(store, "stage", KEY, items, SCHEMA) as writer:
        for start in range(0, len(items), group):
            writer.write(rows(items[start : start + group], start))
    return writer.shard


def test_a_failed_write_leaves_nothing(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError), store.writing("folder", "file") as sink:
        sink.write(b"half")
        raise RuntimeError
    assert store.stamps("folder") == {}
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_temporary_file_of_a_killed_writer_is_not_a_file_of_the_store(tmp_path):
    store = Store(str(tmp_path))
    store.write(b"whole", "folder", "file")
    (tmp_path / "folder" / ".file.0123.tmp").write_bytes(b"half")
    assert {name: stamp.size for name, stamp in store.stamps("folder").items()} == {"file": 5}


@pytest.mark.parametrize("written", [["a", "b"], ["a", "c", "b"], ["a", "b", "c", "d"]])
def test_a_shard_with_other_rows_than_asked_for_is_refused(tmp_path, written):
    store = Store(str(tmp_path))
    with pytest.raises(StoreError), shards.ShardWriter(store, "stage", KEY, ["a", "b", "c"], SCHEMA) as writer:
        writer.write(rows(written))
    assert store.stamps("stage", KEY) == {}


def test_the_footer_says_what_is_in_the_shard(tmp_path):
    shard = write(Store(str(tmp_path)), ["a", "b", "c"])
    schema = pq.read_schema(tmp_path / "stage" / KEY / f"{shard.name}.parquet")
    assert f'"stage_key": "{KEY}"'.encode() in schema.metadata[shards.FOOTER]
    assert keys.digest(["a", "b", "c"]).encode() in schema.metadata[shards.FOOTER]
    assert b'"rows": 3' in schema.metadata[shards.FOOTER]


def test_rows_are_read_in_the_order_asked_across_shards_and_row_groups(tmp_path):
    store = Store(str(tmp_path))
    one, two = write(store, list("abcde")), write(store, list("vwxyz"))
    places = [(two.name, 4), (one.name, 0), (one.name, 1), (one.name, 2), (two.name, 0), (one.name, 4)]
    tables = list(shards.read_rows(store, "stage", KEY, places, columns=["item"], chunk=4))
    assert [table["item"].to_pylist() for table in tables] == [["z", "a", "b", "c"], ["v", "e"]]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    store = Store(str(tmp_path))
    shard = write(store, [f"item {n}" for n in range(200)], group=200)
    path = tmp_path / "stage" / KEY / f"{shard.name}.parquet"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[200] ^= 0xFF
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(StoreError, match=shard.name):
        list(shards.read_rows(store, "stage", KEY, [(shard.name, 3)], chunk=10))
    assert shards.read_shard(store, "stage", KEY, shard.name) is None


WRONG = shards.Outcome(FAILED, "timeout", "it took too long", passing=True)


def write_failed(store, items):
    with shards.ShardWriter(store, "stage", KEY, items, SCHEMA) as writer:
        writer.write(shards.failed_table(SCHEMA, items, WRONG))
    return writer.shard


def test_where_another_runs_shard_stays_its_rows_are_what_counts(tmp_path):
    store, items = Store(str(tmp_path)), ["a", "b"]
    theirs = write(store, items)
    assert write_failed(store, items) == theirs == shards.find_shard(store, "stage", KEY, theirs.name)
    assert theirs.unusual == ()


def test_a_shard_that_another_run_replaced_is_not_taken_for_ones_own(tmp_path, monkeypatch):
    """It is replaced at once after it took its name, before its writer has looked at it again."""
    store, items = Store(str(tmp_path)), ["a", "b"]

    def replaced(name):
        if name.startswith("after"):
            monkeypatch.setattr(faults, "hook", None)
            write(store, items)

    monkeypatch.setattr(faults, "hook", replaced)
    ours, places = write_failed(store, items), Places()
    places.add(ours, items)
    with pytest.raises(Damaged, match="changed since") as caught:
        commit(store, IDENTITY, items, places)
    caught.value.drop()
    assert shards.find_shard(store, "stage", KEY, ours.name).unusual == ()


def test_what_was_made_anew_in_the_meantime_is_not_deleted(tmp_path):
    """Two runs on a damaged store: the slower one drops what it saw, and the quicker one has made it anew."""
    store, items = Store(str(tmp_path)), ["a", "b"]
    path = tmp_path / "stage" / KEY / f"{write(store, items).name}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Damaged) as caught:
        shards.check_shard(store, "stage", KEY, path.stem)
    step = Step(store, IDENTITY, items)
    step.known = Known(Places(), {path.stem: store.stamp("stage", KEY, path.name)}, 0)
    bad = path.read_bytes()
    write(store, items)
    good = path.read_bytes()
    for drop in (caught.value.drop, step.clear):
        drop()
        assert path.read_bytes() == good
    path.write_bytes(bad)
    with pytest.raises(Damaged) as caught:
        shards.check_shard(store, "stage", KEY, path.stem)
    caught.value.drop()
    assert not path.exists()


def test_a_store_that_travels_to_a_worker_keeps_its_place(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Store("relative"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).path("x") == str(tmp_path / "relative" / "x")  # noqa: S301
