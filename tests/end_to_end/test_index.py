"""`index` and `search --index`: the hits and scores of exact search, from an index that keeps up with the store."""

import json
import shutil
import sys

import pytest

from clip2video_pipe.pipeline import index as indexing
from clip2video_pipe.pipeline.alone import alone
from clip2video_pipe.pipeline.indexes import faiss, lance

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


def test_a_damaged_index_is_made_anew(project, kind):
    project.run()
    folder = indexing.Path(indexed(project, kind)["path"])
    for path in folder.iterdir():
        if path.name != indexing.NAME:
            shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"noise")
    assert "cannot be read" in refused(project, "search", "a box", "--index")
    assert indexed(project, kind)["built"]


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
