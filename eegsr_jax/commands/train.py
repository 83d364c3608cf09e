"""Train a method and write a run directory.

eegsr train --config=configs/lagged_ridge_eegbci.py --workdir=RUN --set root=FOLDER --set subjects=1

`eegsr reconstruct --run=RUN` uses the result. Without --config: lagged ridge on the embedded
sample. Stopped by SIGTERM or by accident, the same command goes on where training was. An
experiment that names test data is scored on them (scores.json). With --sweep all trials of the
file's sweep() are trained together, each into a run directory of WORKDIR; a file of experiments in
JSON, as `launch` writes them, will do too, beside a --store that holds their recordings.
Started as several processes (under Slurm, Open MPI, Kubernetes or on a TPU pod as they are; by hand
with --coordinator, --process and --processes), it trains over the devices of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from eegsr_jax.evaluation.provenance import made_with
from eegsr_jax.evaluation.results import write_json
from eegsr_jax.evaluation.trial import SCORES, row_of
from eegsr_jax.training.experiment import (
    Experiment,
    check_store,
    is_tested,
    needs,
    one_method,
    refuse_idle_mesh,
)
from eegsr_jax.training.run import card_of, is_complete, refuse_finished, train
from eegsr_jax.training.sweep import FAILED, train_sweep

ARGUMENTS = ()


def define_flags() -> flags.FlagValues:
    """Which experiment, and where to."""
    values = flags.FlagValues()
    text = "A file of configs/: get_config() returns an Experiment; of a sweep, also a JSON array."
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
        return _swept(values, out, several)
    if values.config:
        experiment = config.load(values.config, changes)
    else:
        experiment = config.override(Experiment(), changes)
    mesh = _mesh(values, (experiment,), several)
    # A run that is trained and was killed before it was scored is scored.
    scored = is_tested(experiment) and not (out / SCORES).exists()
    if not scored:
        refuse_finished(out)
    store = prepared_store((experiment,), values.store or f"{out}_store")
    card = card_of(experiment, store)
    if not (scored and from_first(is_complete(out, card))):
        train(experiment, store, out, mesh=mesh)
    line = f"{out}: {experiment.method} on {len(card.recordings)} recordings of {store.dataset}"
    if is_tested(experiment):
        row = score(experiment, out, store)
        line += f"; missing NMSE {row['nmse_missing']:.4f} on test data"
    return line


def _swept(values: flags.FlagValues, out: Path, several: bool) -> str:
    """All trials of a file, and what was made."""
    path = required(values, "config")
    if Path(path).suffix == ".json":
        trials = config.load_list(Experiment, path)
        mesh, store = _mesh(values, trials, several), open_store(required(values, "store"))
        for trial in trials:
            check_store(trial, store)
    else:
        trials = config.load_sweep(path, values["set"].value or ())
        mesh = _mesh(values, trials, several)
        store = prepared_store(trials, values.store or f"{out}_store")

    def then(experiment: Experiment, folder: Path) -> None:
        if is_tested(experiment) and not from_first((folder / SCORES).exists()):
            score(experiment, folder, store)

    failed = train_sweep(trials, store, out, mesh=mesh, then=then)
    if failed:
        folder, why = next(iter(failed.items()))
        raise ConfigError(
            f"{out}: {len(failed)} of {len(trials)} trials have no result ({FAILED}/NAME.txt says "
            f"why); {folder.name}: {why}"
        )
    return f"{out}: {len(trials)} runs complete"


def _mesh(
    values: flags.FlagValues, experiments: Sequence[Experiment], several: bool
) -> Mesh | None:
    """The one that the experiments name; else, of several processes, all devices over "windows"."""
    chosen = {}
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise ConfigError(
                f"{values.config}: get_config() returned {type(experiment).__name__}; expected "
                "training.experiment.Experiment"
            )
        chosen |= dict([one_method(experiment.method)])  # told before hours of reading
        if experiment.mesh != experiments[0].mesh:
            raise ConfigError(f"{values.config}: sweep() changes mesh; sweep on one mesh")
    spec = experiments[0].mesh or (f"{WINDOWS}:{jax.device_count()}" if several else None)
    if spec is None:
        return None
    mesh = make_mesh(spec)
    refuse_idle_mesh(chosen.values())
    return mesh


def prepared_store(experiments: Sequence[Experiment], where: str | Path) -> Store:
    """All recordings that the experiments name, to train and to test on, prepared.

    Raises:
      ConfigError: they are of several data sets.
      EEGSRError: see `data.store.prepare`.
    """
    first = experiments[0]
    for experiment in experiments:
        for name in ("dataset", "root", "preprocessing"):
            if getattr(experiment, name) != getattr(first, name):
                raise ConfigError(f"sweep() changes {name}; sweep one data set")
    parts = {k: _union(experiments, k) for k in ("subjects", "sessions", "runs")}
    dataset = datasets.load(first.dataset, first.root, **parts)
    if is_first():
        prepare(dataset, where, first.preprocessing)
    from_first(None)  # the others wait
    return open_store(where)


def _union(experiments: Sequence[Experiment], name: str) -> tuple[str, ...] | None:
    found: list[str] = []
    for experiment in experiments:
        if (own := needs(experiment, name)) is None:
            return None  # one of them wants all
        found += own
    return tuple(dict.fromkeys(found))


def score(experiment: Experiment, folder: Path, store: Store) -> dict[str, Any]:
    """The scores of a run, which are written into it too; all processes call it together."""
    row = row_of(folder, experiment, store)
    if is_first():
        write_json(folder / SCORES, made_with(), [row])
    return row
