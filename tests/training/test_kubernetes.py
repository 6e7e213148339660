"""Manifests for a cluster: what must agree between their parts, and with the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.training.joining import TrainingOrder
from pipeline_lib.training.kubernetes import ClusterOptions, render

OPTIONS = ClusterOptions(name="docs-training", image="registry/raftline-gpu:1", gpus=8)


def order(**launch: Any) -> TrainingOrder:
    config = FinetuneConfig.model_validate(
        {
            "batch": {"global_batch_size": 32},
            "launch": {
                "num_nodes": 4,
                "num_processes": 8,
                "address": "elsewhere:1",
                "grace_seconds": 90,
                **launch,
            },
        }
    )
    dataset = ArtifactRef(kind="dataset", name="docs", fingerprint="d" * 32)
    return TrainingOrder(name="docs", config=config, dataset=dataset)


def objects(text: str) -> dict[str, Any]:
    """The objects of a manifest by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def order_in(made: dict[str, Any]) -> TrainingOrder:
    return TrainingOrder.model_validate_json(made["ConfigMap"]["data"]["training.json"])


def pod_of(made: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "job":
        return made["Job"]["spec"]["template"]["spec"]  # type: ignore[no-any-return]
    (replicated,) = made["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def running_of(made: dict[str, Any], kind: str) -> dict[str, Any]:
    """Where image, command and variables stand."""
    if kind == "job":
        return pod_of(made, kind)["containers"][0]  # type: ignore[no-any-return]
    return made["TrainJob"]["spec"]["trainer"]  # type: ignore[no-any-return]


def _different(given: Any, read: Any, place: str) -> list[str]:
    """Places of what is given and not the same, or not there, in what was read."""
    if isinstance(given, dict) and isinstance(read, dict):
        pairs = [(value, read.get(key), f"{place}.{key}") for key, value in given.items()]
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = [(*both, f"{place}.{at}") for at, both in enumerate(zip(given, read, strict=True))]
    else:
        return [] if given == read else [place]
    return [found for pair in pairs for found in _different(*pair)]


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_manifests_are_what_the_apis_know(kind: Any, gpus: int) -> None:
    """Read by the types that Kubeflow publishes, nothing is refused and no field is unknown."""
    from kubeflow_trainer_api import models

    types: dict[str, Any] = {
        "ConfigMap": models.IoK8sApiCoreV1ConfigMap,
        "Service": models.IoK8sApiCoreV1Service,
        "Job": models.IoK8sApiBatchV1Job,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
        "TrainJob": models.TrainerV1alpha1TrainJob,
    }
    made = objects(render(order(), OPTIONS.model_copy(update={"gpus": gpus}), kind))
    for name, document in made.items():
        read = types[name].from_dict(document).to_dict()  # with defaults of what is not there
        assert _different(document, read, name) == []


def test_an_indexed_job_has_a_pod_for_each_node_and_meets_at_the_first() -> None:
    made = objects(render(order(), OPTIONS, "job"))
    assert set(made) == {"ConfigMap", "Service", "Job"}
    spec = made["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (4, 4)
    # A pod's name in the headless service is <job>-<index>.<service>, where subdomain names it.
    assert order_in(made).config.launch.address == "docs-training-0.docs-training:29500"
    assert spec["template"]["spec"]["subdomain"] == made["Service"]["metadata"]["name"]
    assert made["Service"]["spec"]["clusterIP"] == "None"
    assert made["Service"]["spec"]["selector"] == {
        "batch.kubernetes.io/job-name": made["Job"]["metadata"]["name"]
    }


def test_a_train_job_names_its_runtime_and_meets_at_the_first_of_its_pods() -> None:
    made = objects(render(order(), OPTIONS, "trainjob"))
    assert set(made) == {"ConfigMap", "TrainingRuntime", "TrainJob"}
    for kind in ("TrainingRuntime", "TrainJob"):
        assert made[kind]["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    spec, runtime = made["TrainJob"]["spec"], made["TrainingRuntime"]
    assert spec["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": runtime["metadata"]["name"],
    }
    assert spec["trainer"]["numNodes"] == 4
    assert runtime["spec"]["mlPolicy"]["torch"] == {}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # What Kubeflow looks for: a job and a container 'node', and the label of the trainer.
    assert replicated["name"] == "node"
    labels = replicated["template"]["metadata"]["labels"]
    assert labels["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert pod_of(made, "trainjob")["containers"][0]["name"] == "node"
    address = "docs-training-node-0-0.docs-training:29500"
    assert order_in(made).config.launch.address == address


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_pods_run_the_order_with_credentials_by_reference_and_time_to_save(kind: Any) -> None:
    given = order()
    made = objects(render(given, OPTIONS, kind))
    running, pod = running_of(made, kind), pod_of(made, kind)
    assert running["image"] == "registry/raftline-gpu:1"
    assert running["command"] == ["raftline", "join"]
    variables = {each["name"]: each["valueFrom"] for each in running["env"]}
    assert variables["RAFTLINE_TRAINING"] == {
        "configMapKeyRef": {"name": "docs-training", "key": "training.json"}
    }
    assert variables["RAFTLINE_S3_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "raftline"
    assert pod["terminationGracePeriodSeconds"] >= 90
    assert pod["securityContext"]["runAsNonRoot"] is True
    memory = pod["volumes"][0]["emptyDir"]["medium"]
    assert (memory, pod["containers"][0]["volumeMounts"][0]["mountPath"]) == ("Memory", "/dev/shm")
    resources = running["resources" if kind == "job" else "resourcesPerNode"]
    assert resources["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": 8}
    placed = order_in(made)
    assert (placed.name, placed.dataset) == (given.name, given.dataset)
    assert placed.config.output_config() == given.config.output_config()


def test_a_cluster_needs_no_hostfile() -> None:
    made = objects(render(order(launcher="hostfile", hostfile="/etc/hosts.txt"), OPTIONS, "job"))
    launch = order_in(made).config.launch
    assert (launch.launcher, launch.hostfile) == ("torchrun", None)


def test_what_kubernetes_would_refuse_is_refused_here() -> None:
    with pytest.raises(ConfigError, match="'Docs_1' cannot name objects"):
        render(order(), OPTIONS.model_copy(update={"name": "Docs_1"}), "job")
    with pytest.raises(ConfigError, match="gets 4 GPUs, but runs 8 ranks"):
        render(order(), OPTIONS.model_copy(update={"gpus": 4}), "job")
    on_cpus = OPTIONS.model_copy(update={"gpus": 0})
    made = objects(render(order(), on_cpus, "job"))
    assert "nvidia.com/gpu" not in running_of(made, "job")["resources"]["limits"]
