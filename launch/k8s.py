"""Sweeps on Kubernetes: manifests for `kubectl apply`, of JobSets and the files of their tasks.

Nothing here talks to a cluster. Tasks of one host are the indices of one Indexed Job; a task of
several hosts is a JobSet of its own, since a Job that fails ends or restarts all of its JobSet, and
since Kueue admits a JobSet whole. Kubernetes 1.29 and JobSet 0.6 know every field that is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eegsr_jax.errors import ConfigError
from launch.job import Job, Task
from launch.pod import GRACE, STOPPED, files, script, seen
from launch.tpu import tpu_slice

OPTIONS = {
    "image": "of the containers; has python3 and eegsr_jax",
    "claim": "PersistentVolumeClaim that all pods mount, ReadWriteMany",
    "mount": "where they mount it; default /shared",
    "folder": "the sweep's folder as pods see it; default: OUT, which then lies below the mount",
    "namespace": "default: that of kubectl",
    "queue": "of Kueue",
    "service_account": "of the pods",
    "nodes": "labels of the nodes of tasks with GPUs or TPUs, as LABEL=VALUE,LABEL=VALUE",
}
FILES = "/etc/eegsr"
# kubectl apply keeps a second copy of an object in an annotation, and all those have 262144 bytes.
CONFIG_MAP_BYTES = 240_000
Manifest = dict[str, Any]


def write(path: Path, jobs: Sequence[Job], options: Mapping[str, str]) -> None:
    """The manifests as YAML, for `kubectl apply -f`; an earlier file of that name is replaced.

    Raises:
      ConfigError: see `manifest`.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # Kubernetes reads 1e3 as a number, PyYAML does not and would leave it bare.
        style = "|" if "\n" in value else "'" if value[:1] in "+-.0123456789" else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    documents = manifest(jobs, options)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with new.open("w", encoding="utf-8") as file:
        yaml.dump_all(documents, file, Dumper, sort_keys=False, width=1000)
    os.replace(new, path)


def manifest(jobs: Sequence[Job], options: Mapping[str, str]) -> list[Manifest]:
    """ConfigMaps of the jobs' task files, and the JobSets that train them.

    Args:
      jobs: whose task files are there; those without tasks make nothing.
      options: of `OPTIONS`.

    Raises:
      ConfigError: an option is unknown, missing or malformed; pods cannot see a folder; a TPU slice
        is unknown; a task file is too large; of several hosts, more tasks than may run at a time.
    """
    where = _place(options)
    documents = []
    for job in jobs:
        if not job.tasks:
            continue
        shape = _shape(job, where)
        maps = list(_config_maps(job, shape, where))
        documents += maps
        groups = [job.tasks] if shape.hosts == 1 else [(task,) for task in job.tasks]
        documents += [_job_set(job, tasks, shape, maps, where) for tasks in groups]
    return documents


# -------------------------------------------------------------------------------- what was asked


class _Place(NamedTuple):
    """The options, read."""

    image: str
    claim: str
    mount: Path
    nodes: dict[str, str]
    folder: str | None
    namespace: str | None
    queue: str | None
    service_account: str | None


def _place(options: Mapping[str, str]) -> _Place:
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"--k8s={unknown[0]}: unknown; expected one of {', '.join(OPTIONS)}")
    for name in ("image", "claim"):
        if not options.get(name):
            raise ConfigError(f"--k8s={name}=… is missing: {OPTIONS[name]}")
    mount = Path(options.get("mount", "/shared"))
    if not mount.is_absolute() or mount == Path("/"):
        raise ConfigError(f"--k8s=mount={mount}: expected a folder, as /shared")
    nodes = [item.partition("=") for item in options.get("nodes", "").split(",") if item]
    if not all(label and value for label, _, value in nodes):
        raise ConfigError(
            f"--k8s=nodes={options['nodes']}: expected LABEL=VALUE, as "
            "cloud.google.com/gke-accelerator=nvidia-l4"
        )
    labels = {label: value for label, _, value in nodes}
    plain = {k: options.get(k) for k in ("folder", "namespace", "queue", "service_account")}
    return _Place(options["image"], options["claim"], mount, labels, **plain)


