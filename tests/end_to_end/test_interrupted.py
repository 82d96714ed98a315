"""Ctrl-C: a run stops within five seconds and says how to go on; a second one leaves at once."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from clip2video_pipe.stages.datasets.shapes import write_clips


class Running:
    """A run in a process of its own, in a session of its own, so that a Ctrl-C is for all of its processes."""

    def __init__(self, project, *words):
        self.store = project.store
        command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", str(project.config), *words]
        self.errors = project.folder / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=errors, stderr=errors, start_new_session=True)

    def wait_until(self, condition):
        give_up = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < give_up, self.said
            time.sleep(0.005)

    def finished(self, stage):
        lines = [line for log in self.store.glob("runs/*/*/events.jsonl") for line in log.read_text().splitlines()]
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return sum(event["items"] for event in events if event["event"] == "finished" and event["stage"] == stage)

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def seconds_to_end(self):
        start = time.monotonic()
        self.process.wait(30)
        return time.monotonic() - start

    @property
    def said(self):
        return self.errors.read_text()


@pytest.fixture
def running(project):
    """Start runs; none outlives its test."""
    started = []

    def start(*words):
        started.append(Running(project, *words))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


@pytest.fixture
def many(project):
    """The option that makes it thirty clips, in shards of one."""
    folder = project.folder / "thirty clips"
    write_clips(folder, 30, 0, seconds=1.0, size=(96, 64), fps=10)
    data = f"{{kind: table, path: {folder}/clips.jsonl, root: {folder}}}"
    return ["--set", f"dataset={data}", "--set", "run.shard_items=1"]


@pytest.fixture
def silent():
    """The address of a web server that takes every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_run_says_what_is_kept_and_the_command_that_goes_on(project, running, many, engine):
    run = running(*many, "--engine", engine)
    run.wait_until(lambda: run.finished("frames") >= 3)
    run.interrupt()
    assert run.seconds_to_end() < 5
    assert run.process.returncode == 130
    assert "Traceback" not in run.said
    lines = run.said.splitlines()
    done = run.finished("frames")
    assert f"frames: {done} of 30 done" + (f", {30 - done} to go" if done < 30 else "") in lines
    assert any(line.startswith("video_embeddings: ") and line.endswith(" to go") for line in lines)
    _, out, _ = project.command("status", "--json")
    assert json.loads(out)["state"] == "stopped (KeyboardInterrupt)"
    again = subprocess.run(shlex.split(lines[-1].partition("this goes on: ")[2]), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "videos: 30 of 30 ok" in again.stdout


def test_while_ray_starts(running, many):
    run = running(*many, "--engine", "ray")
    run.wait_until(lambda: list(run.store.glob("manifests/captions/*/manifest.json")))
    time.sleep(0.5)
    run.interrupt()
    assert run.seconds_to_end() < 5
    assert run.process.returncode == 130
    assert "frames: 0 of 30 done, 30 to go" in run.said
    assert "Traceback" not in run.said


def test_while_planning_waits_for_a_server_that_says_nothing(project, running, silent):
    root = "--set=dataset.root=https://user:hunter2@host/"
    run = running(project.rows({"video": f"{silent}/a.mp4", "caption": "a dog"}), root)
    time.sleep(3)
    run.interrupt()
    assert run.seconds_to_end() < 5
    assert run.process.returncode == 130
    assert "this goes on, with the passwords and queries of its addresses, which are left out here: " in run.said
    assert "hunter2" not in run.said
    assert "Traceback" not in run.said
    assert not (project.store / "runs").exists(), "it had not begun"


def test_a_second_one_leaves_at_once(project, running, silent):
    run = running(project.rows({"video": f"{silent}/a.mp4", "caption": "a dog"}))
    time.sleep(3)
    run.interrupt()
    time.sleep(0.5)
    assert run.process.poll() is None, "it waits for the server"
    run.interrupt()
    assert run.seconds_to_end() < 1
    assert run.process.returncode == 130
    assert run.said.count("this goes on: ") == 1
