"""What training will take, against what it takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from eegsr_jax.distributed import make_mesh
from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import make
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.throughput import Limits
from eegsr_jax.training.forecast import Task, forecast
from eegsr_jax.training.gradient import compiled_step, start
from eegsr_jax.training.loop import initial, nameless

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
TASK = Task(samples=24, train=42, validate=10, batch_size=16)
OPTIONS = {
    "emag": {"lags": 2, "resolution": 4, "components": 4, "widths": (2,), "features": 8},
    "emag_paper": {"samples": 24, "resolution": 4, "groups": 2, "init": "window"},
    "srgdiff_release": {
        **{"samples": 24, "widths": (6, 4), "latent": 4, "steps": 3, "units": 2, "blocks": 1},
        **{"taps": 2, "scales": 2},
    },
}


@pytest.fixture(scope="module")
def where():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    return make_geometry(NAMES[::2], NAMES, positions)


@pytest.mark.parametrize("name", ["lagged_ridge", *OPTIONS])
def test_it_is_what_training_takes(name, where):
    method = make(name, **OPTIONS.get(name, {}))
    stages = forecast(method, where, TASK)
    assert len(stages) == len(method.stages)
    params = initial(method, where, jax.random.key(0))
    for stage, found in zip(method.stages, stages, strict=True):
        if not isinstance(stage, GradientStage):
            assert (found.name, found.steps, found.batch) == ("closed form", 4, 16)
            continue
        state = start(stage, params, found.steps)
        trained = sum(x.size for x in jax.tree.leaves(state.params))
        assert (found.name, found.trained) == (stage.name, trained)
        assert found.steps == -(-42 // stage.batch_size) * stage.epochs
        batch = {"eeg": jnp.ones((stage.batch_size, len(NAMES), 24))}
        key, own = jax.random.key(0), nameless(where)
        if stage.derive is not None:
            keys = jax.random.split(key, stage.batch_size)
            batch |= stage.derive(params, batch | {"key": keys}, own)
        run = compiled_step(stage, found.steps, None)
        program = run.lower(state, params, batch, key, own).compile()
        memory, cost = program.memory_analysis(), program.cost_analysis()
        assert memory is not None and cost is not None
        assert found.step.argument_byte == memory.argument_size_in_bytes
        assert found.step.temporary_byte == pytest.approx(memory.temp_size_in_bytes, rel=0.01)
        # XLA takes some operations twice where that spares memory, and loops once.
        assert found.step.flop >= 0.5 * cost["flops"]
        assert found.once_flop > 0  # it validates


def test_times_are_a_span(where):
    (stage,) = forecast(make("lagged_ridge"), where, TASK)
    limit = Limits(flop=1e9, byte=1e8)
    step, whole = stage.step, stage.seconds(limit)
    least, most = step.seconds(limit)
    assert least == step.flop / 1e9 and most == least + step.byte / 1e8
    assert whole[0] == pytest.approx((stage.steps * step.flop + stage.once_flop) / 1e9)


def test_a_mesh_divides_the_work(where):
    method = make("emag", **OPTIONS["emag"], batch_size=8)
    (alone,), (spread,) = (
        [stage for stage in forecast(method, where, TASK, mesh) if stage.name != "closed form"]
        for mesh in (None, make_mesh("windows:2,gaussians:2"))
    )
    assert 0.25 * alone.step.flop <= spread.step.flop < 0.6 * alone.step.flop
    assert spread.step.argument_byte < alone.step.argument_byte
    assert spread.lies["windows"] == "4 of 8 windows"
    own, of = (int(n.replace(",", "")) for n in spread.lies["gaussians"].split()[:3:2])
    assert own < of == sum(x.size for x in jax.tree.leaves(initial(method, where)))
    with pytest.raises(MethodError, match="a batch of 8 windows does not divide among 3 devices"):
        forecast(method, where, TASK, make_mesh("windows:3"))
