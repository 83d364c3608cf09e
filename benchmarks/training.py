"""Claim: a training step costs what one by hand in Flax and optax does; reading comes on top.

    python benchmarks/training.py [--quick] [--json FILE]

Each stage with gradients of `emag` and `srgdiff`, default sizes, 16 -> 64 electrodes, windows of
2 s of simulated EEG in a store on disk. Three ways to take a step (loss, gradients, clip, AdamW,
running average of the weights) at batches of several sizes:
  step      `training.gradient.step`, compiled, its batch on the device
  by hand   the same loss and optimiser in a `TrainState`, as a user would write it, taking turns
  loop      `training.gradient.train_stage`, at the stage's own batch size: windows read from the
            store and shuffled, metrics, epochs; seconds of an epoch over its steps; a few steps
            by hand between its epochs are what it is compared with
`waiting` is the share of the loop's time in which it waits for windows; the `knee` is the smallest
batch with nine tenths of the most windows a second.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import report
from flax.training.train_state import TrainState

from eegsr_jax import methods, throughput
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.store import prepare
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.training import gradient
from eegsr_jax.training.experiment import Experiment, prepared
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import initial, nameless, run_stage
from eegsr_jax.training.windows import StoreWindows
from eegsr_jax.typing import PyTree

METHODS = ("emag", "srgdiff")
WINDOWS, SFREQ, SECONDS = 192, 160.0, 2.0  # of training
STEPS = 1000  # that the schedules are told of
ROW = ("stage", "batch", "by")
Row = dict[str, Any]


def stored(folder: Path) -> tuple[StoreWindows, Geometry]:
    """Windows of simulated EEG on disk, and the electrodes."""
    share = Experiment().validate
    seconds = WINDOWS * SECONDS / (1 - share) + SECONDS
    simulated = datasets.load(
        "simulated", montage="biosemi64", num_subjects=1, seconds=seconds, sfreq=SFREQ
    )
    store = prepare(simulated, folder / "store", Preprocessing(), progress=False)
    return prepared(Experiment(layout="spread:16", window_seconds=SECONDS), store)


# ----------------------------------------------------------------------------------------- by hand


class Averaged(TrainState):
    """Flax's state, and a running average of the params."""

    average: Any = None


def by_hand(stage: GradientStage, state: Averaged, frozen: PyTree, batch, key, where):
    """The state after a step, and the loss."""
    keys = jax.random.split(jax.random.fold_in(key, state.step), len(batch["eeg"]))

    def loss(own):
        return stage.loss(frozen | own, batch | {"key": keys}, where)[0]

    value, gradients = jax.value_and_grad(loss)(state.params)
    state = state.apply_gradients(grads=gradients)
    average = optax.incremental_update(state.params, state.average, 1 - stage.average)
    return state.replace(average=average), value


# ---------------------------------------------------------------------------------------- the loop


class Watch(Journal):
    """Of every epoch: its seconds, those of waiting for windows, and of a step by hand after it."""

    def __init__(self, windows: StoreWindows, aside: Callable[[], float]):
        self.windows, self.aside, self.epochs = windows, aside, []
        self.begun, self.waited = time.perf_counter(), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.windows, name)

    def epoch(self, *told, **more) -> None:
        """Notes the times; what is done aside is not the loop's."""
        self.epochs.append((time.perf_counter() - self.begun, self.waited, self.aside()))
        self.begun, self.waited = time.perf_counter(), 0.0

    def shuffled(self, *given) -> Any:
        """The windows' own batches, timed."""
        return Watched(self, self.windows.shuffled(*given))


class Watched(Iterator):
    """Batches that are timed."""

    def __init__(self, watch: Watch, batches: Any):
        self.watch, self.batches = watch, batches
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self) -> Any:
        begin = time.perf_counter()
        batch = next(self.batches)
        self.watch.waited += time.perf_counter() - begin
        return batch


def loop(
    stage: GradientStage,
    params: PyTree,
    where: Geometry,
    windows: StoreWindows,
    epochs: int,
    aside: Callable[[], float],
) -> tuple[np.ndarray, float, np.ndarray]:
    """Seconds of a step in each epoch, the share of waiting for windows, seconds of `aside`."""
    unvalidated = dataclasses.replace(windows, validate=())
    watch: Any = Watch(unvalidated, aside)
    own = stage._replace(epochs=epochs + 1)
    gradient.train_stage(own, params, where, watch, jax.random.key(0), journal=watch)
    # The start is no epoch, and the first one compiles.
    seconds, waited, by_hand = np.array(watch.epochs[2:]).T
    return seconds / windows.steps(stage.batch_size), waited.sum() / seconds.sum(), by_hand


