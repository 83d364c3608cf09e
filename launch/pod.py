"""What a pod of Kubernetes runs: a shell script that trains a task, and how it ends."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

from eegsr_jax.errors import ConfigError
from launch.job import Job, Task

STOPPED = 75  # the task was stopped, and goes on later; EX_TEMPFAIL
GRACE = 120  # seconds from SIGTERM to SIGKILL; a save takes a few
_PORT = 1234  # of the first of several hosts

_SCRIPT = """\
# Trains the trials of one task; a stopped one has saved, and ends with status @STOPPED@.
here=$(dirname "$0")
out=@OUT@
index=$JOB_COMPLETION_INDEX
unset JOB_COMPLETION_INDEX  # JAX would take it for the number of a process
@TASK@

left() {  # trials that are not trained
  while read -r trial; do
    [ -d "$out/$trial/checkpoints/params" ] || echo "$trial"
  done < "$here/$task.txt"
}
run() {  # on a file of experiments
  @COMMAND@ >&3 2>&1 & train=$!
  [ -z "$stopped" ] || end  # asked a moment ago
  wait "$train"
  status=$?
  while kill -0 "$train" 2> /dev/null; do  # a signal ends a wait, not what it waits for
    wait "$train"
    status=$?
  done
  [ "$status" != 124 ] || stopped=yes  # of timeout: its hours are over
}

train= stopped=
end() {  # twice: a command that has just begun may lose the first
  kill -TERM "$train" 2> /dev/null
  { sleep 2; kill -TERM "$train"; } > /dev/null 2>&1 3>&- &
}
trap 'stopped=yes; [ -z "$train" ] || end' TERM
mkdir -p "$out/logs" "$out/failed" && pipe=$(mktemp -d)/pipe && mkfifo "$pipe" || exit 1
if [ "$process" = 0 ]; then
  for trial in $(left); do rm -f "$out/failed/$trial.txt"; done
fi
@WAIT@[ -z "$stopped" ] || exit @STOPPED@
exec 3<> "$pipe"  # to write alone would wait for a reader, and a signal end that
tee -a "$log" < "$pipe" 3>&- & tee=$!
run "$here/$task.json"
@LEFT@
exec 3>&-
wait "$tee"

[ -z "$stopped" ] || exit @STOPPED@
if [ "$status" != 0 ] && [ "$process" = 0 ]; then
  for trial in $(left); do
    why=$out/failed/$trial.txt
    [ ! -e "$why" ] || continue  # the command has said it
    { echo "ended with status $status"; tail -n 12 "$log"; } > "$why.new" && mv "$why.new" "$why"
  done
fi
exit "$status"
"""

# Indices are tasks. A pack that crashes is begun again trial by trial: one at fault fails alone.
_ONE_HOST = {
    "@TASK@": """\
task=$(sed -n "$((index + 1))p" "$here/tasks") process=0
log=$out/logs/$task.log""",
    "@LEFT@": """\
if [ "$status" != 0 ] && [ "$status" != 2 ] && [ "$(left | wc -l)" -gt 1 ]; then
  worst=0
  for trial in $(left); do
    [ -z "$stopped" ] || break
    run "$here/$task-$trial.json"
    [ "$status" = 0 ] || worst=$status
  done
  status=$worst
fi
if [ "$status" = 0 ] && [ -z "$stopped" ] && [ -n "$(left)" ]; then
  echo "ended with status 0, and left" $(left) >&3
  status=1  # nobody has asked it to
fi""",
    "@WAIT@": "",
}

# Indices are hosts of the task TASK: the signal may have reached another one.
_HOSTS = {
    "@TASK@": """\
task=$TASK process=$index
log=$out/logs/$task.log
[ "$process" = 0 ] || log=$out/logs/$task.$process.log""",
    "@LEFT@": """[ "$status" != 0 ] || [ -z "$(left)" ] || stopped=yes""",
    "@WAIT@": "",
}

# Processes wait 300 s for each other; hosts may take longer until they are there.
_WAIT = """\
peer=0
while [ "$peer" -lt @HOSTS@ ] && [ -z "$stopped" ]; do
  if getent hosts "$JOBSET-task-0-$peer.$JOBSET" > /dev/null
  then peer=$((peer + 1))
  else sleep 5
  fi
done
"""


def seen(job: Job, mount: Path, folder: str | None = None) -> Job:
    """The job with its folders as pods see them, which have a volume at `mount` and nothing else.

    Args:
      job: with the folders as they are here.
      mount: of the volume.
      folder: what OUT is there; the same as here if it is not said.

    Raises:
      ConfigError: a folder is not on the volume.
    """
    here, store = job.out.absolute(), job.store.absolute()
    out = Path(folder) if folder else here
    if not out.is_relative_to(mount):
        raise ConfigError(
            f"{out}: pods see the volume at {mount} and nothing else; take an OUT below {mount}, "
            f"or name the folder that is OUT there, as --k8s=folder={mount / here.name}"
        )
    if store.is_relative_to(here):
        store = out / store.relative_to(here)
    elif not store.is_relative_to(mount):
        raise ConfigError(f"store {store}: neither below OUT nor below {mount}; no pod sees it")
    return replace(job, out=out, store=store)


def files(task: Task) -> dict[str, str]:
    """What the script needs of a task: its trials, their experiments, and each of these by itself.

    Raises:
      ConfigError: the task's file holds others.
    """
    trials = "".join(f"{trial}\n" for trial in task.trials)
    text = task.file.read_text(encoding="utf-8")
    experiments = json.loads(text)
    if len(experiments) != len(task.trials):
        raise ConfigError(
            f"{task.file}: {len(experiments)} experiments, but the task has {len(task.trials)} "
            "trials; launch the sweep again"
        )
    found = {f"{task.name}.json": text, f"{task.name}.txt": trials}
    if len(experiments) > 1:
        for trial, own in zip(task.trials, experiments, strict=True):
            found[f"{task.name}-{trial}.json"] = json.dumps([own])
    return found


def script(job: Job, hosts: int, *, finds_others: bool) -> str:
    """The script for all tasks of a job.

    It reads, beside it, `tasks` (their names) and what `files` gives of each. Kubernetes says by
    JOB_COMPLETION_INDEX which task it is or, of several hosts, which host; these also have TASK and
    JOBSET, the name of the JobSet.

    Status 0: all trials are trained. 75: the task was stopped, by a signal to this pod or to that
    of another host, or by the job's hours. Others are those of the command; `failed/TRIAL.txt` of
    the sweep's folder says why, by the command or by the last lines of the log.

    Args:
      job: with the folders that pods see.
      hosts: of a task.
      finds_others: whether JAX finds the processes on the other hosts by itself, as on TPUs.
    """
    words = job.command(Path("@CONFIG@"), ["python3"])
    command = " ".join(shlex.quote(word) for word in words)
    command = command.replace("@CONFIG@", '"$1"')
    parts = dict(_ONE_HOST if hosts == 1 else _HOSTS)
    if hosts > 1 and not finds_others:
        parts["@WAIT@"] = _WAIT.replace("@HOSTS@", str(hosts))
        first = f'--coordinator="$JOBSET-task-0-0.$JOBSET:{_PORT}"'
        command += f' {first} --process="$process" --processes={hosts}'
    if job.hours is not None:
        command = f"timeout --kill-after={GRACE} {math.ceil(job.hours * 3600)} {command}"
    parts |= {"@COMMAND@": command, "@OUT@": shlex.quote(str(job.out)), "@STOPPED@": str(STOPPED)}
    text = _SCRIPT
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text
