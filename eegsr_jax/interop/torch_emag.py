"""EMAG as released: its parameters by their names, its layouts, its conventions.

A. Lazarovich, O. I. Shahar, G. Elkin, O. Ben-Shahar, *EMAG: Differentiable 4D Gaussian Mixture
Splatting for EEG Spatial Super-Resolution*, arXiv 2605.29731; `AlexLazarovich/EMAG`, commit
4f58c16b, CC BY 4.0. Written from a description; no code is taken from it. Positions are in
millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians import grid, precision
from eegsr_jax.gaussians.project import project
from eegsr_jax.gaussians.render import Modulate, affine, render
from eegsr_jax.geometry import Geometry
from eegsr_jax.interop.arrays import Array, State, as_dtype, entry
from eegsr_jax.methods.base import Method
from eegsr_jax.methods.emag_paper import MM, emag_paper, encode, hidden
from eegsr_jax.typing import PyTree

# `cov_ablation`, where it is given, overrides `offdiag_mode`.
_ABLATION = {
    "full": "all",
    "no_spacetime_coupling": "spatial_only",
    "diagonal_precision": "none",
}
# What `from_state_dict` takes: switches with one value, other entries, names, windows in samples.
_FIXED = {
    "center_mode": "fixed_grid",
    "forward_operator": "gaussian_splat",
    "grid_support": "volume",
    "ld_conditioning": "per_grid",
    "mixture_assignment": "uniform",
}
_READ = (
    *("covariance_mode", "grid_resolution", "grid_type"),
    *("n_gaussians_per_point", "offdiag_mode", "sampling_rate"),
)
_FIELD = {
    "amplitude": "amplitude",
    "time": "mu_t",
    "log_diagonal": "chol_log_diag",
    "off_diagonal": "chol_off_diag",
}
_WINDOW = {8000.0: 2081}


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
    state = as_dtype(dtype, with_current_names(state))
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


def from_state_dict(
    state: State,
    config: Mapping[str, Any],
    *,
    samples: int | None = None,
    observed_index: Sequence[int] | None = None,
    dtype: str = "float32",
) -> tuple[Method, PyTree, Geometry]:
    """A trained original as `methods.emag_paper`: `(method, params, geometry)`.

    Standardised windows in give the original's output. Windows in any other unit come back in that
    unit: the state does not tell how the channels' scales differ, so each is taken to be the mean
    of the observed ones; nor does it tell errors, so `std` is infinite. Set `params["scale"]` and
    `params["std"]`, or run the first and the last stage of the method over some full-cap data.

    Args:
      state: as for `original_forward`, with the buffer `electrode_pos`.
      config: the original's constructor arguments.
      samples: of the window, which neither holds; None is as released: 2081 at 8 kHz, else 4 s.
      observed_index: `[L]` places of the inputs among the electrodes, which neither holds
        (`layouts.emag_draw` makes the original's draw); None is what `config` has under
        "channel_indices", or unknown: their positions are then NaN, which `plan` does not mind.
      dtype: of params and geometry.

    Raises:
      ConfigError: a switch that the method does not have (`original_forward` has them all), an
        entry that is missing or that does not fit.
    """
    if absent := [name for name in (*_FIXED, *_READ) if name not in config]:
        raise ConfigError(f"config: no entry {absent[0]!r}; it has {', '.join(sorted(config))}")
    for name, only in _FIXED.items():
        if config[name] != only:
            raise _not_expressed(name, config[name], only)
    modes = precision.COVARIANCE
    if (mode := config["covariance_mode"]) not in modes:
        raise _not_expressed("covariance_mode", mode, ", ".join(modes))
    off = _off_diagonal(config)
    both = zip(modes[mode], precision.OFF_DIAGONAL.get(off, ()), strict=False)
    kept = tuple(a * b for a, b in both)
    covariance = next((name for name, mask in modes.items() if mask == kept), None)
    if covariance is None:
        raise _not_expressed("offdiag_mode", off, "all, none, spatial_only")
    state = as_dtype(dtype, with_current_names(state))
    sfreq, groups = float(config["sampling_rate"]), int(config["n_gaussians_per_point"])
    method = emag_paper(
        sfreq=sfreq,
        samples=samples or _WINDOW.get(sfreq) or round(4 * sfreq),
        resolution=config["grid_resolution"],
        grid=config["grid_type"],
        groups=groups,
        covariance=covariance,
    )
    centres = points(state, config)
    if (found := len(entry(state, "amplitude"))) != groups * len(centres):
        raise ConfigError(
            f"state dict: {found} amplitudes; {groups} Gaussians at each of the {len(centres)} "
            "points of the config's grid were expected: is it the config of this state?"
        )
    positions = entry(state, "electrode_pos")
    params = {
        "centres": jnp.asarray(centres, dtype),
        "encoder": _two(state, "ld_encoder"),
        "modulator": _two(state, "ld_modulator"),
        "field": {ours: _by_group(entry(state, theirs), groups) for ours, theirs in _FIELD.items()},
        "scale": jnp.ones(len(positions), dtype),
        "std": jnp.full(len(positions), jnp.inf, dtype),
    }
    inputs = params["encoder"]["first"]["kernel"].shape[1]
    return method, params, _geometry(positions / MM, inputs, _inputs(config, observed_index))


def _inputs(config: Mapping[str, Any], given: Sequence[int] | None) -> list[int] | None:
    found = config.get("channel_indices") if given is None else given
    if isinstance(found, str):  # as on the original's command line
        found = found.split(",")
    return None if found is None else [int(i) for i in found]


def _geometry(target: jax.Array, inputs: int, index: list[int] | None) -> Geometry:
    """The original's head is about the origin of the head frame."""
    if index is None:
        place, observed = np.full(inputs, -1), jnp.full((inputs, 3), jnp.nan, target.dtype)
    else:
        place = np.asarray(index)
        if len(place) != inputs or place.min() < 0 or place.max() >= len(target):
            raise ConfigError(
                f"observed_index {index}: expected {inputs} places among {len(target)} electrodes"
            )
        observed = target[place]
    return Geometry(
        observed=observed,
        target=target,
        observed_index=jnp.asarray(place, jnp.int32),
        centre=jnp.zeros(3, target.dtype),
    )


def _not_expressed(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        f"config: {name} {value!r} is nothing that emag_paper does, which has {expected}; "
        "torch_emag.original_forward renders every switch"
    )


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
    amplitude = _by_group(entry(state, "amplitude"), groups)
    if config["covariance_mode"] == "isotropic_scalar":
        spread = (_by_group(entry(state, f"log_sigma_{k}"), groups) for k in ("space", "time"))
        diagonal, off_diagonal = precision.isotropic(*spread)
    else:
        diagonal, off_diagonal = precision.cholesky(
            _by_group(entry(state, "chol_log_diag"), groups),
            _by_group(entry(state, "chol_off_diag"), groups),
            config["covariance_mode"],
            _off_diagonal(config),
        )
    if config["center_mode"] == "learnable":
        centres = _by_group(entry(state, "centers"), groups)
    else:
        centres = jnp.asarray(points(state, config), amplitude.dtype)
    return {
        "centres": centres,
        "diagonal": diagonal,
        "off_diagonal": off_diagonal,
        "time": _by_group(entry(state, "mu_t"), groups),
        "amplitude": amplitude,
    }


def modulation(
    state: State, config: Mapping[str, Any], x_ld: jax.Array
) -> tuple[jax.Array, PyTree, Modulate]:
    """Features `[batch, time, F]`, weights of the points and the function that joins them.

    Raises:
      ConfigError: an unknown `ld_conditioning`.
    """
    kind = config["ld_conditioning"]
    encoded, modulator = encode(_two(state, "ld_encoder"), x_ld), _two(state, "ld_modulator")
    features, weights = hidden(modulator["first"], encoded), modulator["second"]
    if kind == "global_scalar":  # one number for all points; gates are ignored
        count = len(points(state, config))
        shared = {k: jnp.broadcast_to(x, (count, *x.shape[1:])) for k, x in weights.items()}
        return features, shared, affine
    if kind != "per_grid":
        raise ConfigError(f"ld_conditioning {kind!r}: expected per_grid, global_scalar or none")
    if config["mixture_assignment"] != "subset_attention":
        return features, weights, affine
    gate = _two(state, "point_gate")
    features = jnp.concatenate([features, hidden(gate["first"], encoded)], -1)
    return features, {"value": weights, "gate": gate["second"]}, _gated


def _off_diagonal(config: Mapping[str, Any]) -> str:
    off: str = config.get("cov_ablation") or config["offdiag_mode"]
    return _ABLATION.get(off, off)


def _gated(features: jax.Array, weights: PyTree) -> jax.Array:
    value, gate = jnp.split(features, [weights["value"]["kernel"].shape[1]], -1)
    return affine(value, weights["value"]) * jax.nn.sigmoid(affine(gate, weights["gate"]))


def _two(state: State, name: str) -> PyTree:
    """The two layers of a network."""
    return {
        "first": _layer(state, f"{name}.0"),
        "second": _layer(state, f"{name}.2"),
    }


def _layer(state: State, name: str) -> dict[str, jax.Array]:
    return {"kernel": entry(state, f"{name}.weight"), "bias": entry(state, f"{name}.bias")}


def _matrix(state: State, operator: str, groups: int) -> jax.Array:
    if operator == "leadfield_matrix":
        matrix = entry(state, "leadfield_buf")
    elif "proj_w" in state:
        matrix = entry(state, "proj_w")
    else:
        matrix = jnp.matmul(entry(state, "proj_u"), entry(state, "proj_v"), precision="highest")
    return _by_group(matrix.T, groups).transpose(2, 0, 1)


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """`[N, ...]` with n = p · G + g as `[G, P, ...]`."""
    return x.reshape(-1, groups, *x.shape[1:]).swapaxes(0, 1)
