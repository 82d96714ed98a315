"""Two runs on one store at a time are both right, and do not do each other's work again."""

import json
import os
import signal
import time

import pytest

SLOW = {"at": "^(decode|embed)$", "do": "sleep", "seconds": 0.3, "nth": "every"}


@pytest.fixture(scope="module")
def singly(tmp_path_factory, new_corpus):
    """An undisturbed run, a shard an item: the last bits of vectors depend on how many are computed at a time."""
    corpus = new_corpus(tmp_path_factory.mktemp("singly"))
    corpus.run("--set", "run.shard_items=1")
    return corpus


def wait_for(corpus, stage, shards):
    give_up = time.monotonic() + 60
    while len(list((corpus.store / stage).glob("*/[!.]*.parquet"))) < shards:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def results(corpus, name="chaos"):
    """What each finished run of a config says of its stages, the oldest first."""
    runs = sorted(corpus.store.glob(f"runs/{name}/*/run.json"))
    return [{stage["stage"]: stage for stage in json.loads(run.read_text())["stages"]} for run in runs]


@pytest.mark.parametrize("kept", ["true", "false"])
def test_of_the_same_config(corpus, singly, kept):
    words = ["--set", f"run.keep_frames={kept}", "--set", "run.shard_items=1"]
    first = corpus.begin(*words, chaos=[SLOW])
    wait_for(corpus, "frames", 1)
    second = corpus.begin(*words, chaos=[SLOW])
    assert [corpus.end(pid) for pid in (first, second)] == [0, 0], corpus.out.read_text()
    runs = results(corpus)
    # Which of them is shared depends on who is ahead: what both have in hand at a time is computed twice.
    computed = [run[stage]["computed"] for run in runs for stage in ("frames", "video_embeddings")]
    assert sum(computed) < 2 * 2 * 6, "nothing was shared"
    assert all(run["video_embeddings"]["computed"] + run["video_embeddings"]["reused"] == 6 for run in runs)
    corpus.run()
    assert corpus.is_as(singly)
    assert not any(said["computed"] for said in corpus.run()["stages"].values())


def test_of_configs_that_share_a_part(corpus, singly):
    words = ["--set", "run.shard_items=1"]
    other = [*words, "--set", "name=other", "--set", "model.center_weight=0.2"]
    first = corpus.begin(*words, chaos=[SLOW])
    wait_for(corpus, "frames", 1)
    second = corpus.begin(*other, chaos=[SLOW])
    assert [corpus.end(pid) for pid in (first, second)] == [0, 0], corpus.out.read_text()
    assert corpus.is_as(singly)
    runs = [*results(corpus), *results(corpus, "other")]
    assert sum(run["frames"]["computed"] for run in runs) < 12, "nothing was shared"
    assert runs[0]["similarity"]["key"] != runs[1]["similarity"]["key"]


def test_one_of_them_is_killed(corpus, singly):
    first = corpus.begin("--set", "run.shard_items=1", chaos=[SLOW])
    wait_for(corpus, "frames", 1)
    second = corpus.begin("--set", "run.shard_items=1", chaos=[SLOW])
    wait_for(corpus, "frames", 3)
    os.kill(first, signal.SIGKILL)
    assert [corpus.end(pid) for pid in (first, second)] == [-9, 0], corpus.out.read_text()
    assert corpus.is_as(singly)


def test_many_begin_at_once(corpus, undisturbed):
    """Of what they write to at the same moment nothing is lost or mixed."""
    pids = [corpus.begin() for _ in range(5)]
    assert [corpus.end(pid) for pid in pids] == [0] * 5, corpus.out.read_text()
    corpus.run()
    assert corpus.is_as(undisturbed)
    assert not any(said["computed"] for said in corpus.run()["stages"].values())
