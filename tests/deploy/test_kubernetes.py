"""The PyTorchJob: its fields are those of kubeflow.org/v1, its numbers agree, its command is one that we know."""

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from torch.distributed.run import get_args_parser

from penjing.cli import app

FILE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "pytorchjob.yaml"
FIELDS = {
    "spec": {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"},
    "elasticPolicy": {
        "maxReplicas",
        "maxRestarts",
        "metrics",
        "minReplicas",
        "nProcPerNode",
        "rdzvBackend",
        "rdzvConf",
        "rdzvHost",
        "rdzvId",
        "rdzvPort",
        "standalone",
    },
    "runPolicy": {
        "activeDeadlineSeconds",
        "backoffLimit",
        "cleanPodPolicy",
        "managedBy",
        "schedulingPolicy",
        "suspend",
        "ttlSecondsAfterFinished",
    },
    "replica": {"replicas", "restartPolicy", "template"},
}
"""By Kubeflow's `pkg/apis/kubeflow.org/v1`, pytorch_types.go and common_types.go; others are refused or dropped."""


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


@pytest.fixture
def spec(documents) -> dict[str, Any]:
    return documents["PyTorchJob"]["spec"]


@pytest.fixture
def worker(spec) -> dict[str, Any]:
    return spec["pytorchReplicaSpecs"]["Worker"]


@pytest.fixture
def container(worker) -> dict[str, Any]:
    (container,) = worker["template"]["spec"]["containers"]
    return container


def test_its_fields_are_those_of_the_kind(documents, spec, worker):
    assert documents["PyTorchJob"]["apiVersion"] == "kubeflow.org/v1"
    assert set(spec) <= FIELDS["spec"]
    assert set(spec["elasticPolicy"]) <= FIELDS["elasticPolicy"]
    assert set(spec["runPolicy"]) <= FIELDS["runPolicy"]
    assert set(spec["pytorchReplicaSpecs"]) == {"Worker"}  # with an elastic policy, no Master: all are alike
    assert set(worker) <= FIELDS["replica"]
    assert worker["restartPolicy"] == "OnFailure"


def test_its_numbers_agree(spec, worker, container):
    """As many pods as the rendezvous waits for, as many GPUs as processes."""
    elastic = spec["elasticPolicy"]
    assert elastic["minReplicas"] <= worker["replicas"] <= elastic["maxReplicas"]
    assert elastic["maxReplicas"] == worker["replicas"] == 2
    processes = get_args_parser().parse_args(container["command"][1:]).nproc_per_node
    assert processes == spec["nprocPerNode"] == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert elastic["rdzvBackend"] == "c10d"


def test_its_command_is_ours(container):
    """Read by torchrun's own parser, and what torchrun leaves by that of `penjing run`."""
    assert container["name"] == "pytorch"  # the operator looks for it
    program, *arguments = container["command"]
    assert program == "torchrun"
    read = get_args_parser().parse_args(arguments)
    assert (read.module, read.training_script) == (True, "penjing")
    command, *settings = read.training_script_args
    known = typer.main.get_command(app).commands[command].make_context(command, settings).params
    assert known["recipe"].startswith("/shared/")
    assert str(known["out"]).startswith("/shared/")
    assert known["chat"] is False


def test_all_pods_share_a_volume_that_several_may_write(documents, worker, container):
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in worker["template"]["spec"]["volumes"]}
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/shared"] == "shared"
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert set(mounts.values()) == set(volumes)


def test_it_needs_no_rights(worker, container):
    """A user who is not root, no more rights than that, a file system that is read only but for the volumes."""
    pod = worker["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_that_must_go_has_time_to_save(worker, container):
    """torchrun waits for its processes for less time than Kubernetes waits for torchrun."""
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    patience = int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 60 <= patience < worker["template"]["spec"]["terminationGracePeriodSeconds"]
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
