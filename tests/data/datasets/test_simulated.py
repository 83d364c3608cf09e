"""Simulated EEG: lead field against an independent formula and MNE, spectrum, noise, seeds."""

import json

import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy.signal import welch

from eegsr_jax.data.datasets import load, simulated
from eegsr_jax.errors import ChannelError, DatasetError
from eegsr_jax.geometry import fit_sphere, montage


@pytest.fixture(scope="module")
def entry():
    return load("simulated", seconds=60, snr_db=10).entries[0]


@pytest.fixture(scope="module")
def recording(entry):
    return entry.read()


@pytest.fixture(scope="module")
def sources(entry):
    return entry.truth()


def layered_sphere(electrodes, dipoles, moments, radii, conductivities, degrees=150):
    """Surface potentials `[channel, source]` of dipoles in concentric shells, as a Legendre series.

    Written from the boundary conditions alone: in shell j the degree-n part of the potential is
    A_j r^n + B_j r^-(n+1); potential and radial current are continuous, none leaves the scalp. A
    dipole at b is the b-gradient of a point source, whose degree-n part is b^n P_n / r^(n+1).
    Radii are relative to the head's, which is 1; the result is for that head.
    """
    shells = len(radii)
    out = np.zeros((len(electrodes), len(dipoles)))
    b = np.linalg.norm(dipoles, axis=1)
    b_hat = dipoles / b[:, None]
    x = electrodes @ b_hat.T
    for n in range(1, degrees + 1):
        # unknowns A_1, then (A_j, B_j) for j = 2..; B_1 is the source's own
        matrix = np.zeros((2 * shells - 1, 2 * shells - 1))
        right = np.zeros(2 * shells - 1)
        source = 1 / (4 * np.pi * conductivities[0])

        def term(j, r, n=n):
            grow = (r**n, conductivities[j] * n * r ** (n - 1))
            fall = (r ** -(n + 1), -conductivities[j] * (n + 1) * r ** -(n + 2))
            return grow, fall

        for j in range(shells - 1):
            for side, sign in ((j, 1.0), (j + 1, -1.0)):
                grow, fall = term(side, radii[j])
                for equation in (0, 1):
                    row = 2 * j + equation
                    if side == 0:
                        matrix[row, 0] += sign * grow[equation]
                        right[row] -= sign * source * fall[equation]
                    else:
                        matrix[row, 2 * side - 1] += sign * grow[equation]
                        matrix[row, 2 * side] += sign * fall[equation]
        grow, fall = term(shells - 1, 1.0)
        matrix[-1, -2], matrix[-1, -1] = grow[1], fall[1]
        # columns differ by many powers of ten: scale before solving
        scale = np.abs(matrix).max(0)
        solution = np.linalg.solve(matrix / scale, right) / scale
        transfer = solution[-2] + solution[-1]
        p = legendre.legval(x, np.eye(n + 1)[n])
        slope = legendre.legval(x, legendre.legder(np.eye(n + 1)[n]))
        radial = (moments * b_hat).sum(1)
        along = electrodes @ moments.T
        gradient = b ** (n - 1) * (n * p * radial + slope * (along - x * radial))
        out += transfer * gradient
    return out


def relative(a, b):
    return np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0)


def test_leadfield_equals_the_legendre_series_of_the_four_shells(sources, recording):
    unit = (sources.positions - sources.centre) / sources.radius
    electrodes = (recording.positions - sources.centre) / sources.radius
    expected = layered_sphere(
        electrodes, unit, sources.orientations, simulated.RADII, simulated.CONDUCTIVITIES
    )
    expected /= sources.radius**2
    # MNE replaces the shells by three fitted dipoles each (Berg & Scherg 1994)
    error = relative(sources.leadfield, expected)
    assert np.median(error) < 0.003 and error.max() < 0.01


