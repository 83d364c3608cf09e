"""The structured long convolution: golden numbers, direct sums, and its frozen norm."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.interop.srgdiff_names import long_convolution
from eegsr_jax.nn.long_convolution import LongConvolution, kernel_norm, long_kernel


def error(found, golden):
    return np.linalg.norm(np.asarray(found, np.float64) - golden) / np.linalg.norm(golden)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", ["v0", "v1", "v2", "v3"])
def test_golden_numbers(golden, variant, dtype):
    with np.load(golden / "srgdiff" / "slconv.npz", allow_pickle=False) as file:
        config = json.loads(str(file["config_json"]))["variants"][variant]
        arrays = {
            k.removeprefix(f"{variant}/"): file[k] for k in file.files if k.startswith(variant)
        }
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    scales = config["num_scales"]
    with jax.enable_x64(dtype == "float64"):
        arrays = {
            k: jnp.asarray(v, dtype if v.dtype.kind == "f" else v.dtype) for k, v in arrays.items()
        }
        x, golden_out = arrays["x"], arrays["out"]
        network = LongConvolution(config["num_channels"], config["kernel_size"], scales)
        apply = jax.jit(network.apply)
        before, state = (
            {"params": long_convolution(arrays, prefix, scales)} for prefix in ("before/", "state/")
        )
        assert error(apply(state, x), golden_out) < tolerance
        assert error(apply(before, x), arrays["out_first_call"]) < tolerance
        norm = arrays["kernel_norm_after_first_call"][0, :, 0]
        assert error(before["params"]["norm"], norm) < tolerance
        impulse = jnp.zeros_like(x[:1]).at[..., 0].set(1)
        assert error(apply(state, impulse), arrays["impulse_response"]) < tolerance


def test_pieces_double_in_length_and_halve_in_height():
    found = long_kernel(jnp.ones((4, 1, 2)))
    np.testing.assert_array_equal(found[0], [8] * 2 + [4] * 2 + [2] * 4 + [1] * 8)


def test_training_does_not_move_the_norm():
    network = LongConvolution(3, 2, 2)
    x = jax.random.normal(jax.random.key(1), (2, 3, 11))
    params = network.init(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(params["norm"], kernel_norm(params["pieces"]))

    def loss(params):
        return jnp.sum(network.apply({"params": params}, x) ** 2)

    gradient = jax.grad(loss)(params)
    assert not np.asarray(gradient["norm"]).any() and np.asarray(gradient["pieces"]).all()
    larger = params | {"pieces": 2 * params["pieces"], "gain": 2 * params["gain"]}
    both = [network.apply({"params": p}, x) for p in (params, larger)]
    np.testing.assert_allclose(2 * both[0], both[1], rtol=1e-5)


def test_as_many_taps_as_samples_are_refused():
    network = LongConvolution(1, 4, 3)
    with pytest.raises(ConfigError, match="16 taps .4 in 3 scales.*found 16"):
        network.init(jax.random.key(0), jnp.zeros((1, 1, 16)))
