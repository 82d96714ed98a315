"""`deploy/rayjob.yaml`: the fields that KubeRay has, their types, and names that fit together."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from clip2video_pipe.pipeline.config import load_config

ROOT = Path(__file__).parents[2]


def mapping(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
METADATA = mapping(["name"], name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
CONTAINER = mapping(
    ["name", "image", "resources"],
    name=NAME,
    image=TEXT,
    ports={"type": "array", "items": mapping(["containerPort"], containerPort=COUNT, name={**NAME, "maxLength": 15})},
    env={"type": "array"},
    envFrom={"type": "array", "items": mapping(secretRef=mapping(["name"], name=NAME))},
    resources=mapping(["requests", "limits"], requests=TEXTS, limits=TEXTS),
    volumeMounts={
        "type": "array",
        "items": mapping(["name", "mountPath"], name=NAME, mountPath=TEXT, readOnly=FLAG),
    },
)
POD = mapping(
    ["spec"],
    metadata=mapping(labels=TEXTS, annotations=TEXTS),
    spec=mapping(
        ["containers"],
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        serviceAccountName=NAME,
        terminationGracePeriodSeconds=COUNT,
        tolerations={"type": "array", "items": mapping(key=TEXT, operator={"enum": ["Exists", "Equal"]}, effect=TEXT)},
        volumes={
            "type": "array",
            "items": mapping(
                ["name"],
                name=NAME,
                configMap=mapping(["name"], name=NAME),
                persistentVolumeClaim=mapping(["claimName"], claimName=NAME, readOnly=FLAG),
            ),
        },
    ),
)
GROUP = {"rayStartParams": TEXTS, "template": POD}  # rayStartParams: texts, also where they are numbers
# The parts of ray.io/v1 that are used, after KubeRay's rayjob_types.go and raycluster_types.go.
RAYJOB = mapping(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=mapping(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        rayClusterSpec=mapping(
            ["headGroupSpec"],
            rayVersion=TEXT,
            headGroupSpec=mapping(["rayStartParams", "template"], **GROUP),
            workerGroupSpecs={
                "type": "array",
                "items": mapping(
                    ["groupName", "rayStartParams", "template"],
                    groupName=NAME,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    **GROUP,
                ),
            },
        ),
    ),
)


@pytest.fixture(scope="module")
def documents(deploy):
    return list(yaml.safe_load_all((deploy / "rayjob.yaml").read_text()))


@pytest.fixture(scope="module")
def job(documents):
    return next(document for document in documents if document["kind"] == "RayJob")


@pytest.fixture(scope="module")
def groups(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_fields(job):
    jsonschema.validate(job, RAYJOB)
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate({**job, "spec": {**job["spec"], "shutdownAfterJobFinish": True}}, RAYJOB)


def test_start_parameters_are_options_of_ray_start(groups, parsed):
    for group in groups:
        parsed(["ray", "start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())])
    head, *workers = groups
    assert head["rayStartParams"]["num-cpus"] == "0" and workers


def test_names_within_a_pod(groups):
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        [container] = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_head_has_the_ports_that_kuberay_asks(groups):
    ports = {port["containerPort"] for port in groups[0]["template"]["spec"]["containers"][0]["ports"]}
    assert {6379, 8265} <= ports


def test_one_image_and_one_secret_for_all(groups):
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert len({container["image"] for container in containers}) == 1
    assert len({str(container["envFrom"]) for container in containers}) == 1


def test_workers_have_gpus_and_replicas_within_bounds(job):
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_ray_is_the_version_that_the_image_has(job):
    [pinned] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_config_is_one_and_lies_where_it_is_looked_for(documents, job, groups, parsed, tmp_path):
    files = next(document for document in documents if document["kind"] == "ConfigMap")
    asked = parsed(job["spec"]["entrypoint"])
    assert asked["address"] == "auto"
    name = asked["config"].name
    (tmp_path / name).write_text(files["data"][name])
    config = load_config(tmp_path / name, files=False)
    assert config.store.startswith("s3://")
    pod = groups[0]["template"]["spec"]
    [volume] = [
        volume["name"] for volume in pod["volumes"] if volume.get("configMap") == {"name": files["metadata"]["name"]}
    ]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts[volume] == str(asked["config"].parent)
    for group in groups:
        paths = [mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]]
        assert str(Path(config.model.checkpoint).parent) in paths, "every pod sees the weights"
