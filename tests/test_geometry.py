"""Names, montages, head sphere, `Geometry` and functions on the sphere, against MNE and NumPy."""

from __future__ import annotations

import json
import warnings

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre

from eegsr_jax.errors import ChannelError
from eegsr_jax.geometry import (
    Geometry,
    cosines,
    directions,
    find_channels,
    fit_sphere,
    from_json,
    legendre_sum,
    make_geometry,
    montage,
    nearest_angle,
    standard_name,
    to_json,
)

EEGMMIDB_RAW = (
    "Fc5. Fc3. Fc1. Fcz. Fc2. Fc4. Fc6. C5.. C3.. C1.. Cz.. C2.. C4.. C6.. Cp5. Cp3. Cp1. Cpz. "
    "Cp2. Cp4. Cp6. Fp1. Fpz. Fp2. Af7. Af3. Afz. Af4. Af8. F7.. F5.. F3.. F1.. Fz.. F2.. F4.. "
    "F6.. F8.. Ft7. Ft8. T7.. T8.. T9.. T10. Tp7. Tp8. P7.. P5.. P3.. P1.. Pz.. P2.. P4.. P6.. "
    "P8.. Po7. Po3. Poz. Po4. Po8. O1.. Oz.. O2.. Iz.."
).split()
EEGMMIDB = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 "
    "AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz "
    "P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()


@pytest.fixture(scope="module")
def template():
    return montage("standard_1005")


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("raw", "standard"), list(zip(EEGMMIDB_RAW, EEGMMIDB, strict=True)))
def test_standard_name_mends_the_names_of_eegmmidb(raw, standard):
    assert standard_name(raw) == standard


@pytest.mark.parametrize(
    ("raw", "standard"),
    [
        ("T3", "T7"),
        ("T4", "T8"),
        ("T5", "P7"),
        ("t6", "P8"),
        ("EEG Fp1-REF", "Fp1"),
        ("EEG FP1-LE", "Fp1"),
        ("EEG T3-REF", "T7"),
        ("eeg_Cz", "Cz"),
        ("EEG-O2", "O2"),
        ("Fz-AVG", "Fz"),
        ("Pz_M1M2", "Pz"),
        ("FPz", "Fpz"),
        ("FPZ", "Fpz"),
        ("AFZ", "AFz"),
        ("CB1", "CB1"),
        ("cb2", "CB2"),
        ("FFC5H", "FFC5h"),
        ("poo10h", "POO10h"),
        ("NZ", "Nz"),
        (" Oz ", "Oz"),
        ("a1", "A1"),
        ("m2", "M2"),
    ],
)
def test_standard_name_table(raw, standard):
    assert standard_name(raw) == standard


@pytest.mark.parametrize(
    "name",
    # Not 10-05 names, bipolar pairs, and old-looking names of other systems must stay.
    ["EEG 001", "EEG001", "E128", "MEG 0113", "EOG1", "VEOG", "ECG", "STI 014", "Fp1-F7", "C3-P3"]
    + ["T7-M2", "B12", "Ref", "REF", "LPA", "X3"],
)
def test_standard_name_leaves_other_names_alone(name):
    assert standard_name(name) == name


def test_standard_name_keeps_every_name_of_mne_montages(template):
    old = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    for name in template:
        assert standard_name(name) == old.get(name, name)
    for other in ("biosemi128", "GSN-HydroCel-128"):
        names = list(montage(other))
        assert [standard_name(n) for n in names] == names


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=12))
def test_standard_name_is_idempotent_and_total(name):
    assert standard_name(standard_name(name)) == standard_name(name)


def test_find_channels_matches_names_however_they_are_spelled():
    index = find_channels(["Oz", "FPz", "T3"], EEGMMIDB_RAW)
    assert [EEGMMIDB[i] for i in index] == ["Oz", "Fpz", "T7"]
    assert index.dtype == np.int32


def test_find_channels_names_the_absent_and_the_doubled():
    with pytest.raises(
        ChannelError, match=r"channel CB1 not among the 64 channels \(FC5, FC3.*…\)"
    ):
        find_channels(["Cz", "CB1"], EEGMMIDB)
    with pytest.raises(ChannelError, match=r"channels Foo, Bar not among"):
        find_channels(["Foo", "Bar"], EEGMMIDB)
    with pytest.raises(ChannelError, match=r"close: Fz"):
        find_channels(["Fzz"], EEGMMIDB)
    with pytest.raises(ChannelError, match="T7.*twice"):
        find_channels(["T7", "Cz", "T3"], EEGMMIDB)


