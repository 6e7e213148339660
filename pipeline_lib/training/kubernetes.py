"""Kubernetes manifests of a training, from the same configuration that trains anywhere else.

Two kinds, with one container each that runs `raftline join` on every node:

- `trainjob`: a TrainJob of Kubeflow Trainer v2 (2.0 and later; trainer.kubeflow.org/v1alpha1), and
  a TrainingRuntime of its own with the policy of `torch-distributed`. A TrainJob alone can set
  neither the grace period nor shared memory, which NCCL needs more of than a container has.
- `job`: an Indexed Job and a headless Service, where Kubeflow is not installed.

Every node reads the same order (`TrainingOrder`) from a ConfigMap and takes its number from the
index that Kubernetes gives it. The object store's credentials come from a Secret, by reference.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.errors import ConfigError
from pipeline_lib.settings import Settings
from pipeline_lib.training.joining import TrainingOrder

Kind = Literal["trainjob", "job"]
ORDER_VARIABLE = "RAFTLINE_TRAINING"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in the pods of an Indexed Job, and so in those of a TrainJob."""

_PORT = 29500
_ORDER_KEY = "training.json"
_STORING_SECONDS = 40
"""On top of the ranks' grace: to upload what they have saved."""
_MAX_RESTARTS = 3
_USER = 10001
"""Of the worker images."""
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""RFC 1035, and short enough for the names that are made of it."""
_TRAINER = "trainer.kubeflow.org"
_NODE = "node"
"""What Kubeflow calls the container, and the job, that trains."""

Manifest = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, for people to read."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


class ClusterOptions(BaseModel):
    """What a cluster must know beyond the training itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the objects that are made."""
    image: str
    namespace: str | None = None
    gpus: int = Field(ge=0)
    """Per node."""
    cpus: str = "8"
    memory: str = "64Gi"
    shared_memory: str = "16Gi"
    """For NCCL between the ranks of a node; counts as memory."""
    credentials: str = "raftline"
    """A Secret; its keys are the names of the settings' variables (`RAFTLINE_S3_…`)."""


def render(order: TrainingOrder, options: ClusterOptions, kind: Kind) -> str:
    """The manifests as one YAML text for `kubectl apply -f`.

    Raises:
        ConfigError: the name is no name for Kubernetes, or the ranks outnumber the GPUs.
    """
    _check(order, options)
    host = f"{options.name}-{_NODE}-0-0" if kind == "trainjob" else f"{options.name}-0"
    placed = _meeting_at(order, f"{host}.{options.name}:{_PORT}")
    documents = [_config_map(placed, options)]
    documents += _train_job(placed, options) if kind == "trainjob" else _job(placed, options)
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False)


def _check(order: TrainingOrder, options: ClusterOptions) -> None:
    if not _NAME.fullmatch(options.name):
        raise ConfigError(
            f"{options.name!r} cannot name objects of Kubernetes",
            hint="At most 40 lower-case letters, digits and dashes, beginning with a letter.",
        )
    launch = order.config.launch
    if options.gpus and launch.num_processes != options.gpus:
        raise ConfigError(
            f"A node gets {options.gpus} GPUs, but runs {launch.num_processes} ranks "
            "(finetune.launch.num_processes)",
            hint="One rank runs on one GPU: make both the same, or give 0 GPUs to train on CPUs.",
        )


def _meeting_at(order: TrainingOrder, address: str) -> TrainingOrder:
    """The order with what the cluster decides: names, and no hosts to log in to."""
    launch = order.config.launch.model_copy(
        update={"address": address, "launcher": "torchrun", "hostfile": None}
    )
    config = order.config.model_copy(update={"launch": launch})
    return order.model_copy(update={"config": config})


def _metadata(options: ClusterOptions) -> Manifest:
    place = {"namespace": options.namespace} if options.namespace else {}
    return {
        "name": options.name,
        **place,
        "labels": {
            "app.kubernetes.io/name": "raftline",
            "app.kubernetes.io/component": "training",
            "app.kubernetes.io/instance": options.name,
        },
    }


