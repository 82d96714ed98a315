"""`run.ship_code`: two hosts that have what the package needs, and not the package."""

import json
import subprocess
import sys
import sysconfig
import venv

import pytest

from clip2video_pipe.stages.datasets.shapes import write_clips

HEAD = "10.77.0.1:6379"


@pytest.fixture
def bare(tmp_path):
    """A Python with all that is installed here, save this package."""
    folder = tmp_path / "bare"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # Only the path: the editable install's own .pth file is not read then.
    (folder / site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    look = "import ray, torch, importlib.util as u; print(u.find_spec('clip2video_pipe'))"
    found = subprocess.run([python, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    if found != "None\n":
        pytest.skip("the package is installed where its dependencies are, so nothing can be without it")
    return python


def test_workers_get_the_code_from_the_run(hosts, bare, tmp_path):
    head, worker = hosts
    head.ray("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=1", python=bare)
    worker.ray(f"--address={HEAD}", "--num-cpus=2", python=bare)
    write_clips(tmp_path, 6, 0, seconds=1.0, size=(96, 64), fps=10)
    config = tmp_path / "shipped.yaml"
    config.write_text(
        f"{{name: shipped, dataset: {{kind: table, path: {tmp_path}/clips.jsonl, root: {tmp_path}}}, "
        f"model: {{preset: tiny, seed: 0}}, run: {{shard_items: 2}}, store: {tmp_path}/artifacts}}"
    )
    words = ["-m", "clip2video_pipe.pipeline.cli", "run", config, "--json", "--address", HEAD]

    def run(*more):
        with head.popen(
            sys.executable, *words, *more, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            try:
                return running, *running.communicate(timeout=60)
            finally:
                running.kill()

    without, _, err = run()
    assert (without.returncode, len(err.splitlines())) == (1, 1) and "run.ship_code: true" in err
    shipped, out, err = run("--set", "run.ship_code=true")
    assert shipped.returncode == 0, err
    assert json.loads(out)["metrics"]["coverage"]["videos"]["ok"] == 6
