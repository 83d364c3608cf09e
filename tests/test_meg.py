"""MEG through the same methods: the example's fields against Sarvas' formula; no unit is presumed.

Needs a checkout: the package alone lacks the benchmarks.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import mne
import numpy as np
import pytest

from eegsr_jax import geometry, methods
from eegsr_jax.data import recording
from eegsr_jax.errors import ChannelError
from eegsr_jax.training.loop import fit, jitted, nameless

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "meg.py"
if not SCRIPT.is_file():
    pytest.skip("no benchmarks here: an installed package", allow_module_level=True)
if not hasattr(mne.channels, "read_meg_canonical_info"):
    pytest.skip("this MNE ships no MEG sensors", allow_module_level=True)
TESLA = 2.0**-43  # about 1e-13: a power of two, so that not even rounding depends on the unit


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("meg", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def head(example):
    return example.heads([1], 2.0)[0]


@pytest.fixture(scope="module")
def info(example, head):
    return example.magnetometers(head.centre)


def sarvas(places, dipoles, moments):
    """`[place, dipole, 3]` tesla outside a sphere about the origin (Sarvas 1987, eq. 25)."""
    r, r0 = places[:, None], dipoles[None]
    a = r - r0
    a1, r1 = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, r))
    along = (a * r).sum(-1, keepdims=True)
    f = a1 * (r1 * a1 + r1**2 - (r0 * r).sum(-1, keepdims=True))
    slope = (a1**2 / r1 + along / a1 + 2 * a1 + 2 * r1) * r - (a1 + 2 * r1 + along / a1) * r0
    turned = np.cross(moments, dipoles)[None]
    return 1e-7 / f**2 * (f * turned - (turned * r).sum(-1, keepdims=True) * slope)


def test_the_coils_see_what_the_formula_says(example, head, info):
    found = example.gains(info, head)
    middle = np.stack(list(example.positions(info).values())) - head.centre
    right, up, out = np.stack([c["loc"][3:] for c in info["chs"]]).reshape(-1, 3, 3).swapaxes(0, 1)
    points, weights = np.polynomial.legendre.leggauss(4)
    expected = np.zeros_like(found)
    for x, wx in zip(points, weights, strict=True):
        for y, wy in zip(points, weights, strict=True):  # a square of 21 mm, 0.3 mm off its chip
            places = middle + 0.0105 * (x * right + y * up) + 0.0003 * out
            field = sarvas(places, head.positions - head.centre, head.orientations)
            expected += wx * wy / 4 * (field * out[:, None]).sum(-1)
    error = np.linalg.norm(found - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert np.median(error) < 3e-3  # MNE's coils are sums of 16 points
    assert error.max() < 1e-2


def test_the_helmet_is_the_samples_and_round_the_head(example, head, info):
    table = example.positions(info)
    layout = mne.channels.read_layout("Vectorview-mag")
    assert sorted(table) == sorted(layout.names)
    away = np.linalg.norm(np.stack(list(table.values())) - head.centre, axis=1) - head.radius
    assert 0.01 < away.min() < away.max() < 0.05
    # What is left or right, front or back in the layout is so in the head.
    flat = dict(zip(layout.names, layout.pos, strict=True))
    for axis in (0, 1):
        both = np.array([(xyz[axis], flat[name][axis]) for name, xyz in table.items()])
        assert np.corrcoef(both.T)[0, 1] > 0.9


def test_people_share_no_source_and_the_noise_is_as_said(example, info):
    named = [set(people) for people in example.PEOPLE.values()]
    assert sum(map(len, named)) == len(set.union(*named))
    first, second = example.heads([1, 2], 2.0)
    assert not np.isin(first.positions, second.positions).any()
    noisy, clean = example.windows(info, [1, 2], 2.0)
    assert noisy.shape == clean.shape == (2, 1, 102, example.WINDOW)
    noise = 3e-15 * np.sqrt(80)
    assert np.std(noisy - clean) == pytest.approx(noise, rel=0.02)
    assert 10 * noise < np.std(clean) < 1e-11


def cap(info, example, count):
    """Every so many of the magnetometers, half of them given, and 24 windows of waves."""
    table = dict(list(example.positions(info).items())[:: 102 // count][:count])
    where = geometry.make_geometry(list(table)[::2], list(table), table)
    rng = np.random.default_rng(0)
    sources = np.cumsum(rng.standard_normal((24, 5, 160)), 2)
    sources -= sources.mean(2, keepdims=True)
    mixed = rng.standard_normal((count, 5)) @ sources + 0.1 * rng.standard_normal((24, count, 160))
    return where, mixed.astype(np.float32), (np.arange(24) >= 16).astype(np.int32)


def in_two_units(spec, where, waves, part):
    """What a method fitted to waves says of them, and one fitted to the same in tesla."""
    (method,) = methods.parse(spec).values()
    for unit in (1.0, TESLA):
        scaled = np.float32(unit) * waves
        params = fit(method, where, lambda: [{"eeg": scaled, "part": part}])  # noqa: B023
        plan = jitted(method.plan)(params, nameless(where))
        observed = scaled[:4, np.asarray(where.observed_index)]
        found = jitted(method.apply)(plan, observed, jax.random.key(0))
        if method.draw:
            found = [*found, jitted(method.draw)(plan, observed, jax.random.key(1))]
        yield [np.asarray(x) / unit for x in found]


@pytest.mark.parametrize("spec", ["gaussian(lags=1)", "lagged_ridge(lags=1)"])
def test_tesla_are_as_good_as_volts(example, info, spec):
    volts, tesla = in_two_units(spec, *cap(info, example, 8))
    assert np.isfinite(volts[1]).all()
    for one, other in zip(volts, tesla, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_tesla_are_as_good_as_volts_for_diffusion(example, info):
    spec = "srgdiff(lags=2,components=2,widths=(4,),features=8,hidden=8,mean_epochs=2,epochs=2)"
    volts, tesla = in_two_units(spec, *cap(info, example, 8))
    assert np.isfinite(volts[1]).all() and volts[1].max() > 0
    for one, other in zip(volts, tesla, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_what_the_page_says_is_refused_is_refused(example, info):
    table = example.positions(info)
    names, xyz = list(table), np.stack(list(table.values()))
    meg = 1e-12 * np.random.default_rng(0).standard_normal((102, 320))
    with pytest.raises(ChannelError, match="flat .* not in the unit"):
        recording.from_array(meg, 160.0, names, xyz)
    with pytest.raises(ChannelError, match="no EEG"):
        recording.read(mne.io.RawArray(meg, info.copy(), verbose="error"))
    # A gradiometer lies where its magnetometer does.
    with pytest.raises(ChannelError, match="MEG 0111 and MEG 0113 have the same position"):
        geometry.make_geometry(names[:4], [*names, "MEG 0113"], table | {"MEG 0113": xyz[0]})
