"""What `make demo` does, with the model that comes with the package, on clips that its training clips do not show."""

import json
from pathlib import Path

import pytest

from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.stages.datasets.shapes import write_splits

MEAN = ["--set", "model.temporal=mean", "--set", "model.alignment=none"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's config over clips and a store of its own, and the pairs."""
    folder = tmp_path_factory.mktemp("demo")
    write_splits(folder, 0, test=200)
    told = {"dataset.path": folder / "test.jsonl", "dataset.root": folder, "store": folder / "artifacts"}
    words = [word for name, value in told.items() for word in ("--set", f"{name}={json.dumps(str(value))}")]
    config = Path(__file__).parents[2] / "conf" / "demo.yaml"
    return [str(config), *words], folder / "test-pairs.jsonl"


def said(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_finds_the_right_clip_and_knows_forwards_from_backwards(demo, capsys):
    config, pairs = demo
    metrics = said(capsys, "run", *config, "--engine", "inline")["metrics"]
    assert metrics["coverage"]["videos"]["ok"] == 200
    assert metrics["text_to_video"]["R@1"] >= 60
    found = said(capsys, "pairs", config[0], pairs, *config[1:])
    assert (found["pairs"], found["captions"]) == (80, 320) and found["right"] >= 90


def test_pooled_frames_do_not(demo, capsys):
    config, pairs = demo
    said(capsys, "run", *config, *MEAN, "--engine", "inline")
    assert 45 <= said(capsys, "pairs", config[0], pairs, *config[1:], *MEAN)["right"] <= 55


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"video": "a.mp4"}', "line 1"),
        ("", "is empty"),
        ('{"video": "nowhere.mp4", "other": "b.mp4"}', "'nowhere.mp4'"),
        (None, "No such file"),
    ],
)
def test_pairs_that_are_none_are_one_line(demo, capsys, tmp_path, text, why):
    config, _ = demo
    said(capsys, "run", *config, "--engine", "inline")
    path = tmp_path / "pairs.jsonl"
    if text is not None:
        path.write_text(text)
    assert main(["pairs", config[0], str(path), *config[1:]]) == 2
    message = capsys.readouterr().err
    assert why in message and len(message.splitlines()) == 1
