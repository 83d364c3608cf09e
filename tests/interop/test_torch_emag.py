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
from eegsr_jax.interop.torch_emag import original_forward, points, with_current_names

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
    from eegsr_jax.interop.torch_emag import encode, modulation, parameters

    arrays, config, state = tiny
    with jax.enable_x64(True):
        state = {k: jnp.asarray(v, jnp.float64) for k, v in state.items() if v.dtype == np.float32}
        x = jnp.asarray(arrays["x_ld"], jnp.float64)
        close(encode(state, x), arrays["debug/features"], "float64")
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


# ---------------------------------------------------------------------------------------- training


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def paper_optimizer(training):
    """AdamW on everything; the clip divides by the norm plus 1e-6."""
    most = training["clip_global_norm"]

    def clip(gradients, state, params=None):
        factor = jnp.minimum(1.0, most / (norm(gradients) + 1e-6))
        return jax.tree.map(lambda g: g * factor, gradients), state

    adam = optax.adamw(
        training["learning_rate"],
        *training["betas"],
        eps=training["eps"],
        weight_decay=training["weight_decay"],
    )
    return optax.chain(optax.GradientTransformation(lambda params: (), clip), adam)


def regulariser(parameters, coefficient):
    shapes = ("chol_log_diag", "chol_off_diag", "centers", "log_sigma_space", "log_sigma_time")
    shapes = (*shapes, "proj_w", "proj_u", "proj_v")
    return coefficient * sum(jnp.mean(parameters[k] ** 2) for k in shapes if k in parameters)


def mean_of_chunks(error, chunk):
    """Mean over chunks of time of each chunk's mean: a short last chunk weighs as much."""
    pieces = jnp.split(error, list(range(chunk, error.shape[1], chunk)), axis=1)
    return sum(jnp.mean(piece) for piece in pieces) / len(pieces)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_three_optimiser_steps(golden, dtype):
    arrays, config, state = load(golden / "emag" / "training_steps.npz")
    training = json.loads(str(arrays["training_json"]))
    optimizer = paper_optimizer(training)
    with jax.enable_x64(dtype == "float64"):
        x, y = (jnp.asarray(arrays[k], dtype) for k in ("x_ld", "x_hd"))

        def losses(parameters):
            out = original_forward(
                state | parameters,
                config,
                t=np.arange(x.shape[-1]),
                x_ld=x,
                electrode_positions_mm=arrays["electrode_positions_mm"],
                dtype=dtype,
            )
            data = mean_of_chunks((out - y.swapaxes(1, 2)) ** 2, training["time_chunk"])
            extra = regulariser(parameters, training["regulariser_coefficient"])
            return data + extra, (data, extra)

        @jax.jit
        def step(parameters, memory):
            gradients, (data, extra) = jax.grad(losses, has_aux=True)(parameters)
            updates, memory = optimizer.update(gradients, memory, parameters)
            found = data, extra, norm(gradients)
            return optax.apply_updates(parameters, updates), memory, gradients, found

        names = [k.removeprefix("after_step1/") for k in arrays if k.startswith("after_step1/")]
        parameters = {k: jnp.asarray(state[k], dtype) for k in names}
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in int32
            memory, scalars = optimizer.init(parameters), []
            for number in (1, 2, 3):
                parameters, memory, gradients, three = step(parameters, memory)
                scalars.append(three)
                for name in names if number in (1, 3) else ():
                    close(parameters[name], arrays[f"after_step{number}/{name}"], dtype, name)
                    if number == 1:
                        close(gradients[name], arrays[f"grad_step1/{name}"], dtype, name)
        for name, column in zip(
            ("loss", "regulariser", "grad_norm_before_clip"), np.array(scalars).T, strict=True
        ):
            close(column, arrays[name], dtype, name)
