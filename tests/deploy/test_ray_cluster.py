"""`deploy/ray-cluster.yaml` is what `ray up` takes."""

import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml


@pytest.fixture(scope="module")
def cluster(deploy):
    return yaml.safe_load((deploy / "ray-cluster.yaml").read_text())


def test_rays_own_schema(cluster):
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "worker_ips": []}, schema)
    full = prepare_config(cluster)
    validate_config(full)
    [nodes] = full["available_node_types"].values()
    assert nodes["min_workers"] == nodes["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_commands_are_shell(cluster):
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in cluster[key]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_workers_look_for_the_head_where_it_is(cluster):
    head, worker = (" ".join(cluster[f"{who}_start_ray_commands"]) for who in ("head", "worker"))
    [port] = re.findall(r"--head --port=(\d+)", head)
    assert f"--address=$RAY_HEAD_IP:{port}" in worker
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head


def test_what_is_installed_is_what_is_sent(cluster):
    used = " ".join(cluster["setup_commands"])
    for place in cluster["file_mounts"]:
        assert f"{place}/" in used


@pytest.fixture
def set_up(cluster, tmp_path, monkeypatch):
    """Runs the setup commands that name a thing in a home of their own, with a pip that writes down its last words."""
    monkeypatch.setenv("HOME", str(tmp_path))
    pip = tmp_path / "clip2video-pipe" / "venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\necho "$@" >> ~/pip.txt\n')
    pip.chmod(0o755)

    def run(what):
        for command in cluster["setup_commands"]:
            if what in command:
                subprocess.run(["bash", "-c", command], check=True)

    return run


def test_the_newest_wheel_is_installed(set_up, tmp_path):
    dist = tmp_path / "clip2video-pipe" / "dist"
    dist.mkdir()
    for age, version in ((5, "1.9"), (1, "1.10"), (9, "1.8")):
        (dist / f"clip2video_pipe-{version}.whl").touch()
        os.utime(dist / f"clip2video_pipe-{version}.whl", (100 - age, 100 - age))
    set_up("dist")
    words = (tmp_path / "pip.txt").read_text().split()
    assert [word for word in words if word.endswith(".whl")] == [f"{dist}/clip2video_pipe-1.10.whl"] * 2


def test_what_ray_exec_runs_has_the_secrets(set_up, tmp_path):
    for _ in range(2):
        set_up(".bashrc")
    shell = ["bash", "-c", "source ~/.bashrc; env"]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stderr == ""
    (tmp_path / "clip2video-pipe" / "secrets.env").write_text("AWS_ACCESS_KEY_ID=key\n")
    said = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "AWS_ACCESS_KEY_ID=key" in said
    [path] = [line for line in said if line.startswith("PATH=")]
    assert path.count(f"{tmp_path}/clip2video-pipe/venv/bin") == 1
