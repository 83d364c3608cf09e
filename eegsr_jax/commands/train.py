"""Train a method and write a run directory.

eegsr train --config=configs/lagged_ridge_eegbci.py --workdir=RUN --set root=FOLDER --set subjects=1

`eegsr reconstruct --run=RUN` uses the result. Without --config: lagged ridge on the embedded
sample.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from eegsr_jax import config
from eegsr_jax.commands.prepare import required
from eegsr_jax.data import datasets
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.run import Experiment, train

ARGUMENTS = ()


def define_flags() -> flags.FlagValues:
    """Which experiment, and where to."""
    values = flags.FlagValues()
    text = "A file of configs/: get_config() returns an Experiment."
    flags.DEFINE_string("config", None, text, flag_values=values)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE, as method=ridge.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run directory to make.", flag_values=values)
    text = "Folder for prepared recordings; default: WORKDIR with _store at its end."
    flags.DEFINE_string("store", None, text, flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Prepares the recordings, trains, and says what was made."""
    out = Path(required(values, "workdir"))
    changes = values["set"].value or ()
    if values.config:
        experiment = config.load(values.config, changes)
    else:
        experiment = config.override(Experiment(), changes)
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"{values.config}: get_config() returned {type(experiment).__name__}; expected "
            "training.run.Experiment"
        )
    if out.exists():
        raise ConfigError(f"{out} exists; choose another --workdir, or delete it")
    chosen = {k: getattr(experiment, k) or None for k in ("subjects", "sessions", "runs")}
    dataset = datasets.load(experiment.dataset, experiment.root, **chosen)
    store = prepare(dataset, values.store or f"{out}_store", experiment.preprocessing)
    card = train(experiment, store, out)
    print(f"{out}: {experiment.method} on {len(card.recordings)} recordings of {store.dataset}")
