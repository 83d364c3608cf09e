"""Running stages: order, passes, padding, compiled programs, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import Method, MomentStage, gaussian, nearest, ridge
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import linear_apply
from eegsr_jax.training.loop import accumulate, fit, initial, jitted, nameless, solve

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C3 C4 Pz Oz".split()
TIME = 16


@pytest.fixture(scope="module")
def positions():
    return {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}


@pytest.fixture(scope="module")
def geometry(positions):
    return make_geometry(OBSERVED, NAMES, positions)


@pytest.fixture(scope="module")
def eeg():
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((12, 5))
    return np.einsum("cs,wst->wct", mixing, generator.standard_normal((10, 5, TIME))).astype(
        np.float32
    )


RIDGE = ridge((1e-3,))
PART = np.array([0, 0, 0, 0, 1, 0, 0, 1, 0, 1], np.int32)


def split(eeg, part, size):
    return lambda: [
        {"eeg": eeg[i : i + size], "part": part[i : i + size]} for i in range(0, len(eeg), size)
    ]


def counting_stage(start, update, solve):
    """A stage whose functions are counted each time they are traced."""
    traces = []

    def traced_update(params, sums, batch, geometry):
        traces.append(batch["eeg"].shape)
        return update(params, sums, batch, geometry)

    return MomentStage(start, traced_update, solve), traces


def two_stages():
    """A method in two steps: the mean of the data, then its power about that mean."""

    def init(key, geometry, window):
        return {"mean": jnp.zeros(()), "power": jnp.zeros(())}

    def total(params, geometry):
        return {"count": jnp.zeros(()), "total": jnp.zeros(())}

    def add(power):
        def update(params, sums, batch, geometry):
            kept = (batch["part"] >= 0)[:, None, None]
            value = (batch["eeg"] - params["mean"]) ** power
            return {
                "count": sums["count"] + jnp.sum(jnp.broadcast_to(kept, value.shape), dtype=float),
                "total": sums["total"] + jnp.sum(jnp.where(kept, value, 0.0)),
            }

        return update

    def keep(name):
        return lambda params, sums, geometry: params | {name: sums["total"] / sums["count"]}

    stages = tuple(counting_stage(total, add(p), keep(n)) for p, n in ((1, "mean"), (2, "power")))
    method = Method(
        "two", init, tuple(s for s, _ in stages), lambda params, g: params, linear_apply
    )
    return method, [traces for _, traces in stages]


def test_stages_run_in_order_with_one_pass_each(eeg, geometry):
    method, traces = two_stages()
    passes = []

    def batches():
        passes.append(True)
        yield from split(eeg + 3, PART, 4)()

    params = fit(method, geometry, batches)
    assert len(passes) == 2
    np.testing.assert_allclose(params["mean"], (eeg + 3).mean(), rtol=1e-5)
    np.testing.assert_allclose(params["power"], eeg.var(), rtol=1e-4)
    # 10 windows in batches of 4: the short last one is padded, so nothing is compiled again.
    assert traces == [[(4, 12, TIME)], [(4, 12, TIME)]]


def test_the_size_of_the_batches_changes_nothing(eeg, geometry):
    stage = RIDGE.stages[0]
    whole = accumulate(stage, None, geometry, split(eeg, PART, 10)())
    for size in (3, 4):
        sums = accumulate(stage, None, geometry, split(eeg, PART, size)())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), sums, whole)
    direct = mo.add(mo.zeros(12, 0), jnp.asarray(eeg), jnp.asarray(PART))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), whole, direct)


def test_fit_is_accumulate_then_solve(eeg, geometry):
    (stage,) = RIDGE.stages
    params = initial(RIDGE, geometry)
    sums = accumulate(stage, params, geometry, split(eeg, PART, 5)())
    by_hand = solve(stage, params, sums, geometry)
    fitted = fit(RIDGE, geometry, split(eeg, PART, 5))
    jax.tree.map(np.testing.assert_array_equal, by_hand, fitted)


def test_params_given_are_where_training_starts(eeg, geometry):
    method = gaussian(lags=0, prior_samples=1e6)
    start = method.init(None, geometry, None)
    other = start | {"covariance": jnp.eye(12)[None], "timeless": jnp.zeros(())}
    params = fit(method, geometry, split(eeg, PART, 5), params=other)
    np.testing.assert_allclose(params["covariance"][0], np.eye(12), atol=1e-2)
    assert (
        np.abs(
            params["covariance"][0] - fit(method, geometry, split(eeg, PART, 5))["covariance"][0]
        ).max()
        > 0.1
    )


def test_a_method_that_learns_nothing_is_its_initial_params(geometry):
    method = nearest()._replace(stages=())

    def batches():
        raise AssertionError("no pass is needed")

    params = fit(method, geometry, batches)
    jax.tree.map(np.testing.assert_array_equal, params, method.init(None, geometry, None))


def test_an_input_without_training_data_is_refused_by_name(positions, eeg):
    geometry = make_geometry(OBSERVED, [n for n in NAMES if n not in ("C4", "Oz")], positions)
    message = "observed channel C4 is not among the 10 channels.*ridge cannot learn.*leave it out"
    with pytest.raises(MethodError, match=message):
        fit(ridge(), geometry, split(eeg[:, :10], PART, 5))
    fixed = nearest()._replace(stages=())
    assert np.isinf(initial(fixed, geometry)["std"]).all()  # what learns nothing takes it


@pytest.mark.parametrize("kind", ["no batch", "padding only", "validation only", "NaN"])
def test_a_fit_that_is_not_finite_is_refused(kind, eeg, geometry):
    """Else the NaN would be met at reconstruction, hours later."""
    part = {"padding only": -1, "validation only": 1}.get(kind, 0) * np.ones(10, np.int32)
    x = np.where(np.arange(TIME) == 3, np.nan, eeg) if kind == "NaN" else eeg
    batches = (lambda: []) if kind == "no batch" else split(x, part, 5)
    with pytest.raises(MethodError, match="ridge.*training windows"):
        fit(RIDGE, geometry, batches)


def test_layouts_of_one_size_share_their_programs(positions, eeg):
    method, traced = ridge((1e-3,)), []
    (stage,) = method.stages

    def solve(params, sums, geometry):
        traced.append(geometry)  # runs when a program is made, not when it is run
        return stage.solve(params, sums, geometry)

    method = method._replace(stages=(stage._replace(solve=solve),))
    for observed in (OBSERVED, OBSERVED[::-1], ["Fz", "Cz", "P3", "P4", "F3"]):
        geometry = make_geometry(observed, NAMES, positions)
        params = fit(method, geometry, split(eeg, PART, 5))
        assert params["filters"].shape == (1, 12, 5)
        assert np.isfinite(params["filters"]).all()
    assert len(traced) == 1


def test_nameless_drops_the_names_and_nothing_else(geometry):
    bare = nameless(geometry)
    assert bare.observed_names == bare.target_names == ()
    for a, b in zip(jax.tree.leaves(bare), jax.tree.leaves(geometry), strict=True):
        assert a is b


def test_jitted_is_one_object_for_one_function():
    assert jitted(mo.moment_update) is jitted(mo.moment_update)
