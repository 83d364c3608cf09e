"""EMAG as released: its parameters by their names, its layouts, its conventions.

A. Lazarovich, O. I. Shahar, G. Elkin, O. Ben-Shahar, *EMAG: Differentiable 4D Gaussian Mixture
Splatting for EEG Spatial Super-Resolution*, arXiv 2605.29731; `AlexLazarovich/EMAG`, commit
4f58c16b, CC BY 4.0. Written from a description; no code is taken from it. Positions are in
millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians import grid, precision
from eegsr_jax.gaussians.project import project
from eegsr_jax.gaussians.render import Modulate, affine, render
from eegsr_jax.typing import PyTree

Array = np.ndarray | jax.Array
State = Mapping[str, Array]

# `cov_ablation`, where it is given, overrides `offdiag_mode`.
_ABLATION = {
    "full": "all",
    "no_spacetime_coupling": "spatial_only",
    "diagonal_precision": "none",
}


def original_forward(
    state: State,
    config: Mapping[str, Any],
    *,
    t: Array,
    x_ld: Array | None,
    electrode_positions_mm: Array,
    dtype: str = "float32",
) -> jax.Array:
    """The original's output `[batch, time, M]` through our renderer.

    Differentiable in the state and in `x_ld`.

    Args:
      state: the original's state dict as arrays; of the buffers only `active_grid_idx` (subsets of
        the grid) and `leadfield_buf` are read.
      config: the original's constructor arguments.
      t: `[time]` sample indices from the start of the window.
      x_ld: `[batch, L, time]` low-density input; None leaves the modulation out.
      electrode_positions_mm: `[M, 3]`.
      dtype: "float32" or "float64".

    Raises:
      ConfigError: a switch that is unknown, an entry that the state lacks, or float64 without
        `jax.enable_x64`.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ConfigError(f"dtype {dtype!r}: JAX computes in float32; call under jax.enable_x64()")
    state = {name: _as(x, dtype) for name, x in with_current_names(state).items()}
    gaussians = parameters(state, config)
    times = jnp.asarray(t).astype(dtype) / config["sampling_rate"]
    features = weights = None
    modulate: Modulate = affine
    if x_ld is not None and config["ld_conditioning"] != "none":
        features, weights, modulate = modulation(state, config, jnp.asarray(x_ld, dtype))
    operator = config["forward_operator"]
    if operator == "gaussian_splat":
        positions = jnp.asarray(electrode_positions_mm, dtype)
        seen = precision.field(positions, **gaussians)
        out = render(seen, times, features, weights, modulate=modulate)
    elif operator in ("learned_linear", "leadfield_matrix"):
        groups = gaussians["time"].shape[0]
        out = project(
            _matrix(state, operator, groups),
            precision.rate(gaussians["diagonal"], gaussians["off_diagonal"]),
            gaussians["time"],
            gaussians["amplitude"],
            times,
            features,
            weights,
            modulate=modulate,
        )
    else:
        raise ConfigError(
            f"forward_operator {operator!r}: expected gaussian_splat, learned_linear or "
            "leadfield_matrix"
        )
    batch = 1 if x_ld is None else x_ld.shape[0]
    return jnp.broadcast_to(out, (batch, *out.shape[1:]))


def with_current_names(state: State) -> dict[str, Array]:
    """The state dict with the off-diagonals of older checkpoints, split in two, put together."""
    old = ("chol_off_diag_spatial", "chol_off_diag_temporal")
    renamed = {name: x for name, x in state.items() if name not in old}
    if all(name in state for name in old):
        renamed["chol_off_diag"] = jnp.concatenate([jnp.asarray(state[name]) for name in old], -1)
    return renamed


def points(state: State, config: Mapping[str, Any]) -> np.ndarray:
    """`[P, 3]` grid points in use, mm, float64.

    Raises:
      ConfigError: an unknown kind of grid.
    """
    kind = (config["grid_type"], config["grid_support"])
    kinds = {
        ("cube", "volume"): grid.cube,
        ("sphere", "volume"): grid.sphere,
        ("sphere", "surface"): grid.shell,
    }
    if kind not in kinds:
        raise ConfigError(f"grid_type, grid_support {kind}: expected one of {list(kinds)}")
    every = kinds[kind](config["grid_resolution"])
    if config["mixture_assignment"] == "uniform":
        return every
    if "active_grid_idx" in state:
        return every[np.asarray(state["active_grid_idx"])]
    return every[grid.draw(len(every), config["active_point_ratio"], config["mixture_seed"])]


