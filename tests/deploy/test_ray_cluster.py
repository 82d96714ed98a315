"""`deploy/ray-cluster.yaml` is what `ray up` takes."""

import json
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