# ----------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("name", ["standard_1005", "colin27_1005", "standard_1020", "biosemi64"])
def test_montage_by_name_is_mne_in_the_head_frame_and_warns_of_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = montage(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MNE 1.13 on the old names
        dig = mne.channels.make_standard_montage(name)
    info = mne.create_info(dig.ch_names, 100.0, "eeg")
    info.set_montage(dig)  # goes through MNE's own transform to the head frame
    assert list(found) == dig.ch_names
    for channel in info["chs"]:
        np.testing.assert_allclose(found[channel["ch_name"]], channel["loc"][:3], atol=1e-7)


def test_both_names_of_the_template_give_the_same_positions(template):
    twin = montage("colin27_1005")
    assert template.keys() == twin.keys()
    assert all(np.array_equal(template[n], twin[n]) for n in template)


def test_what_montage_returns_belongs_to_the_caller():
    before = montage("standard_1020")["Cz"].copy()
    montage("standard_1020")["Cz"][:] *= 1000
    np.testing.assert_array_equal(montage("standard_1020")["Cz"], before)


def test_montage_from_a_dig_montage_and_a_mapping(template):
    names = EEGMMIDB[:8]
    dig = mne.channels.make_dig_montage({n: template[n] for n in names}, coord_frame="head")
    for source in (dig, {n: template[n].tolist() for n in names}):
        found = montage(source)
        assert list(found) == names
        assert all(np.allclose(found[n], template[n], atol=1e-12) for n in names)


def test_montage_with_fiducials_is_moved_to_the_head_frame(template):
    names = EEGMMIDB[:8]
    fiducials = {"nasion": [0, 0.1, 0], "lpa": [-0.08, 0, 0], "rpa": [0.08, 0, 0]}
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn about z

    def moved(p):
        return turn @ np.asarray(p, float) + [0.01, 0.02, 0.03]

    dig = mne.channels.make_dig_montage(
        {n: moved(template[n]) for n in names},
        **{k: moved(v) for k, v in fiducials.items()},
        coord_frame="unknown",
    )
    found = montage(dig)
    for n in names:
        np.testing.assert_allclose(found[n], template[n], atol=1e-9)


def test_montage_from_bids_electrodes_tsv(tmp_path, template):
    file = tmp_path / "sub-01_electrodes.tsv"
    names = EEGMMIDB[:5]
    rows = ["name\tx\ty\tz\timpedance"]
    rows += ["\t".join([n, *(repr(float(c)) for c in template[n]), "5"]) for n in names]
    rows += ["REF\tn/a\tn/a\tn/a\tn/a", ""]
    file.write_text("\n".join(rows))
    found = montage(file)
    assert list(found) == names
    assert all(np.array_equal(found[n], template[n]) for n in names)
    assert list(montage(str(file))) == names


def test_a_corrected_montage_file_is_read_anew(tmp_path):
    file = tmp_path / "electrodes.tsv"
    file.write_text("name\tx\ty\tz\nCz\t0\t0\t0.1\n")
    assert montage(file)["Cz"][2] == 0.1
    file.write_text("name\tx\ty\tz\nCz\t0\t0\t0.12\n")
    assert montage(file)["Cz"][2] == 0.12


def test_montage_from_an_mne_file(tmp_path, template):
    names = EEGMMIDB[:12]
    sfp = tmp_path / "cap.sfp"
    sfp.write_text(
        "\n".join(f"{n} {x:.6f} {y:.6f} {z:.6f}" for n, (x, y, z) in _some(template, 12))
    )
    elc = tmp_path / "cap.elc"
    rows = [f"{1e3 * x:.3f} {1e3 * y:.3f} {1e3 * z:.3f}" for _, (x, y, z) in _some(template, 12)]
    elc.write_text(
        "# ASA electrode file\nReferenceLabel avg\nUnitPosition mm\nNumberPositions= 12\n"
        "Positions\n" + "\n".join(rows) + "\nLabels\n" + "\n".join(names) + "\n"
    )
    for file in (sfp, elc):
        expected = mne.channels.read_custom_montage(file).get_positions()["ch_pos"]
        found = montage(file)
        assert list(found) == list(expected) == names
        for n in names:
            np.testing.assert_allclose(found[n], expected[n], atol=1e-12)
            cosine = found[n] @ template[n] / np.linalg.norm(found[n]) / np.linalg.norm(template[n])
            assert cosine > 1 - 1e-6  # the same directions as were written


def _some(template, count):
    return [(n, template[n]) for n in EEGMMIDB[:count]]


@pytest.mark.parametrize("unit", [1e3, 100.0, 1e-3])
def test_montage_refuses_another_unit(template, unit):
    with pytest.raises(ChannelError, match="median distance.*a head is about 0.1 m.*metres"):
        montage({n: unit * template[n] for n in EEGMMIDB})


@pytest.mark.parametrize("wrong", [[0, np.nan, 0], [0, 0, np.inf], [0, 0.1], [[0, 0, 0.1]]])
def test_montage_refuses_a_position_that_is_not_three_finite_metres(template, wrong):
    with pytest.raises(ChannelError, match="position of Pz is .*three finite metres"):
        montage({**{n: template[n] for n in EEGMMIDB}, "Pz": wrong})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\tx\ty\nCz\t0\t0\n", r"columns are \['name', 'x', 'y'\]; expected name, x, y, z"),
        ("name\tx\ty\tz\nCz\t0\tzero\t0.1\n", r"position of Cz is \['0', 'zero', '0.1'\]"),
        ("name\tx\ty\tz\nCz\t0\t0\tnan\n", "position of Cz is .*finite"),
        ("name\tx\ty\tz\nCz\t0\t0\n", "Cz"),
        ("", "electrodes.tsv"),
    ],
    ids=["column", "word", "nan", "short row", "empty"],
)
def test_montage_refuses_a_bad_tsv_by_name(tmp_path, text, message):
    file = tmp_path / "electrodes.tsv"
    file.write_text(text)
    with pytest.raises(ChannelError, match=message) as raised:
        montage(file)
    assert "electrodes.tsv" in str(raised.value)


