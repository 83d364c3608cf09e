"""The original's loaders, splits and scores, against its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.errors import ChannelError
from eegsr_jax.gaussians import grid
from eegsr_jax.interop import emag_data

HERE = Path(__file__).parents[1] / "golden" / "emag"


@pytest.fixture(scope="module")
def helpers():
    with np.load(HERE / "helpers.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def cases(helpers, prefix):
    found = sorted({k.rpartition("/")[0] for k in helpers if k.startswith(prefix)})
    assert found
    return found


def close(found, expected, tolerance=1e-10):
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_scores_also_at_the_edges(helpers):
    found = cases(helpers, "metrics/")
    assert len(found) == 8
    for case in found:
        scores = emag_data.nmse_pcc_snr(helpers[f"{case}/truth"], helpers[f"{case}/prediction"])
        np.testing.assert_allclose(
            scores, helpers[f"{case}/nmse_pcc_snr"], rtol=1e-10, atol=1e-12, err_msg=case
        )


def test_standardised_windows(helpers):
    close(emag_data.zscore(helpers["zscore/input"].astype(np.float64)), helpers["zscore/output"])
    close(emag_data.zscore(helpers["zscore/input"]), helpers["zscore/output"], 1e-5)


def check_splits(arrays):
    for case in cases(arrays, "split/"):
        count, seed = case.removeprefix("split/n").split("_seed")
        parts = emag_data.split(int(count), int(seed))
        for part, name in zip(parts, ("train", "test"), strict=True):
            np.testing.assert_array_equal(part, arrays[f"{case}/{name}"], err_msg=case)


def test_splits(helpers):
    check_splits(helpers)


def test_all_splits(golden):
    with np.load(golden / "emag" / "helpers.npz", allow_pickle=False) as arrays:
        check_splits({k: arrays[k] for k in arrays.files if k.startswith("split/")})


def test_windows(helpers):
    for case in cases(helpers, "windows/"):
        length, stride = case.removeprefix("windows/length").split("_stride")
        lengths = helpers[f"{case}/recording_lengths"].tolist()
        found = emag_data.windows(lengths, int(length), int(stride))
        np.testing.assert_array_equal(found, helpers[f"{case}/items"])
    assert emag_data.windows([3], 4, 4).shape == (0, 2)


def test_inputs_spread_over_the_cap(helpers):
    spread = emag_data.spread_inputs(
        *(helpers[f"interpolated/{k}"] for k in ("x_ld", "ld_indices", "electrode_positions_mm"))
    )
    close(spread, helpers["interpolated/output_float32"], 1e-6)


def test_the_lead_field_that_nobody_uses(helpers):
    positions = helpers["inverse_square_leadfield/electrode_positions_mm"].astype(np.float64)
    found = emag_data.inverse_square_lead_field(positions, grid.sphere(4))
    close(found, helpers["inverse_square_leadfield/sphere_volume_R04"])


@pytest.mark.filterwarnings("ignore")
def test_template_positions(helpers):
    import mne

    table = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]
    names = helpers["positions/channel_names"].tolist()
    close(emag_data.template_positions(table, names), helpers["positions/standard_1005_mm"])
    with pytest.raises(ChannelError, match="XX9"):
        emag_data.template_positions(table, ["Cz", "XX9"])


def test_positions_of_a_locations_file(helpers):
    found = emag_data.locations(
        helpers["positions/locs_theta_degrees"], helpers["positions/locs_radius"]
    )
    close(found, helpers["positions/locs_mm"])


def test_random_stand_ins_are_refused(helpers):
    close(emag_data.random_cap(62), helpers["positions/random_cap_mm"])
    with pytest.raises(ChannelError, match="62 points are EMAG's random stand-ins"):
        emag_data.check_positions(helpers["positions/random_cap_mm"].round(2))
    emag_data.check_positions(helpers["positions/standard_1005_mm"])
