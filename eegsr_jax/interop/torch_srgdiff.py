"""SRGDiff as released: its parts through our networks, and its parameters as `srgdiff_release`.

H. Liu, L. Zhou, Z. Yang, C. Yao, *Step-Aware Residual-Guided Diffusion for EEG Spatial
Super-Resolution*, arXiv 2510.19166; `DhrLhj/ICLR2026SRGDiff`, commit 57cb697, which gives no
licence. Written from a description; no code is taken from it. Latents and EEG are
`[batch, channel, time]`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.schedule import NoiseSchedule
from eegsr_jax.errors import ConfigError
from eegsr_jax.interop.arrays import State, as_dtype
from eegsr_jax.interop.srgdiff_names import Config, module, variables
from eegsr_jax.methods.base import Method
from eegsr_jax.methods.srgdiff.autoencoder import Autoencoder
from eegsr_jax.methods.srgdiff.release import srgdiff_release
from eegsr_jax.methods.srgdiff.sampling import plan_steps, sample_latents
from eegsr_jax.methods.srgdiff.shape import Shape
from eegsr_jax.typing import PyTree

Outputs = dict[str, jax.Array]
_NEEDED = ("vae", "conv_encoder", "denoiser", "fusion")
_PREFIXES = {"vae", "conv_encoder", "denoiser", "fusion", "rdm", "discriminator", "latents"}
_SCHEDULER = {"schedule": "cosine", "s": 0.02, "clip_sample": False, "eta": 0.0, "steps_offset": 1}


def original_forward(
    part: str, state: State, config: Config, *, dtype: str = "float32", **inputs: Any
) -> Outputs:
    """What a part of the original makes of its inputs, by name; differentiable in the state.

    `vae`: x, eps (or None) -> mu, log_sigma, recon, recon_sampled. `conv_encoder`, `rdm`: x, t ->
    out. `denoiser`, `denoiser_affine`: x, t, cond, res, t_other (or None) -> out, out_with_res,
    out_no_cond, out_t_other. `fusion`: low, high -> out, out_delta_weight_0.2. `discriminator`:
    x -> logits, logits_train, after_train_forward/<buffer>. `sampling`: z50_normalised, noise,
    num_steps, after_step (or None) -> out, also as steps<n>/out, and steps<n>/trajectory.
    `end_to_end`: x, masked_channels, noise, z50_mean, z50_std, num_steps -> z50,
    sample_normalised, sample, zcond0, fused, out, out_without_diffusion. Outputs for which an input
    is lacking are left out.

    Args:
      part: one of the names above.
      state: the original's state dict as arrays; of parts with several networks `vae/<name>`,
        `conv_encoder/<name>`, `denoiser/<name>`, `fusion/<name>`.
      config: the original's constructor arguments; of several networks under their names.
      dtype: "float32" or "float64".
      **inputs: as above, in the original's layouts.

    Raises:
      ConfigError: an unknown part or input, an entry that state or config lacks, an argument that
        our networks cannot follow, or float64 without `jax.enable_x64`.
    """
    if part not in _PARTS:
        raise ConfigError(f"part {part!r}: expected one of {', '.join(_PARTS)}")
    state = as_dtype(dtype, state)
    run = _PARTS[part]
    known = list(inspect.signature(run).parameters.values())[3:]
    needed = {p.name for p in known if p.default is p.empty}
    if needed - set(inputs) or set(inputs) - {p.name for p in known}:
        raise ConfigError(
            f"part {part}: inputs {', '.join(sorted(inputs)) or 'none'}; expected "
            f"{', '.join(p.name for p in known)}"
        )
    return run(state, config, dtype, **as_dtype(dtype, inputs))


def from_state_dict(
    state: State,
    config: Config,
    *,
    z50_mean: Any = None,
    z50_std: Any = None,
    sfreq: float = 200.0,
    samples: int | None = None,
) -> tuple[Method, PyTree]:
    """A trained original as `methods.srgdiff_release`: `(method, params)`.

    Its targets are the original's channels in the original's order; which of them are observed is
    for the geometry to say. The original has no scale: it saw what was stored, taken to be
    microvolts. The state tells nothing of errors, so `std` is infinite; the last stage of the
    method sets it from full-cap data.

    Args:
      state: the original's state dicts as arrays, `vae/<name>`, `conv_encoder/<name>`,
        `denoiser/<name>`, `fusion/<name>`, and `latents/mean` and `latents/std` of z50. What is
        under `rdm/`, which the original never calls, and `discriminator/` is left out.
      config: the original's constructor arguments under the same names without the slash; "vae",
        "conv_encoder", "denoiser", "fusion", and where they are there "scheduler" and
        "num_inference_steps".
      z50_mean: `[latent]`, in the place of `latents/mean`.
      z50_std: `[latent]`, in the place of `latents/std`.
      sfreq: Hz.
      samples: of a window; None: by "signal_length" of the denoiser's config.

    Raises:
      ConfigError: a part, an entry or the statistics are missing, or the config has what
        `srgdiff_release` cannot be.
    """
    state = as_dtype("float32", state)
    given = {name.partition("/")[0] for name in state}
    if unknown := sorted(given - _PREFIXES):
        raise ConfigError(
            f"state dict: {unknown[0]!r} is no part of SRGDiff; expected names that begin with "
            f"{', '.join(sorted(_PREFIXES))}, and a slash"
        )
    if absent := [part for part in _NEEDED if part not in given]:
        raise ConfigError(
            f"state dict: nothing of {', '.join(absent)}; an autoencoder alone is for "
            "autoencoder_from_state_dict"
        )
    statistics = {"mean": z50_mean, "std": z50_std}
    statistics = {k: state.get(f"latents/{k}") if x is None else x for k, x in statistics.items()}
    if lacking := [name for name, x in statistics.items() if x is None]:
        raise ConfigError(
            f"state dict: no entry 'latents/{lacking[0]}'; give it, or z50_{lacking[0]}=, of the "
            "latents that the denoiser was trained on"
        )
    parts = {part: _one(part, state, config) for part in _NEEDED}
    vae, denoiser = parts["vae"][0], parts["denoiser"][0]
    if samples is None and "signal_length" not in config["denoiser"]:
        raise ConfigError("config: no entry 'signal_length' of denoiser; give samples=")
    sizes = {name: getattr(denoiser, name) for name in ("latent", "units", "blocks")}
    sizes |= {"taps": denoiser.taps, "scales": denoiser.scales, "widths": vae.widths}
    halved = Shape(samples=0, widths=vae.widths).halved
    sizes["samples"] = samples or halved * config["denoiser"]["signal_length"]
    _refuse_other(parts, Shape(**sizes))
    _check_scheduler(config)
    steps = config.get("num_inference_steps", 50)
    method = srgdiff_release(sfreq, steps=steps, adversarial=0.0, **sizes)
    ours = {"autoencoder": "vae", "condition": "conv_encoder"}
    ours |= {name: name for name in ("denoiser", "fusion")}
    params = {name: parts[part][1]["params"] for name, part in ours.items()}
    return method, params | {
        "latents": {k: jnp.asarray(x, jnp.float32).reshape(-1) for k, x in statistics.items()},
        "std": jnp.full(vae.channels, jnp.inf),
    }


def autoencoder_from_state_dict(state: State, config: Config) -> tuple[Autoencoder, PyTree]:
    """A trained autoencoder of MONAI's, or of SRGDiff's first stage, alone: `(network, params)`.

    `network.apply({"params": params}, x, method="encode")` takes `[batch, time, channel]`.

    Args:
      state: its state dict, with or without `vae/` before the names.
      config: its constructor arguments, or a dict of them under "vae".

    Raises:
      ConfigError: an entry is missing, or the config has what `Autoencoder` cannot be.
    """
    own = {name.removeprefix("vae/"): x for name, x in as_dtype("float32", state).items()}
    sizes = config.get("vae", config)
    return module("vae", sizes), variables("vae", own, sizes)["params"]


def _refuse_other(parts: dict[str, tuple[Any, PyTree]], shape: Shape) -> None:
    """Refuse networks that `srgdiff_release` does not have."""
    for part, own in (
        ("vae", shape.autoencoder(parts["vae"][0].channels)),
        ("conv_encoder", shape.condition),
        ("denoiser", shape.denoiser),
        ("fusion", shape.fusion),
    ):
        for field in dataclasses.fields(own):
            found, only = (getattr(x, field.name) for x in (parts[part][0], own))
            if field.name not in ("parent", "name") and found != only:
                raise ConfigError(
                    f"config: {part} has {field.name} {found}; srgdiff_release has {only}"
                )


def _vae(state, config, dtype, x, eps=None) -> Outputs:
    network, own = module("vae", config, dtype), variables("vae", state, config)

    def decode(z):
        return _turn(network.apply(own, z, method="decode"))

    mu, log_sigma = network.apply(own, _turn(x), method="encode")
    found = {"mu": _turn(mu), "log_sigma": _turn(log_sigma), "recon": decode(mu)}
    if eps is not None:
        found["recon_sampled"] = decode(mu + jnp.exp(log_sigma) * _turn(eps))
    return found


def _conv_encoder(state, config, dtype, x, t) -> Outputs:
    own = variables("conv_encoder", state, config)
    return {
        "out": _turn(module("conv_encoder", config, dtype).apply(own, _turn(x), jnp.asarray(t)))
    }


def _rdm(state, config, dtype, x, t) -> Outputs:
    own = variables("rdm", state, config)
    return {"out": _turn(module("rdm", config, dtype).apply(own, _turn(x), jnp.asarray(t)))}


def _fusion(state, config, dtype, low, high) -> Outputs:
    own = variables("fusion", state, config)

    def fused(weight):
        network = module("fusion", {**config, "delta_weight": weight}, dtype)
        return _turn(network.apply(own, _turn(low), _turn(high)))

    return {"out": fused(config["delta_weight"]), "out_delta_weight_0.2": fused(0.2)}


def _released_denoiser(state, config, dtype, x, t, cond, res=None, t_other=None) -> Outputs:
    del t  # as released: the steps are embedded and the embeddings dropped
    network, own = module("denoiser", config, dtype), variables("denoiser", state, config)
    found = {"out": _turn(network.apply(own, _turn(x), _turn(cond)))}
    found["out_no_cond"] = _turn(network.apply(own, _turn(x)))
    if res is not None:
        found["out_with_res"] = _turn(network.apply(own, _turn(x), _turn(cond), _turn(res)))
    if t_other is not None:
        found["out_t_other"] = found["out"]
    return found


def _affine_denoiser(state, config, dtype, x, t, cond, res=None, t_other=None) -> Outputs:
    network = module("denoiser_affine", config, dtype)
    own = variables("denoiser_affine", state, config)

    def noise(t, *rest):
        return _turn(network.apply(own, _turn(x), jnp.asarray(t), *map(_turn, rest)))

    found = {"out": noise(t, cond), "out_no_cond": noise(t)}
    if res is not None:
        found["out_with_res"] = noise(t, cond, res)
    if t_other is not None:
        found["out_t_other"] = noise(t_other, cond)
    return found


def _discriminator(state, config, dtype, x) -> Outputs:
    network = module("discriminator", config, dtype)
    own = variables("discriminator", state, config)
    logits = network.apply(own, _turn(x), False)[-1]
    train, after = network.apply(own, _turn(x), True, mutable=["batch_stats"])
    found = {"logits": _turn(logits), "logits_train": _turn(train[-1])}
    for number in range(config["num_layers_d"]):
        name = f"{number}.adn.N"
        for kind, value in after["batch_stats"][f"norm_{number}"].items():
            found[f"after_train_forward/{name}.running_{kind}"] = value
        count = f"{name}.num_batches_tracked"
        found[f"after_train_forward/{count}"] = jnp.asarray(state[count]) + 1
    return found


def _sampling(state, config, dtype, z50_normalised, noise, num_steps, after_step=None) -> Outputs:
    guess_net, guess_own = _one("conv_encoder", state, config, dtype)
    denoiser, denoiser_own = _one("denoiser", state, config, dtype)
    _check_scheduler(config)
    params = {"condition": guess_own["params"], "denoiser": denoiser_own["params"]}
    grid = leading_grid(NoiseSchedule.cosine(), num_steps)
    plan = plan_steps(guess_net, denoiser, params, grid, noise.shape[-1])
    guess = guess_net.apply(guess_own, _turn(z50_normalised), method="guess")
    latents, after = sample_latents(plan, guess, _turn(noise), trajectory=True)
    found = {"out": _turn(latents), f"steps{num_steps}/out": _turn(latents)}
    if after_step is not None:
        found[f"steps{num_steps}/trajectory"] = _turn(after[np.asarray(after_step) - 1])
    return found


def _end_to_end(
    state, config, dtype, x, masked_channels, noise, z50_mean, z50_std, num_steps
) -> Outputs:
    vae, vae_own = _one("vae", state, config, dtype)
    guess_net, guess_own = _one("conv_encoder", state, config, dtype)
    fusion, fusion_own = _one("fusion", state, config, dtype)
    missing = jax.nn.one_hot(jnp.asarray(masked_channels), x.shape[1]).sum(1) > 0
    seen = jnp.where(missing[..., None], jnp.zeros_like(x), x)
    z50 = vae.apply(vae_own, _turn(seen), method="encode")[0]
    normalised = (_turn(z50) - z50_mean) / z50_std
    drawn = _sampling(state, config, dtype, normalised, noise, num_steps)["out"]
    sample = drawn * z50_std + z50_mean
    guess = guess_net.apply(guess_own, z50, method="guess")  # of the latent as it is, at step 0
    fused = fusion.apply(fusion_own, guess, _turn(sample))

    def decode(z):
        return _turn(vae.apply(vae_own, z, method="decode"))

    return {
        "z50": _turn(z50),
        "sample_normalised": drawn,
        "sample": sample,
        "zcond0": _turn(guess),
        "fused": _turn(fused),
        "out": decode(fused),
        "out_without_diffusion": decode(guess),
    }


def _check_scheduler(config: Config) -> None:
    for name, only in _SCHEDULER.items():
        if (value := config.get("scheduler", {}).get(name, only)) != only:
            raise ConfigError(f"config: scheduler {name} {value!r}; expected {only!r}")


def _one(part: str, state: State, config: Config, dtype: str | None = None) -> tuple[Any, Any]:
    """One network of several, and what it is applied to."""
    if part not in config:
        raise ConfigError(f"config: no entry {part!r}; it has {', '.join(sorted(config))}")
    prefix = f"{part}/"
    own = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
    return module(part, config[part], dtype), variables(part, own, config[part])


def _turn(x: jax.Array) -> jax.Array:
    """Channels before time <-> time before channels."""
    return jnp.asarray(x).swapaxes(-1, -2)


_PARTS: dict[str, Callable[..., Outputs]] = {
    "vae": _vae,
    "conv_encoder": _conv_encoder,
    "rdm": _rdm,
    "denoiser": _released_denoiser,
    "denoiser_affine": _affine_denoiser,
    "fusion": _fusion,
    "discriminator": _discriminator,
    "sampling": _sampling,
    "end_to_end": _end_to_end,
}
