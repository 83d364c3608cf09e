"""SRGDiff's networks by the names and in the layouts of their PyTorch originals.

Autoencoder and discriminator have the names of MONAI GenerativeModels 0.2.3 (Apache-2.0) and of
MONAI since it took them in, the rest those of `DhrLhj/ICLR2026SRGDiff`, commit 57cb697. PyTorch has
convolution weights as (out, in, tap) and dense ones as (out, in).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.interop.arrays import State, entry
from eegsr_jax.methods.srgdiff.affine import AffineDenoiser
from eegsr_jax.methods.srgdiff.autoencoder import Autoencoder
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder
from eegsr_jax.methods.srgdiff.denoiser import Denoiser
from eegsr_jax.methods.srgdiff.fusion import GatedFusion
from eegsr_jax.methods.srgdiff.residual import ResidualPredictor
from eegsr_jax.nn.discriminator import PatchDiscriminator
from eegsr_jax.nn.long_convolution import kernel_norm
from eegsr_jax.typing import PyTree

Config = Mapping[str, Any]

# Arguments of the originals that our networks have one value of.
_FIXED: dict[str, dict[str, Any]] = {
    "vae": {
        "spatial_dims": 1,
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
    },
    "discriminator": {
        "spatial_dims": 1,
        "kernel_size": 3,
        "padding": 1,
        "norm": "BATCH",
        "bias": False,
    },
    "conv_encoder": {"T": 1000, "min_gamma": 0.1, "mode": "linear"},
    "rdm": {"num_layers": 2},
    "denoiser": {"padding_mode": "circular"},
    "denoiser_affine": {"padding_mode": "circular"},
    "fusion": {"kernel_size": 3},
}


def module(part: str, config: Config, dtype: Any = None) -> Any:
    """Our network of a part, sized as the original's constructor arguments say.

    Args:
      part: a key of `_FIXED`.
      config: the original's constructor arguments.
      dtype: in which it computes.

    Raises:
      ConfigError: an unknown part, an argument that is missing or that our networks cannot follow.
    """
    if part not in _FIXED:
        raise ConfigError(f"part {part!r}: expected one of {', '.join(_FIXED)}")
    for name, only in _FIXED[part].items():
        if config.get(name, only) != only:
            raise ConfigError(
                f"config: {name} {config[name]!r} is nothing that {part} does here, which has "
                f"{only!r}"
            )
    if part == "vae" and any(config.get("attention_levels", ())):
        raise ConfigError("config: attention_levels: expected no attention at any level")
    absent = [name for name in _NEEDED[part] if name not in config]
    if absent:
        raise ConfigError(f"config: no entry {absent[0]!r}; it has {', '.join(sorted(config))}")
    return _NETWORKS[part](config, dtype)


def variables(part: str, state: State, config: Config) -> PyTree:
    """What `module(part, config)` is applied to, from a state dict of the original.

    Differentiable in the state. Entries under the masks of masked convolutions are dropped.

    Raises:
      ConfigError: an entry that the state lacks.
    """
    return _VARIABLES[part](state, config)


# ------------------------------------------------------------------------------------- networks


def _autoencoder(config: Config, dtype: Any) -> Autoencoder:
    widths = tuple(config["num_channels"])
    blocks = config["num_res_blocks"]
    return Autoencoder(
        channels=config["in_channels"],
        latent=config["latent_channels"],
        widths=widths,
        blocks=(blocks,) * len(widths) if isinstance(blocks, int) else tuple(blocks),
        groups=config["norm_num_groups"],
        dtype=dtype,
    )


def _denoiser_sizes(config: Config) -> dict[str, Any]:
    return {
        "latent": config["signal_channel"],
        "units": config["hidden_channel"],
        "blocks": config["num_blocks"],
        "taps": config["slconv_kernel_size"],
        "scales": config["num_scales"],
        "width": config["in_kernel_size"],
        "width_out": config["out_kernel_size"],
    }


_NETWORKS: dict[str, Callable[[Config, Any], Any]] = {
    "vae": _autoencoder,
    "discriminator": lambda c, dtype: PatchDiscriminator(
        c["num_channels"], c["num_layers_d"], c["out_channels"], dtype
    ),
    "conv_encoder": lambda c, dtype: ConditionEncoder(
        c["latent_channels"], c["time_emb_dim"], dtype
    ),
    "rdm": lambda c, dtype: ResidualPredictor(
        c["channel_dim"], c["signal_length"], c["time_embed_dim"], dtype
    ),
    "denoiser": lambda c, dtype: Denoiser(**_denoiser_sizes(c), dtype=dtype),
    "denoiser_affine": lambda c, dtype: AffineDenoiser(
        **_denoiser_sizes(c), shared=c["num_off_diag"], dtype=dtype
    ),
    "fusion": lambda c, dtype: GatedFusion(c["in_channels"], c["delta_weight"], dtype),
}
_DENOISER = (
    *("signal_channel", "hidden_channel", "num_blocks", "slconv_kernel_size", "num_scales"),
    *("in_kernel_size", "out_kernel_size"),
)
_NEEDED: dict[str, tuple[str, ...]] = {
    "vae": ("in_channels", "latent_channels", "num_channels", "num_res_blocks", "norm_num_groups"),
    "discriminator": ("num_channels", "num_layers_d", "out_channels"),
    "conv_encoder": ("latent_channels", "time_emb_dim"),
    "rdm": ("channel_dim", "signal_length", "time_embed_dim"),
    "denoiser": _DENOISER,
    "denoiser_affine": (*_DENOISER, "num_off_diag"),
    "fusion": ("in_channels", "delta_weight"),
}


# ------------------------------------------------------------------------------------ variables


def _autoencoder_variables(state: State, config: Config) -> PyTree:
    # As MONAI took GenerativeModels in, it gave the convolution behind a repeat another name.
    state = {name.replace(".postconv.", ".conv."): x for name, x in state.items()}
    shape = _autoencoder(config, None)
    heads = {"mean": "quant_conv_mu", "log_variance": "quant_conv_log_sigma"}
    heads["inlet"] = "post_quant_conv"
    return {
        "params": {
            "encoder": _blocks(state, "encoder", shape.widths, shape.blocks),
            "decoder": _blocks(state, "decoder", shape.widths[::-1], shape.blocks[::-1]),
            **{ours: {"conv": _conv(state, f"{name}.conv")} for ours, name in heads.items()},
        }
    }


def _blocks(state: State, side: str, widths: tuple[int, ...], counts: tuple[int, ...]) -> PyTree:
    kinds: list[Callable[[State, str], PyTree]] = [_monai_conv]
    for level, count in enumerate(counts):
        kinds += [_residual_block] * count
        kinds += [_resampling] * (level < len(widths) - 1)
    kinds += [_norm, _monai_conv]
    names = ((i, f"{side}.blocks.{i}") for i in range(len(kinds)))
    return {f"block_{i}": kinds[i](state, name) for i, name in names}


def _residual_block(state: State, name: str) -> PyTree:
    found = {}
    for number in (1, 2):
        found[f"norm_{number}"] = _norm(state, f"{name}.norm{number}")
        found[f"conv_{number}"] = _monai_conv(state, f"{name}.conv{number}")
    if f"{name}.nin_shortcut.conv.weight" in state:
        found["shortcut"] = _monai_conv(state, f"{name}.nin_shortcut")
    return found


def _discriminator_variables(state: State, config: Config) -> PyTree:
    params = {
        "first": _conv(state, "initial_conv.conv"),
        "last": _conv(state, "final_conv.conv"),
    }
    statistics = {}
    for number in range(config["num_layers_d"]):
        params[f"conv_{number}"] = {"kernel": _kernel(state, f"{number}.conv")}
        params[f"norm_{number}"] = _norm(state, f"{number}.adn.N")
        statistics[f"norm_{number}"] = {
            ours: entry(state, f"{number}.adn.N.running_{ours}") for ours in ("mean", "var")
        }
    return {"params": params, "batch_stats": statistics}


def _condition_variables(state: State, config: Config) -> PyTree:
    del config
    guess = {"first": _conv(state, "conv.0"), "second": _conv(state, "conv.2")}
    step = {"dense": _dense(state, "time_proj")}
    return {"params": {"guess_net": guess, "step_net": step}}


def _residual_variables(state: State, config: Config) -> PyTree:
    latent, length = config["channel_dim"], config["signal_length"]
    # The original's latents have the channels before time.
    order = np.arange(latent * length).reshape(latent, length).T.reshape(-1)
    embed = {"kernel": entry(state, "time_proj.0.weight")[order].T}
    embed["bias"] = entry(state, "time_proj.0.bias")[order]
    both = _conv(state, "conv_net.0")
    window = {"kernel": both["kernel"][:, :latent], "bias": both["bias"]}
    rest = {
        "norm_1": _norm(state, "conv_net.1"),
        "conv": _conv(state, "conv_net.3"),
        "norm_2": _norm(state, "conv_net.4"),
    }
    half = {"conv": {"kernel": both["kernel"][:, latent:]}}
    return {
        "params": {
            "window_net": {"conv": window},
            "step_net": {"dense": embed, "half": half},
            "rest": rest,
        }
    }


def _denoiser_variables(state: State, config: Config) -> PyTree:
    numbers = range(config["num_blocks"])
    gates = [
        (entry(state, f"blocks.{i}.cond_gate.0.weight"), f"blocks.{i}.cond_gate.0.bias")
        for i in numbers
    ]
    return {
        "params": {
            **_ends(state, config),
            "gate_kernel": jnp.stack([weight[..., 0] for weight, _ in gates]),
            "gate_bias": jnp.stack([entry(state, name) for _, name in gates]),
        }
    }


def _affine_variables(state: State, config: Config) -> PyTree:
    numbers = range(config["num_blocks"])

    def modulation(kind: str) -> jax.Array:
        both = ("ada_ln_mix", "ada_ln_res")
        return jnp.stack(
            [jnp.stack([entry(state, f"blocks.{i}.{m}.1.{kind}") for i in numbers]) for m in both]
        )

    mixing = {
        f"mixing_{2 * i + j}": _mixing(state, f"blocks.{i}.mlp.{2 * j}.layer", config)
        for i in numbers
        for j in (0, 1)
    }
    waves = {
        ours: {"first": _dense(state, f"{name}.mlp.0"), "second": _dense(state, f"{name}.mlp.2")}
        for ours, name in (("step_net", "t_emb"), ("place_net", "pos_emb"))
    }
    return {
        "params": {
            **_ends(state, config),
            **mixing,
            **waves,
            "modulation_kernel": modulation("weight"),
            "modulation_bias": modulation("bias"),
        }
    }


def _ends(state: State, config: Config) -> PyTree:
    """What both denoisers have: the grouped convolutions and the long ones."""
    latent, units = config["signal_channel"], config["hidden_channel"]
    own = np.arange(latent)

    def spread(name: str) -> PyTree:
        weight = entry(state, f"{name}.layer.weight").reshape(latent, units, latent, -1)
        bias = entry(state, f"{name}.layer.bias").reshape(latent, units)
        return {"kernel": weight[own, :, own], "bias": bias}

    leave = entry(state, "conv_out.layer.weight").reshape(latent, latent, units, -1)
    names = {"enter": "conv_in", "condition": "cond_proj", "residual": "res_proj"}
    return {
        **{ours: spread(name) for ours, name in names.items()},
        "leave": {"kernel": leave[own, own], "bias": entry(state, "conv_out.layer.bias")},
        **{
            f"long_{i}": long_convolution(state, f"blocks.{i}.conv.", config["num_scales"])
            for i in range(config["num_blocks"])
        },
    }


def long_convolution(state: State, prefix: str, scales: int) -> PyTree:
    """Parameters of a `LongConvolution`; one that has never run gets its norm now."""
    pieces = jnp.stack([entry(state, f"{prefix}kernel_list.{i}")[0] for i in range(scales)])
    known = entry(state, f"{prefix}kernel_norm_initialized")
    norm = jnp.where(known, entry(state, f"{prefix}kernel_norm")[0, :, 0], kernel_norm(pieces))
    return {"pieces": pieces, "norm": norm, "gain": entry(state, f"{prefix}D")[0]}


def _mixing(state: State, name: str, config: Config) -> PyTree:
    latent, units, shared = (
        config[k] for k in ("signal_channel", "hidden_channel", "num_off_diag")
    )
    own = np.arange(latent)
    weight = entry(state, f"{name}.weight").reshape(latent, units, latent, units)
    return {
        "within": weight[own, :, own],
        "between": weight[:, :shared, :, :shared],
        "bias": entry(state, f"{name}.bias").reshape(latent, units),
    }


def _fusion_variables(state: State, config: Config) -> PyTree:
    del config
    return {"params": {"gate": _conv(state, "gate_conv.0"), "change": _conv(state, "delta_conv")}}


_VARIABLES: dict[str, Callable[[State, Config], PyTree]] = {
    "vae": _autoencoder_variables,
    "discriminator": _discriminator_variables,
    "conv_encoder": _condition_variables,
    "rdm": _residual_variables,
    "denoiser": _denoiser_variables,
    "denoiser_affine": _affine_variables,
    "fusion": _fusion_variables,
}


def _kernel(state: State, name: str) -> jax.Array:
    return entry(state, f"{name}.weight").transpose(2, 1, 0)


def _conv(state: State, name: str) -> PyTree:
    return {"kernel": _kernel(state, name), "bias": entry(state, f"{name}.bias")}


def _monai_conv(state: State, name: str) -> PyTree:
    return _conv(state, f"{name}.conv")


def _resampling(state: State, name: str) -> PyTree:
    return _conv(state, f"{name}.conv.conv")


def _dense(state: State, name: str) -> PyTree:
    return {"kernel": entry(state, f"{name}.weight").T, "bias": entry(state, f"{name}.bias")}


def _norm(state: State, name: str) -> PyTree:
    return {"scale": entry(state, f"{name}.weight"), "bias": entry(state, f"{name}.bias")}
