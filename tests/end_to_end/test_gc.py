"""`gc`: what no given config needs goes, and nothing else."""

import contextlib
import json
import os
import random
import shutil
import time

import pytest

from clip2video_pipe.manifests import faults
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline import gc
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.events import ALIVE

BASE = {
    "name": "small",
    "model": {"preset": "tiny", "seed": 0},
    "sampling": {"max_frames": 4},
    "run": {"shard_items": 2, "engine": "inline"},
}
CONFIGS = {
    "plain": {},
    "fewer frames": {"sampling": {"max_frames": 3}},
    "weights": {"model": {"preset": "tiny", "seed": 0, "center_weight": 0.2}},
    "jpeg, not kept": {"frames": {"encoding": "jpeg"}, "run": {**BASE["run"], "keep_frames": False}},
    "frames not kept": {"run": {**BASE["run"], "keep_frames": False}},
    "post": {"score": {"post": ["sinkhorn", "dual-softmax"]}},
    "no captions": {"dataset": "folder"},
    "fewer videos": {"dataset": "rows"},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, clips):
    """Config files by name, and a store in which all of them ran."""
    folder = tmp_path_factory.mktemp("all configs")
    lines = (clips / "clips.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join(lines[:3]))
    datasets = {
        "table": {"kind": "table", "path": str(clips / "clips.jsonl"), "root": str(clips)},
        "folder": {"kind": "folder", "path": str(clips)},
        "rows": {"kind": "table", "path": str(folder / "rows.jsonl"), "root": str(clips)},
    }
    files = {}
    for name, changes in CONFIGS.items():
        config = {**BASE, "store": str(folder / "artifacts"), **changes}
        config["dataset"] = datasets[config.get("dataset", "table")]
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(json.dumps(config))
        assert main(["run", str(files[name]), "--json"]) == 0
    return files, folder / "artifacts"


class Copy:
    """A copy of that store, and commands on it."""

    def __init__(self, files, store, folder, capsys):
        self.files, self.store, self._capsys = files, folder / "a copy", capsys
        shutil.copytree(store, self.store)

    def command(self, word, names, *words):
        self._capsys.readouterr()
        configs = [str(self.files[name]) for name in names]
        code = main([word, *configs, "--set", f"store={self.store}", *words])
        return code, *self._capsys.readouterr()

    def gc(self, names, *words):
        code, out, err = self.command("gc", names, "--json", *words)
        assert code == 0, err
        return {row["what"]: row for row in json.loads(out)["rows"]}

    def computed(self, name):
        code, out, err = self.command("run", [name], "--json")
        assert code == 0, err
        return {stage["stage"]: stage["computed"] for stage in json.loads(out)["stages"] if stage["computed"]}

    def files_there(self, *without):
        return files_below(self.store, *without)


def files_below(store, *without):
    found = (path.relative_to(store) for path in store.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] not in without}


@pytest.fixture
def copy(stored, tmp_path, capsys):
    return Copy(*stored, tmp_path, capsys)


def some_sets():
    chosen = random.Random(0)
    return [[name] for name in CONFIGS] + [chosen.sample(list(CONFIGS), 2 + n % 3) for n in range(6)]


@pytest.mark.parametrize("names", some_sets(), ids=" + ".join)
def test_what_is_left_is_what_the_configs_need_and_no_more(copy, stored, tmp_path, capsys, names):
    before = copy.files_there()
    planned = copy.gc(names, "--older-than", "0s")
    assert copy.files_there() == before, "without --delete nothing goes"
    deleted = copy.gc(names, "--older-than", "0s", "--delete")
    assert deleted == planned
    assert {what: row["files"] for what, row in copy.gc(names, "--older-than", "0s").items() if row["files"]} == {}
    left = copy.files_there("runs")
    for name in names:
        assert copy.computed(name) == {}, f"{name} needed what was deleted"
    assert copy.files_there("runs") == left
    alone = tmp_path / "alone"
    for name in sorted(names, key=list(CONFIGS).index):
        assert main(["run", str(stored[0][name]), "--set", f"store={alone}", "--json"]) == 0
    there, expected = (files - {"fingerprints.parquet"} for files in (left, files_below(alone, "runs")))
    if any("dataset" in CONFIGS[name] for name in names):  # these lie in shards that were made for the others
        there, expected = ({path.rpartition("/")[0] for path in files} for files in (there, expected))
    assert there == expected
    assert all(any(folder.iterdir()) for folder in copy.store.rglob("*") if folder.is_dir())


