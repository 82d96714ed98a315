"""The commands around a run: plan, status, make-clips, and how each says what is wrong."""

import json

import pytest

from clip2video_pipe.pipeline.cli import main


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
