"""What all tests share: a home of their own, one Ray for the session, and a small dataset."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow.fs as pafs
import pytest

from clip2video_pipe.manifests import store

GOLDEN = Path(__file__).parent / "golden"
MEDIA = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """A home folder without anyone's settings; the file keeps Ray from asking for a cloud's metadata server."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HOME"]
    else:
        os.environ["HOME"] = before


@pytest.fixture(scope="session")
def golden_inputs():
    """The module that makes the golden figures' inputs, and whole models' weights, from names and shapes."""
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDEN / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def media():
    """The real clips, which are not part of the product."""
    if not MEDIA.is_dir():
        pytest.skip(f"the real clips are not here: {MEDIA}")
    return MEDIA


@pytest.fixture(scope="session")
def ray_session(home):
    """One local Ray for all tests that need one: the engine uses the one that is there."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # The GPUs are pretended: Ray hands them out, and torch does not see them.
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, num_gpus=2, **quiet)
    yield ray
    ray.shutdown()


@pytest.fixture
def bucket(monkeypatch):
    """`s3://bucket/...` is kept in this process's memory: an object store to pyarrow, and nothing on the disk."""
    memory = fsspec.filesystem("memory")
    remote = pafs.PyFileSystem(pafs.FSSpecHandler(memory))

    names = {name: getattr(pafs, name) for name in ("LocalFileSystem", "FileSelector")}
    opened = SimpleNamespace(from_uri=lambda url: (remote, url.removeprefix("s3:/")))
    monkeypatch.setattr(store, "pafs", SimpleNamespace(**names, FileSystem=opened))
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.fixture(scope="session")
def full_size_weights(tmp_path_factory, golden_inputs):
    """A checkpoint of ViT-B/32's size, every value made from its name."""
    import torch

    from clip2video_pipe.models.clip2video import Clip2Video
    from clip2video_pipe.models.presets import PRESETS, Variant

    with torch.device("meta"):
        shapes = {name: tuple(v.shape) for name, v in Clip2Video(PRESETS["vit-b-32"], Variant()).state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "pytorch_model.bin.2"
    torch.save({name: torch.from_numpy(golden_inputs.array(name, shape)) for name, shape in shapes.items()}, path)
    return path