def test_a_period_of_grace(copy):
    before = copy.files_there()
    rows = copy.gc(["no captions"], "--delete")
    assert not any(row["files"] for row in rows.values())
    assert copy.files_there() == before, "all of it is younger than an hour"
    old = time.time() - 7200
    for path in copy.store.glob("frames/*/*"):
        os.utime(path, (old, old))
    copy.gc(["no captions"], "--delete")
    assert copy.files_there() == before, "a young manifest keeps its shards"
    for path in copy.store.rglob("*"):
        os.utime(path, (old, old))
    rows = copy.gc(["no captions"], "--delete")
    assert rows["frames"]["files"] and rows["caption_embeddings"]["files"] and rows["manifests"]["files"]


def stop_after(monkeypatch, stage, count):
    """The hook that ends a run when so many shards of a stage were written, as a signal does."""
    seen = []

    def hook(name):
        if name.startswith(f"after {stage}/"):
            seen.append(name)
            if len(seen) == count:
                raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", hook)


@pytest.mark.parametrize("kept", ["true", "false"])
@pytest.mark.parametrize(("stage", "shards"), [("frames", 2), ("video_embeddings", 2), ("similarity", 1)])
def test_what_a_stopped_run_did_stays(project, tmp_path, monkeypatch, stage, shards, kept):
    words = ["--set", f"run.keep_frames={kept}"]
    stop_after(monkeypatch, stage, shards)
    assert project.command("run", *words)[0] == 130
    monkeypatch.setattr(faults, "hook", None)
    twin = project.elsewhere(tmp_path / "twin")
    shutil.copytree(project.store, twin.store)
    code, _, err = project.command("gc", *words, "--older-than", "0s", "--delete")
    assert code == 0, err
    assert project.computed(*words) == twin.computed(*words)


