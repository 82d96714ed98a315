"""A cluster of two hosts with addresses of their own, one of which is cut off while it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.datasets.shapes import write_clips

SITE = Path(__file__).parents[1] / "site"
HEAD = "10.77.0.1:6379"
SIZE = ["--num-cpus=2", "--num-gpus=1"]  # pretended, so that each host gets an actor
VIDEOS = 120  # a run of about ten seconds
CONFIG = """\
name: two-hosts
dataset: {{kind: table, path: {clips}/clips.jsonl, root: {clips}}}
model: {{preset: tiny, seed: 0}}
sampling: {{max_frames: 4}}
run: {{shard_items: 1, engine: inline}}
store: {store}
report: false
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, VIDEOS, 0, seconds=1.0, size=(96, 64), fps=10)
    return folder


def command(folder, clips, *words):
    """A run whose store lies below `folder`."""
    folder.mkdir(exist_ok=True)
    config = folder / "two.yaml"
    config.write_text(CONFIG.format(clips=clips, store=folder / "artifacts"))
    return [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", config, "--json", *words]


def tables(folder, result):
    store = Store(str(folder / "artifacts"))
    return {s["stage"]: load(store, s["stage"], s["manifest"]).table().to_pylist() for s in result["stages"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, clips):
    """Metrics and tables of a run in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(command(folder, clips), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result["metrics"], tables(folder, result)


def working(run, host, *titles):
    """Whether workers of the host are in the middle of each of these, and stay so."""
    left = set(titles)

    def look():
        assert run.poll() is None, "the run ended before"
        left.difference_update([title for title in left if host.freeze(title)])
        return not left

    return look


@pytest.mark.parametrize("joins", ["before", "meanwhile"])
def test_a_host_that_is_cut_off_costs_nothing_but_time(hosts, wait_until, clips, undisturbed, tmp_path, joins):
    head, worker = hosts
    # Until the wire is cut a second for each video: minutes, however long the worker takes to join and to load torch.
    slowly = tmp_path / "chaos.json"
    slowly.write_text('[{"at": "^(decode|embed)$", "do": "sleep", "seconds": 1, "nth": "every"}]')
    for host in hosts:
        host.environment |= {"CHAOS_FILE": str(slowly), "PYTHONPATH": str(SITE)}
    head.ray("--head", "--port=6379", "--include-dashboard=false", *SIZE)
    if joins == "before":
        worker.ray(f"--address={HEAD}", *SIZE)
    words = command(tmp_path, clips, "--engine", "ray", "--address", HEAD)
    with head.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            if joins == "meanwhile":
                wait_until(lambda: list(tmp_path.glob("artifacts/frames/*/*.parquet")), 30, "the first shard")
                worker.ray(f"--address={HEAD}", *SIZE)
            at_work = working(run, worker, "ray::frames", "ray::Actor.run")
            wait_until(at_work, 120, "a decoder and an actor at work on the worker")
            worker.cut_off()
            slowly.write_text("[]")
            out, err = run.communicate(timeout=90)
        finally:
            run.kill()
    assert run.returncode == 0, err
    result = json.loads(out)
    assert result["metrics"]["coverage"]["videos"] == {"asked": VIDEOS, "ok": VIDEOS, "failed": 0, "errors": {}}
    assert sum(stage["failed"] for stage in result["stages"]) == 0
    assert (result["metrics"], tables(tmp_path, result)) == undisturbed
    log = Path(result["run_dir"], "events.jsonl")
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert "gone" in events and "lost" not in events, "no video is charged"