# ---------------------------------------------------------------------------------------- measured


def steps(
    stage: GradientStage, params: PyTree, where: Geometry, eeg: np.ndarray, hand: bool, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Callable[[], Any]]]:
    """Times and costs of a step on these windows by each way, and the calls."""
    batch, key = {"eeg": jnp.asarray(eeg)}, jax.random.key(0)
    if stage.derive is not None:
        keys = jax.random.split(jax.random.key(1), len(eeg))
        batch |= jax.jit(stage.derive)(params, batch | {"key": keys}, where)
    state = gradient.start(stage, params, STEPS)
    given: dict[str, tuple] = {"step": (state, params, batch, key, where)}
    run: dict[str, Any] = {"step": functools.partial(gradient.step, stage, STEPS)}
    if hand:
        tx, own = stage.optimizer(STEPS), state.params
        first: Any = Averaged.create(apply_fn=stage.loss, params=own, tx=tx, average=own)
        frozen = {name: x for name, x in params.items() if name not in own}
        given["by hand"] = first, frozen, batch, key, where
        run["by hand"] = functools.partial(by_hand, stage)
    made = {by: throughput.compiled(run[by], *given[by]) for by in run}
    calls = {by: functools.partial(made[by][0], *given[by]) for by in run}
    turns = {by: report.clock(call) for by, call in calls.items()}
    report.taking_turns(turns, 2)  # warms up
    found = report.taking_turns(turns, rounds)
    costs = {by: dataclasses.asdict(cost) for by, (_, cost) in made.items()}
    times = {by: report.measured(found[by]) | costs[by] for by in run}
    if hand:  # pairs of neighbours, as load comes and goes
        ratios = np.array(found["step"]) / np.array(found["by hand"])
        times["step"]["over_by_hand"] = float(np.median(ratios))
    return times, calls


def measure(
    name: str, windows: StoreWindows, geometry: Geometry, batches: tuple[int, ...], quick: bool
) -> tuple[list[Row], dict[str, float]]:
    """Rows of a method's stages with gradients, and how the loop compares."""
    method, where = methods.make(name), nameless(geometry)
    params = initial(method, geometry, jax.random.key(0))
    eeg, rows, headline = windows.load(0), [], {}
    for stage in method.stages:
        if not isinstance(stage, GradientStage):
            params = run_stage(stage, params, geometry, windows, jax.random.key(0))
            continue
        title, own, speeds, shape = f"{name}: {stage.name}", stage.batch_size, {}, eeg.shape[1:]
        for batch in batches:
            hand = batch == own or not quick
            found, calls = steps(stage, params, where, eeg[:batch], hand, 20)
            if batch == own:
                aside, epochs = report.clock(calls["by hand"], 3), 6 if quick else 20
                seconds, share, plain = loop(stage, params, where, windows, epochs, aside)
                # Against the steps by hand between its epochs: the machine's load is then the same.
                ratio = float(np.median(seconds / plain))
                found["loop"] = report.measured(seconds) | {"waiting": share, "over_by_hand": ratio}
                for by in ("step", "loop"):
                    headline[f"{title}, {by} over by hand"] = found[by]["over_by_hand"]
            for by, times in found.items():
                row = {"stage": title, "batch": batch, "by": by, "channels": shape[0]}
                row |= {"samples": shape[1], "dtype": "float32"} | times
                rows.append(row | {"windows_per_s": batch / times["median_s"]})
                print(report.line(row, ROW), flush=True)
            speeds[batch] = rows[-len(found)]["windows_per_s"]
        headline[f"{title}, knee, windows"] = throughput.knee(speeds)
    return rows, headline


def main() -> None:
    """Measure and print; write JSON when asked."""
    options = report.parser(__doc__).parse_args()
    batches = (4, 24, 96) if options.quick else (1, 2, 4, 8, 16, 24, 48, 96, 192)
    rows, headline = [], {}
    with tempfile.TemporaryDirectory() as place:
        windows, geometry = stored(Path(place))
        for name in METHODS:
            found, ratios = measure(name, windows, geometry, batches, options.quick)
            rows += found
            headline |= ratios
    columns, packages = ("windows_per_s", "over_by_hand", "waiting"), ("flax", "optax", "grain")
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=columns,
        packages=packages,
        headline=headline,
    )


if __name__ == "__main__":
    main()