def test_montage_refuses_unknown_sources(tmp_path):
    with pytest.raises(ChannelError, match="'biosemi63' is neither.*close:.*biosemi64"):
        montage("biosemi63")
    with pytest.raises(ChannelError, match="neither a file"):
        montage(tmp_path / "none.sfp")
    with pytest.raises(ChannelError, match="montage is a int; expected"):
        montage(3)
    broken = tmp_path / "broken.sfp"
    broken.write_text("no positions here\n")
    with pytest.raises(ChannelError, match="broken.sfp"):
        montage(broken)


def test_montage_of_real_recordings(real_eeg):
    table = montage(real_eeg / "face13" / "face13_electrodes_RAS.tsv")
    assert len(table) >= 128
    centre, radius = fit_sphere(np.stack(list(table.values())))
    assert 0.07 < radius < 0.12 and np.linalg.norm(centre) < 0.08
    raw = mne.io.read_raw_fif(real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif")
    found = montage(raw.get_montage())
    for channel in mne.pick_info(raw.info, mne.pick_types(raw.info, eeg=True))["chs"]:
        np.testing.assert_allclose(found[channel["ch_name"]], channel["loc"][:3], atol=1e-7)


# ----------------------------------------------------------------------------------- the sphere


@pytest.mark.filterwarnings("ignore:.*more than 20 mm")
@pytest.mark.parametrize("name", ["colin27_1005", "biosemi128", "EEGMMIDB", "cap with a face"])
def test_fit_sphere_is_mne(template, name, rng):
    if name == "cap with a face":
        face = {f"face{i}": [0.02 * i - 0.05, 0.11, -0.02 - 0.01 * i] for i in range(5)}
        positions = {n: template[n] for n in EEGMMIDB[:30]} | face
        positions = {
            n: np.asarray(p) + 0.003 * rng.standard_normal(3) for n, p in positions.items()
        }
    elif name == "EEGMMIDB":
        positions = {n: template[n] for n in EEGMMIDB}
    else:
        positions = montage(name)
    info = mne.create_info(list(positions), 100.0, "eeg")
    info.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"))
    radius, centre, _ = mne.bem.fit_sphere_to_headshape(info, dig_kinds="eeg", units="m")
    ours = fit_sphere(np.stack(list(positions.values())))
    np.testing.assert_allclose(ours[0], centre, atol=1e-6)
    assert abs(ours[1] - radius) < 1e-6


@settings(max_examples=30, deadline=None)
@given(
    centre=st.tuples(*[st.floats(-0.03, 0.03)] * 3),
    radius=st.floats(0.05, 0.15),
    seed=st.integers(0, 2**16),
)
def test_fit_sphere_recovers_a_sphere(centre, radius, seed):
    toward = np.random.default_rng(seed).standard_normal((40, 3))
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    found, size = fit_sphere(np.array(centre) + radius * toward)
    np.testing.assert_allclose(found, centre, atol=1e-7)
    assert abs(size - radius) < 1e-7


def test_fit_sphere_refuses_what_fixes_none(template):
    points = np.stack([template[n] for n in EEGMMIDB])
    with pytest.raises(ChannelError, match="3 electrodes cannot fix a head sphere; at least 4"):
        fit_sphere(points[:3])
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = 0.1 * np.c_[np.cos(angle), np.sin(angle), np.zeros(20)]
    for flat in (
        ring,
        ring + [0.01, -0.02, 0.04],
        ring @ np.linalg.qr(np.ones((3, 3)) - 3 * np.eye(3))[0],
    ):
        with pytest.raises(ChannelError, match="one plane"):
            fit_sphere(flat)
    line = np.linspace(0, 1, 10)[:, None] * [[0.05, 0.05, 0.05]]
    with pytest.raises(ChannelError, match="one plane"):
        fit_sphere(line)


# ----------------------------------------------------------------------------------- geometry


@pytest.fixture(scope="module")
def geometry(template) -> Geometry:
    return make_geometry(EEGMMIDB[::4], EEGMMIDB, {n: template[n] for n in EEGMMIDB})


def test_make_geometry_holds_what_was_asked(geometry, template):
    assert geometry.observed.shape == (16, 3) and geometry.target.shape == (64, 3)
    assert geometry.observed_names == tuple(EEGMMIDB[::4])
    assert geometry.target_names == tuple(EEGMMIDB)
    np.testing.assert_array_equal(geometry.observed_index, np.arange(0, 64, 4))
    expected = np.stack([template[n] for n in EEGMMIDB])
    np.testing.assert_array_equal(geometry.target, expected.astype(np.float32))
    np.testing.assert_allclose(geometry.centre, fit_sphere(expected)[0], atol=1e-8)
    assert geometry.observed_index.dtype == jnp.int32
    assert {x.dtype for x in jax.tree.leaves(geometry)} == {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }


def test_make_geometry_matches_names_and_marks_inputs_that_are_no_targets(template):
    positions = {n: template[n] for n in EEGMMIDB}
    found = make_geometry(
        ["Fz..", "T3", "Oz", "Cp1."], ["T7", "Cz", "FZ"], positions, centre=np.zeros(3)
    )
    np.testing.assert_array_equal(found.observed_index, [2, 0, -1, -1])
    np.testing.assert_array_equal(found.centre, np.zeros(3))
    assert found.observed_names == ("Fz..", "T3", "Oz", "Cp1.")


def test_make_geometry_refuses_by_name(template):
    positions = {n: template[n] for n in EEGMMIDB}
    four = ["Fz", "Cz", "Pz", "Oz"]
    with pytest.raises(ChannelError, match=r"3 observed channels \(Fz, Cz, Pz\); at least 4"):
        make_geometry(four[:3], EEGMMIDB, positions)
    with pytest.raises(ChannelError, match="observed channel Cz, Cz.. is named twice"):
        make_geometry([*four, "Cz.."], EEGMMIDB, positions)
    with pytest.raises(ChannelError, match="target channel Fz is named twice"):
        make_geometry(four, ["Fz", "Fz"], positions)
    with pytest.raises(ChannelError, match="observed channels CB1, CB2 without a position"):
        make_geometry([*four, "CB1", "CB2"], EEGMMIDB, positions)
    with pytest.raises(ChannelError, match="target channel CB1 without a position"):
        make_geometry(four, ["CB1"], positions)
    doubled = positions | {"Pz": positions["Cz"] + 5e-5}
    with pytest.raises(ChannelError, match="observed channels Cz and Pz have the same position"):
        make_geometry(four, EEGMMIDB, doubled)
    with pytest.raises(ChannelError, match="target channels Cz and Pz have the same position"):
        make_geometry(["Fz", "C3", "C4", "Oz"], EEGMMIDB, doubled)
    flat = {n: p * [1, 1, 0] for n, p in positions.items()}
    with pytest.raises(ChannelError, match="one plane"):
        make_geometry(four, EEGMMIDB, flat)


@pytest.mark.parametrize("centre", [None, np.zeros(3)])
def test_make_geometry_refuses_a_position_that_is_not_finite(template, centre):
    positions = {n: template[n] for n in EEGMMIDB} | {"Pz": np.full(3, np.nan)}
    with pytest.raises(ChannelError, match="Pz"):
        make_geometry(["Fz", "Cz", "Pz", "Oz"], EEGMMIDB, positions, centre=centre)


def test_geometry_survives_json(geometry):
    again = from_json(json.loads(json.dumps(to_json(geometry))))
    assert jax.tree.structure(again) == jax.tree.structure(geometry)  # names too
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(geometry), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_geometry_is_a_pytree_with_static_names(geometry, counted):
    leaves, tree = jax.tree.flatten(geometry)
    assert len(leaves) == 4
    assert jax.tree.unflatten(tree, leaves).target_names == geometry.target_names

    @jax.jit
    @counted
    def radii(g):
        assert g.target_names == geometry.target_names  # visible while tracing
        return jnp.linalg.norm(g.target - g.centre[None], axis=-1)

    one = radii(geometry)
    moved = jax.tree.map(lambda x: jnp.stack([x, x]), geometry)
    many = jax.vmap(radii)(moved)
    np.testing.assert_allclose(many, np.stack([one, one]), rtol=1e-6)
    radii(jax.tree.map(lambda x: x + 1, geometry))
    assert radii.__wrapped__.calls == 1


# ------------------------------------------------------------------------------- on the sphere


def test_directions_cosines_and_nearest_angle_are_plain_numpy(geometry):
    observed, target, centre = (
        np.asarray(x, float) for x in (geometry.observed, geometry.target, geometry.centre)
    )

    def unit(p):
        return (p - centre) / np.linalg.norm(p - centre, axis=1, keepdims=True)

    np.testing.assert_allclose(
        directions(geometry.target, geometry.centre), unit(target), atol=1e-6
    )
    expected = unit(target) @ unit(observed).T
    found = cosines(geometry.target, geometry.observed, geometry.centre)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(jnp.abs(found).max()) <= 1.0
    a, b = unit(target)[:, None], unit(observed)[None]
    exact = np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=2), np.linalg.norm(a + b, axis=2)))
    np.testing.assert_allclose(nearest_angle(geometry), exact.min(1), atol=1e-5)
    assert nearest_angle(geometry)[geometry.observed_index].max() < 1e-5


