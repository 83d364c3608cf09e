import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eegsr_jax.errors import ConfigError
from launch.job import Job, Resources, Task
from launch.k8s import OPTIONS, manifest, write

ANNOTATIONS = 262_144  # bytes; kubectl apply keeps the whole object in one
ASKED = {"image": "registry.example/eegsr:1", "claim": "shared"}


@pytest.fixture
def make_job(tmp_path):
    """Jobs whose tasks have two trials each, and files that tell them apart."""

    def make(name="deep", tasks=3, *, launch=1, resources=None, workers=8, **others):
        out = tmp_path / "first sweep"
        (out / "tasks").mkdir(parents=True, exist_ok=True)
        made = []
        for number in range(tasks):
            task = f"{launch}-{number:04d}"
            file = out / "tasks" / f"{task}.json"
            trials = (f"{name}{number}a", f"{name}{number}b")
            file.write_text(json.dumps(trials, indent=1) + "\n")
            made.append(Task(name=task, file=file, trials=trials))
        return Job(
            name=name,
            out=out,
            store=out / "store",
            tasks=tuple(made),
            resources=resources or Resources(),
            workers=workers,
            **others,
        )

    return make


@pytest.fixture
def asked(tmp_path):
    """Options that mount a volume where the test's files are."""
    return ASKED | {"mount": str(tmp_path)}


def of_kind(documents, kind):
    return [one for one in documents if one["kind"] == kind]


def job_of(job_set):
    (replicated,) = job_set["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


def pod_of(job_set):
    return job_of(job_set)["template"]["spec"]


def container_of(job_set):
    (container,) = pod_of(job_set)["containers"]
    return container


KINDS = {
    "cores": Resources(cores=4, memory_gb=7.5),
    "gpu": Resources(gpus=1),
    "gpus on hosts": Resources(hosts=2, gpus=8),
    "tpu of a host": Resources(tpu="tpu-v5-lite-podslice:2x2"),
    "tpu slice": Resources(tpu="tpu-v6e-slice:4x4"),
}
EVERYTHING = {"folder": "/shared/sweeps/one", "mount": "/shared", "namespace": "lab"} | {
    "queue": "tpus",
    "service_account": "trainer",
    "nodes": "cloud.google.com/gke-spot=true,pool=a",
}


# ------------------------------------------------------------------------------------ the schema


@pytest.mark.parametrize("further", [{}, EVERYTHING], ids=["plain", "every option"])
@pytest.mark.parametrize("kind", KINDS)
def test_published_models_know_every_field_and_type(make_job, asked, kind, further):
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="no kubeflow-trainer-api, which has JobSet's models"
    )
    assert set(EVERYTHING) | set(ASKED) == set(OPTIONS)
    job = make_job(resources=KINDS[kind], environment=(("XLA_FLAGS", "1"),), hours=2)
    documents = manifest([job], asked | further)
    known = {"JobSet": models.JobsetV1alpha2JobSet, "ConfigMap": models.IoK8sApiCoreV1ConfigMap}
    for document in documents:
        assert known[document["kind"]].from_dict(document).to_dict() == document


def test_the_models_would_find_a_wrong_field(make_job, asked):
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="no kubeflow-trainer-api, which has JobSet's models"
    )
    (job_set,) = of_kind(manifest([make_job()], asked), "JobSet")
    job_of(job_set)["backoffLimitPerTask"] = 1
    assert models.JobsetV1alpha2JobSet.from_dict(job_set).to_dict() != job_set
    job_of(job_set)["completions"] = "3"
    with pytest.raises(ValueError, match="completions"):
        models.JobsetV1alpha2JobSet.from_dict(job_set)


@pytest.mark.parametrize("kind", KINDS)
def test_rules_that_the_schema_does_not_tell(make_job, asked, kind):
    # pkg/apis/batch/validation of Kubernetes, and the admission webhook of JobSet.
    documents = manifest([make_job(resources=KINDS[kind])], asked | EVERYTHING)
    for job_set in of_kind(documents, "JobSet"):
        job = job_of(job_set)
        assert job["completionMode"] == "Indexed" and pod_of(job_set)["restartPolicy"] == "Never"
        assert 1 <= job["parallelism"] <= job["completions"]
        assert ("backoffLimitPerIndex" in job) != ("backoffLimit" in job)
        rules = job["podFailurePolicy"]["rules"]
        assert len(rules) <= 20
        for rule in rules:
            assert len(rule.keys() & {"onExitCodes", "onPodConditions"}) == 1
            assert rule["action"] in {"FailIndex", "Ignore", "FailJob"}
            if rule["action"] == "FailIndex":
                assert "backoffLimitPerIndex" in job
            for condition in rule.get("onPodConditions", ()):
                assert condition["status"] == "True"  # a JobSet has no default for it
            values = rule.get("onExitCodes", {}).get("values", [1])
            assert values == sorted(set(values)) and 0 not in values
        for rule in job_set["spec"].get("failurePolicy", {}).get("rules", ()):
            assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        container = container_of(job_set)
        volumes = {volume["name"] for volume in pod_of(job_set)["volumes"]}
        assert volumes == {mount["name"] for mount in container["volumeMounts"]}
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for name, amount in limits.items():  # accelerators: a request is its limit by default
            assert requests.get(name, amount) == amount


