"""A small corpus of generated clips, and the command line run in this process."""

import contextlib
import json
import os
import shutil
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.events import ALIVE, RUNS, EventLog
from clip2video_pipe.stages.datasets.shapes import write_clips

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CONFIG = """\
name: small
dataset: {{kind: table, path: {clips}/clips.jsonl, root: {clips}}}
model: {{preset: tiny, seed: 0}}
sampling: {{max_frames: 4}}
run: {{shard_items: 2, engine: inline}}
store: {store}
report: false
"""


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Six clips with two captions each, below a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("some clips")
    write_clips(folder, 6, 0, seconds=1.0, size=(96, 64), fps=10)
    return folder


@pytest.fixture(scope="session")
def matrix():
    """Scores of the similarity stage, given a store and a run's folder: by caption_id, by video_id."""

    def read(store, run):
        said = json.loads((Path(run) / "run.json").read_text())
        [stage] = [stage for stage in said["stages"] if stage["stage"] == "similarity"]
        columns = pq.read_table(Path(run) / "columns.parquet")["video_id"].to_pylist()
        rows = load(Store(str(store)), "similarity", stage["manifest"]).table().to_pylist()
        return {
            row["query_id"]: dict(zip(columns, row["scores"], strict=True)) for row in rows if row["scores"] is not None
        }

    return read


@pytest.fixture(scope="module")  # while it is there this thread has an event loop, and can run no other
def browser():
    """Chromium without a screen."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium here, and 'make test' could not install it: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A page of which nothing may be complained about, and that asks nobody but who gave it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    complaints, visited, asked = [], [], []
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: (visited if request.is_navigation_request() else asked).append(request.url))
    yield opened
    context.close()
    assert complaints == []
    hosts = {urlsplit(url)[:2] for url in visited}
    assert [url for url in asked if not url.startswith("data:") and urlsplit(url)[:2] not in hosts] == []


@pytest.fixture
def project(tmp_path, clips, capsys):
    return Project(tmp_path, clips, capsys)


class Project:
    """A config over the clips with a store of its own."""

    def __init__(self, folder: Path, clips: Path, capsys):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._clips = clips
        self.store = folder / "artifacts"
        self.config = folder / "small.yaml"
        self.config.write_text(CONFIG.format(clips=clips, store=self.store))
        self._capsys = capsys

    def elsewhere(self, folder: Path) -> "Project":
        """The same config with another store."""
        return Project(folder, self._clips, self._capsys)

    def command(self, *words):
        """Exit code, output and messages of a command on the config."""
        self._capsys.readouterr()
        code = main([words[0], str(self.config), *words[1:]])
        out, err = self._capsys.readouterr()
        return code, out, err

    @contextlib.contextmanager
    def going(self):
        """As if another run of the config were going: a sign of life, and events without an end."""
        with EventLog(Store(str(self.store)), (RUNS, "small", "20300101T000000.000000Z")) as log:
            log.add("run", config="small", host=socket.gethostname(), pid=os.getpid())
            give_up = time.monotonic() + 10
            while not list(self.store.glob(f"{RUNS}/small/2030*/{ALIVE}")):
                assert time.monotonic() < give_up
                time.sleep(0.01)
            yield

    def run(self, *words):
        """The JSON of a run, its stages by name."""
        code, out, err = self.command("run", "--json", *words)
        assert code == 0, err
        result = json.loads(out)
        result["stages"] = {stage["stage"]: stage for stage in result["stages"]}
        return result

    def computed(self, *words):
        """How many items a run computed, by stage, those that computed none left out."""
        stages = self.run(*words)["stages"]
        return {name: stage["computed"] for name, stage in stages.items() if stage["computed"]}

    def rows(self, *lines):
        """Use a table of these rows (JSON objects), in place of all the clips."""
        table = self.folder / "rows.jsonl"
        table.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return f"--set=dataset.path={table}"