def test_scores_stay_while_vectors_are_made_anew(project):
    project.run()
    shard = sorted(project.store.glob("video_embeddings/*/*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    assert project.command("verify", "--repair")[0] == 0
    code, out, _ = project.command("gc", "--delete", "--older-than", "0s")
    assert code == 0
    assert "all are kept" in out
    assert project.computed() == {"video_embeddings": 2}


def test_leftovers_superseded_tables_and_old_runs_go_and_strangers_stay(project):
    runs = [project.run()["run_dir"] for _ in range(3)]
    frames = next(project.store.glob("frames/*/"))
    manifest = next(project.store.glob("manifests/frames/*/"))
    goes = [
        frames / ".half.parquet.0123.tmp",
        manifest / ".manifest.json.0123.tmp",
        manifest / f"items-{'0' * 32}.parquet",
        project.store / ".fingerprints.parquet.0123.tmp",
        project.store / "listings" / ("0" * 32) / ".videos.parquet.0123.tmp",
    ]
    stays = [
        frames / "notashard.parquet",
        project.store / "frames" / "notes.txt",
        project.store / "mine" / ("0" * 32) / f"{'0' * 32}.parquet",
        project.store / "notes.tmp",
        project.store / "runs" / "small" / "notes.txt",
    ]
    for path in goes + stays:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (project.store / "videos" / ("0" * 32)).mkdir()
    code, out, err = project.command("gc", "--older-than", "0s", "--delete")
    assert code == 0, err
    assert ": 5 files, 5 B deleted" in out
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in stays)
    assert not (project.store / "videos" / ("0" * 32)).exists()
    assert all(map(os.path.isdir, runs))
    assert project.command("gc", "--older-than", "0s", "--delete", "--runs", "1")[0] == 0
    assert list(map(os.path.isdir, runs)) == [False, False, True]
    assert project.computed() == {}


def test_a_run_that_is_going_keeps_everything(project):
    project.run()
    with project.going():
        code, _, err = project.command("gc", "--delete")
        assert code == 2
        assert "a run is going" in err
        code, out, _ = project.command("gc")
    assert code == 0
    assert "--delete refuses until it has ended" in out


def test_a_run_that_begins_while_it_deletes_keeps_the_rest(project, monkeypatch):
    project.run()
    words = ["--set", "sampling.max_frames=3", "--older-than", "0s", "--delete"]
    project.run(*words[:2])
    monkeypatch.setattr(gc, "BATCH", 2)
    real, begun = Store.remove, contextlib.ExitStack()

    def remove(store, *parts, **seen):
        if not removed:
            begun.enter_context(project.going())
        removed.append(parts)
        real(store, *parts, **seen)

    removed = []
    monkeypatch.setattr(Store, "remove", remove)
    with begun:
        code, _, err = project.command("gc", *words)
    assert code == 2
    assert "gc --delete: 2 of " in err and "a run is going" in err
    assert len([parts for parts in removed if parts[-1] != ALIVE]) == 2


def test_what_was_written_again_since_it_was_listed_stays(project, monkeypatch):
    """By a run that began and ended while the rest of the store was looked at."""
    project.run()
    project.run("--set", "sampling.max_frames=3")
    real, again = gc._others, []

    def listed(*given):
        """The last to be listed, after all shards."""
        again.extend(project.store.glob("frames/*/*.parquet"))
        for path in again:
            path.write_bytes(path.read_bytes())
        return real(*given)

    monkeypatch.setattr(gc, "_others", listed)
    assert project.command("gc", "--older-than", "0s", "--delete")[0] == 0
    assert len(again) == 6 and all(path.exists() for path in again)


def test_videos_that_cannot_be_read_now_stop_it(project, clips, tmp_path):
    folder = tmp_path / "a disk"
    shutil.copytree(clips, folder)
    words = ["--set", f"dataset.path={clips}/clips.jsonl", "--set", f"dataset.root={folder}"]
    project.run(*words)
    folder.rename(tmp_path / "away")
    folder.mkdir()
    code, out, _ = project.command("gc", *words)
    assert (code, "6 of 6 videos of 'small' cannot be read now" in out) == (0, True)
    code, _, err = project.command("gc", *words, "--delete", "--older-than", "0s")
    assert code == 2
    assert "--allow-gaps" in err
    assert list(project.store.glob("frames/*/*.parquet"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--older-than", "soon"], "such as 30m"),
        (["--runs", "0"], "--runs"),
        (["--delete", "--set", "model.seed=3"], "nothing of 'small' is in"),
        (["--delete", "--set", "store={tmp}/none"], "never run in this store"),
    ],
)
def test_mistakes(project, tmp_path, words, expected):
    project.run()
    code, _, err = project.command("gc", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_configs_of_two_stores(project, tmp_path, capsys):
    other = project.elsewhere(tmp_path / "other")
    assert main(["gc", str(project.config), str(other.config)]) == 2
    assert "one store at a time" in capsys.readouterr().err


def test_in_an_object_store(project, s3):
    words = ["--set", "store=s3://bucket/some prefix"]
    project.run(*words)
    project.run(*words, "--set", "sampling.max_frames=3")
    code, out, err = project.command("gc", *words, "--json", "--delete", "--older-than", "0s")
    assert code == 0, err
    rows = {row["what"]: row["files"] for row in json.loads(out)["rows"] if row["files"]}
    assert rows == {"frames": 3, "video_embeddings": 3, "similarity": 1, "manifests": 6}
    assert project.computed(*words) == {}
    assert main(["verify", "--store", "s3://bucket/some prefix"]) == 0
    assert main(["verify", "--store", "s3://bucket/another"]) == 2
