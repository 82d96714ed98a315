"""Runs that meet with accidents, and what an undisturbed one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.stages.datasets.shapes import write_clips

HERE = Path(__file__).parent
LONG = 120  # seconds: then something hangs
CONFIG = """\
name: chaos
dataset: {{kind: table, path: "{clips}/clips.jsonl", root: "{clips}"}}
model: {{preset: tiny, seed: 0}}
sampling: {{max_frames: 4}}
run: {{shard_items: 2, engine: inline}}
store: "{store}"
report: false
"""


@pytest.fixture(scope="session")
def chaos_clips(tmp_path_factory):
    """Six clips with two captions each."""
    folder = tmp_path_factory.mktemp("some clips")
    write_clips(folder, 6, 0, seconds=0.5, size=(64, 48), fps=10)
    return folder


class Warm:
    """The process that forks runs: see warm.py."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # its children compute little, and several at a time
        )

    def ask(self, **said):
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=LONG)


@pytest.fixture(scope="session")
def warm():
    process = Warm()
    yield process
    process.close()


class Corpus:
    """A config over the clips, its store, and the runs of it."""

    def __init__(self, folder, clips, warm):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.clips, self._warm = folder, clips, warm
        self.store = folder / "the store"
        self.config = folder / "chaos.yaml"
        self.config.write_text(CONFIG.format(clips=clips, store=self.store))
        self.out = folder / "out.txt"

    def begin(self, *words, chaos=(), command="run"):
        """Start a command without waiting for it; gives its process id."""
        argv = [command, str(self.config), *words]
        return self._warm.ask(argv=argv, chaos=list(chaos), out=str(self.out), wait=False)["pid"]

    def end(self, pid):
        """The exit code of what was begun."""
        return self._warm.ask(join=pid)["code"]

    def command(self, *words, chaos=(), command="run"):
        """Exit code, and what was printed; a signal's number below zero."""
        self.out.unlink(missing_ok=True)
        code = self.end(self.begin(*words, chaos=chaos, command=command))
        return code, self.out.read_text()

    def run(self, *words):
        """The JSON of a plain run that ends well, its stages by name, and what it printed besides."""
        code, out = self.command(*words)
        assert code == 0, out
        return self.result()

    def some(self, count, *more):
        """A table of the first so many clips, and of more rows."""
        rows = [json.loads(line) for line in (self.clips / "clips.jsonl").read_text().splitlines()][:count]
        table = self.folder / "rows.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
        return table

    def result(self):
        """What the newest run that was finished says."""
        newest = max(self.store.glob("runs/chaos/*/run.json"))
        said = json.loads(newest.read_text())
        said["stages"] = {stage["stage"]: stage for stage in said["stages"]}
        return said

    def tables(self):
        """Every stage's rows in order, of the newest finished run."""
        store = Store(str(self.store))
        stages = self.result()["stages"]
        return {name: load(store, name, said["manifest"]).table().to_pylist() for name, said in stages.items()}

    def shards(self):
        """Path and time stamp of each shard."""
        stages = [path for path in self.store.glob("*") if path.name not in ("manifests", "runs") and path.is_dir()]
        return {path: path.stat().st_mtime_ns for stage in stages for path in stage.glob("*/[!.]*.parquet")}

    def is_as(self, expected):
        """Whether all rows and figures are those of another corpus' newest run."""
        assert self.tables() == expected.tables()
        assert self.result()["metrics"] == expected.result()["metrics"]
        return True


@pytest.fixture(scope="session")
def new_corpus(chaos_clips, warm):
    """A function that makes a Corpus in a folder."""
    return lambda folder: Corpus(folder, chaos_clips, warm)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, new_corpus):
    corpus = new_corpus(tmp_path_factory.mktemp("undisturbed"))
    corpus.run()
    return corpus


@pytest.fixture
def corpus(tmp_path, new_corpus):
    return new_corpus(tmp_path / "a corpus")


@pytest.fixture
def on_ray(ray_session, home, capsys):
    """A function that runs a corpus' config on Ray, whose workers have these faults: exit code, output, messages."""
    file = home / "chaos.json"

    def run(corpus, *words, chaos=()):
        file.write_text(json.dumps(chaos))
        capsys.readouterr()
        code = main(["run", str(corpus.config), "--engine", "ray", *words])
        out, messages = capsys.readouterr()
        return code, out, messages

    yield run
    file.unlink(missing_ok=True)
