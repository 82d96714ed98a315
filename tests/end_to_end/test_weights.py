"""Weights from a config's point of view: where they lie, what they are keyed on, and `weights inspect` and `fetch`."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.sources import CACHE_VARIABLE
from clip2video_pipe.models.weights import load_model
from clip2video_pipe.pipeline.cli import main

ZERO_SHOT = ["--set=model.seed=null", "--set=model.temporal=mean", "--set=model.alignment=none"]
TINY = PRESETS["tiny"]

# Runs the command line, and says on the last line which of the paths given were opened, and what was imported.
WATCHED = """
import json, os, sys
opened = []
sys.addaudithook(lambda event, said: opened.append(os.fspath(said[0])) if event == "open" and isinstance(
    said[0], (str, bytes, os.PathLike)) else None)
from clip2video_pipe.manifests import fingerprints
from clip2video_pipe.pipeline.cli import main
fingerprints.SETTLED = -1.0  # files as new as these are remembered too
paths = sys.argv[1].split(",")
code = main(sys.argv[2:])
print(json.dumps([code, [p for p in paths if p in map(os.fsdecode, opened)], [m for m in
    ("torch", "ray", "requests", "safetensors") if m in sys.modules]]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model():
    return load_model(TINY, Variant(), clip=None, checkpoint=None, seed=3)


@pytest.fixture
def clip_file(tmp_path, model):
    path = tmp_path / "tiny clip.safetensors"
    save_file(model.clip.state_dict(), path)
    return path


def said(capsys, *words):
    """Exit code, output and messages of a command."""
    capsys.readouterr()
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def embedded(project, *words):
    return project.run(*ZERO_SHOT, *words)["stages"]["video_embeddings"]


def test_a_cached_run_does_not_open_the_weights(project, clip_file, tmp_path, model):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(dict(model.clip.state_dict()), folder / "model.safetensors")
    for clip, file in ((clip_file, clip_file), (folder, folder / "model.safetensors")):
        for command, opened in (("run", [str(file)]), ("run", []), ("plan", [])):
            words = [command, str(project.config), "--json", *ZERO_SHOT, f"--set=model.clip={clip}"]
            done = subprocess.run(
                [sys.executable, "-c", WATCHED, str(file), *words], capture_output=True, text=True, check=True
            )
            code, seen, imported = json.loads(done.stdout.splitlines()[-1])
            assert (code, seen) == (0, opened), done.stderr
            assert opened or imported == []


def test_the_stage_key_is_that_of_the_content_of_the_weights(project, clip_file, tmp_path, model):
    first = embedded(project, f"--set=model.clip={clip_file}")
    folder = tmp_path / "folder"
    folder.mkdir()
    clip_file.rename(folder / "model.safetensors")
    again = embedded(project, f"--set=model.clip={folder}")
    assert (again["key"], again["computed"]) == (first["key"], 0)
    other = {name: value + 0.01 for name, value in model.clip.state_dict().items()}
    save_file(other, folder / "model.safetensors")
    changed = embedded(project, f"--set=model.clip={folder}")
    assert changed["key"] != first["key"] and changed["computed"] == 6


def test_a_name_in_a_config_means_the_cached_file(project, cache):
    words = [*ZERO_SHOT, "--set=model.clip=ViT-B/32", "--set=model.preset=vit-b-32"]
    code, _, err = project.command("plan", *words)
    assert code == 2 and err.count("\n") == 1
    assert "--set model.clip: model.clip: 'ViT-B/32': is not in" in err
    assert "clip2video-pipe weights fetch ViT-B/32" in err
    (cache / "clip").mkdir(parents=True)
    (cache / "clip" / "ViT-B-32.pt").write_bytes(b"not weights at all")
    code, out, err = project.command("plan", "--json", *words)
    assert code == 0 and len(json.loads(out)["stages"]) == 6, err
    code, _, err = project.command("run", *words)
    assert code == 2 and "ViT-B-32.pt: cannot be read as weights" in err and "Traceback" not in err


def test_a_name_and_a_preset_that_disagree_are_refused(project, cache):
    (cache / "clip").mkdir(parents=True)
    (cache / "clip" / "ViT-B-32.pt").touch()
    code, _, err = project.command("plan", *ZERO_SHOT, "--set=model.clip=ViT-B/32")
    assert code == 2 and "model.preset: is 'tiny', but ViT-B/32 is vit-b-32: set model.preset: vit-b-32" in err


@pytest.mark.parametrize("said_path", ["missing.pt", "empty folder"])
def test_weights_that_are_not_there_are_one_line(said_path, project, tmp_path):
    (tmp_path / "empty folder").mkdir()
    code, _, err = project.command("plan", *ZERO_SHOT, f"--set=model.clip={tmp_path / said_path}")
    assert code == 2 and err.count("\n") == 1 and "model.clip" in err and said_path in err


def test_inspect_says_what_to_write_for_clip(clip_file, capsys):
    code, out, _ = said(capsys, "weights", "inspect", str(clip_file))
    assert code == 0
    assert "CLIP, OpenAI's names, safetensors" in out and "64 pixels, patches of 16, width 128, 3 layers" in out
    code, out, _ = said(capsys, "weights", "inspect", "--json", str(clip_file))
    found = json.loads(out)
    assert found["kind"] == "clip" and found["preset"] == "tiny" and found["size"]["patch_size"] == 16
    assert found["sha256"] == {str(clip_file): hashlib.sha256(clip_file.read_bytes()).hexdigest()}
    assert found["precision"] == {"float32": found["parameters"]}
    assert found["model"] == {"preset": "tiny", "clip": str(clip_file), "temporal": "mean", "alignment": "none"}


@pytest.mark.parametrize(
    "variant",
    [
        Variant(),
        Variant(centers=7),
        Variant(difference="mlp", alignment="none"),
        Variant(difference="subtract", alignment="none"),
        Variant(temporal="transformer", alignment="none"),
    ],
)
def test_what_inspect_says_of_a_checkpoint_loads_it(variant, tmp_path, capsys):
    path = tmp_path / "pytorch_model.bin.2"
    torch.save(load_model(TINY, variant, clip=None, checkpoint=None, seed=0).state_dict(), path)
    code, out, err = said(capsys, "weights", "inspect", "--json", str(path))
    settings = json.loads(out)["model"]
    assert (code, settings.pop("preset"), settings.pop("checkpoint")) == (0, "tiny", str(path)), err
    assert Variant(**settings) == variant
    load_model(TINY, Variant(**settings), clip=None, checkpoint=str(path), seed=None)


def test_inspect_of_what_is_no_model_says_so(tmp_path, capsys):
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pt")
    code, out, _ = said(capsys, "weights", "inspect", str(tmp_path / "other.pt"))
    assert code == 0 and "no CLIP and no CLIP2Video; its entries are such as fc.weight" in out
    (tmp_path / "text.pt").write_text("hello")
    code, out, err = said(capsys, "weights", "inspect", str(tmp_path / "text.pt"))
    assert code == 2 and err.count("\n") == 1 and "cannot be read as weights" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fetch", "RN50"], "'RN50' is not the name of published weights; known: ViT-B/32"),
        (["fetch", "ViT-B/32", "--from", "http://127.0.0.1:9/x.pt"], "127.0.0.1 cannot be reached"),
        (["fetch", "ViT-B/32", "--from", "x.pt"], "has to be an http or https address"),
        (["inspect", "no-such-file.pt"], "no such file or folder"),
        (["inspect", "ViT-B/32"], "clip2video-pipe weights fetch ViT-B/32"),
    ],
)
def test_mistakes_are_one_line(words, text, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    code, out, err = said(capsys, "weights", *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and text in err


def test_fetch_says_where_the_file_is(cache, capsys, monkeypatch):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (cache / "clip").mkdir(parents=True)
    (cache / "clip" / "ViT-B-32.pt").write_bytes(content)
    code, out, err = said(capsys, "weights", "fetch", "ViT-B/32", "--from", f"http://127.0.0.1:9/{digest}/x.pt")
    assert code == 0 and "there already, and verified" in out and "preset: vit-b-32, clip: ViT-B/32" in out, err
    code, out, _ = said(capsys, "weights", "fetch", "ViT-B/32", "--json", f"--from=http://127.0.0.1:9/{digest}/x.pt")
    assert json.loads(out) == {
        "name": "ViT-B/32",
        "preset": "vit-b-32",
        "path": str(cache / "clip" / "ViT-B-32.pt"),
        "fetched": False,
    }
