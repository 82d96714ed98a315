"""The commands around a run: plan, status, make-clips, and how each says what is wrong."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.events import EventLog


def planned(project, *words):
    code, out, err = project.command("plan", "--json", *words)
    assert code == 0, err
    return {stage["stage"]: stage for stage in json.loads(out)["stages"]}


def test_a_plan_says_what_is_missing_and_why(project):
    stages = planned(project)
    assert {name: stage["missing"] for name, stage in stages.items()} == {
        "videos": 6, "captions": 12, "frames": 6, "video_embeddings": 6, "caption_embeddings": 12, "similarity": 18,
    }  # fmt: skip
    assert stages["frames"]["why"] == "never run in this store"
    assert stages["similarity"]["why"] == "waits for the embeddings"
    assert not project.store.exists(), "a plan computes and writes nothing"
    project.run()
    assert {stage["status"] for stage in planned(project).values()} == {"cached"}
    stages = planned(project, "--set", "sampling.max_frames=3")
    assert stages["frames"]["why"] == "sampling.max_frames went from 4 to 3"
    assert "other frames" in stages["video_embeddings"]["why"]
    assert stages["caption_embeddings"]["status"] == "cached"
    stages = planned(project, "--set", "model.center_weight=0.2")
    assert stages["similarity"]["why"] == "center_weight went from 0.5 to 0.2"
    assert "other weights" in planned(project, "--set", "model.seed=5")["video_embeddings"]["why"]


def test_a_plan_and_a_run_for_people(project):
    code, out, _ = project.command("plan")
    assert code == 0
    assert "never run in this store" in " ".join(out.split())
    code, out, err = project.command("run")
    assert code == 0
    for expected in ("text to video", "video to text", "videos: 6 of 6 ok", "untrained", "written to"):
        assert expected in out
    assert "frames: 6/6" in err
    code, out, _ = project.command("status")
    assert code == 0
    assert ": done" in out
    assert "text to video" in out


def test_status_of_a_run_that_was_killed(project):
    result = project.run()
    events = project.store / "runs" / "small" / result["run_dir"].rpartition("/")[2] / "events.jsonl"
    lines = events.read_text().splitlines()
    run = json.loads(lines[0])
    events.write_text("\n".join([json.dumps({**run, "pid": 2**22 + 1}), *lines[1:-1], '{"half']))
    code, out, _ = project.command("status", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["state"] == "killed"
    assert {stage["stage"]: stage["done"] for stage in found["stages"]}["frames"] == 6


def test_status_of_what_was_cached(project):
    project.run()
    project.run("--set", "model.center_weight=0.2")
    code, out, _ = project.command("status", "--json")
    stages = {stage["stage"]: stage for stage in json.loads(out)["stages"]}
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "frames": "cached", "video_embeddings": "cached", "caption_embeddings": "cached", "similarity": "done",
    }  # fmt: skip
    assert (stages["frames"]["there"], stages["frames"]["done"]) == (6, 0)
    assert stages["similarity"]["units"] == {"done": 1, "in_flight": 0, "left": 0}
    project.run("--set", "model.center_weight=0.2")
    code, out, _ = project.command("status")
    assert code == 0
    assert "nothing had to be computed" in out


class Watcher:
    """`status --watch` as a process of its own."""

    def __init__(self, project, *words):
        command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "status", str(project.config), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_watching_ends_with_the_run(project):
    store = Store(str(project.store))
    with EventLog(store, ("runs", "small", "20261125T000000.000000Z")) as log:
        log.add("queued", stage="frames", items=6, units=3)
        watcher = Watcher(project, "--watch", "0.1")
        time.sleep(4)
        assert watcher.process.poll() is None
    code, out, err = watcher.end()
    assert (code, err) == (0, "")
    assert ": done" in out
    assert "frames" in out


def test_ctrl_c_leaves_off_watching_quietly(project):
    store = Store(str(project.store))
    with EventLog(store, ("runs", "small", "20261125T000000.000000Z")):
        watcher = Watcher(project, "--watch")
        time.sleep(4)
        watcher.process.send_signal(signal.SIGINT)
        code, _, err = watcher.end()
    assert (code, err) == (0, "")


def test_watching_takes_seconds_or_none(project):
    project.run()
    for words in (["--watch"], ["--watch", "3"], ["--watch=3"], ["--watch", "--set", "name=small"]):
        code, out, err = project.command("status", *words)
        assert code == 0, err
        assert ": done" in out
    assert project.command("status", "--watch", "--json")[0] == 2
    assert project.command("status", "--watch", "0")[0] == 2


def test_a_plan_says_what_the_rest_costs(project):
    stages = planned(project)
    unknown = {"seconds": None, "bytes": None, "gpu_hours": None, "from": None}
    assert stages["frames"]["estimate"] == stages["similarity"]["estimate"] == unknown
    assert stages["videos"]["estimate"] is None, "it is the plan itself that makes them"
    result = project.run()
    assert {stage["estimate"] for stage in planned(project).values()} == {None}, "nothing is missing"
    stages = planned(project, "--set", "sampling.max_frames=3", "--set", "name=other")
    frames, spent = stages["frames"]["estimate"], result["stages"]["frames"]["spent"]
    assert frames["from"] == result["run_dir"]
    assert frames["seconds"] == pytest.approx(spent["worker_seconds"], abs=0.002)
    size = sum(path.stat().st_size for path in project.store.glob("frames/*/*.parquet"))
    assert frames["bytes"] == spent["bytes"] == size
    assert frames["gpu_hours"] is None
    assert stages["caption_embeddings"]["estimate"] is None
    _, out, _ = project.command("plan", "--json", "--set", "sampling.max_frames=3")
    total = json.loads(out)["estimate"]
    assert total["complete"]
    parts = [stages[name]["estimate"]["seconds"] for name in ("frames", "video_embeddings", "similarity")]
    assert total["seconds"] == pytest.approx(sum(parts), abs=0.002), "one process does one after the other"
    _, out, _ = project.command("plan", "--set", "sampling.max_frames=3")
    assert "all: about " in out
    assert "GPU-hours" not in out


def test_a_plan_for_a_gpu_that_an_earlier_run_had(project):
    """Pretended: the run's folder says that its units were computed on one."""
    result = project.run()
    path = Path(result["run_dir"]) / "run.json"
    said = json.loads(path.read_text())
    for stage in said["stages"]:
        if stage["stage"] == "video_embeddings":
            stage["spent"] |= {"device": "gpu", "busy_seconds": 7200.0}
    path.write_text(json.dumps(said))
    _, out, _ = project.command("plan", "--set", "model.seed=7")
    assert "GPU-hours" in out
    assert ", 2.00 GPU-hours, by earlier runs" in out


