"""Train a method and write a run directory.

eegsr train --config=configs/lagged_ridge_eegbci.py --workdir=RUN --set root=FOLDER --set subjects=1

`eegsr reconstruct --run=RUN` uses the result. Without --config: lagged ridge on the embedded
sample. Stopped by SIGTERM or by accident, the same command goes on where training was. With --sweep
all trials of the file's sweep() are trained together, each into a run directory of WORKDIR.
Started as several processes (under Slurm, Open MPI, Kubernetes or on a TPU pod as they are; by hand
with --coordinator, --process and --processes), it trains over the devices of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from jax.sharding import Mesh

from eegsr_jax import config
from eegsr_jax.commands.prepare import required
from eegsr_jax.data import datasets
from eegsr_jax.data.store import Store, open_store, prepare
from eegsr_jax.distributed import (
    WINDOWS,
    ending_together,
    from_first,
    is_first,
    make_mesh,
    start_processes,
)
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.run import Experiment, one_method, refuse_finished, refuse_idle_mesh, train
from eegsr_jax.training.sweep import train_sweep

ARGUMENTS = ()


def define_flags() -> flags.FlagValues:
    """Which experiment, and where to."""
    values = flags.FlagValues()
    text = "A file of configs/: get_config() returns an Experiment."
    flags.DEFINE_string("config", None, text, flag_values=values)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE, as method=ridge.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run directory to make.", flag_values=values)
    text = "Train all trials of the file's sweep()."
    flags.DEFINE_bool("sweep", False, text, flag_values=values)
    text = "HOST:PORT of the first of several processes that are started by hand."
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_integer("processes", None, "How many they are.", flag_values=values)
    text = "Folder for prepared recordings; default: WORKDIR with _store at its end."
    flags.DEFINE_string("store", None, text, flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Prepares the recordings, trains, and says what was made."""
    several = start_processes(values.coordinator, values.process, values.processes)
    with ending_together():
        line = _trained(values, several)
        if is_first():
            print(line)


def _trained(values: flags.FlagValues, several: bool) -> str:
    """What was made, in a line."""
    out = Path(required(values, "workdir"))
    changes = values["set"].value or ()
    if values.sweep:
        trials = config.load_sweep(required(values, "config"), changes)
        mesh = _mesh(values, trials, several)
        store = _store(values, trials, out, mesh)
        folders = train_sweep(trials, store, out, mesh=mesh)
        return f"{out}: {len(folders)} runs, {folders[0].name} to {folders[-1].name}"
    if values.config:
        experiment = config.load(values.config, changes)
    else:
        experiment = config.override(Experiment(), changes)
    mesh = _mesh(values, (experiment,), several)
    store = _store(values, (experiment,), out, mesh)
    card = train(experiment, store, out, mesh=mesh)
    return f"{out}: {experiment.method} on {len(card.recordings)} recordings of {store.dataset}"


def _mesh(
    values: flags.FlagValues, experiments: Sequence[Experiment], several: bool
) -> Mesh | None:
    """The one that the experiments name; else, of several processes, all devices over "windows"."""
    chosen = {}
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise ConfigError(
                f"{values.config}: get_config() returned {type(experiment).__name__}; expected "
                "training.run.Experiment"
            )
        chosen |= dict(one_method(experiment.method))  # told before hours of reading
        if experiment.mesh != experiments[0].mesh:
            raise ConfigError(f"{values.config}: sweep() changes mesh; sweep on one mesh")
    spec = experiments[0].mesh or (f"{WINDOWS}:{jax.device_count()}" if several else None)
    if spec is None:
        return None
    mesh = make_mesh(spec)
    refuse_idle_mesh(chosen.values())
    return mesh


def _store(
    values: flags.FlagValues, experiments: Sequence[Experiment], out: Path, mesh: Mesh | None
) -> Store:
    """All recordings that the experiments name, prepared."""
    for experiment in experiments:
        for name in ("dataset", "root", "preprocessing"):
            if getattr(experiment, name) != getattr(experiments[0], name):
                raise ConfigError(f"{values.config}: sweep() changes {name}; sweep one data set")
    if not values.sweep:
        refuse_finished(out)
    parts = {k: _union(experiments, k) for k in ("subjects", "sessions", "runs")}
    first = experiments[0]
    dataset = datasets.load(first.dataset, first.root, **parts)
    where = values.store or f"{out}_store"
    if is_first():
        prepare(dataset, where, first.preprocessing)
    from_first(None)  # the others wait
    return open_store(where)


def _union(experiments: Sequence[Experiment], name: str) -> tuple[str, ...] | None:
    every = [getattr(experiment, name) for experiment in experiments]
    if not all(every):
        return None  # one of them wants all
    return tuple(dict.fromkeys(item for items in every for item in items))
