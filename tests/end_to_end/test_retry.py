"""`run --retry CLASS`: what failed with it is tried again, and nothing else."""

import json

import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests import faults
from clip2video_pipe.stages import frames
from clip2video_pipe.stages.decoding import decode_segments
from clip2video_pipe.stages.decoding.failures import DecodeError


@pytest.fixture
def decoding(monkeypatch):
    """What goes wrong with a video, by the end of its path, and which videos were decoded."""

    class Decoding:
        wrong: dict = {}  # noqa: RUF012
        seen: list = []  # noqa: RUF012

    def decode(limits, path, segments, **how):
        name = str(path).rpartition("/")[2]
        Decoding.seen.append(name)
        if name in Decoding.wrong:
            raise DecodeError(Decoding.wrong[name], str(path), "as the test wants it")
        return decode_segments(path, segments=segments, **how)

    Decoding.wrong, Decoding.seen = {}, []
    monkeypatch.setattr(frames, "decode_apart", decode)
    return Decoding


def decoded(project, decoding, *words):
    decoding.seen.clear()
    code, out, err = project.command("run", "--json", "--set", "run.max_failure_rate=1", *words)
    assert code == 0, err
    return sorted(decoding.seen), json.loads(out)["metrics"]["coverage"]["videos"]


@pytest.fixture
def names(clips):
    return sorted(path.name for path in clips.glob("*.mp4"))


@pytest.mark.parametrize("shard_items", [1, 2, 6])
def test_only_what_is_asked_for_is_tried_again(project, decoding, names, shard_items):
    size = f"--set=run.shard_items={shard_items}"
    crashed, damaged, frameless = names[1], names[2], names[4]
    decoding.wrong = {crashed: "crashed", damaged: "damaged", frameless: "no-frames"}
    assert decoded(project, decoding, size)[1]["failed"] == 3
    assert decoded(project, decoding, size)[0] == [], "they failed for good"
    del decoding.wrong[crashed], decoding.wrong[frameless]
    seen, videos = decoded(project, decoding, size, "--retry", "crashed")
    assert seen == [crashed]
    assert (videos["failed"], videos["errors"]) == (2, {"damaged": 1, "no-frames": 1})
    assert decoded(project, decoding, size)[0] == []
    seen, videos = decoded(project, decoding, size, "--retry", "failed")
    assert seen == sorted([damaged, frameless])
    assert videos["errors"] == {"damaged": 1}
    assert decoded(project, decoding, size) == ([], videos)


def test_a_video_that_timed_out(project, decoding, names):
    decoding.wrong = {names[0]: "timeout", names[3]: "damaged"}
    decoded(project, decoding)
    decoding.wrong.clear()
    seen, videos = decoded(project, decoding, "--retry", "timeout")
    assert seen == [names[0]]
    assert videos["errors"] == {"damaged": 1}
    assert decoded(project, decoding)[0] == []


def sound(project, stage):
    """The shards of a stage in which nothing failed."""
    shards = sorted(project.store.glob(f"{stage}/*/*.parquet"))
    return [path for path in shards if set(pq.read_table(path)["status"].to_pylist()) == {"ok"}]


@pytest.mark.parametrize("words", [(), ("--retry", "timeout,crashed")])
def test_what_was_tried_is_not_tried_again_by_the_same_run(project, decoding, names, monkeypatch, words):
    """Although its plan is made anew, as shards go in the middle. A plain run tries what timed out, too."""
    words = ["--set=run.shard_items=1", *words]
    decoding.wrong = {names[0]: "timeout", names[1]: "crashed"}
    decoded(project, decoding, words[0])
    for shard in sound(project, "video_embeddings"):
        shard.unlink()

    def lost(name):
        if name.startswith("after frames/"):
            monkeypatch.setattr(faults, "hook", None)
            for shard in sound(project, "frames"):
                shard.unlink()

    monkeypatch.setattr(faults, "hook", lost)
    seen, videos = decoded(project, decoding, *words)
    assert seen == (names if words[1:] else [names[0], *names[2:]])
    assert videos["errors"] == {"timeout": 1, "crashed": 1}


def test_several_classes(project, decoding, names):
    decoding.wrong = {names[0]: "crashed", names[1]: "damaged", names[2]: "no-frames", names[3]: "unreadable"}
    decoded(project, decoding)
    decoding.wrong.clear()
    seen, _ = decoded(project, decoding, "--retry", "crashed,damaged", "--retry", "no-frames")
    assert seen == names[:3]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("time-out", "there is no class of failures 'time-out'; did you mean 'timeout'?"),
        ("xyz", "one of failed, missing, unreadable"),
        (",", "which failures?"),
    ],
)
def test_a_class_that_is_not_there(project, said, expected):
    code, _, err = project.command("run", "--retry", said)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1


def test_a_class_of_another_version_is_known_by_the_store(project, decoding, names):
    decoding.wrong = {names[0]: "too-odd"}
    decoded(project, decoding)
    decoding.wrong.clear()
    assert "did you mean 'too-odd'" in project.command("run", "--retry", "to-odd")[2]
    assert decoded(project, decoding, "--retry", "too-odd") == (
        [names[0]],
        {"asked": 6, "ok": 6, "failed": 0, "errors": {}},
    )
