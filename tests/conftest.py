"""What all tests share: a home of their own, one Ray for the session, and a small dataset."""

import importlib.util
import os
from pathlib import Path

import pytest

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
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