class _Shape(NamedTuple):
    """What pods of a job take."""

    hosts: int
    limits: dict[str, str]
    requests: dict[str, str]
    nodes: dict[str, str]  # labels
    taints: tuple[str, ...]  # of nodes, which are no hindrance

    @property
    def is_tpu(self) -> bool:
        return "google.com/tpu" in self.limits


def _shape(job: Job, where: _Place) -> _Shape:
    own, hosts, limits, nodes = job.resources, job.resources.hosts, {}, {}
    requests = {"cpu": str(own.cores * own.processes)}
    if own.memory_gb is not None:
        requests["memory"] = limits["memory"] = f"{math.ceil(own.memory_gb * 1024)}Mi"
    if own.gpus:
        limits["nvidia.com/gpu"] = str(own.gpus)
    if own.tpu:
        slice_ = tpu_slice(own)
        hosts, limits["google.com/tpu"] = slice_.hosts, str(slice_.chips)
        nodes["cloud.google.com/gke-tpu-accelerator"] = slice_.accelerator
        nodes["cloud.google.com/gke-tpu-topology"] = slice_.topology
    if hosts > 1 and len(job.tasks) > job.workers and not where.queue:
        raise ConfigError(
            f"{job.name}: {len(job.tasks)} tasks of {hosts} hosts each, {job.workers} at a time: "
            "without a queue all would start, and could wait for each other's hosts; give "
            f"--k8s=queue=NAME of Kueue, or --workers={len(job.tasks)}"
        )
    asked = where.nodes if own.gpus or own.tpu else {}
    return _Shape(hosts, limits, requests, nodes | asked, tuple(asked))


# -------------------------------------------------------------------------------------- documents


def _name(*parts: str) -> str:
    """A name that Kubernetes takes, also with what it appends for Jobs and pods."""
    words = "-".join(("eegsr", *parts))
    name = re.sub("[^a-z0-9]+", "-", words.lower()).strip("-")
    if len(name) > 42:
        name = f"{name[:33].rstrip('-')}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
    return name


def _metadata(name: str, job: Job, where: _Place, **more: Any) -> Manifest:
    metadata = {"name": name, "labels": _labels(job)} | more
    return metadata | ({"namespace": where.namespace} if where.namespace else {})


def _labels(job: Job) -> dict[str, str]:
    return {"app": "eegsr", "sweep": _name(job.out.absolute().name).removeprefix("eegsr-")}


def _group_name(job: Job, tasks: Sequence[Task], hosts: int) -> str:
    """Of a JobSet; another at each launch, since a JobSet cannot be changed."""
    task = tasks[0].name
    return _name(job.name, task if hosts > 1 else task.partition("-")[0])


def _config_maps(job: Job, shape: _Shape, where: _Place) -> Iterator[Manifest]:
    """As few as hold the script, the tasks' names, and of each its file and its trials."""
    name = _group_name(job, job.tasks, 1)
    names = "".join(f"{task.name}\n" for task in job.tasks)
    run = script(seen(job, where.mount, where.folder), shape.hosts, finds_others=shape.is_tpu)
    maps = [{"run.sh": run, "tasks": names}]
    room = CONFIG_MAP_BYTES - len(json.dumps(maps[0]))
    for task in job.tasks:
        own = files(task)
        size = len(json.dumps(own))
        if size > CONFIG_MAP_BYTES:
            raise ConfigError(
                f"{task.file}: {len(task.trials)} trials make {size} bytes, and a ConfigMap that "
                f"kubectl applies has {CONFIG_MAP_BYTES}; put fewer into a task, by --pack"
            )
        if size > room:
            maps.append({})
            room = CONFIG_MAP_BYTES
        maps[-1] |= own
        room -= size
    for number, data in enumerate(maps):
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(f"{name}-{number}", job, where),
            "immutable": True,  # another sweep of the name is refused rather than mixed in
            "data": data,
        }