def test_leadfield_equals_mne_dipole_by_dipole(sources, recording):
    import mne

    info = mne.create_info(list(recording.names), 100.0, "eeg")
    where = dict(zip(recording.names, recording.positions, strict=True))
    info.set_montage(mne.channels.make_dig_montage(where, coord_frame="head"))
    sphere = mne.make_sphere_model(sources.centre, sources.radius, verbose="error")
    some = slice(0, 12)
    dipoles = mne.Dipole(
        np.arange(12.0),
        sources.positions[some],
        np.full(12, 1e-9),
        sources.orientations[some],
        np.full(12, 100.0),
    )
    forward, moments = mne.make_forward_dipole(dipoles, sphere, info, verbose="error")
    order = [np.argmin(abs(sources.positions - p).sum(1)) for p in forward["source_rr"]]
    np.testing.assert_allclose(
        forward["sol"]["data"], sources.leadfield[:, order], rtol=1e-4, atol=1e-3
    )


def test_data_are_leadfield_times_sources_plus_noise(sources, recording):
    product = sources.leadfield @ sources.time_courses.astype(float)
    np.testing.assert_allclose(sources.noiseless, product, atol=1e-11)
    assert np.sqrt(np.mean(sources.noiseless.astype(float) ** 2)) == pytest.approx(15e-6, rel=1e-4)
    noise = recording.data - sources.noiseless
    np.testing.assert_allclose(noise.std(1), sources.noise_std, rtol=0.05)
    snr = 20 * np.log10(simulated.AMPLITUDE / noise.std())
    assert snr == pytest.approx(10, abs=0.1)
    cross = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(cross).max() < 0.06  # white over channels


def test_spectrum_is_one_over_f_with_alpha_behind_and_beta_above(sources, recording):
    frequency, power = welch(sources.noiseless, recording.sfreq, nperseg=640)

    def band(name, low, high):
        inside = (frequency >= low) & (frequency <= high)
        return power[recording.names.index(name), inside].mean()

    broad = (frequency >= 2) & (frequency <= 60)
    broad &= ~((frequency > 7) & (frequency < 27))
    mean = power[:, broad].mean(0)
    slope = np.polyfit(np.log(frequency[broad]), np.log(mean), 1)[0]
    assert -1.7 < slope < -0.9
    alpha = {n: band(n, 9, 11) / band(n, 4, 7) for n in ("Oz", "Fpz")}
    assert alpha["Oz"] > 5 and alpha["Oz"] > 3 * alpha["Fpz"]
    beta = {n: band(n, 18, 22) / band(n, 30, 40) for n in ("C3", "Fpz", "Oz")}
    assert beta["C3"] > 3 and beta["C3"] > 1.5 * max(beta["Fpz"], beta["Oz"])


def test_beta_comes_in_bursts(sources):
    from scipy.signal import butter, hilbert, sosfiltfilt

    unit = sources.positions - sources.centre
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    central = np.argmax(unit @ np.array([0.7, 0.0, 0.7]))
    filtered = sosfiltfilt(
        butter(4, (17, 23), "bandpass", fs=160, output="sos"),
        sources.time_courses[central].astype(float),
    )
    envelope = np.abs(hilbert(filtered))
    # Rayleigh (stationary Gaussian) has 0.523; bursts spread more
    assert envelope.std() / envelope.mean() > 0.65


def test_sources_lie_in_the_brain(sources):
    depth = np.linalg.norm(sources.positions - sources.centre, axis=1) / sources.radius
    assert 0.6 <= depth.min() and depth.max() <= 0.85 < simulated.RADII[0]
    np.testing.assert_allclose(np.linalg.norm(sources.orientations, axis=1), 1)
    assert sources.positions.shape == (200, 3) and sources.time_courses.shape == (200, 9600)


def test_electrodes_are_the_montage_moved_onto_the_sphere():
    names = ["Fp1", "F8", "T7", "C3", "Cz", "C4", "P7", "Oz", "PO8"]
    (entry,) = small(subjects=1, montage=names)
    recording, sources = entry.read(), entry.truth()
    given = np.stack([montage("standard_1005")[n] for n in recording.names])
    centre, radius = fit_sphere(given)
    assert np.ptp(np.linalg.norm(given - centre, axis=1)) > 5e-3  # a head is no sphere
    np.testing.assert_allclose(sources.centre, centre, atol=1e-9)
    moved = recording.positions - centre
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), radius, rtol=1e-6)
    cosine = (moved * (given - centre)).sum(1) / radius / np.linalg.norm(given - centre, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-6)