@pytest.mark.parametrize(
    ("out", "name"), [("a", "b"), ("2026 EEG_sweep!", "Deep"), ("x" * 80, "y" * 80), ("Ä", "ö")]
)
@pytest.mark.parametrize("hosts", [1, 2])
def test_names_are_valid_and_others_at_each_launch(make_job, asked, tmp_path, out, name, hosts):
    names = set()
    for launch in (1, 2):
        job = make_job(launch=launch, tasks=2, resources=Resources(hosts=hosts))
        job = replace(job, name=name, out=tmp_path / out, store=tmp_path / "store")
        for one in manifest([job], asked):
            if one["kind"] == "JobSet":  # names of pods and, without their end, their hosts
                most = job_of(one)["completions"] - 1
                pod = f"{one['metadata']['name']}-task-0-{most}-abcde"
                assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", pod) and len(pod) <= 63
                env = {item["name"]: item["value"] for item in container_of(one)["env"]}
                assert env.get("JOBSET", one["metadata"]["name"]) == one["metadata"]["name"]
            labels = one["metadata"]["labels"]
            assert all(
                re.fullmatch("[a-z0-9]([-a-z0-9]{,61}[a-z0-9])?", x) for x in labels.values()
            )
            assert re.fullmatch("[a-z0-9]([-a-z0-9]{,61}[a-z0-9])?", one["metadata"]["name"])
            names.add((one["kind"], one["metadata"]["name"]))
    assert len(names) == (4 if hosts == 1 else 6)


# ------------------------------------------------------------------------------- what is asked for


def test_tasks_of_one_host_are_the_indices_of_one_job(make_job, asked):
    closed = make_job("closed", 5, workers=2, retries=4, resources=Resources(cores=2, processes=2))
    deep = make_job("deep", 1, launch=2, resources=Resources(gpus=2, memory_gb=16))
    documents = manifest([closed, deep], asked | {"nodes": "gpu=l4"})
    assert [one["kind"] for one in documents] == ["ConfigMap", "JobSet"] * 2
    first, second = of_kind(documents, "JobSet")
    job = job_of(first)
    assert (job["completions"], job["parallelism"], job["backoffLimitPerIndex"]) == (5, 2, 4)
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2]}},
    ]
    assert "failurePolicy" not in first["spec"]
    assert container_of(first)["resources"] == {"requests": {"cpu": "4"}, "limits": {}}
    assert "nodeSelector" not in pod_of(first)
    assert container_of(second)["resources"]["limits"] == {
        "memory": "16384Mi",
        "nvidia.com/gpu": "2",
    }
    assert pod_of(second)["nodeSelector"] == {"gpu": "l4"}
    assert pod_of(second)["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_a_task_of_several_hosts_is_a_job_set_of_its_own(make_job, asked):
    job = make_job(tasks=2, resources=Resources(hosts=3, gpus=8), retries=4)
    first, second = of_kind(manifest([job], asked), "JobSet")
    assert first["metadata"]["name"] != second["metadata"]["name"]
    for job_set, task in zip((first, second), job.tasks, strict=True):
        assert (job_of(job_set)["completions"], job_of(job_set)["parallelism"]) == (3, 3)
        assert job_of(job_set)["backoffLimit"] == 0
        assert {rule["action"] for rule in job_of(job_set)["podFailurePolicy"]["rules"]} == {
            "FailJob"
        }
        (rule,) = job_set["spec"]["failurePolicy"].pop("rules")
        assert job_set["spec"]["failurePolicy"] == {"maxRestarts": 4}
        assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        assert job_set["spec"]["network"]["enableDNSHostnames"] is True
        assert job_of(job_set)["template"]["metadata"]["labels"]["task"] == task.name
        assert "annotations" not in job_set["metadata"]


def test_a_tpu_slice_has_a_node_pool_to_itself(make_job, asked):
    resources = Resources(tpu="tpu-v5p-slice:2x2x4")
    (job_set,) = of_kind(manifest([make_job(tasks=1, resources=resources)], asked), "JobSet")
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    assert job_set["metadata"]["annotations"] == exclusive
    assert pod_of(job_set)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    assert container_of(job_set)["resources"]["limits"] == {"google.com/tpu": "4"}
    assert job_of(job_set)["completions"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imagee": "x"}, "--k8s=imagee: unknown; expected one of image, claim"),
        ({"image": ""}, "--k8s=image=… is missing: of the containers"),
        ({"claim": ""}, "--k8s=claim=… is missing"),
        ({"mount": "shared"}, "--k8s=mount=shared: expected a folder"),
        ({"mount": "/"}, "--k8s=mount=/:"),
        (
            {"mount": "/shared"},
            "first sweep: pods see the volume at /shared .*--k8s=folder=/shared/first",
        ),
        ({"folder": "/elsewhere/one"}, "/elsewhere/one: pods see the volume at"),
        ({"nodes": "spot"}, "--k8s=nodes=spot: expected LABEL=VALUE"),
    ],
)
def test_bad_options_are_refused_in_a_line(make_job, asked, change, said):
    with pytest.raises(ConfigError, match=said) as error:
        manifest([make_job()], asked | change)
    assert "\n" not in str(error.value)