def _job_set(
    job: Job, tasks: Sequence[Task], shape: _Shape, maps: Sequence[Manifest], where: _Place
) -> Manifest:
    name, several = _group_name(job, tasks, shape.hosts), shape.hosts > 1
    more: Manifest = {}
    if several and shape.is_tpu:  # all hosts in one slice, and no other job's
        topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        more["annotations"] = {topology: "cloud.google.com/gke-nodepool"}
    metadata = _metadata(name, job, where, **more)
    if where.queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = where.queue
    spec: Manifest = {"network": {"enableDNSHostnames": several}}
    if several:
        spec["network"]["publishNotReadyAddresses"] = True
        again: Manifest = {"name": "stopped", "action": "RestartJobSetAndIgnoreMaxRestarts"}
        again["onJobFailureReasons"] = ["PodFailurePolicy"]
        spec["failurePolicy"] = {"maxRestarts": job.retries, "rules": [again]}
        policy: Manifest = {"backoffLimit": 0, "podFailurePolicy": {"rules": _stopped("FailJob")}}
        indices, at_a_time = shape.hosts, shape.hosts
    else:
        bad_input = {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2]}}
        rules = [*_stopped("Ignore"), bad_input]
        policy = {"backoffLimitPerIndex": job.retries, "podFailurePolicy": {"rules": rules}}
        indices, at_a_time = len(tasks), min(job.workers, len(tasks))
    policy |= {"completionMode": "Indexed", "completions": indices, "parallelism": at_a_time}
    variables = dict(job.environment) | {"PYTHONUNBUFFERED": "1"}
    labels = _labels(job)
    if several:
        variables |= {"JOBSET": name, "TASK": tasks[0].name}
        labels["task"] = tasks[0].name
    pod = {"metadata": {"labels": labels}, "spec": _pod(shape, maps, variables, where)}
    template = {"spec": policy | {"template": pod}}
    spec["replicatedJobs"] = [{"name": "task", "replicas": 1, "template": template}]
    kind = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
    return kind | {"metadata": metadata, "spec": spec}


def _stopped(action: str) -> list[Manifest]:
    """Rules for a pod whose node is taken away, or whose task was stopped: neither is a failure."""
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return [
        {"action": action, "onPodConditions": disrupted},
        {"action": action, "onExitCodes": {"operator": "In", "values": [STOPPED]}},
    ]


def _pod(
    shape: _Shape, maps: Sequence[Manifest], variables: Mapping[str, str], where: _Place
) -> Manifest:
    folders = {"shared": str(where.mount), "tasks": FILES}
    sources = [{"configMap": {"name": one["metadata"]["name"]}} for one in maps]
    volumes: list[Manifest] = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": where.claim}},
        {"name": "tasks", "projected": {"sources": sources}},
    ]
    if int(shape.limits.get("nvidia.com/gpu", 0)) > 1:  # GPUs of a host may talk through it
        folders["memory"] = "/dev/shm"
        volumes.append({"name": "memory", "emptyDir": {"medium": "Memory"}})
    container = {
        "name": "train",
        "image": where.image,
        "command": ["sh", f"{FILES}/run.sh"],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"requests": shape.requests, "limits": shape.limits},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in folders.items()],
    }
    pod: Manifest = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE}
    if shape.nodes:
        pod["nodeSelector"] = shape.nodes
    if shape.taints:  # spot nodes are often tainted with their own label
        pod["tolerations"] = [{"key": label, "operator": "Exists"} for label in shape.taints]
    if where.service_account:
        pod["serviceAccountName"] = where.service_account
    return pod | {"containers": [container], "volumes": volumes}
