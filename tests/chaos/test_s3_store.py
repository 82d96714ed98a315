"""A store on a real S3 server: killed, damaged, shared or out of reach, it ends as an undisturbed local one does.

Row for row; nothing that was finished is computed again; and no key is in any object, message or log.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from clip2video_pipe.manifests import buckets
from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.stages.datasets.shapes import write_clips

SITE = Path(__file__).parent / "s3_site"
WHERE = "s3://bucket/a store"
CONFIG = """\
name: chaos
dataset: {{kind: table, path: "{clips}/clips.jsonl", root: "{clips}"}}
model: {{preset: tiny, seed: 0}}
sampling: {{max_frames: 4}}
run: {{shard_items: 2, engine: inline}}
store: "{store}"
report: false
"""


class Corpus:
    """A config over six clips, and the runs of it."""

    def __init__(self, folder, clips, store, capsys):
        self.store, self._capsys = store, capsys
        self.config = folder / "chaos.yaml"
        self.config.write_text(CONFIG.format(clips=clips, store=store))

    def command(self, *words):
        """Exit code, output and messages."""
        self._capsys.readouterr()
        code = main([words[0], str(self.config), *words[1:]])
        return code, *self._capsys.readouterr()

    def run(self, *words):
        code, out, err = self.command("run", "--json", *words)
        assert code == 0, err
        return json.loads(out)

    def begin(self, *words, kill_at=""):
        """A run as a process of its own, which dies at the first point that fits `kill_at`."""
        return subprocess.Popen(
            [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", str(self.config), *words],
            env={**os.environ, "PYTHONPATH": str(SITE), "KILL_AT": kill_at},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self, result):
        """Every stage's rows, and the figures."""
        names = {stage["stage"]: stage["manifest"] for stage in result["stages"]}
        rows = {name: load(Store(self.store), name, at).table().to_pylist() for name, at in names.items()}
        return rows, result["metrics"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some clips")
    write_clips(folder, 4, 0, seconds=0.5, size=(64, 48), fps=10)
    return folder


@pytest.fixture
def corpus(s3, tmp_path, clips, capsys):
    return Corpus(tmp_path, clips, WHERE, capsys)


@pytest.fixture(scope="module")
def memo():
    return {}


@pytest.fixture
def expected(memo, tmp_path, clips, capsys):
    """What an undisturbed run in a local store gives."""
    if "expected" not in memo:
        (tmp_path / "local").mkdir()
        local = Corpus(tmp_path / "local", clips, str(tmp_path / "local" / "store"), capsys)
        memo["expected"] = local.said(local.run())
    return memo["expected"]


@pytest.fixture
def finished(corpus, s3, memo):
    """The corpus after a run."""
    for key, data in memo.get("finished", {}).items():
        s3.put(key, data)
    if "finished" not in memo:
        corpus.run()
        memo["finished"] = s3.contents()
    return corpus


def shards(s3):
    """What is in each shard."""
    return {key: s3.get(key) for key in s3.keys(r"^a store/(?!runs|manifests)[^/]+/[^/]+/[^/]+\.parquet$")}


def puts(s3):
    """The keys that were sent, as the server saw them."""
    return [unquote(said.removeprefix("PUT /bucket/")) for said in s3.asked if said.startswith("PUT")]


def computed(result):
    return {stage["stage"]: stage["computed"] for stage in result["stages"] if stage["computed"]}


def test_a_run_is_as_in_a_local_store_and_cached(corpus, expected, s3):
    assert corpus.said(corpus.run()) == expected
    s3.asked.clear()
    assert computed(corpus.run()) == {}
    # Files as young as these are read once more, and remembered then.
    assert all("/runs/" in key or key.endswith("fingerprints.parquet") for key in puts(s3))
    code, out, _ = corpus.command("status")
    assert code == 0 and "s3://bucket/a store/runs/chaos/" in out and "done" in out


@pytest.mark.parametrize(
    "point",
    [
        "after frames/",
        "commit frames",
        "before manifests/video_embeddings/.*/manifest.json",
        "before runs/.*/run.json",
    ],
)
def test_killed_it_goes_on(corpus, expected, s3, point):
    process = corpus.begin(kill_at=point)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -9, out
    before = shards(s3)
    assert before, "something was finished"
    s3.asked.clear()
    result = corpus.run()
    assert not before.keys() & set(puts(s3)), "a finished shard was written again"
    assert before.items() <= shards(s3).items()
    assert corpus.said(result) == expected


def test_two_runs_at_a_time(corpus, expected, s3):
    both = [corpus.begin("--json") for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 0, out
        assert corpus.said(json.loads(out)) == expected
    assert len(puts(s3)) > len(set(puts(s3))), "they met"
    assert computed(corpus.run()) == {}


@pytest.mark.parametrize(
    ("stage", "how"), [("frames", "cut"), ("video_embeddings", "other bytes"), ("similarity", "gone")]
)
def test_a_damaged_shard_is_made_anew(finished, expected, s3, stage, how):
    key = next(key for key in shards(s3) if key.startswith(f"a store/{stage}/"))
    data = s3.get(key)
    if how == "gone":
        s3.delete(key)
    else:
        s3.put(key, data[:-100] if how == "cut" else data[:100] + bytes(len(data) - 200) + data[-100:])
    result = finished.run()
    assert finished.said(result) == expected and stage in computed(result)


@pytest.mark.parametrize("name", ["manifest.json", "items-"])
def test_half_a_manifest_is_none(finished, expected, s3, name):
    for key in s3.keys(f"^a store/manifests/.*/{name}"):
        if name == "items-":
            s3.delete(key)
        else:
            s3.put(key, s3.get(key)[:-20])
    result = finished.run()
    assert finished.said(result) == expected and computed(result) == {}


FAULTS = {"500": "", "503": "", "429": "", "drop": "", "slow": "", "lost": "PUT", "break": r"GET .*\.parquet"}


@pytest.mark.parametrize("kind", FAULTS)
def test_trouble_that_passes_is_not_seen(corpus, expected, s3, monkeypatch, kind):
    monkeypatch.setattr(buckets, "PATIENCE", 0.5)
    often = 2 if kind == "slow" else 20
    # At every third request or so: never as often in a row as would use up the tries.
    s3.faults = [s3.Fault(kind, FAULTS[kind], after=3 * n, seconds=0.8) for n in range(1, often + 1)]
    assert corpus.said(corpus.run()) == expected
    assert s3.hits[kind] >= (2 if kind in ("slow", "break") else 6), s3.hits


@pytest.mark.parametrize(
    ("kind", "at"),
    [("drop", ""), ("503", "PUT .*/frames/"), ("drop", "PUT .*/manifest.json"), ("503", "GET .*/frames/.*parquet")],
)
def test_trouble_that_stays_ends_in_one_line_and_loses_nothing(corpus, expected, s3, kind, at):
    s3.faults = [s3.Fault(kind, at, times=1e9)]
    began = time.monotonic()
    code, out, err = corpus.command("run", "--json")
    assert (code, out) == (1, "") and time.monotonic() - began < 30 and s3.hits[kind] > 4
    assert re.fullmatch(r"clip2video-pipe: .*s3://bucket/a store.*the connection was lost, tried .*\n", err), err
    s3.faults = []
    before = shards(s3)
    s3.asked.clear()
    assert corpus.said(corpus.run()) == expected
    assert not before.keys() & set(puts(s3)), "a finished shard was written again"


@pytest.mark.parametrize(("at", "kind"), [("", "403"), ("PUT", "403"), ("", "401")])
def test_who_may_not_is_told_so(corpus, s3, at, kind):
    s3.faults = [s3.Fault(kind, at, times=1e9)]
    code, _, err = corpus.command("run", "--json")
    assert code == 2 and re.fullmatch(rf"clip2video-pipe: store.*s3://bucket/a store.*{kind}.*\n", err), err


def test_no_secret_is_anywhere(corpus, s3, monkeypatch, caplog):
    query = f"endpoint_override={s3.address}&region=hunter2"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    store = f"store=s3://key-hunter2:hunter2%2F@bucket/a store?{query}"
    said = []
    for words in (["run"], ["run", "--json", "--set", "run.shard_items=1"], ["plan"], ["status"], ["run", "--json"]):
        if len(said) == 4:
            s3.faults = [s3.Fault("403", "GET .*list-type", times=1e9)]
        said.append(corpus.command(*words, "--set", store))
    assert [code for code, *_ in said] == [0, 0, 0, 0, 2]
    contents = s3.contents()
    assert any(key.endswith("run.json") for key in contents) and any("/events-" in key for key in contents)
    for key, data in contents.items():
        assert b"hunter2" not in data and "hunter2" not in key, key
    assert "hunter2" not in str(said) + caplog.text


def test_workers_of_ray_reach_it_by_its_address(corpus, expected, s3, ray_session):
    """They have the environment of the cluster, not of the run."""
    store = f"s3://key:secret@bucket/a store?endpoint_override={s3.address}&region=us-east-1"
    assert corpus.said(corpus.run("--engine", "ray", "--set", f"store={store}")) == expected


def test_a_cached_run_of_a_local_store_loads_no_client(tmp_path, clips, capsys):
    (tmp_path / "x").mkdir()
    corpus = Corpus(tmp_path / "x", clips, str(tmp_path / "store"), capsys)
    corpus.run()
    code = (
        f"import sys; from clip2video_pipe.pipeline.cli import main; main(['plan', {str(corpus.config)!r}]); "
        "assert 'obstore' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).returncode == 0
