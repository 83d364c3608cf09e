"""A real Slurm of its own on this machine: accounting, a controller, and two nodes on loopback.

    with started() as cluster:
        cluster.ask("sbatch", "--wrap", "hostname")

All that it writes lies in one temporary folder, all ports are free ones, and whoever talks to it
sets SLURM_CONF: a Slurm that the machine has is not touched. Each node is a namespace of its own,
with its own process numbers, host name and hosts file. So a node can lose its power (`lose_power`),
and whatever ran on it is gone with it, as it is when this process ends in any way.

Wants root, and Debian's slurm-wlm, slurmdbd, munge and mariadb-server, or what is equal to them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = (
    "setpriv munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sbatch sacct".split()
)
NAMESPACES = "unshare --pid --mount --uts --fork --kill-child --mount-proc".split()
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

SLURM = """
ClusterName=eegsr
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
# JAX takes a port of the job's number: those of two clusters on one machine differ.
FirstJobId={first}
AuthType=auth/munge
# A job that was requeued waits for cred_expire, by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=30
MinJobAge=300
SlurmdTimeout=5
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=n1 NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=8000
NodeName=n2 NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 OverSubscribe=NO PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=60 OverSubscribe=NO PriorityTier=2
"""

ACCOUNTING = """
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
"""


def available() -> str | None:
    """Why Slurm cannot be started here, in a line; None where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return (
            f"no {', '.join(absent)} here: apt-get install slurm-wlm slurmdbd munge mariadb-server"
        )
    if os.geteuid() != 0:
        return "Slurm's daemons of the tests want root"
    found = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    return f"no namespaces here for nodes: {found.stderr.strip()}" if found.returncode else None


@dataclass
class Cluster:
    """A Slurm that runs.

    Attributes:
      folder: of all that it writes; `*.log` are its logs.
      environment: variables with which its commands, and what uses them, find it.
    """

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ask(self, *words: str | Path) -> str:
        """The output of a command of Slurm.

        Raises:
          RuntimeError: with what the command said.
        """
        found = subprocess.run(
            [str(word) for word in words],
            env=_environment() | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if found.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: {found.stderr or found.stdout}")
        return found.stdout

    def start_node(self, name: str) -> None:
        """Starts a node, or starts it again, and waits until it can be used."""
        own = f"hostname {name}; mount --bind {self.folder}/hosts /etc/hosts"
        self._start(name, *NAMESPACES, "sh", "-c", f"{own}; exec slurmd -D -N {name}")
        self._wait(lambda: self.node_state(name) in ("idle", "mixed"), f"{name} to be idle")

    def lose_power(self, name: str) -> None:
        """Ends a node and all that runs on it at once, without a word to anybody."""
        daemon = self.daemons.pop(name)
        daemon.kill()  # unshare, whose end takes the namespace's first process, and so all of it
        daemon.wait()

    def node_state(self, name: str) -> str:
        """As `sinfo` has it: idle, allocated, mixed, down…, with "*" where it does not answer."""
        return self.ask("sinfo", "--noheader", "--Node", "--nodes", name, "--format=%T").split()[0]

    def wait_for(self, done: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Asks until it is so.

        Raises:
          TimeoutError: with `what` was waited for, and how jobs and nodes stand.
        """
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                jobs = self.ask("squeue", "--states=all") + self.ask("sinfo", "--Node", "--long")
                raise TimeoutError(f"waited {seconds} s for {what}\n{jobs}")
            time.sleep(0.2)

    def end_of(self, job: str, seconds: float = 180) -> dict[str, str]:
        """Waits until a job or array has ended; how it did, of each element: "COMPLETED", …."""
        words = ("--noheader", f"--jobs={job}")

        def ended() -> bool:
            try:
                return not self.ask("squeue", *words)
            except RuntimeError as error:
                return "Invalid job id" in str(error)

        self.wait_for(ended, f"the end of {job}", seconds)
        columns = ("--allocations", "--parsable2", "--format=JobID,State,End")
        # The accounting hears of it a little later; of a requeued job, the last row counts.
        rows: dict[str, list[str]] = {}

        def told() -> bool:
            lines = self.ask("sacct", *words, *columns).splitlines()
            rows.update((cells[0], cells[1:]) for cells in (line.split("|") for line in lines))
            return bool(rows) and all(end != "Unknown" for _, end in rows.values())

        self.wait_for(told, f"the accounting of {job}")
        return {id: state.split()[0] for id, (state, _) in rows.items()}

    def _wait(self, done: Callable[[], object], what: str) -> None:
        """Until a daemon serves; its log is told where it does not."""
        end = time.monotonic() + 60
        while True:
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            try:
                if not dead and done():
                    return
            except (RuntimeError, IndexError):
                pass  # not yet
            if dead or time.monotonic() > end:
                logs = "\n".join(
                    f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}"
                    for log in sorted(self.folder.glob("*.log"))
                )
                raise RuntimeError(f"ended: {dead}; waited for {what}\n{logs}")
            time.sleep(0.1)

    def _start(self, name: str, *words: str | Path) -> None:
        """A daemon in the foreground, which is ended where this process is killed."""
        end = "KILL" if name in NODES else "TERM"  # unshare is deaf to SIGTERM
        with open(self.folder / f"{name}.out.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", end, *map(str, words)],
                env=_environment() | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is pytest's, which then ends them in order
            )

    def _stop(self) -> None:
        for name in reversed(list(self.daemons)):
            daemon = self.daemons.pop(name)
            if name in NODES:
                daemon.kill()
            else:
                daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def started() -> Iterator[Cluster]:
    """A Slurm, in two seconds; ended, and its folder deleted, with the context."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munged wants its socket to be reached by all
        own = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "sql.socket"),  # where slurmdbd looks for the database
            "PATH": PATH,
        }
        cluster = Cluster(folder, own)
        stack.callback(cluster._stop)
        _configure(folder)
        _start_all(cluster)
        yield cluster


def _environment() -> dict[str, str]:
    """This process's, without what another Slurm has said in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}


def _configure(folder: Path) -> None:
    names = ("controller", "accounting", *NODES)
    values = dict(zip(names, free_ports(len(names)), strict=True))
    values |= {"first": 1000 + secrets.randbelow(60_000)}
    values |= {"folder": folder, "host": socket.gethostname().partition(".")[0]}
    (folder / "slurm.conf").write_text(SLURM.format(**values))
    (folder / "slurmdbd.conf").write_text(ACCOUNTING.format(**values))
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    for secret in ("slurmdbd.conf", "munge.key"):
        (folder / secret).chmod(0o600)
    known = Path("/etc/hosts").read_text()
    (folder / "hosts").write_text(f"{known}\n127.0.0.1 {' '.join(NODES)}\n")
    for made in ("state", "sql", *(f"spool-{name}" for name in NODES)):
        (folder / made).mkdir()


def free_ports(number: int) -> list[int]:
    """Of loopback; all held until all are found, so that they differ."""
    with ExitStack() as stack:
        every = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in every:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in every]


def _start_all(cluster: Cluster) -> None:
    folder = cluster.folder
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    files |= {"seed-file": "seed"}
    cluster._start(
        "munged",
        *("munged", "--foreground", "--num-threads=2"),
        *(f"--{name}={folder}/munge.{end}" for name, end in files.items()),
    )
    cluster.ask(
        *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/sql"),
        *("--auth-root-authentication-method=socket", "--skip-test-db"),
    )
    cluster._start(
        "mariadbd",
        *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/sql"),
        *(f"--socket={folder}/sql.socket", "--skip-networking"),
        *(f"--pid-file={folder}/sql.pid", "--innodb-buffer-pool-size=64M"),
    )
    cluster._wait(lambda: (folder / "sql.socket").exists(), "the database")
    cluster._wait(lambda: (folder / "munge.socket").exists(), "munged")
    cluster._start("slurmdbd", "slurmdbd", "-D")
    cluster._wait(
        lambda: cluster.ask("sacctmgr", "--noheader", "show", "cluster") is not None, "accounting"
    )
    cluster._start("slurmctld", "slurmctld", "-D")
    cluster._wait(lambda: "UP" in cluster.ask("scontrol", "ping"), "the controller")
    for name in NODES:
        cluster.start_node(name)
