"""Training as a user starts it: what it makes, that it goes on where it was killed, and how it says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import ray.train.torch
import torch
import yaml
from safetensors.torch import load_file

from clip2video_pipe.manifests.store import StoreError
from clip2video_pipe.pipeline.alone import alone
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.errors import EngineError
from clip2video_pipe.pipeline.training import train, workers
from clip2video_pipe.pipeline.training.loop import Run
from clip2video_pipe.pipeline.training.settings import TrainSettings
from clip2video_pipe.stages.datasets.shapes import write_clips

CONTEXT = ("get_local_world_size", "get_world_rank", "get_world_size")
COMMAND = [sys.executable, "-m", "clip2video_pipe.pipeline.cli"]
CONFIG = """\
name: small
dataset: {{kind: table, path: "{table}", root: "{clips}"}}
model: {{preset: tiny}}
sampling: {{max_frames: 3}}
run: {{engine: inline, shard_items: 4}}
train:
  {{epochs: 2, batch: 4, lr: 0.001, clip_lr: 0.001, freeze: [], held_out: 0.25, save_every: 0, threads: 1,
    out: "{out}"}}
store: "{store}"
"""


@pytest.fixture(scope="module")
def training_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("to train on")
    write_clips(folder, 12, 0, seconds=0.5, size=(64, 48), fps=10)
    return folder


class Project:
    def __init__(self, folder, clips):
        self.folder, self.clips = folder, clips
        folder.mkdir(exist_ok=True)
        self.out, self.config = folder / "what is made", folder / "train.yaml"
        self.table = clips / "clips.jsonl"
        self.write()

    def write(self):
        said = {"table": self.table, "clips": self.clips, "out": self.out, "store": self.folder / "store"}
        self.config.write_text(CONFIG.format(**said))

    def train(self, *words):
        return main(["train", str(self.config), *words])

    def events(self):
        return [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]

    def card(self):
        return json.loads((self.out / "card.json").read_text())

    def weights(self, name="model.safetensors"):
        path = self.out / name
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.fixture
def training(tmp_path, training_clips):
    return Project(tmp_path / "a training", training_clips)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, training_clips):
    project = Project(tmp_path_factory.mktemp("undisturbed") / "it", training_clips)
    assert project.train() == 0
    return project


def read_pictures(path):
    return pq.read_table(path, columns=["pictures"])["pictures"].to_pylist()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_makes_what_run_takes_and_run_gives_the_figures_that_it_printed(trained, capsys):
    card = trained.card()
    epochs = [event for event in trained.events() if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [0, 1] == [said["epoch"] for said in card["epochs"]]
    assert card["data"] == {"digest": card["data"]["digest"], "videos": 9, "gaps": {}}
    assert any((trained.out / "tensorboard").iterdir())
    config = yaml.safe_load(trained.config.read_text())
    del config["train"]
    config["dataset"] = {"kind": "table", "path": str(trained.out / "held-out.jsonl")}
    for name, epoch in (("pytorch_model.bin.0", 0), ("model.safetensors", card["best"]["epoch"])):
        config["model"]["checkpoint"] = str(trained.out / name)
        again = trained.folder / f"{name}.yaml"
        again.write_text(yaml.safe_dump(config))
        capsys.readouterr()
        assert main(["run", str(again), "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        for direction in ("text_to_video", "video_to_text"):
            assert {k: metrics[direction][k] for k in epochs[epoch][direction]} == epochs[epoch][direction]
    assert same(trained.weights(), trained.weights(f"pytorch_model.bin.{card['best']['epoch']}"))
    assert not same(trained.weights("pytorch_model.bin.0"), trained.weights("pytorch_model.bin.1"))


def test_what_is_held_out_is_not_trained_on(trained):
    held = [json.loads(line)["video"] for line in (trained.out / "held-out.jsonl").read_text().splitlines()]
    assert len(held) == 3
    assert trained.card()["data"]["videos"] == 12 - 3 and trained.card()["validation"]["videos"] == 3


def test_jitter_trains_on_what_is_decoded_and_is_measured_without(training):
    words = ["--set", "sampling={policy: jitter, max_frames: 2, candidates: 2}", "--set", "train.epochs=1"]
    assert training.train(*words) == 0
    shards = (training.folder / "store" / "frames").glob("*/[!.]*.parquet")
    kept = Counter(len(pictures) for path in shards for pictures in read_pictures(path))
    assert kept == {4: 12, 2: 3}, "twice as many of each video as a step looks at, and what is validated as it is"


def steps(count):
    def reached(project):
        log = project.out / "events.jsonl"
        return log.exists() and log.read_text().count('"step"') >= count

    return reached


def measuring(project):
    """The model of the first epoch is written, and looked at."""
    return (project.out / "pytorch_model.bin.0").exists()


@pytest.mark.parametrize("reached", [steps(2), steps(3), measuring], ids=["begun", "on its way", "while it validates"])
def test_killed_it_goes_on_and_ends_with_the_same_weights_bit_for_bit(training, trained, reached):
    with subprocess.Popen([*COMMAND, "train", str(training.config)], stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not reached(training):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (training.out / "pytorch_model.bin.1").exists(), "it was killed in the middle"
    done = subprocess.run([*COMMAND, "train", str(training.config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(event["event"] == "resumed" for event in training.events())
    for name in ("pytorch_model.bin.0", "pytorch_model.bin.1"):
        assert same(training.weights(name), trained.weights(name))
    found, expected = (without_times(one.card()) for one in (training, trained))
    assert (found["epochs"], found["best"]) == (expected["epochs"], expected["best"])


def without_times(card):
    said = [*card["epochs"], card["best"]]
    *epochs, best = [{name: one[name] for name in one if "seconds" not in name} for one in said]
    return {"epochs": epochs, "best": best}


def test_what_has_ended_is_not_done_again(trained, capsys):
    before = (trained.out / "model.safetensors").stat().st_mtime_ns
    assert trained.train() == 0
    assert (trained.out / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_is_of_one_training(training, capsys):
    assert training.train("--set", "train.epochs=1") == 0
    before = (training.out / "checkpoint.pt").read_bytes()
    for word in ("train.lr=0.002", "model.center_weight=0.1"):
        assert training.train("--set", "train.epochs=1", "--set", word) == 2
        assert "train.out" in capsys.readouterr().err.splitlines()[-1]
    assert training.train("--set", "train.epochs=1", "--set", "train.threads=2") == 0
    assert (training.out / "checkpoint.pt").read_bytes() == before
    moved = training.out.rename(training.folder / "moved")
    assert training.train("--set", "train.epochs=1", "--set", f"train.out='{moved}'") == 0
    assert (moved / "checkpoint.pt").read_bytes() == before


def test_a_training_that_diverges_says_so_and_keeps_what_it_has(training, capsys):
    assert training.train("--set", "train.lr=1.0e+30", "--set", "train.clip_norm=1.0e+30") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "train.lr" in message and "Traceback" not in message
    state = torch.load(training.out / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_checkpoint_of_another_training_is_not_gone_on_with(training, capsys):
    """Two that began in one folder at a time, on two machines, each before the other had kept anything."""
    assert training.train("--set", "train.epochs=1") == 0
    said = training.out / "training.json"
    ours = said.read_text()
    (training.out / "checkpoint.pt").rename(training.folder / "kept.pt")
    assert training.train("--set", "train.epochs=1", "--set", "train.lr=0.002") == 0
    said.write_text(ours)
    assert training.train("--set", "train.epochs=1") == 2
    assert "train.out" in capsys.readouterr().err.splitlines()[-1]


def test_one_process_at_a_time_trains_into_a_folder(training, capsys):
    training.out.mkdir()
    with alone(training.out / ".lock", "taken"):
        assert training.train() == 2
    assert "another process" in capsys.readouterr().err.splitlines()[-1]
    assert not (training.out / "training.json").exists()


def test_a_shard_that_is_damaged_meanwhile_is_removed_and_made_anew(training, capsys, monkeypatch):
    make = train.begin

    def begin(*said):
        make(*said)
        for path in (training.folder / "store" / "frames").glob("*/[!.]*.parquet"):
            path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(train, "begin", begin)
    assert training.train("--set", "train.epochs=1") == 1
    assert "the same command" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    for _ in range(3):  # each of them is found when it is read
        if training.train("--set", "train.epochs=1") == 0:
            break
    assert training.card()["data"]["videos"] == 9


def test_why_another_attempt_would_fail_as_well_is_kept(training, monkeypatch):
    """As a worker of Ray Train does it, which begins again after what looks like an accident."""

    def fail(*_):
        raise StoreError("the disk has gone")

    monkeypatch.chdir(training.folder)  # or where it goes is where this process stays
    monkeypatch.setattr(workers, "work", fail)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(**dict.fromkeys(CONTEXT, lambda: 1)))
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    said = {
        "training": SimpleNamespace(out=training.folder, config=SimpleNamespace(train=TrainSettings(threads=1))),
        "on_gpus": False,
        "folder": str(training.folder),
    }
    with pytest.raises(StoreError):
        workers._work_on_ray(said)
    assert (training.folder / workers.FAULT).read_text() == "the disk has gone"
    with pytest.raises(EngineError, match="the disk has gone"):
        workers._work_on_ray(said)


def test_batches_in_parts_end_with_about_the_same_weights(training, trained):
    assert training.train("--set", "train.micro_batch=1") == 0
    found, expected = training.weights("pytorch_model.bin.0"), trained.weights("pytorch_model.bin.0")
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3


@pytest.mark.skipif(" " in sys.executable, reason=f"Ray Train starts no workers of a Python at {sys.executable!r}")
def test_two_workers_on_ray_learn_as_one_does(training, training_clips, ray_session, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--set", "train.batch=3", "--set", "train.epochs=1"]  # no rest that is batched otherwise
    alone = Project(tmp_path / "alone", training_clips)
    assert alone.train(*words) == 0
    capsys.readouterr()
    words += ["--set", "run.engine=ray", "--set", "train.workers=2", "--set", "embed.device=cpu", "--set", "store=here"]
    assert training.train(*words) == 0
    assert "epoch 1/1" in capsys.readouterr().err
    losses = [[e["loss"] for e in project.events() if e["event"] == "step"] for project in (training, alone)]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], abs=2e-3)


def killed(training, monkeypatch):
    """A training that stops as its second epoch begins, with a checkpoint of the first."""
    step = Run._step

    def die(run, *parts):
        if run.epoch:
            raise EngineError("killed")
        return step(run, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", die)
        assert training.train() == 1


@pytest.mark.parametrize("change", ["another order of the table", "another store", "a video more"])
def test_it_goes_on_with_what_it_began_with(training, training_clips, trained, monkeypatch, tmp_path, capsys, change):
    killed(training, monkeypatch)
    training.table = training.folder / "rows.jsonl"
    rows = (training.clips / "clips.jsonl").read_text().splitlines()
    words = []
    if change == "another order of the table":
        rows = rows[::-1]
        words = ["--set", f"store='{tmp_path}/new'"]
    elif change == "another store":
        words = ["--set", f"store='{tmp_path}/new'", "--set", "run.shard_items=5", "--set", "train.memory=16MiB"]
    else:
        write_clips(tmp_path / "more", 1, 7, seconds=0.5, size=(64, 48), fps=10)
        [row] = (tmp_path / "more" / "clips.jsonl").read_text().splitlines()[:1]
        more = json.loads(row)
        rows.append(json.dumps(more | {"video": str(tmp_path / "more" / more["video"])}))
    (training.clips / "same.jsonl").write_text("\n".join(rows) + "\n")
    (training.clips / "clips.jsonl").rename(training.clips / "kept.jsonl")
    (training.clips / "same.jsonl").rename(training.clips / "clips.jsonl")
    try:
        assert training.train(*words) == 0, capsys.readouterr().err
    finally:
        (training.clips / "kept.jsonl").rename(training.clips / "clips.jsonl")
    said = capsys.readouterr().err
    assert "goes on after epoch 1" in said and "WARNING" not in said
    assert ("1 video was not there when this training began" in said) == (change == "a video more")
    assert same(training.weights("pytorch_model.bin.1"), trained.weights("pytorch_model.bin.1"))


def test_what_it_began_with_and_is_gone_is_one_line(training, monkeypatch, capsys):
    killed(training, monkeypatch)
    table = training.clips / "clips.jsonl"
    rows = table.read_text()
    for changed, why in (
        ("\n".join(rows.splitlines()[:3]) + "\n", "began with cannot be learnt from now"),
        (rows.replace('"a', '"not a'), "captions are not those"),
    ):
        table.write_text(changed)
        try:
            assert training.train() == 2
        finally:
            table.write_text(rows)
        message = capsys.readouterr().err.splitlines()[-1]
        assert why in message and "train.out" in message
    (training.out / "training.parquet").unlink()
    assert training.train() == 2
    assert "is gone or damaged" in capsys.readouterr().err.splitlines()[-1]


def test_a_video_that_does_not_decode_is_a_gap(training):
    broken = training.folder / "broken.mp4"
    broken.write_bytes(b"no video at all")
    training.table = training.folder / "rows.jsonl"
    rows = (training.clips / "clips.jsonl").read_text() + json.dumps({"video": str(broken), "caption": "nothing"})
    training.table.write_text(rows + "\n")
    training.write()
    assert training.train("--set", "train.epochs=1", "--set", "run.max_failure_rate=0.2") == 0
    assert sum(training.card()["data"]["gaps"].values()) == 1
    assert training.train("--set", "train.epochs=1", "--set", "run.max_failure_rate=0") == 3


def test_what_is_validated_has_gaps_as_well(training, training_clips, capsys):
    rows = (training.clips / "clips.jsonl").read_text().splitlines()
    broken = training.folder / "broken.mp4"
    broken.write_bytes(b"no video at all")
    measured = training.folder / "measured.jsonl"
    silent = {"video": str(training_clips / json.loads(rows[9])["video"])}
    table = [*rows[10:], json.dumps(silent), json.dumps({"video": str(broken), "caption": "nothing"})]
    measured.write_text("\n".join(table) + "\n")
    training.table = training.folder / "rows.jsonl"
    training.table.write_text("\n".join(rows[:9]) + "\n")
    training.write()
    words = ["--set", f"validation={{kind: table, path: '{measured}', root: '{training_clips}'}}"]
    words += ["--set", "train.epochs=1"]
    assert training.train(*words, "--set", "run.max_failure_rate=0.1") == 3
    assert training.train(*words, "--set", "run.max_failure_rate=0.3") == 0
    assert training.card()["validation"]["videos"] == 2
    assert sorted(training.card()["validation"]["gaps"]) == ["unreadable", "video-without-captions"]
    measured.write_text("\n".join([*rows[11:], json.dumps(silent)]) + "\n")
    assert training.train(*words) == 2
    assert "videos with captions to rank: 1," in capsys.readouterr().err.splitlines()[-1]
    measured.write_text("\n".join(rows[9:]) + "\n")
    assert training.train(*words) == 0
    assert "WARNING: validation: not the videos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "validation={kind: table, path: '{table}', root: '{clips}'}"], "validation"),
        (["--set", "train.batchs=3"], "did you mean 'batch'"),
        (["--set", "train.workers=2"], "inline engine"),
        (["--set", "train.freeze=[images]"], "train.freeze"),
        (["--set", "train.epochs=0"], "train.epochs"),
        (["--set", "model.seed=1"], "model.seed"),
        (["--set", "validation={kind: table, path: nowhere.jsonl}"], "validation.path"),
        (["--set", "validation={kind: msvd, annotations: '{clips}', videos: '{clips}', split: test-1k5}"], "split"),
    ],
)
def test_what_cannot_be_is_one_line(training, capsys, words, said):
    words = [word.replace("{table}", str(training.table)).replace("{clips}", str(training.clips)) for word in words]
    assert training.train(*words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert said in message and "Traceback" not in message


def test_an_empty_dataset_is_one_line(training, capsys):
    training.table = training.folder / "none.jsonl"
    training.table.write_text(json.dumps({"video": "nowhere.mp4", "caption": "gone"}) + "\n")
    training.write()
    assert training.train() == 2
    assert "0 videos with captions" in capsys.readouterr().err.splitlines()[-1]
