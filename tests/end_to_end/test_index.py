"""`index` and `search --index`: the hits and scores of exact search, from an index that keeps up with the store."""

import json
import shutil
import sys

import numpy as np
import pytest

from clip2video_pipe.pipeline import index as indexing
from clip2video_pipe.pipeline.alone import alone
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.indexes import faiss, lance
from clip2video_pipe.pipeline.search import Searcher

MODULES = {"lance": "lancedb", "faiss": "faiss"}


@pytest.fixture(params=MODULES)
def kind(request):
    pytest.importorskip(MODULES[request.param])
    return request.param


def rows_of(clips, count):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    videos = list(dict.fromkeys(line["video"] for line in lines))
    return [{"video": video, "video_id": video} for video in videos[:count]]


def indexed(project, kind, *words):
    code, out, err = project.command("index", "--kind", kind, "--json", *words)
    assert code == 0, err
    return json.loads(out)


def hits(project, *words):
    code, out, err = project.command("search", "a red circle", "--json", *words)
    assert code == 0, err
    return [(hit["video_id"], hit["score"]) for hit in json.loads(out)["queries"][0]["hits"]]


def refused(project, *words):
    """The one line of a command that ends with exit code 2."""
    code, out, err = project.command(*words)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    return line


def alike(found, expected):
    assert [video for video, _ in found] == [video for video, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("settings", [["model.center_weight=0.3"], ["model.alignment=none"]], ids=["both", "one"])
def test_hits_and_scores_are_those_of_exact_search(project, kind, settings):
    words = ["--set", settings[0]]
    project.run(*words)
    said = indexed(project, kind, *words)
    assert (said["built"], said["added"], said["vectors"], said["recall"]) == (True, 6, 6, 1.0)
    alike(hits(project, "--index", "-k", "3", *words), hits(project, "-k", "3", *words))


def nearest(project, *words):
    """To each vector the places that an index finds when it is asked for one."""
    searcher = Searcher(load_config(project.config, [word.removeprefix("--set=") for word in words]))
    wanted = searcher.wanted(searcher.corpus())
    vectors = wanted.vectors(np.arange(len(wanted.places)))
    return [at.tolist() for at in indexing.opened(wanted).candidates(vectors, 1)]


@pytest.mark.parametrize("flat", [5000, 1], ids=["flat", "in parts"])
def test_each_vector_is_the_nearest_to_itself(project, clips, kind, monkeypatch, flat):
    """Of a model that tells them apart, after it is built and after it is added to."""
    for module in (faiss, lance):
        monkeypatch.setattr(module, "FLAT", flat)
    trained = ["--set=model.seed=null", "--set=model.checkpoint=demo"]
    for count in (4, 6):
        rows = project.rows(*rows_of(clips, count))
        project.run(rows, *trained)
        assert indexed(project, kind, rows, *trained)["vectors"] == count
        assert nearest(project, rows, *trained) == [[n] for n in range(count)]


def test_a_shard_that_is_made_anew_is_indexed_anew(project, kind):
    project.run()
    indexed(project, kind)
    for shard in (project.store / "video_embeddings").glob("*/[!.]*.parquet"):
        shard.unlink()
    project.run()
    assert "brings it up to date" in refused(project, "search", "a box", "--index")
    assert indexed(project, kind)["built"]


def test_who_looks_into_it_meanwhile_still_finds(project, clips, kind):
    project.run()
    indexed(project, kind)
    searcher = Searcher(load_config(project.config))
    wanted = searcher.wanted(searcher.corpus())
    opened = indexing.opened(wanted)
    few = project.rows(*rows_of(clips, 2))
    project.run(few)
    assert indexed(project, kind, few)["built"]
    assert [len(at) for at in opened.candidates(wanted.vectors(np.arange(2)), 3)] == [3, 3]


def test_growth_adds_only_the_new_shards(project, clips, kind, monkeypatch):
    for module in (faiss, lance):
        monkeypatch.setattr(module, "FLAT", 1)  # as a large corpus is indexed
    project.run(project.rows(*rows_of(clips, 4)))
    assert indexed(project, kind, project.rows(*rows_of(clips, 4)))["added"] == 4
    rows = project.rows(*rows_of(clips, 6))
    project.run(rows)
    assert "'index' with --kind" in refused(project, "search", "a box", "--index", rows)
    said = indexed(project, kind, rows)
    assert (said["built"], said["added"], said["vectors"], said["recall"]) == (False, 2, 6, 1.0)
    assert indexed(project, kind, rows)["added"] == 0
    alike(hits(project, "--index", rows), hits(project, rows))
    rows = project.rows(*rows_of(clips, 2))
    project.run(rows)
    said = indexed(project, kind, rows)
    assert (said["built"], said["vectors"]) == (True, 2)


def test_another_center_weight_is_another_index(project, kind):
    project.run()
    indexed(project, kind)
    words = ["--set", "model.center_weight=0.9"]
    project.run(*words)
    assert "model.center_weight" in refused(project, "search", "a box", "--index", *words)
    assert indexed(project, kind, *words)["built"]


@pytest.mark.parametrize("growing", [False, True], ids=["built", "added to"])
def test_a_half_written_index_is_not_used(project, clips, kind, monkeypatch, growing):
    rows = project.rows(*rows_of(clips, 6))
    if growing:
        few = project.rows(*rows_of(clips, 4))
        project.run(few)
        indexed(project, kind, few)
        rows = project.rows(*rows_of(clips, 6))
    project.run(rows)

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:  # all is written but what makes it count
        patch.setattr(indexing.Store, "write_json", die)
        patch.setattr(indexing.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            project.command("index", "--kind", kind, rows)
    assert "index" in refused(project, "search", "a box", "--index", rows)
    said = indexed(project, kind, rows)
    assert (said["built"], said["added"], said["vectors"]) == (not growing, 2 if growing else 6, 6)
    assert said["recall"] == 1.0


def all_of_it(folder):
    for path in folder.glob("*/"):
        shutil.rmtree(path)


def some_of_it(folder):
    for path in folder.rglob("*"):
        if path.is_file() and (path.suffix == ".faiss" or path.parent.name == "data"):
            path.unlink()


def what_it_says(folder):
    said = json.loads((folder / indexing.NAME).read_text())
    del said["shards"]
    (folder / indexing.NAME).write_text(json.dumps(said))


@pytest.mark.parametrize("damage", [all_of_it, some_of_it, what_it_says])
def test_a_damaged_index_is_made_anew(project, kind, damage):
    project.run()
    damage(indexing.Path(indexed(project, kind)["path"]))
    assert "'index' makes" in refused(project, "search", "a box", "--index")
    assert indexed(project, kind)["built"]
    alike(hits(project, "--index"), hits(project))


def test_where_one_kind_cannot_be_read_another_does(project, monkeypatch):
    for kind, module in MODULES.items():
        pytest.importorskip(module)
        project.run()
        indexed(project, kind)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    alike(hits(project, "--index"), hits(project))
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install" in refused(project, "search", "a box", "--index")


def test_of_no_vector_that_is_finite_nothing_is_found(project, kind, monkeypatch):
    monkeypatch.setattr(indexing.np, "isfinite", lambda vectors: np.zeros(vectors.shape, bool))
    project.run()
    said = indexed(project, kind)
    assert (said["vectors"], said["recall"]) == (0, None)
    assert indexed(project, kind)["added"] == 0
    assert hits(project, "--index") == []


def test_gc_and_verify_leave_it(project, kind):
    project.run()
    indexed(project, kind)
    assert project.command("verify")[0] == 0
    assert project.command("gc", "--delete", "--older-than", "0s")[0] == 0
    assert indexed(project, kind)["added"] == 0


def test_faults_are_one_line(project, kind, monkeypatch):
    assert "start a 'run' first" in refused(project, "index", "--kind", kind)
    project.run()
    assert "there is no index" in refused(project, "search", "a box", "--index")
    assert "lance or faiss" in refused(project, "index", "--kind", "tree")
    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    assert "pip install 'clip2video-pipe[" in refused(project, "index", "--kind", kind)


def test_one_process_at_a_time_makes_it(project, kind):
    project.run()
    folder = indexing.Path(indexed(project, kind)["path"])
    with alone(folder.with_name(f".{folder.name}.lock"), "taken"):
        assert "another process" in refused(project, "index", "--kind", kind)
    assert indexed(project, kind)["added"] == 0


def test_a_store_elsewhere_has_none(project, kind, s3):
    words = ["--set", "store=s3://bucket/store"]
    project.run(*words)
    line = refused(project, "index", "--kind", kind, *words)
    assert "is not on this machine" in line and "'export'" in line
