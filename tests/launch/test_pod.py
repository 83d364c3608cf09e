import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from eegsr_jax import config
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.experiment import Experiment, trial_name
from launch.job import Job, Resources, Task
from launch.k8s import manifest
from launch.pod import files

SAVES_AT_SIGTERM = """
trap 'echo saved; exit 0' TERM
echo training
while :; do sleep 0.05; done
"""


class Pods:
    """Pods of one JobSet, as processes: what is mounted, a command in the place of Python's."""

    def __init__(self, documents, folder: Path, shell: str):
        self.folder, self.shell = folder, shell
        self.files, self.bin = folder / "etc", folder / "bin"
        self.bin.mkdir(parents=True)
        self.files.mkdir()
        for one in documents:
            for name, text in one.get("data", {}).items():  # of ConfigMaps
                (self.files / name).write_text(text)
        (replicated,) = documents[-1]["spec"]["replicatedJobs"]
        self.completions = replicated["template"]["spec"]["completions"]
        (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sh", "/etc/eegsr/run.sh"]
        self.variables = {item["name"]: item["value"] for item in container["env"]}

    def command(self, name, text):
        """A program that the pods find by its name."""
        program = self.bin / name
        program.write_text("#!/bin/sh\n" + textwrap.dedent(text))
        program.chmod(0o755)

    def python(self, text):
        """What training is; its $trials and $out are those of the command."""
        self.command(
            "python3",
            """
            echo "$@" "[${JOB_COMPLETION_INDEX-unset}]"
            for word in "$@"; do
              case $word in
                --config=*) config=${word#--config=};;
                --workdir=*) out=${word#--workdir=};;
              esac
            done
            trials=$(tr -d '[],"\n' < "$config")
            save() { for trial in $trials; do mkdir -p "$out/$trial/checkpoints/params"; done; }
            """
            + textwrap.dedent(text),
        )

    def start(self, index=0):
        own = {"PATH": f"{self.bin}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
        return subprocess.Popen(
            [self.shell, str(self.files / "run.sh")],
            env=os.environ | self.variables | own | {"TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, index=0):
        pod = self.start(index)
        said, _ = pod.communicate(timeout=600)
        return pod.returncode, said


@pytest.fixture
def out(tmp_path):
    """The sweep's folder, of a name that a shell would divide."""
    return tmp_path / "first sweep"


@pytest.fixture(params=["dash", "bash"])
def pods(request, tmp_path, out):
    """Pods of tasks of two trials each, in each shell that an image may call sh."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"no {request.param} here")

    def make(tasks=1, resources=Resources(), **others):
        out.mkdir()
        own = [a_task(tmp_path, number) for number in range(tasks)]
        job = Job(
            name="deep",
            out=out,
            store=out / "store",
            tasks=tuple(own),
            workers=8,
            resources=resources,
            **others,
        )
        options = {"image": "an", "claim": "shared", "mount": str(tmp_path)}
        return Pods(manifest([job], options), tmp_path / "pods", shell)

    return make


def a_task(folder, number=0):
    trials = (f"deep{number}a", f"deep{number}b")
    file = folder / f"1-{number:04}.json"
    file.write_text(json.dumps(trials, indent=1) + "\n")
    return Task(name=file.stem, file=file, trials=trials)


def until(there, seconds=30):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_trial_is_in_exactly_one_task(pods, out):
    own = pods(tasks=3)
    own.python('for trial in $trials; do echo "$trial" >> "$out/trained"; done; save')
    for index in range(own.completions):
        status, said = own.run(index)
        log = out / "logs" / f"1-000{index}.log"
        assert status == 0 and log.read_text() == said
        assert "-m eegsr_jax.commands.main train --sweep" in said
        assert f"--store={out}/store [unset]" in said
    trained = (out / "trained").read_text().split()
    assert sorted(trained) == sorted(f"deep{i}{x}" for i in range(3) for x in "ab")


def test_sigterm_reaches_the_command_and_is_no_success(pods, out):
    own = pods()
    own.python(SAVES_AT_SIGTERM)
    pod = own.start()
    log = out / "logs" / "1-0000.log"
    until(lambda: log.exists() and "training" in log.read_text())
    pod.send_signal(signal.SIGTERM)
    said, _ = pod.communicate(timeout=60)
    assert pod.returncode == 75 and said.endswith("training\nsaved\n")
    assert not list((out / "failed").iterdir())
    own.python("save")  # the pod in its place
    assert own.run()[0] == 0
    assert log.read_text().startswith(said)  # added to


def test_signals_until_it_is_saved_are_waited_for(pods, out):
    own = pods()
    own.python(
        "trap 'asked=yes' TERM; echo ready; until [ $asked ]; do sleep 0.05; done; sleep 1; save"
    )
    pod = own.start()
    log = out / "logs" / "1-0000.log"
    until(lambda: log.exists() and "ready" in log.read_text())
    for _ in range(3):
        pod.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert pod.wait(timeout=60) == 75  # its end is that of everything in it
    assert (out / "deep0a" / "checkpoints" / "params").is_dir()


@pytest.mark.parametrize("program", ["mkfifo", "tee"])
def test_a_signal_before_the_command_is_not_lost(pods, out, program):
    own = pods()
    own.python(SAVES_AT_SIGTERM)
    own.command(program, f'kill -TERM $PPID; exec {shutil.which(program)} "$@"')
    assert own.run()[0] == 75


@pytest.mark.parametrize("status", [1, 2, 137])
def test_a_crash_keeps_its_status_and_says_why(pods, out, status):
    own = pods()
    own.python(
        f'mkdir -p "$out/deep0a/checkpoints/params"; seq 30; echo "no memory"; exit {status}'
    )
    assert own.run()[0] == status
    (failed,) = (out / "failed").iterdir()  # of the trial that is not trained
    lines = failed.read_text().splitlines()
    assert failed.name == "deep0b.txt" and lines[0] == f"ended with status {status}"
    assert lines[-2:] == ["30", "no memory"] and len(lines) == 13
    own.python('ls "$out/failed"; save')  # begun again, it is not failed
    status, said = own.run()
    assert status == 0 and said.endswith("[unset]\n") and not list((out / "failed").iterdir())


def test_what_the_command_says_of_a_failure_is_kept(pods, out):
    own = pods()
    own.python(
        'save; rm -r "$out/deep0b"; echo "a flat channel" > "$out/failed/deep0b.txt"; exit 2'
    )
    assert own.run()[0] == 2
    (failed,) = (out / "failed").iterdir()
    assert failed.read_text() == "a flat channel\n"


@pytest.mark.parametrize("status", [1, 0])
def test_a_pack_that_crashes_is_begun_again_trial_by_trial(pods, out, status):
    own = pods(tasks=2)
    own.python(f"case $trials in *deep1a*deep1b*) exit 9;; *deep1a*) exit {status};; esac; save")
    assert own.run(0)[0] == 0 and not list((out / "failed").iterdir())
    assert own.run(1)[0] == 1
    assert [file.name for file in (out / "failed").iterdir()] == ["deep1a.txt"]
    assert (out / "deep1b" / "checkpoints" / "params").is_dir()


def test_bad_input_is_not_tried_again(pods, out):
    own = pods()
    own.python("exit 2")
    status, said = own.run()
    assert status == 2 and said.count("[unset]") == 1


def test_a_pack_that_is_tried_trial_by_trial_can_be_stopped(pods, out):
    own = pods()
    own.python("case $trials in *deep0a*deep0b*) exit 9;; esac" + SAVES_AT_SIGTERM)
    pod = own.start()
    until(lambda: (out / "logs" / "1-0000.log").exists())
    until(lambda: "training" in (out / "logs" / "1-0000.log").read_text())
    pod.send_signal(signal.SIGTERM)
    said, _ = pod.communicate(timeout=60)
    assert pod.returncode == 75 and said.count("[unset]") == 2  # the other trial is not begun
    assert not list((out / "failed").iterdir())


def test_an_end_that_nobody_asked_for_with_trials_left_is_a_failure(pods, out):
    own = pods()
    own.python("exit 0")
    status, said = own.run()
    assert status == 1 and "ended with status 0, and left deep0a deep0b" in said
    assert len(list((out / "failed").iterdir())) == 2


def test_its_hours_stop_a_task(pods, out):
    own = pods(hours=1 / 3600)
    own.python(SAVES_AT_SIGTERM)
    status, said = own.run()
    assert status == 75 and said.endswith("saved\n")


def test_hosts_wait_for_each_other_and_know_who_they_are(pods, out, tmp_path):
    own = pods(tasks=1, resources=Resources(hosts=2, gpus=4))
    own.python("save")
    own.command("sleep", f'echo slept >> "{tmp_path}/slept"')
    own.command(
        "getent",
        f'echo "$2" >> "{tmp_path}/asked"; [ $(wc -l < "{tmp_path}/asked") -gt 3 ] || exit 2',
    )
    name = "eegsr-deep-1-0000"
    for process in range(2):
        status, said = own.run(process)
        flags = f"--coordinator={name}-task-0-0.{name}:1234 --process={process} --processes=2"
        assert status == 0 and f"{flags} [unset]" in said
        log = out / "logs" / ("1-0000.log" if process == 0 else "1-0000.1.log")
        assert log.read_text() == said
    hosts = (tmp_path / "asked").read_text().split()
    assert hosts == [f"{name}-task-0-{i}.{name}" for i in (0, 0, 0, 0, 1, 0, 1)]
    assert (tmp_path / "slept").read_text().split() == ["slept"] * 3


def test_a_host_that_waits_for_others_can_be_stopped(pods, out, tmp_path):
    own = pods(tasks=1, resources=Resources(hosts=2))
    own.python("save")
    own.command("getent", f'touch "{tmp_path}/asked"; exit 2')
    own.command("sleep", "exec /bin/sleep 0.1")
    pod = own.start()
    until((tmp_path / "asked").exists)
    pod.send_signal(signal.SIGTERM)
    pod.communicate(timeout=60)
    assert pod.returncode == 75
    assert not (out / "deep0a").exists()


def test_a_host_that_ends_because_another_was_stopped_goes_on_later(pods, out):
    own = pods(tasks=1, resources=Resources(tpu="tpu-v6e-slice:4x4"))
    own.python("exit 0")  # saved at the same step as the others, and leaves trials
    status, said = own.run(2)
    assert status == 75 and "--coordinator" not in said  # JAX finds the hosts of a slice
    own.python("exit 3")
    assert own.run(2)[0] == 3
    assert not list((out / "failed").iterdir())  # the first host says why
    assert own.run(0)[0] == 3
    assert len(list((out / "failed").iterdir())) == 2


def test_a_task_whose_file_holds_others_is_refused(tmp_path):
    task = a_task(tmp_path)
    task.file.write_text(json.dumps(["deep0a"]))
    with pytest.raises(ConfigError, match="1-0000.json: 1 experiments, but the task has 2 trials"):
        files(task)


@pytest.mark.slow
def test_training_that_a_pod_saved_is_finished_by_the_pod_in_its_place(tmp_path, out):
    names = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
    sizes = {"num_subjects": 2, "seconds": 20.0, "sfreq": 80.0, "num_sources": 40}
    dataset = datasets.load("simulated", montage=names, **sizes)
    out.mkdir()
    prepare(dataset, out / "store", PREPROCESSING["none"], progress=False)
    small = "lags=2,resolution=3,components=4,widths=(2,),features=8,batch_size=4"
    experiment = Experiment(
        dataset="simulated",
        preprocessing=PREPROCESSING["none"],
        layout="Fp1,Fz,C3,C4,Pz,Oz",
        method=f"emag({small},epochs=40)",
        window_seconds=1.0,
        checkpoint_seconds=0.2,
    )
    run = out / trial_name(experiment)
    file = out / "1-0001.json"
    file.write_text(config.list_to_json([experiment]))
    task = Task(name=file.stem, file=file, trials=(run.name,))
    resources = Resources()
    job = Job(
        name="deep", out=out, store=out / "store", tasks=(task,), workers=1, resources=resources
    )
    options = {"image": "an", "claim": "shared", "mount": str(tmp_path)}
    own = Pods(manifest([job], options), tmp_path / "pods", "sh")
    own.variables |= {"PYTHONPATH": str(Path(__file__).parents[2]), "KUBERNETES_SERVICE_HOST": "a"}
    own.command("python3", f'exec {sys.executable} "$@"')
    pod = own.start()
    until((run / "checkpoints" / "progress").exists, 300)
    pod.send_signal(signal.SIGTERM)
    said, _ = pod.communicate(timeout=300)
    assert pod.returncode == 75, said
    assert not (run / "checkpoints" / "params").exists()
    status, said = own.run()
    assert status == 0, said
    assert (run / "checkpoints" / "params").is_dir()