def parameters(state: State, config: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What `precision.field` takes besides the electrodes, after the original's switches."""
    groups = config["n_gaussians_per_point"]
    amplitude = _by_group(_get(state, "amplitude"), groups)
    if config["covariance_mode"] == "isotropic_scalar":
        spread = (_by_group(_get(state, f"log_sigma_{k}"), groups) for k in ("space", "time"))
        diagonal, off_diagonal = precision.isotropic(*spread)
    else:
        off: str = config.get("cov_ablation") or config["offdiag_mode"]
        diagonal, off_diagonal = precision.cholesky(
            _by_group(_get(state, "chol_log_diag"), groups),
            _by_group(_get(state, "chol_off_diag"), groups),
            config["covariance_mode"],
            _ABLATION.get(off, off),
        )
    if config["center_mode"] == "learnable":
        centres = _by_group(_get(state, "centers"), groups)
    else:
        centres = jnp.asarray(points(state, config), amplitude.dtype)
    return {
        "centres": centres,
        "diagonal": diagonal,
        "off_diagonal": off_diagonal,
        "time": _by_group(_get(state, "mu_t"), groups),
        "amplitude": amplitude,
    }


def encode(state: State, x_ld: jax.Array) -> jax.Array:
    """What the encoder makes of each sample `[batch, L, time]`: `[batch, time, 32]`."""
    first = _hidden(state, "ld_encoder.0", x_ld.swapaxes(1, 2))
    return _hidden(state, "ld_encoder.2", first)


def modulation(
    state: State, config: Mapping[str, Any], x_ld: jax.Array
) -> tuple[jax.Array, PyTree, Modulate]:
    """Features `[batch, time, F]`, weights of the points and the function that joins them.

    Raises:
      ConfigError: an unknown `ld_conditioning`.
    """
    kind = config["ld_conditioning"]
    encoded = encode(state, x_ld)
    features, weights = _hidden(state, "ld_modulator.0", encoded), _layer(state, "ld_modulator.2")
    if kind == "global_scalar":  # one number for all points; gates are ignored
        count = len(points(state, config))
        shared = {k: jnp.broadcast_to(x, (count, *x.shape[1:])) for k, x in weights.items()}
        return features, shared, affine
    if kind != "per_grid":
        raise ConfigError(f"ld_conditioning {kind!r}: expected per_grid, global_scalar or none")
    if config["mixture_assignment"] != "subset_attention":
        return features, weights, affine
    features = jnp.concatenate([features, _hidden(state, "point_gate.0", encoded)], -1)
    return features, {"value": weights, "gate": _layer(state, "point_gate.2")}, _gated


def _gated(features: jax.Array, weights: PyTree) -> jax.Array:
    value, gate = jnp.split(features, [weights["value"]["kernel"].shape[1]], -1)
    return affine(value, weights["value"]) * jax.nn.sigmoid(affine(gate, weights["gate"]))


def _layer(state: State, name: str) -> dict[str, jax.Array]:
    return {"kernel": _get(state, f"{name}.weight"), "bias": _get(state, f"{name}.bias")}


def _hidden(state: State, name: str, x: jax.Array) -> jax.Array:
    return jax.nn.relu(affine(x, _layer(state, name)))


def _matrix(state: State, operator: str, groups: int) -> jax.Array:
    if operator == "leadfield_matrix":
        matrix = _get(state, "leadfield_buf")
    elif "proj_w" in state:
        matrix = _get(state, "proj_w")
    else:
        matrix = jnp.matmul(_get(state, "proj_u"), _get(state, "proj_v"), precision="highest")
    return _by_group(matrix.T, groups).transpose(2, 0, 1)


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """`[N, ...]` with n = p · G + g as `[G, P, ...]`."""
    return x.reshape(-1, groups, *x.shape[1:]).swapaxes(0, 1)


def _get(state: State, name: str) -> jax.Array:
    if name not in state:
        raise ConfigError(f"state dict: no entry {name!r}; it has {', '.join(sorted(state))}")
    return jnp.asarray(state[name])


def _as(x: Array, dtype: str) -> Array:
    return jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