def test_legendre_sum_is_numpy_and_scipy(rng):
    x = np.concatenate([rng.uniform(-1, 1, 50), [-1.0, 0.0, 1.0]]).reshape(53, 1)
    coefficients = rng.standard_normal(50)
    ratio = rng.uniform(0, 1, (53, 1))
    degrees = np.arange(1, 51)
    with jax.enable_x64(True):
        plain = legendre_sum(jnp.asarray(x), jnp.asarray(coefficients))
        weighted = legendre_sum(jnp.asarray(x), jnp.asarray(coefficients), jnp.asarray(ratio))
    expected = np.polynomial.legendre.legval(x, np.r_[0, coefficients])
    np.testing.assert_allclose(plain, expected, rtol=1e-11, atol=1e-11)
    terms = coefficients * ratio[..., None] ** degrees * eval_legendre(degrees, x[..., None])
    np.testing.assert_allclose(weighted, terms.sum(-1), rtol=1e-11, atol=1e-11)
    single = legendre_sum(jnp.asarray(x, jnp.float32), jnp.asarray(coefficients, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, atol=1e-3)


def test_legendre_sum_has_the_derivative_of_numpy(rng):
    x = rng.uniform(-0.99, 0.99, 20)
    coefficients = rng.standard_normal(12)
    with jax.enable_x64(True):
        slope = jax.grad(lambda v: legendre_sum(v, jnp.asarray(coefficients)).sum())(jnp.asarray(x))
    series = np.polynomial.legendre.Legendre(np.r_[0, coefficients])
    np.testing.assert_allclose(slope, series.deriv()(x), rtol=1e-9, atol=1e-9)
