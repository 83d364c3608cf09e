"""SRGDiff's numbers: each network forwards and backwards, sampling, and the whole way.

The golden arrays stand beside the real recordings; the smallest cases are in the repository.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.interop.srgdiff_names import module, variables
from eegsr_jax.interop.torch_srgdiff import original_forward

HERE = Path(__file__).parents[1] / "golden" / "srgdiff"
HELD = sorted(file.stem for file in HERE.glob("*.npz"))
CASES = "conv_encoder fusion denoiser_affine_tiny".split()
LARGE = "vae_big vae_released denoiser_published discriminator_published rdm".split()
WHOLE = "sampling end_to_end".split()
ELSEWHERE = (  # the schedule in diffusion, the long convolution in nn, the rest in training
    "scheduler slconv losses_and_latents metrics_and_masking training_vae training_conv_encoder "
    "training_denoiser"
).split()
INPUTS = "x eps t cond res t_other low high".split()
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
COTANGENT = {
    "vae": {"g_recon": "recon", "g_mu": "mu", "g_log_sigma": "log_sigma"},
    "discriminator": {"g": "logits_train"},
}


def load(file):
    """Arrays by name, configuration and state dict."""
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    state = {k.removeprefix("state/"): v for k, v in found.items() if k.startswith("state/")}
    return found, json.loads(str(found["config_json"])), state


def close(found, golden, tolerance, name):
    """Relative L2 error below the tolerance; exact where the golden array is zeros or integers."""
    found = np.asarray(found)
    assert found.shape == golden.shape, name
    if golden.any() and golden.dtype.kind == "f":
        error = np.linalg.norm(found.astype(np.float64) - golden) / np.linalg.norm(golden)
        assert error < tolerance, f"{name}: {error}"
    else:
        np.testing.assert_array_equal(found, golden, err_msg=name)


def compare(arrays, config, state, dtype):
    part, tolerance = config["part"], TOLERANCE[dtype]
    inputs = {k: arrays[k] for k in INPUTS if k in arrays}
    of = str(arrays.get("grad_of", "out"))
    outputs = COTANGENT.get(part, {"g": of})
    kinds = [k.split("/", 1) for k in arrays if k.startswith(("grad/", "grad_digest/"))]
    own = {name: jnp.asarray(state[name], dtype) for _, name in kinds}
    real = {k: jnp.asarray(v, dtype) for k, v in inputs.items() if v.dtype == np.float32}

    def loss(own, real):
        found = original_forward(part, state | own, config, dtype=dtype, **(inputs | real))
        parts = [jnp.sum(found[n] * jnp.asarray(arrays[g], dtype)) for g, n in outputs.items()]
        return sum(parts[1:], parts[0]), found

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (gradients, by_input), found = step(own, real)
    for name, golden in arrays.items():
        if name in found:
            assert found[name].dtype in (dtype, jnp.asarray(golden).dtype)
            close(found[name], golden, tolerance, name)
    assert set(found) <= set(arrays)
    for kind, name in kinds:
        gradient = np.asarray(gradients[name])
        if kind == "grad_digest":
            wide = gradient.astype(np.float64)
            gradient = np.array([np.linalg.norm(wide), (wide * state[name]).sum()])
        close(gradient, arrays[f"{kind}/{name}"], tolerance, name)
    for name in real:
        if f"grad_{name}" in arrays:
            close(by_input[name], arrays[f"grad_{name}"], tolerance, f"grad_{name}")


# ------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("case", HELD)
def test_small_cases_in_float32(case):
    compare(*load(HERE / f"{case}.npz"), "float32")


@pytest.mark.parametrize("case", ["denoiser_tiny", "rdm_tiny"])
def test_small_cases_in_float64(case):
    with jax.enable_x64(True):
        compare(*load(HERE / f"{case}.npz"), "float64")


@pytest.mark.parametrize("case", CASES)
def test_cases_in_float32(golden, case):
    compare(*load(golden / "srgdiff" / f"{case}.npz"), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["denoiser_tiny", *LARGE])
def test_further_cases_in_float32(golden, case):
    compare(*load(golden / "srgdiff" / f"{case}.npz"), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*HELD, *CASES, *LARGE])
def test_cases_in_float64(golden, case):
    with jax.enable_x64(True):
        compare(*load(golden / "srgdiff" / f"{case}.npz"), "float64")


def test_no_golden_case_is_forgotten(golden):
    found = {file.stem for file in (golden / "srgdiff").glob("*.npz")}
    assert found == {*HELD, *CASES, *LARGE, *WHOLE, *ELSEWHERE}


def test_a_longer_window(golden):
    """The same weights at 800 samples; the golden arrays of it are float32."""
    arrays, config, state = load(golden / "srgdiff" / "vae_big.npz")
    found = jax.jit(lambda x: original_forward("vae", state, config, x=x))(arrays["x_long"])
    close(found["mu"], arrays["long_mu"], 1e-5, "long_mu")
    recon = np.asarray(found["recon"])
    close(recon[..., ::20], arrays["long_recon_every20"], 1e-5, "long_recon_every20")
    close(recon.mean(-1), arrays["long_recon_mean"], 1e-5, "long_recon_mean")
    close(np.linalg.norm(recon, axis=-1), arrays["long_recon_norm"], 1e-5, "long_recon_norm")


def test_intermediate_values(golden):
    """The guess, the embedding of a step, and that of a place and a step before their MLPs."""
    from eegsr_jax.nn.embedding import sinusoidal

    arrays, config, state = load(golden / "srgdiff" / "conv_encoder.npz")
    network, own = module("conv_encoder", config), variables("conv_encoder", state, config)
    guess = network.apply(own, arrays["x"].swapaxes(1, 2), method="guess")
    close(guess.swapaxes(1, 2), arrays["debug/h"], 1e-5, "h")
    steps = jnp.asarray(arrays["t"])
    close(network.apply(own, steps, method="embed"), arrays["debug/e_t"], 1e-5, "e_t")
    waves = sinusoidal(steps, 64, cosine_first=False)
    close(waves, arrays["debug/time_embedding"], 1e-7, "time_embedding")

    arrays, config, state = load(golden / "srgdiff" / "denoiser_affine_tiny.npz")
    waves = sinusoidal(arrays["t"], 256, cosine_first=True)
    close(waves, arrays["debug/time_embedding"], 1e-7, "time_embedding")
    network, own = module("denoiser_affine", config), variables("denoiser_affine", state, config)
    steps = network.apply(own, jnp.asarray(arrays["t"]), method="steps")
    close(steps[..., 0], arrays["debug/t_emb"], 1e-5, "t_emb")
    places = network.apply(own, 40, method="prepare")["places"]
    close(places[0].T, arrays["debug/pos_emb"], 1e-5, "pos_emb")


def test_features_of_the_discriminator(golden):
    arrays, config, state = load(golden / "srgdiff" / "discriminator_tiny.npz")
    own = variables("discriminator", state, config)
    found = module("discriminator", config).apply(own, arrays["x"].swapaxes(1, 2), False)
    for number, feature in enumerate(found[:-1]):
        name = f"debug/features{number}"
        close(feature.swapaxes(1, 2), arrays[name], 1e-5, name)


# ------------------------------------------------------------------------------------- sampling


def run_sampling(golden, steps, dtype):
    arrays, config, state = load(golden / "srgdiff" / "sampling.npz")
    names = ("z50_normalised", "noise")
    after = arrays[f"steps{steps}/after_step"]
    forward = jax.jit(
        lambda state, inputs: original_forward(
            "sampling", state, config, dtype=dtype, num_steps=steps, after_step=after, **inputs
        )
    )
    return arrays, forward(state, {k: arrays[k] for k in names})


def test_ten_steps(golden):
    arrays, found = run_sampling(golden, 10, "float32")
    close(found["steps10/out"], arrays["steps10/out"], 1e-5, "out")
    close(found["steps10/trajectory"], arrays["steps10/trajectory"], 1e-5, "trajectory")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fifty_steps(golden, dtype):
    with jax.enable_x64(dtype == "float64"):
        arrays, found = run_sampling(golden, 50, dtype)
        exact = dtype == "float64"
        close(found["steps50/out"], arrays["steps50/out"], 1e-10 if exact else 1e-4, "out")
        close(found["steps50/trajectory"], arrays["steps50/trajectory"], 1e-6, "trajectory")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_whole_way(golden, dtype):
    arrays, config, state = load(golden / "srgdiff" / "end_to_end.npz")
    names = ("x", "masked_channels", "noise", "z50_mean", "z50_std")
    with jax.enable_x64(dtype == "float64"):
        forward = jax.jit(
            lambda state, inputs: original_forward(
                "end_to_end", state, config, dtype=dtype, num_steps=50, **inputs
            )
        )
        found = forward(state, {k: arrays[k] for k in names})
        assert set(found) == {
            *("z50", "sample_normalised", "sample", "zcond0", "fused", "out"),
            "out_without_diffusion",
        }
        for name, value in found.items():
            close(value, arrays[name], 1e-10 if dtype == "float64" else 1e-4, name)


# --------------------------------------------------------------------------------- names, errors


def test_names_since_monai_took_it_in():
    arrays, config, state = load(HERE / "vae_tiny.npz")
    renamed = {
        k.replace("decoder.blocks.3.conv.", "decoder.blocks.3.postconv."): v
        for k, v in state.items()
    }
    assert renamed.keys() != state.keys()
    old, new = (variables("vae", s, config) for s in (state, renamed))
    jax.tree.map(np.testing.assert_array_equal, old, new)


@pytest.mark.parametrize("case", HELD)
def test_variables_are_what_the_network_declares(case):
    """The same names and shapes, so that what is imported can be trained further."""
    arrays, config, state = load(HERE / f"{case}.npz")
    part = config["part"]
    x = jnp.zeros((1, *arrays["x"].shape[:0:-1]))
    further = {
        "vae": (),
        "denoiser": (x, x),
        "rdm": (jnp.zeros(1, jnp.int32),),
        "discriminator": (True,),
    }
    network = module(part, config)
    start = jax.eval_shape(
        lambda key, x: network.init(key, x, *further[part]), jax.random.key(0), x
    )
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (start, variables(part, state, config))]
    assert shapes[0] == shapes[1]


def test_entries_under_the_masks_do_not_count():
    arrays, config, state = load(HERE / "denoiser_tiny.npz")
    mask = state["conv_in.layer.mask"][..., None]
    changed = state | {"conv_in.layer.weight": state["conv_in.layer.weight"] * mask}
    assert (changed["conv_in.layer.weight"] != state["conv_in.layer.weight"]).any()
    trees = [variables("denoiser", s, config) for s in (state, changed)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize(
    ("part", "change", "inputs", "words"),
    [
        ("unet", {}, {}, "part 'unet': expected one of vae, conv_encoder"),
        ("vae", {}, {}, "part vae: inputs none; expected x, eps"),
        ("vae", {}, {"x": 0, "z": 0}, "part vae: inputs x, z; expected x, eps"),
        ("vae", {"attention_levels": [False, True]}, {"x": 0}, "expected no attention"),
        ("vae", {"spatial_dims": 2}, {"x": 0}, "spatial_dims 2 is nothing .*vae.* has 1"),
        ("sampling", {}, {"z50_normalised": 0, "noise": 0, "num_steps": 5}, "no entry 'conv_enc"),
    ],
)
def test_what_cannot_be_is_named(part, change, inputs, words):
    _, config, state = load(HERE / "vae_tiny.npz")
    with pytest.raises(ConfigError, match=words):
        original_forward(part, state, config | change, **inputs)


def test_what_is_missing_is_named():
    arrays, config, state = load(HERE / "vae_tiny.npz")
    x = arrays["x"]
    with pytest.raises(ConfigError, match="no entry 'num_channels'; it has attention_levels"):
        short = {k: v for k, v in config.items() if k != "num_channels"}
        original_forward("vae", state, short, x=x)
    with pytest.raises(ConfigError, match="no entry 'encoder.blocks.0.conv.weight'; it has"):
        original_forward("vae", {}, config, x=x)
    with pytest.raises(ConfigError, match="'float64'.*enable_x64"):
        original_forward("vae", state, config, dtype="float64", x=x)
    _, config, state = load(HERE / "denoiser_tiny.npz")
    x = jnp.zeros((1, 4, 32))
    with pytest.raises(ConfigError, match="32 taps .4 in 4 scales. needs more samples.*found 32"):
        original_forward("denoiser", state, config, x=x, t=0, cond=x)
