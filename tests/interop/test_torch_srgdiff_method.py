"""A trained original as `srgdiff_release`: the whole way, and what is refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.noise import noise_like
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.interop.torch_srgdiff import (
    autoencoder_from_state_dict,
    from_state_dict,
    original_forward,
)
from eegsr_jax.methods import METHODS
from eegsr_jax.methods.srgdiff.ends import seen
from eegsr_jax.methods.srgdiff.release import released
from eegsr_jax.methods.srgdiff.shape import Shape

VOLT = 1e-6  # a microvolt


@pytest.fixture(scope="module")
def case(golden):
    """Arrays, state dict with the statistics of the latents, configuration."""
    with np.load(golden / "srgdiff" / "end_to_end.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    state = {k.removeprefix("state/"): v for k, v in found.items() if k.startswith("state/")}
    state |= {f"latents/{name}": found[f"z50_{name}"] for name in ("mean", "std")}
    return found, state, json.loads(str(found["config_json"]))


def cap(hidden, channels=62):
    """A geometry of which some channels are hidden; where they are plays no part."""
    place = np.random.default_rng(0).normal(size=(channels, 3)).astype(np.float32)
    kept = np.setdiff1d(np.arange(channels), hidden).astype(np.int32)
    return kept, Geometry(
        observed=jnp.asarray(place[kept]),
        target=jnp.asarray(place),
        observed_index=jnp.asarray(kept),
        centre=jnp.zeros(3),
    )


def relative(found, expected):
    return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)


def test_the_whole_way(case):
    """With the original's noise, through the functions that `apply` is made of."""
    arrays, state, config = case
    method, params = from_state_dict(state, config)
    shape = Shape(samples=80, units=4, taps=4)
    plan = jax.jit(method.plan)
    run = jax.jit(lambda plan, z50, start: released(shape, plan, z50, start))
    see = jax.jit(lambda plan, x: seen(method.name, shape, plan, x))
    for i, hidden in enumerate(arrays["masked_channels"]):
        kept, geometry = cap(hidden)
        own = plan(params, geometry)
        z50 = see(own, VOLT * arrays["x"][i : i + 1, kept])
        assert relative(z50.swapaxes(1, 2), arrays["z50"][i : i + 1]) < 1e-5
        mean = run(own, z50, jnp.asarray(arrays["noise"][i : i + 1].swapaxes(1, 2)))
        assert relative(mean / VOLT, arrays["out"][i : i + 1]) < 1e-4


def test_apply_draws_the_start_and_nothing_else(case):
    arrays, state, config = case
    state = {k: v for k, v in state.items() if not k.startswith("latents/")}
    statistics = {name: arrays[name].ravel() for name in ("z50_mean", "z50_std")}
    few = config | {"num_inference_steps": 5}
    method, params = from_state_dict(state, few, **statistics, sfreq=160.0, samples=80)
    assert (method.name, method.window, method.sfreq) == ("srgdiff_release", 80, 160.0)
    hidden = arrays["masked_channels"][0]
    kept, geometry = cap(hidden)
    key = jax.random.split(jax.random.key(1), 2)
    noise = noise_like(jax.random.clone(key), jnp.zeros((2, 40, 32)))
    mean, std = jax.jit(method.apply)(
        jax.jit(method.plan)(params, geometry), VOLT * arrays["x"][:, kept], key
    )
    forward = jax.jit(
        lambda inputs: original_forward("end_to_end", state, few, num_steps=5, **inputs)
    )
    inputs = {k: arrays[k] for k in ("x", "z50_mean", "z50_std")}
    masks = {"masked_channels": np.stack([hidden, hidden]), "noise": noise.swapaxes(1, 2)}
    expected = forward(inputs | masks)["out"]
    assert relative(mean / VOLT, np.asarray(expected)) < 1e-4
    assert np.isinf(std).all()


def test_params_are_those_of_the_method(case):
    """The same names, shapes and types, so that what is imported can be trained further."""
    _, state, config = case
    method, params = from_state_dict(state | {"rdm/x": np.ones(3)}, config)
    _, geometry = cap(range(31))
    start = jax.eval_shape(lambda: method.init(jax.random.key(0), geometry, None))
    kinds = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (start, params)]
    assert kinds[0] == kinds[1]
    assert METHODS[method.name]


def test_an_autoencoder_alone(golden):
    with np.load(golden / "srgdiff" / "vae_released.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    state = {k.removeprefix("state/"): v for k, v in found.items() if k.startswith("state/")}
    sizes = json.loads(str(found["config_json"]))
    whole = {f"vae/{name}": x for name, x in state.items()}
    for own, config in ((state, sizes), (whole, {"vae": sizes})):
        network, params = autoencoder_from_state_dict(own, config)
        mean, _ = network.apply({"params": params}, found["x"].swapaxes(1, 2), method="encode")
        assert relative(mean.swapaxes(1, 2), found["mu"]) < 1e-5


def without(tree, *names):
    return {k: v for k, v in tree.items() if not k.startswith(names)}


@pytest.mark.parametrize(
    ("change", "config_change", "words"),
    [
        (
            lambda s: without(s, "conv_", "fusion"),
            {},
            "nothing of conv_encoder, fusion; an autoencoder alone .* autoencoder_from_state_dict",
        ),
        (lambda s: without(s, "latents/std"), {}, "no entry 'latents/std'; give it, or z50_std="),
        (lambda s: s | {"unet/x": np.ones(1)}, {}, "'unet' is no part of SRGDiff; .*begin with"),
        (lambda s: without(s, "fusion/delta_conv.b"), {}, "no entry 'delta_conv.bias'"),
        (lambda s: s, {"fusion": {"delta_weight": 0.2}}, "fusion has weight 0.2; .* has 0.01"),
        (lambda s: s, {"vae": {"norm_num_groups": 2}}, r"vae has groups 2; srgdiff_release has 1"),
        (lambda s: s, {"denoiser": {"in_kernel_size": 5}}, "denoiser has width 5; .* has 7"),
        (lambda s: s, {"denoiser": {"signal_length": None}}, "no entry 'signal_length' of denois"),
        (lambda s: s, {"scheduler": {"eta": 1.0}}, "scheduler eta 1.0; expected 0.0"),
        (lambda s: s, {"fusion": None}, "config: no entry 'fusion'"),
    ],
)
def test_what_cannot_be_is_named(case, change, config_change, words):
    _, state, config = case
    for name, entries in config_change.items():
        both = config[name] | (entries or {})
        config = config | {name: {k: v for k, v in both.items() if v is not None}}
        config = config if entries else without(config, name)
    with pytest.raises(ConfigError, match=words):
        from_state_dict(change(state), config)
