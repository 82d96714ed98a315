"""Every item asked for has one row, and nothing that is there is computed again."""

import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2video_pipe.manifests.manifest import ROOT, commit, known, load
from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.manifests.store import Store, StoreError

CORPUS = st.lists(st.sampled_from([f"item{n}" for n in range(30)]), unique=True, min_size=1)


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.tuples(CORPUS, st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=5))
def test_growth_removal_reordering_and_shard_sizes(pipeline, runs):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        there: set[str] = set()
        keys = set()
        for items, shard_items, batch in runs:
            manifest, computed = pipeline.compute(store, items, shard_items, batch)
            table = manifest.table()
            assert table["item"].to_pylist() == items
            assert table["text"].to_pylist() == [item * 2 for item in items]
            assert sorted(computed) == sorted(set(items) - there)
            assert manifest.counts["asked"] == manifest.counts["ok"] == len(items)
            there |= set(items)
            keys.add(manifest.key)
        assert len(keys) == 1


def test_shards_of_a_run_that_never_finished_are_used(pipeline, tmp_path):
    store = Store(str(tmp_path))
    manifest, _ = pipeline.compute(store, list("abcdef"), 2)
    (tmp_path / ROOT / "doubling" / manifest.hash / "manifest.json").unlink()
    again, computed = pipeline.compute(store, list("abcdefg"), 4)
    assert computed == ["g"]
    assert again.counts["asked"] == 7


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_only_the_items_of_a_damaged_shard_are_computed_again(pipeline, tmp_path, damage):
    store = Store(str(tmp_path))
    manifest, _ = pipeline.compute(store, list("abcdef"), 2)
    path = tmp_path / "doubling" / manifest.key / f"{manifest.places['c'].shard}.parquet"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    again, computed = pipeline.compute(store, list("abcdef"), 2)
    assert computed == ["c", "d"]
    assert again.table()["text"].to_pylist() == [c * 2 for c in "abcdef"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "x"}'])
def test_half_a_manifest_is_no_manifest(pipeline, tmp_path, content):
    store = Store(str(tmp_path))
    manifest, _ = pipeline.compute(store, list("abc"))
    (tmp_path / ROOT / "doubling" / manifest.hash / "manifest.json").write_bytes(content)
    assert load(store, "doubling", manifest.hash) is None
    again, computed = pipeline.compute(store, list("abc"))
    assert computed == []
    assert again.counts["asked"] == 3


@pytest.mark.parametrize("items", [["a", "b", "z"], ["a", "a"]])
def test_a_manifest_whose_counts_do_not_add_up_is_not_written(pipeline, tmp_path, items):
    store = Store(str(tmp_path))
    pipeline.compute(store, ["a", "b"])
    stage = pipeline.Doubling()
    before = store.folders(ROOT, "doubling")
    with pytest.raises(StoreError):
        commit(store, stage.identity, items, known(store, stage.name, stage.identity.key).places)
    assert store.folders(ROOT, "doubling") == before


def test_two_stores_that_computed_the_same_have_the_same_files(pipeline, tmp_path):
    files = []
    for name in ("one", "two"):
        store = Store(str(tmp_path / name))
        manifest, _ = pipeline.compute(store, list("abcde"), 2)
        folder = tmp_path / name / "doubling" / manifest.key
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]


def test_a_failure_of_the_moment_is_tried_again_and_one_of_the_item_is_not(pipeline, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    said = {
        "gone": Outcome(FAILED, "unreadable", "the connection was lost", True),
        "bad": Outcome(FAILED, "unreadable"),
    }

    def process(self, table):
        items = table["item"].to_pylist()
        self.seen.extend(items)
        return outcome_table(self.schema, items, [said.get(item, Outcome(OK)) for item in items], {})

    monkeypatch.setattr(pipeline.Doubling, "process", process)
    first, _ = pipeline.compute(store, ["gone", "bad", "well"])
    assert (first.counts["failed"], first.counts["passing"]) == (2, 1)
    assert pipeline.compute(store, ["gone", "bad", "well"])[1] == ["gone"]
    said["gone"] = Outcome(OK)
    assert pipeline.compute(store, ["gone", "bad", "well"])[1] == ["gone"]
    assert pipeline.compute(store, ["gone", "bad", "well"])[1] == []
