"""A small cap and simulated EEG with correlations in space and time, shared by the method tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from eegsr_jax.geometry import fit_sphere, make_geometry, montage

EEGMMIDB = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 "
    "AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz "
    "P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()
TARGETS = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "F3 Fp2 T7 Cz T8 Pz O1 P8".split()  # not in the order of the targets, on purpose


@pytest.fixture(scope="session")
def template():
    return montage("standard_1005")


@pytest.fixture(scope="session")
def eegmmidb():
    """The 64 channels of EEGMMIDB, in the order of its files."""
    return EEGMMIDB


@pytest.fixture(scope="session")
def positions(template):
    return {name: template[name] for name in TARGETS}


@pytest.fixture(scope="session")
def geometry(positions):
    """20 targets, 8 of them observed."""
    return make_geometry(OBSERVED, TARGETS, positions)


@pytest.fixture(scope="session")
def simulate(positions):
    """`simulate(windows, time, seed) -> [windows, 20, time]` float32 volts, about 20 µV."""
    place = np.stack(list(positions.values()))
    centre, _ = fit_sphere(place)
    toward = place - centre
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    mixing = np.random.default_rng(7).standard_normal((12, 3))
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    field = np.exp(3 * (toward @ mixing.T - 1))  # smooth bumps on the scalp
    tilt = 0.3 * np.random.default_rng(8).standard_normal(field.shape)  # and what no kernel knows

    def draw(windows, time, seed=0):
        generator = np.random.default_rng(seed)
        sources = generator.standard_normal((windows, 12, time + 50))
        sources = lfilter([1.0], [1.0, -0.8], sources)[..., 50:]
        later = np.roll(sources, 2, axis=-1)  # the lags carry information
        noise = 0.3 * generator.standard_normal((windows, len(place), time))
        x = np.einsum("cs,wst->wct", field, sources) + np.einsum("cs,wst->wct", tilt, later)
        return (1e-5 * (x + noise)).astype(np.float32)

    return draw