def _config_map(order: TrainingOrder, options: ClusterOptions) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(options),
        "data": {_ORDER_KEY: order.model_dump_json(indent=1)},
    }


def _variables(options: ClusterOptions) -> list[Manifest]:
    """The order, and every setting of the object store that the Secret has."""
    names = [f"RAFTLINE_{name.upper()}" for name in Settings.model_fields if name.startswith("s3_")]
    order = {"configMapKeyRef": {"name": options.name, "key": _ORDER_KEY}}
    return [
        {"name": ORDER_VARIABLE, "valueFrom": order},
        *(
            {
                "name": name,
                "valueFrom": {
                    "secretKeyRef": {"name": options.credentials, "key": name, "optional": True}
                },
            }
            for name in (*names, "HF_TOKEN")
        ),
    ]


def _resources(options: ClusterOptions) -> Manifest:
    # Requests equal limits: a pod of this class is the last to be evicted.
    amounts: Manifest = {"cpu": options.cpus, "memory": options.memory}
    if options.gpus:
        amounts["nvidia.com/gpu"] = options.gpus
    return {"requests": amounts, "limits": dict(amounts)}


def _pod(order: TrainingOrder, options: ClusterOptions, container: Manifest) -> Manifest:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": order.config.launch.grace_seconds + _STORING_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": _NODE,
                **container,
                "ports": [{"containerPort": _PORT}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
            }
        ],
        "volumes": [
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory},
            }
        ],
    }


def _what_runs(options: ClusterOptions) -> Manifest:
    return {
        "image": options.image,
        "command": ["raftline", "join"],
        "env": _variables(options),
    }


def _job(order: TrainingOrder, options: ClusterOptions) -> list[Manifest]:
    num_nodes = order.config.launch.num_nodes
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(options),
        "spec": {
            "clusterIP": "None",
            # Node 0 looks itself up before it is ready.
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": options.name},
            "ports": [{"name": "rendezvous", "port": _PORT}],
        },
    }
    container = {**_what_runs(options), "resources": _resources(options)}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(options),
        "spec": {
            "completionMode": "Indexed",
            "completions": num_nodes,
            "parallelism": num_nodes,
            # One node that fails takes all along, and each of them counts.
            "backoffLimit": _MAX_RESTARTS * num_nodes,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",  # a pod that made room for another is no failure
                        "onPodConditions": [{"type": "DisruptionTarget"}],
                    }
                ]
            },
            "template": {
                "metadata": {"labels": _metadata(options)["labels"]},
                "spec": {"subdomain": options.name, **_pod(order, options, container)},
            },
        },
    }
    return [service, job]


def _train_job(order: TrainingOrder, options: ClusterOptions) -> list[Manifest]:
    metadata = _metadata(options)
    trainer = {
        **_what_runs(options),
        "numNodes": order.config.launch.num_nodes,
        "resourcesPerNode": _resources(options),
    }
    runtime = {
        "apiVersion": f"{_TRAINER}/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {
            **metadata,
            "labels": {**metadata["labels"], f"{_TRAINER}/framework": "torch"},
        },
        "spec": {
            "mlPolicy": {"numNodes": order.config.launch.num_nodes, "torch": {}},
            "template": {
                "spec": {
                    # A node that fails takes all along, so all start again, from a checkpoint.
                    "failurePolicy": {"maxRestarts": _MAX_RESTARTS},
                    "replicatedJobs": [
                        {
                            "name": _NODE,
                            "template": {
                                "metadata": {
                                    "labels": {f"{_TRAINER}/trainjob-ancestor-step": "trainer"}
                                },
                                "spec": {
                                    "backoffLimit": 0,
                                    "template": {
                                        "spec": _pod(order, options, {"image": options.image})
                                    },
                                },
                            },
                        }
                    ],
                }
            },
        },
    }
    job = {
        "apiVersion": f"{_TRAINER}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": _TRAINER,
                "kind": "TrainingRuntime",
                "name": options.name,
            },
            "trainer": trainer,
        },
    }
    return [runtime, job]