def test_a_store_that_no_pod_sees_is_refused(make_job, asked):
    job = replace(make_job(), store=Path("/data/store"))
    with pytest.raises(ConfigError, match="store /data/store: neither below OUT nor below"):
        manifest([job], asked)


def test_more_tasks_of_several_hosts_than_may_run_need_a_queue(make_job, asked):
    job = make_job(tasks=3, workers=2, resources=Resources(hosts=2))
    with pytest.raises(
        ConfigError, match="deep: 3 tasks of 2 hosts each, 2 at a time.*--k8s=queue=NAME"
    ):
        manifest([job], asked)
    queued = of_kind(manifest([job], asked | {"queue": "lab"}), "JobSet")
    labels = [one["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for one in queued]
    assert labels == ["lab"] * 3
    assert len(of_kind(manifest([replace(job, workers=3)], asked), "JobSet")) == 3


def test_a_job_without_tasks_makes_nothing(make_job, asked):
    assert manifest([make_job(tasks=0)], asked) == []


# --------------------------------------------------------------------------------------- the files


def test_many_tasks_take_several_config_maps_that_kubectl_applies(make_job, asked):
    job = make_job(tasks=12)
    for task in job.tasks:
        task.file.write_text(json.dumps([task.name, "é" * 4_500]))
    documents = manifest([job], asked)
    maps = of_kind(documents, "ConfigMap")
    assert len(maps) > 1
    assert all(len(json.dumps(one)) < ANNOTATIONS for one in maps)
    assert all(re.fullmatch("[-._a-zA-Z0-9]+", key) for one in maps for key in one["data"])
    keys = [key for one in maps for key in one["data"]]
    assert len(keys) == len(set(keys)) == 4 * 12 + 2
    (job_set,) = of_kind(documents, "JobSet")
    (volume,) = [v["projected"] for v in pod_of(job_set)["volumes"] if "projected" in v]
    mounted = [source["configMap"]["name"] for source in volume["sources"]]
    assert mounted == [one["metadata"]["name"] for one in maps]


def test_a_task_that_no_config_map_holds_is_refused(make_job, asked):
    job = make_job(tasks=2)
    job.tasks[1].file.write_text(json.dumps(["x" * 150_000, "y"]))
    with pytest.raises(
        ConfigError, match="1-0001.json: 2 trials make 30.*fewer into a task, by --pack"
    ):
        manifest([job], asked)


class AsGo(yaml.SafeLoader):
    """Reads numbers as Kubernetes does: 1e3 is one."""


AsGo.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    list("-+.0123456789"),
)


def test_the_file_says_what_the_manifests_say(make_job, asked, tmp_path):
    environment = tuple((f"V{i}", v) for i, v in enumerate(["1e3", "true", "", "07", "a: b", "#"]))
    jobs = [
        make_job(environment=environment),
        make_job("big", launch=2, resources=KINDS["tpu slice"], hours=1.5),
    ]
    path = tmp_path / "jobset.yaml"
    write(path, jobs, asked)
    text = path.read_text()
    assert list(yaml.load_all(text, AsGo)) == manifest(jobs, asked)
    assert "run.sh: |\n" in text  # to be read by people
    with pytest.raises(ConfigError):
        write(path, jobs, asked | {"image": ""})
    assert path.read_text() == text and not list(tmp_path.glob(".jobset*"))
    write(path, jobs[:1], asked)  # a later launch
    assert list(yaml.safe_load_all(path.read_text())) == manifest(jobs[:1], asked)


def test_importing_it_loads_no_yaml():
    code = "import sys, launch.k8s; print(sorted({'yaml', 'kubernetes'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr
