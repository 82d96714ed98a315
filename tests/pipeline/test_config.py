"""A config is checked before any work: each mistake is one line that names the key, its place and the way out."""

import pytest

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError

GOOD = """\
name: demo
dataset:
  kind: folder
  path: {folder}
model:
  preset: tiny
  seed: 0
sampling:
  max_frames: 8
"""


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "a config.yaml"
        path.write_text(text.replace("{folder}", str(tmp_path)))
        return load_config(path, overrides)

    return load


def problem(load, text, *overrides):
    with pytest.raises(RequestError) as caught:
        load(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("override", ["run.shard_items={}", "dataset={}", "store.path={}", "{}"])
def test_what_may_be_secret_is_not_in_a_message(load, override):
    address = "https://me:hidden@host/folder"
    text = GOOD.replace("name: demo", f"name: demo\nstore: {address}")
    assert "hidden" not in problem(load, text, override.format(address))


def test_defaults_and_overrides(load):
    config = load(GOOD, "sampling.max_frames=4", "run.shard_items=7", "embed={batch_frames: 32}")
    assert config.sampling.max_frames == 4
    assert config.run.shard_items == 7
    assert config.embed.batch_frames == 32
    assert config.sampling.grid_fps == 5


@pytest.mark.parametrize(
    ("find", "replace", "expected"),
    [
        ("max_frames", "max_frame", ["config.yaml:9:", "sampling.max_frame: unknown key", "'max_frames'"]),
        ("sampling:", "samplin:", ["config.yaml:8:", "samplin: unknown key", "'sampling'"]),
        ("max_frames: 8", "max_frames: many", ["config.yaml:9:", "sampling.max_frames", "'many'", "integer"]),
        ("max_frames: 8", "max_frames: 0", ["config.yaml:9:", "sampling.max_frames: is 0", "greater"]),
        ("max_frames: 8", "max_frames: 78", ["config.yaml:9:", "77 positions"]),
        ("max_frames: 8", "size: 224", ["config.yaml:9:", "sampling.size", "64 pixels"]),
        ("max_frames: 8", "policy: refrence", ["config.yaml:9:", "'refrence'", "'uniform' or 'jitter'"]),
        ("kind: folder", "kind: floder", ["config.yaml:2:", "dataset.kind", "'floder'", "'folder'"]),
        ("kind: folder", "pth: x", ["config.yaml:2:", "dataset.kind: is missing"]),
        ("{folder}", "/no/such place", ["config.yaml:4:", "dataset.path", "'/no/such place'", "no such folder"]),
        ("preset: tiny", "preset: tinny", ["config.yaml:6:", "'tinny'", "did you mean 'tiny'"]),
        ("seed: 0", "temporal: tdb", ["config.yaml:5:", "no weights", "checkpoint"]),
        ("seed: 0", "clip: /no/where.pt", ["config.yaml:7:", "model.clip", "no such file"]),
        ("seed: 0", "seed: 0\n  temporal: mean", ["model.alignment"]),
        ("name: demo", "name: ../demo", ["config.yaml:1:", "name", "'../demo'"]),
        ("name: demo", "name: demo\nname: other", ["config.yaml:2:", "name: is said twice"]),
        ("name: demo\n", "", ["name: is missing"]),
        ("name: demo", "name: [demo", ["config.yaml:2:", "not YAML"]),
        ("name: demo", "name: demo\nrun: {shard_items: 1.5}", ["config.yaml:2:", "run.shard_items", "1.5"]),
        ("name: demo", "name: demo\nrun:", ["config.yaml:2:", "run: is None; it has to hold settings"]),
        ("kind: folder", "kind: folder\n  folder: x", ["config.yaml:4:", "dataset.folder: unknown key"]),
        (GOOD, "", ["has to be a mapping"]),
        (GOOD, "- a list", ["has to be a mapping"]),
    ],
)
def test_mistakes_are_named(load, find, replace, expected):
    message = problem(load, GOOD.replace(find, replace, 1))
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampling.max_frame=3", "--set sampling.max_frame: sampling.max_frame: unknown key; did you mean"),
        ("sampling.max_frames", "has to be key=value"),
        ("name.first=x", "'name' holds 'demo'"),
        ("sampling.max_frames=[", "is not YAML"),
        ("=3", "has to be key=value"),
    ],
)
def test_mistakes_in_overrides_are_named(load, override, expected):
    assert expected in problem(load, GOOD, override)


def test_weights_without_a_checkpoint_say_why(load, tmp_path):
    (tmp_path / "clip.pt").write_bytes(b"weights")
    message = problem(load, GOOD.replace("seed: 0", f"clip: {tmp_path}/clip.pt"))
    assert "model.temporal" in message
    assert "untrained" in message


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"no such.yaml.*No such file"):
        load_config(tmp_path / "no such.yaml")


def test_a_config_is_frozen(load):
    with pytest.raises(ValueError, match="frozen"):
        load(GOOD).sampling.max_frames = 3