def small(**options):
    return load("simulated", seconds=4, sfreq=100, num_sources=20, **options).entries


def test_the_seed_fixes_every_sample():
    first, again = small(num_runs=2), small(num_runs=2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.read().data, b.read().data)
    other = small(seed=1)[0]
    assert not np.array_equal(first[0].read().data, other.read().data)


def test_runs_share_the_head_and_subjects_do_not():
    one, two, other = (e.truth() for e in small(num_runs=2, num_subjects=2)[:3])
    np.testing.assert_array_equal(one.leadfield, two.leadfield)
    assert not np.array_equal(one.time_courses, two.time_courses)
    assert not np.array_equal(one.positions, other.positions)


def test_choosing_a_subject_does_not_change_it():
    (alone,) = small(subjects=3)
    assert alone.subject == "3"
    np.testing.assert_array_equal(alone.read().data, small()[2].read().data)


def test_no_noise():
    (entry,) = small(subjects=1, snr_db=np.inf)
    np.testing.assert_allclose(entry.read().data, entry.truth().noiseless, atol=1e-12)


def test_any_montage():
    named = small(montage=["Fp1", "T3", "oz", "Cz", "C4"])[0].read()
    assert named.names == ("Fp1", "T7", "Oz", "Cz", "C4") and named.data.shape == (5, 400)
    template = small(montage="standard_1020")[0].read()
    gaps = np.linalg.norm(template.positions[:, None] - template.positions, axis=-1)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 1e-3
    assert "T7" in template.names and "T3" not in template.names
    with pytest.raises(ChannelError, match="biosemi65"):
        small(montage="biosemi65")
    with pytest.raises(ChannelError, match="Xx9"):
        small(montage=["Fp1", "Xx9", "Cz", "Oz"])


@pytest.mark.parametrize(
    "option, message",
    [
        ({"sfreq": 40}, "sfreq is 40; expected a number, at least 64"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": np.inf}, "seconds is inf"),
        ({"num_sources": 0}, "num_sources is 0"),
        ({"num_subjects": 0}, "num_subjects is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"snr_db": np.nan}, "snr_db is nan"),
        ({"snr_db": -np.inf}, "snr_db is -inf; expected decibels"),
        ({"snr_db": "high"}, "snr_db is 'high'; expected decibels"),
        ({"seconds": "abc"}, "seconds is 'abc'; expected a number, at least 2"),
        ({"seconds": [60]}, "seconds is .60.; expected a number"),
        ({"sfreq": None}, "sfreq is None; expected a number"),
        ({"num_sources": 20.5}, "num_sources is 20.5; expected a whole number, at least 1"),
        ({"num_runs": True}, "num_runs is True; expected a whole number"),
        ({"num_subjects": "2"}, "num_subjects is '2'; expected a whole number"),
        ({"seed": 1.0}, "seed is 1.0; expected a whole number"),
        ({"montage": 64}, "montage is 64; expected a montage's name, or names of electrodes"),
        ({"montage": ["Cz", 3]}, "montage is .'Cz', 3.; expected"),
        ({"montage": []}, "montage is ..; expected"),
        ({"subjects": 5}, "subject '5' does not exist; present: 1, 2, 3, 4"),
        ({"runs": 2}, "run '2' does not exist; present: 1"),
        ({"sessions": 2}, "session '2' does not exist; present: 1"),
    ],
)
def test_bad_options_are_named(option, message):
    with pytest.raises(DatasetError, match=message):
        load("simulated", **option)


def test_options_that_make_other_data_are_kept():
    first = load("simulated", seed=np.int64(1), montage=("Fp1", "T3", "Oz", "Cz"), snr_db=np.inf)
    assert first.options == {
        "montage": ["Fp1", "T3", "Oz", "Cz"],
        "seconds": 60.0,
        "sfreq": 160.0,
        "num_sources": 200,
        "snr_db": "inf",
        "seed": 1,
    }
    assert json.loads(json.dumps(first.options, allow_nan=False)) == first.options
    fewer = load("simulated", num_subjects=2, num_runs=3, subjects=1)  # the same recordings
    assert fewer.options == load("simulated").options