def test_a_full_disk_is_one_line(project, monkeypatch):
    monkeypatch.setattr("clip2video_pipe.pipeline.run._stamp", lambda: "now")
    folder = project.store / "runs" / "small" / "now"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").symlink_to("/dev/full")
    code, out, err = project.command("run")
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "events.jsonl cannot be written to: No space left on device" in err


def test_status_without_a_run(project):
    code, _, err = project.command("status")
    assert code == 2
    assert "no run of 'small'" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "no such.yaml"], "config 'no such.yaml': No such file or directory"),
        (["run"], "Missing argument"),
        (["rnu"], "No such command"),
        (["plan", "{config}", "--set", "nam=x"], "did you mean 'name'"),
        (["plan", "{config}", "--engine", "slurm"], "'ray' or 'inline'"),
        (["run", "{config}", "--set", "run.address=auto"], "inline engine runs here"),
        (
            ["run", "{config}", "--address", "host:6379"],
            "--set run.address: run.address: is 'host:6379', but the inline",
        ),
        (["run", "{config}", "--address", ""], "run.address: is ''; string should have at least 1"),
        (["run", "{config}", "--engine", "ray", "--address", "127.0.0.1:1"], "nobody answers at '127.0.0.1:1'"),
        (["run", "{config}", "--set", "run.ship_code=true"], "run.ship_code: is true, but run.address is 'local'"),
        (["run", "{config}", "--set", "store=s4://x/y"], "store 's4://...' cannot be opened"),
        (["run", "{config}", "--set", "store={config}"], "is not a folder"),
        (["make-clips", "{config}"], "make-clips"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(project, capsys, words, expected):
    words = [word.replace("{config}", str(project.config)) for word in words]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_weights_that_do_not_fit_are_a_fault_in_the_request(project, tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.bin")
    weights = ["--set", "model.seed=null", "--set", f"model.checkpoint={tmp_path}/model.bin"]
    code, _, err = project.command("run", *weights)
    assert code == 2
    assert "model.bin" in err.splitlines()[-1]
    assert not (project.store / "frames").exists(), "nothing was decoded for it"
    assert "Traceback" not in err
