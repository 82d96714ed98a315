"""The wheel holds all that a run needs, in the driver and in Ray's workers."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_from_the_wheel(project, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "artifacts", "build", "data", "tests")
    )
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run(build, check=True, cwd=source, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        "import sys; from clip2video_pipe.pipeline import cli; from importlib import resources;"
        "assert resources.files('clip2video_pipe.conf').joinpath('demo.yaml').is_file();"
        "print(cli.__file__, file=sys.stderr); sys.exit(cli.main(sys.argv[1:]))"
    )
    # What is on PYTHONPATH comes before the editable install, in the workers too.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code, "run", str(project.config), "--json", "--engine", "ray"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stderr
    assert json.loads(done.stdout)["metrics"]["text_to_video"]["queries"] == 12
