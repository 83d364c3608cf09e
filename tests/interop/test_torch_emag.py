"""The authors' numbers: every switch, forwards and backwards, and three optimiser steps.

The golden arrays stand beside the real recordings; one small case is in the repository.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.interop import emag_data
from eegsr_jax.interop.torch_emag import (
    from_state_dict,
    original_forward,
    points,
    with_current_names,
)
from eegsr_jax.methods.emag_paper import SHAPE_PENALTY, encode, forward, loss

HERE = Path(__file__).parents[1] / "golden" / "emag"
CASES = (
    "published_config switch_default switch_covariance_spatial_3d_only "
    "switch_covariance_diagonal_4d switch_covariance_isotropic_scalar switch_offdiag_none "
    "switch_offdiag_spatial_only switch_offdiag_spacetime_only switch_cov_ablation_full "
    "switch_cov_ablation_no_spacetime_coupling switch_ld_conditioning_none "
    "switch_ld_conditioning_global_scalar switch_center_learnable switch_mixture_subset_random "
    "switch_mixture_subset_attention switch_operator_learned_linear "
    "switch_operator_learned_linear_rank4 switch_operator_leadfield_matrix switch_grid_cube "
    "switch_grid_surface"
).split()
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def load(file):
    """Arrays by name, configuration and state dict."""
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    state = {k.removeprefix("state/"): v for k, v in found.items() if k.startswith("state/")}
    return found, json.loads(str(found["config_json"])), state


@pytest.fixture(scope="module")
def tiny():
    return load(HERE / "tiny.npz")


def close(found, golden, dtype, name=""):
    """Relative L2 error below the tolerance; exact zeros where the golden array is all zeros."""
    found = np.asarray(found)
    assert found.shape == golden.shape and found.dtype == dtype
    if golden.any():
        error = np.linalg.norm(found.astype(np.float64) - golden) / np.linalg.norm(golden)
        assert error < TOLERANCE[dtype], f"{name}: {error}"
    else:
        assert not found.any(), name


def compare(arrays, config, state, dtype):
    names = [k.removeprefix("grad/") for k in arrays if k.startswith("grad/")]
    assert names

    def loss(parameters, x_ld):
        out = original_forward(
            state | parameters,
            config,
            t=arrays["t"],
            x_ld=x_ld,
            electrode_positions_mm=arrays["electrode_positions_mm"],
            dtype=dtype,
        )
        return jnp.sum(out * jnp.asarray(arrays["g"], dtype)), out

    parameters = {name: jnp.asarray(state[name], dtype) for name in names}
    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (gradients, by_input), out = step(parameters, jnp.asarray(arrays["x_ld"], dtype))
    close(out, arrays["out"], dtype, "out")
    close(by_input, arrays["grad_x_ld"], dtype, "x_ld")
    for name in names:
        close(gradients[name], arrays[f"grad/{name}"], dtype, name)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_small_case(tiny, dtype):
    with jax.enable_x64(dtype == "float64"):
        compare(*tiny, dtype)


@pytest.mark.parametrize("case", CASES)
def test_every_switch_in_float32(golden, case):
    compare(*load(golden / "emag" / f"{case}.npz"), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_switch_in_float64(golden, case):
    with jax.enable_x64(True):
        compare(*load(golden / "emag" / f"{case}.npz"), "float64")


def test_no_golden_case_is_forgotten(golden):
    found = {file.stem for file in (golden / "emag").glob("*.npz")}
    assert found == {*CASES, "tiny", "helpers", "training_steps"}


def test_intermediate_values(tiny):
    """Encoder, modulator, weights, and the output without any input."""
    from eegsr_jax.gaussians.precision import field
    from eegsr_jax.gaussians.render import affine
    from eegsr_jax.interop.torch_emag import modulation, parameters

    arrays, config, state = tiny
    with jax.enable_x64(True):
        state = {k: jnp.asarray(v, jnp.float64) for k, v in state.items() if v.dtype == np.float32}
        x = jnp.asarray(arrays["x_ld"], jnp.float64)
        encoder = {
            name: {"kernel": state[f"{layer}.weight"], "bias": state[f"{layer}.bias"]}
            for name, layer in (("first", "ld_encoder.0"), ("second", "ld_encoder.2"))
        }
        close(encode(encoder, x), arrays["debug/features"], "float64")
        features, weights, _ = modulation(state, config, x)
        close(affine(features, weights), arrays["debug/modulation"], "float64")
        positions = jnp.asarray(arrays["electrode_positions_mm"], jnp.float64)
        seen = field(positions, **parameters(state, config))
        tau = (arrays["t"] / 200)[:, None, None, None] - np.asarray(seen.time)
        a, c, d = (np.asarray(x) for x in (seen.distance, seen.coupling, seen.rate))
        w = np.exp(-0.5 * (a + 2 * tau * c + tau**2 * d))
        close(w.swapaxes(2, 3).reshape(5, 3, 14), arrays["debug/weights"], "float64")
        alone = original_forward(
            state,
            config,
            t=arrays["t"],
            x_ld=None,
            electrode_positions_mm=positions,
            dtype="float64",
        )
        close(alone[0], arrays["debug/out_without_input"], "float64")


def test_names_of_older_checkpoints(tiny):
    _, _, state = tiny
    new = state["chol_off_diag"]
    old = {k: v for k, v in state.items() if k != "chol_off_diag"}
    old |= {"chol_off_diag_spatial": new[:, :3], "chol_off_diag_temporal": new[:, 3:]}
    np.testing.assert_array_equal(with_current_names(old)["chol_off_diag"], new)
    assert set(with_current_names(old)) == set(state)


def test_points_of_a_subset_without_the_buffer(golden):
    """Drawn from the seed they are those that the checkpoint carries."""
    _, config, state = load(golden / "emag" / "switch_mixture_subset_random.npz")
    np.testing.assert_array_equal(points({}, config), points(state, config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forward_operator": "direct_electrode_mlp"}, "direct_electrode_mlp.*gaussian_splat"),
        ({"grid_type": "ball"}, "'ball', 'volume'.*sphere"),
        ({"ld_conditioning": "free"}, "'free'.*global_scalar"),
        ({"covariance_mode": "full"}, "covariance 'full' is unknown.*full_4d"),
        ({"cov_ablation": "some"}, "off 'some' is unknown"),
        ({"center_mode": "learnable"}, "no entry 'centers'; it has active_grid_idx, amplitude"),
    ],
)
def test_what_cannot_be_is_named(tiny, change, words):
    arrays, config, state = tiny
    with pytest.raises(ConfigError, match=words):
        original_forward(
            state,
            config | change,
            t=arrays["t"],
            x_ld=arrays["x_ld"],
            electrode_positions_mm=arrays["electrode_positions_mm"],
        )


def test_float64_is_not_given_in_float32(tiny):
    arrays, config, state = tiny
    with pytest.raises(ConfigError, match="'float64'.*enable_x64"):
        original_forward(
            state, config, t=arrays["t"], x_ld=None, electrode_positions_mm=0, dtype="float64"
        )


# ------------------------------------------------------------------------------- as a method


def published(golden):
    """Its 40 samples are every 20th of a 200-Hz window: all of a 10-Hz one."""
    arrays, config, state = load(golden / "emag" / "published_config.npz")
    return arrays, config | {"sampling_rate": 10}, state


def compare_as_a_method(arrays, config, state, dtype):
    """The golden output, and `original_forward` on standardised windows, by plan and apply."""
    x = jnp.asarray(arrays["x_ld"], dtype)
    method, params, geometry = from_state_dict(state, config, samples=x.shape[-1], dtype=dtype)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    out = forward(params, x, geometry, method.sfreq, config["covariance_mode"])
    close(out.swapaxes(1, 2), arrays["out"], dtype, "out")

    standard = jnp.asarray(emag_data.zscore(np.asarray(x, np.float64)), dtype)
    theirs = original_forward(
        state,
        config,
        t=np.arange(x.shape[-1]),
        x_ld=standard,
        electrode_positions_mm=arrays["electrode_positions_mm"],
        dtype=dtype,
    )
    plan = jax.jit(method.plan)(params, geometry)
    for unit in (1.0, 1e-5):  # standardised; volts
        mean, std = jax.jit(method.apply)(plan, unit * standard, None)
        close(mean.swapaxes(1, 2) / unit, np.asarray(theirs), dtype, f"as a method, {unit}")
        assert np.isinf(std).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_small_case_as_a_method(tiny, dtype):
    arrays, config, state = tiny
    with jax.enable_x64(dtype == "float64"):  # its 5 samples are every 20th
        compare_as_a_method(arrays, config | {"sampling_rate": 10}, state, dtype)


def test_the_published_configuration_as_a_method(golden):
    compare_as_a_method(*published(golden), "float32")


@pytest.mark.parametrize(
    "case",
    (
        "switch_default switch_covariance_spatial_3d_only switch_covariance_diagonal_4d "
        "switch_offdiag_none switch_offdiag_spatial_only switch_cov_ablation_full "
        "switch_cov_ablation_no_spacetime_coupling switch_grid_cube"
    ).split(),
)
def test_switches_as_a_method(golden, case):
    arrays, config, state = load(golden / "emag" / f"{case}.npz")
    standard = emag_data.zscore(arrays["x_ld"])
    method, params, geometry = from_state_dict(state, config, samples=standard.shape[-1])
    theirs = original_forward(
        state,
        config,
        t=np.arange(standard.shape[-1]),
        x_ld=standard,
        electrode_positions_mm=arrays["electrode_positions_mm"],
    )
    mean = method.apply(method.plan(params, geometry), standard, None).mean
    close(mean.swapaxes(1, 2), np.asarray(theirs), "float32", case)


@pytest.mark.parametrize(
    ("case", "switch"),
    [
        ("covariance_isotropic_scalar", "covariance_mode 'isotropic_scalar'"),
        ("offdiag_spacetime_only", "offdiag_mode 'spacetime_only'"),
        ("ld_conditioning_none", "ld_conditioning 'none'"),
        ("ld_conditioning_global_scalar", "ld_conditioning 'global_scalar'"),
        ("center_learnable", "center_mode 'learnable'"),
        ("mixture_subset_random", "mixture_assignment 'subset_random'"),
        ("mixture_subset_attention", "mixture_assignment 'subset_attention'"),
        ("operator_learned_linear", "forward_operator 'learned_linear'"),
        ("operator_learned_linear_rank4", "forward_operator 'learned_linear'"),
        ("operator_leadfield_matrix", "forward_operator 'leadfield_matrix'"),
        ("grid_surface", "grid_support 'surface'"),
    ],
)
def test_a_switch_that_the_method_lacks_is_named(golden, case, switch):
    _, config, state = load(golden / "emag" / f"switch_{case}.npz")
    with pytest.raises(ConfigError, match=f"{switch} is nothing .*original_forward"):
        from_state_dict(state, config)


def test_what_neither_state_nor_config_holds(tiny):
    _, config, state = tiny
    method, _, geometry = from_state_dict(state, config)
    assert (method.window, method.sfreq) == (800, 200.0)
    assert from_state_dict(state, config | {"sampling_rate": 8000})[0].window == 2081
    np.testing.assert_array_equal(geometry.observed_index, [-1] * 4)
    assert np.isnan(geometry.observed).all() and geometry.observed.shape == (4, 3)
    np.testing.assert_allclose(1e3 * geometry.target, state["electrode_pos"], rtol=1e-6)
    for given in ({"channel_indices": "2,0,1,1"}, {"channel_indices": [2, 0, 1, 1]}):
        known = from_state_dict(state, config | given)[2]
        np.testing.assert_array_equal(known.observed, geometry.target[np.array([2, 0, 1, 1])])
    known = from_state_dict(state, config | given, observed_index=[0, 1, 2, 0])[2]
    np.testing.assert_array_equal(known.observed_index, [0, 1, 2, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grid_resolution": 4}, "14 amplitudes; 2 Gaussians at each of the 8 points"),
        ({"grid_type": "ball"}, "grid 'ball'; expected one of sphere, cube"),
        ({"channel_indices": "0,1,2"}, r"observed_index \[0, 1, 2\]: expected 4 places among 3"),
        ({"channel_indices": [0, 1, 2, 3]}, "expected 4 places among 3 electrodes"),
    ],
)
def test_what_does_not_fit_is_named(tiny, change, words):
    _, config, state = tiny
    with pytest.raises(ConfigError, match=words):
        from_state_dict(state, config | change)


def test_what_is_missing_is_named(tiny):
    _, config, state = tiny
    for name in ("sampling_rate", "center_mode"):
        with pytest.raises(ConfigError, match=f"config: no entry '{name}'; it has active_point"):
            from_state_dict(state, {k: v for k, v in config.items() if k != name})
    with pytest.raises(ConfigError, match="no entry 'electrode_pos'; it has active_grid_idx"):
        from_state_dict({k: v for k, v in state.items() if k != "electrode_pos"}, config)


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_three_optimiser_steps(golden, dtype):
    """With the loss and the optimiser that the method trains with."""
    arrays, config, state = load(golden / "emag" / "training_steps.npz")
    training = json.loads(str(arrays["training_json"]))
    state = state | {"electrode_pos": arrays["electrode_positions_mm"]}
    assert training["regulariser_coefficient"] == SHAPE_PENALTY
    with jax.enable_x64(dtype == "float64"):
        x, y = (jnp.asarray(arrays[k], dtype) for k in ("x_ld", "x_hd"))
        samples, chunk = x.shape[-1], training["time_chunk"]
        method, params, geometry = from_state_dict(state, config, samples=samples, dtype=dtype)
        stage = method.stages[1]
        optimizer = stage.optimizer(3)
        frozen = {k: x for k, x in params.items() if k not in stage.trainable}
        own = {k: params[k] for k in stage.trainable}

        def losses(own):
            return loss(frozen | own, x, y, geometry, method.sfreq, chunk, "full_4d")

        @jax.jit
        def step(own, memory):
            (value, terms), gradients = jax.value_and_grad(losses, has_aux=True)(own)
            updates, memory = optimizer.update(gradients, memory, own)
            found = terms["data"], terms["regulariser"], optax.tree.norm(gradients)
            return optax.apply_updates(own, updates), memory, gradients, found

        def golden_tree(prefix):
            named = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            tree = from_state_dict(state | named, config, samples=samples, dtype=dtype)[1]
            return {k: tree[k] for k in stage.trainable}

        def same(found, prefix):
            pairs = jax.tree.map(lambda a, b: (a, np.asarray(b)), found, golden_tree(prefix))
            for a, b in jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple)):
                close(a, b, dtype, prefix)

        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in int32
            memory, scalars = optimizer.init(own), []
            for number in (1, 2, 3):
                own, memory, gradients, three = step(own, memory)
                scalars.append(three)
                if number in (1, 3):
                    same(own, f"after_step{number}/")
                if number == 1:
                    same(gradients, "grad_step1/")
        for name, column in zip(
            ("loss", "regulariser", "grad_norm_before_clip"), np.array(scalars).T, strict=True
        ):
            close(column, arrays[name], dtype, name)
