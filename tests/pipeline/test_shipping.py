"""Code that is sent to a cluster: all of the package, and workers that have it from nowhere else."""

import tomllib
from pathlib import Path

from clip2video_pipe.pipeline.engines.shipping import runtime_env

ROOT = Path(__file__).parents[2]


def test_the_whole_package_is_sent():
    [sent] = map(Path, runtime_env(True)["py_modules"])
    assert sent.name == "clip2video_pipe"
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [name.split(".")[1:] for name in packaged["packages"]]
    expected = {path.relative_to(ROOT) for folder in folders for path in ROOT.joinpath(*folder).glob("*.py")}
    for name, patterns in packaged["package-data"].items():
        folder = ROOT.joinpath(*name.split(".")[1:])
        expected |= {path.relative_to(ROOT) for pattern in patterns for path in folder.glob(pattern)}
    assert {path.relative_to(sent) for path in sent.rglob("*") if path.is_file()} == expected


def test_nothing_is_sent_unless_asked_for():
    assert runtime_env(False) is None
