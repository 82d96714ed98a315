"""Workers that die, hang or vanish with their machine cost one another nothing, and no item that is not to blame."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store

COMMAND = [sys.executable, "-m", "clip2video_pipe.pipeline.cli"]
QUICK = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def errors(corpus, stage):
    said = corpus.result()["stages"][stage]
    return load(Store(str(corpus.store)), stage, said["manifest"]).counts["errors"]


def lost(corpus):
    [log] = corpus.store.glob("runs/chaos/*/events.jsonl")
    return [event for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "lost"]


@pytest.mark.parametrize("point", ["decode", "embed", "before frames/", "after video_embeddings/"])
def test_a_worker_that_is_killed_costs_its_shards_a_try(corpus, undisturbed, on_ray, tmp_path, point):
    code, _, messages = on_ray(corpus, chaos=[{"at": f"^{point}", "do": "kill", "once": str(tmp_path / "done")}])
    assert code == 0, messages
    assert corpus.is_as(undisturbed)
    tries = [event["tries"] for event in lost(corpus)]
    assert tries in ([1], [1, 1]), "an actor has two shards in hand"
    said = re.findall(r"(\w+): lost (\d+) items?, its worker died", messages)
    assert said == [(event["stage"], str(event["items"])) for event in lost(corpus)]


@pytest.mark.parametrize("fault", ["ENOSPC", "EROFS"])
def test_a_worker_that_cannot_write_ends_the_run_in_a_line(corpus, undisturbed, on_ray, tmp_path, fault):
    spec = {"at": "^before video_embeddings/", "do": fault, "once": str(tmp_path / "done")}
    code, _, messages = on_ray(corpus, chaos=[spec])
    assert code == 1
    assert os.strerror(getattr(errno, fault)) in messages.splitlines()[-1]
    assert "Traceback" not in messages
    before = corpus.shards()
    corpus.run()
    assert before and all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert corpus.is_as(undisturbed)


def test_what_hangs_as_it_is_embedded_is_timed_out(corpus, on_ray):
    chaos = [{"at": "^embed$", "do": "hang", "nth": "every"}]
    limits = ["--set", "run.compute_timeout=0.5", "--set", "run.max_failure_rate=1"]
    limits += ["--set", f"dataset.path={corpus.some(1)}"]
    code, out, messages = on_ray(corpus, *limits, chaos=chaos)
    assert code == 0, messages
    assert errors(corpus, "video_embeddings") == {"timeout": 1}
    assert "1 failed (1 timeout)" in out


def test_failures_over_the_limit_end_with_3_after_all_else_is_kept(corpus):
    broken = corpus.folder / "broken.mp4"
    broken.write_bytes(b"no video at all")
    table = corpus.some(6, {"video": str(broken), "caption": "nothing"})
    code, out = corpus.command("--set", f"dataset.path={table}")
    assert code == 3
    assert "1 of 7 videos failed, more than run.max_failure_rate 0.05 allows; all else is kept" in out
    assert corpus.result()["metrics"]["coverage"]["videos"]["ok"] == 6


def test_the_raylet_of_a_second_node_is_killed(corpus, undisturbed, home, tmp_path, monkeypatch):
    """A third takes over the shard that was being decoded and the one being embedded; no video is to blame."""
    from ray.cluster_utils import Cluster

    chaos = tmp_path / "chaos.json"
    chaos.write_text(
        json.dumps([{"at": f"^{what}$", "do": "hang", "once": str(tmp_path / what)} for what in ("decode", "embed")])
    )
    for name, value in {**QUICK, "PYTHONPATH": str(Path(__file__).parent / "site")}.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        monkeypatch.setenv("CHAOS_FILE", str(chaos))  # of workers of the second node alone
        second = cluster.add_node(num_cpus=4)  # two decode, so that there is something to embed
        monkeypatch.delenv("CHAOS_FILE")
        command = [*COMMAND, "run", str(corpus.config), "--engine", "ray", "--address", cluster.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            try:
                until = time.monotonic() + 60
                while not all((tmp_path / what).exists() for what in ("decode", "embed")):
                    assert run.poll() is None and time.monotonic() < until
                    time.sleep(0.05)
                cluster.add_node(num_cpus=2)
                os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
                out, messages = run.communicate(timeout=60)
            finally:
                run.kill()
    finally:
        cluster.shutdown()
    assert run.returncode == 0, messages
    assert "has gone" in messages and "(raylet)" not in out
    assert "has joined" in messages
    assert lost(corpus) == []
    assert corpus.is_as(undisturbed)
