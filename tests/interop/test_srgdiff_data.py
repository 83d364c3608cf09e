"""The release's masks and scores, against its numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.interop import srgdiff_data


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "srgdiff" / "metrics_and_masking.npz", allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def test_hidden_channels(arrays):
    np.testing.assert_array_equal(srgdiff_data.HIDDEN, arrays["masking/fixed_masked_channels"])
    expected = arrays["masking/masked_channels"]
    share = json.loads(str(arrays["config_json"]))["mask_ratio"]
    found = srgdiff_data.hidden_channels(
        len(expected), int(arrays["masking/numpy_seed"]), 62, share
    )
    np.testing.assert_array_equal(found, expected)


def test_scores(arrays, golden):
    """Also by our own evaluation, all channels counted and in its unit of account."""
    cases = sorted(name.removesuffix("/truth") for name in arrays if name.endswith("/truth"))
    assert len(cases) == 7
    for case in cases:
        truth, prediction = arrays[f"{case}/truth"], arrays[f"{case}/prediction"]
        expected = arrays[f"{case}/mse_nmse_pcc_snr"]
        found = srgdiff_data.mse_nmse_pcc_snr(truth, prediction)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=case)
        scores = Scores(np.ones(truth.shape[1], bool), 200.0)
        scores.add(truth, prediction, np.ones_like(truth))
        ours = scores.summary()
        np.testing.assert_allclose(ours["nmse_all"], expected[1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours["pcc_all"], expected[2], rtol=1e-10)
        if case not in ("perfect", "tiny_amplitude"):  # where the original's 1e-8 matters
            np.testing.assert_allclose(ours["snr_missing_db"], expected[3], rtol=1e-6)


def test_scores_of_a_whole_reconstruction(golden):
    with np.load(golden / "srgdiff" / "end_to_end.npz", allow_pickle=False) as found:
        scores = srgdiff_data.mse_nmse_pcc_snr(found["x"], found["out"])
        expected = [found[f"metrics/{name}"] for name in ("mse", "nmse", "pcc", "snr")]
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_the_spectral_term(golden):
    with np.load(golden / "srgdiff" / "losses_and_latents.npz", allow_pickle=False) as found:
        x, recon = (found[f"vae/{name}"].astype(np.float64) for name in ("x", "recon"))
        expected = found["vae/loss/spectral_commented_out"]
    np.testing.assert_allclose(srgdiff_data.spectral_distance(x, recon), expected, rtol=1e-10)
