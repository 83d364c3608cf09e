"""Octaves add up to the signal, and each is twice as wide as the one below."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from eegsr_jax.nn.octaves import OCTAVES, octave_shares, octaves


@pytest.mark.parametrize("time", [64, 99, 100])
def test_octaves_add_up_and_halve(time):
    x = jax.random.normal(jax.random.key(0), (2, 3, time))
    parts = octaves(x)
    np.testing.assert_allclose(parts.sum(0), x, atol=1e-5)
    np.testing.assert_allclose(np.sum(octave_shares(time)), 1, atol=1e-6)
    spectra = np.abs(np.fft.rfft(np.asarray(parts), axis=-1)).sum((1, 2))
    at = np.fft.rfftfreq(time) * 2
    for number, spectrum in enumerate(spectra):
        inside = at <= 2.0 ** (number + 1 - OCTAVES)
        inside &= (at > 2.0 ** (number - OCTAVES)) | (number == 0)
        assert spectrum[~inside].max() < 1e-4 * spectra.max()
