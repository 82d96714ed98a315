"""`run.keep_frames: false`: frames go when they are embedded, and nothing is decoded twice."""

import json

import pytest

from clip2video_pipe.manifests import faults
from clip2video_pipe.manifests.shards import remove_shard
from clip2video_pipe.pipeline import run, spent

AWAY = ("--set", "run.keep_frames=false", "--set", "run.shard_items=2")


def shards(project):
    return sorted(path.name for path in project.store.glob("frames/*/*.parquet"))


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_frames_go_and_the_run_stays_cached(project, engine, request):
    if engine == "ray":
        request.getfixturevalue("ray_session")
    first = project.run(*AWAY, "--engine", engine)
    assert first["stages"]["frames"]["computed"] == 6
    assert first["metrics"]["coverage"]["videos"]["ok"] == 6
    assert shards(project) == []
    again = project.run(*AWAY)
    assert {stage["computed"] for stage in again["stages"].values()} == {0}
    assert (again["stages"]["frames"]["status"], again["stages"]["frames"]["manifest"]) == ("not kept", None)
    assert again["metrics"] == first["metrics"]


def test_the_disk_stays_flat(project, monkeypatch):
    seen = []
    real = run.SpentFrames.embedded
    monkeypatch.setattr(run.SpentFrames, "embedded", lambda *given: seen.append(len(shards(project))) or real(*given))
    project.run(*AWAY)
    assert len(seen) == 3 and max(seen) < 3, "of three shards, never all at once"


def test_a_run_that_was_stopped_decodes_only_what_has_no_vectors(project, monkeypatch):
    """Stopped when one shard of vectors was committed, and its frames were still there."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(spent, "remove_shard", stop)
    code, _, _ = project.command("run", *AWAY)
    assert code == 130
    left = shards(project)
    assert left
    monkeypatch.setattr(spent, "remove_shard", remove_shard)
    result = project.run(*AWAY)
    assert result["stages"]["video_embeddings"]["computed"] == 4
    assert result["stages"]["frames"]["computed"] == 6 - 2 * len(left)
    assert shards(project) == left[:1], "its vectors were there, and it may be another config's"
    assert project.command("gc", *AWAY, "--older-than", "0s", "--delete")[0] == 0
    assert shards(project) == []


def test_frames_that_another_config_keeps_stay(project):
    project.run()
    kept = shards(project)
    result = project.run(*AWAY, "--set", "embed.precision=float16")
    assert result["stages"]["frames"]["computed"] == 0
    assert result["stages"]["video_embeddings"]["computed"] == 6
    assert shards(project) == kept
    assert project.run()["stages"]["frames"]["status"] == "cached"


OTHER = ("--set", "run.shard_items=2", "--set", "model.seed=1")


def test_a_run_that_embeds_nothing_deletes_nothing(project, monkeypatch):
    """Other weights, frames kept, killed before its manifest: its frames are not those of a run that is cached."""
    project.run(*AWAY)

    def stop(name):
        if name == "commit frames":
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", stop)
    assert project.command("run", *OTHER)[0] == 130
    monkeypatch.setattr(faults, "hook", None)
    theirs = shards(project)
    assert len(theirs) == 3
    assert project.computed(*AWAY) == {}
    assert shards(project) == theirs
    assert "frames" not in project.computed(*OTHER)


def test_frames_that_another_run_named_meanwhile_stay(project, monkeypatch):
    def other(name):
        if name.startswith("before video_embeddings/"):
            monkeypatch.setattr(faults, "hook", None)
            assert project.command("run", *OTHER)[0] == 0

    monkeypatch.setattr(faults, "hook", other)
    project.run(*AWAY)
    assert project.computed(*OTHER) == {}


def test_a_run_whose_shards_others_take_away_goes_on(project, monkeypatch):
    """The same one twice, each time before it is embedded."""
    taken = []

    def take(name):
        if name.startswith("after frames/") and name in (taken or [name]) and len(taken) < 2:
            taken.append(name)
            (project.store / name.removeprefix("after ")).unlink()

    monkeypatch.setattr(faults, "hook", take)
    assert project.run()["metrics"]["coverage"]["videos"]["ok"] == 6
    assert len(taken) == 2


def test_failures_are_counted_as_ever(project, clips, tmp_path):
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"noise" * 1000)
    videos = [json.loads(line)["video"] for line in (clips / "clips.jsonl").read_text().splitlines()]
    rows = project.rows(*({"video": str(path)} for path in (*(clips / video for video in videos), noise)))
    for computed in (True, False):
        result = project.run(rows, *AWAY, "--set", "run.max_failure_rate=1")
        assert result["metrics"]["coverage"]["videos"]["errors"] == {"unreadable": 1}
        assert bool(result["stages"]["frames"]["computed"]) == computed
        assert shards(project) == []
