"""Observed-channel lists: the published tables, EMAG's golden draws, and the designs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax import layouts
from eegsr_jax.errors import ChannelError
from eegsr_jax.layouts import best, emag_count, emag_draw, emag_seed, layout, list_hash, spread

EEGMMIDB = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 "
    "AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz "
    "P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()
SEED = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 "
    "C1 CZ C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 "
    "PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
).split()

# Places of the known channels in the lists above, worked out from the published tables.
EEGMMIDB_PLACES = {
    "case1_2x": "1 3 5 8 10 12 15 17 19 22 24 25 26 27 28 29 31 33 35 37 38 39 40 41 44 45 46 48 "
    "50 52 54 55 56 57 58 59 61 63",
    "case1_4x": "8 10 12 21 23 30 33 36 40 41 47 50 53 60 61 62",
    "case1_8x": "0 6 14 20 25 27 60 62",
    "case2_2x": "0 2 4 6 7 9 11 13 14 16 18 20 21 23 30 32 34 36 42 43 47 49 51 53 60 62",
    "case2_4x": "0 2 4 6 14 16 18 20 22 25 27 42 43 56 58 61",
    "case2_8x": "21 23 33 40 41 50 60 62",
}
SEED_PLACES = {
    "seed_case1_2x": "3 4 14 15 16 17 18 19 20 21 22 32 33 34 35 36 37 38 39 40 50 51 52 53 54 "
    "55 56 57 58 59 60 61",
    "seed_case1_4x": "0 2 6 9 12 23 25 27 29 31 42 45 48 58 60",
    "seed_case1_8x": "3 4 15 21 33 39 51 55",
    "seed_case2_2x": "1 3 4 5 7 9 11 13 14 16 18 20 22 23 25 27 29 31 32 34 36 38 40 41 43 45 47 "
    "49 50 52 53 54 56 59",
    "seed_case2_4x": "1 3 4 15 17 19 21 33 35 37 39 52 54 57 59 61",
    "seed_case2_8x": "0 2 9 23 31 45 58 60",
    "V15": "0 2 5 13 14 22 23 31 32 40 41 49 50 58 60",
    "FT15": "0 2 5 7 11 13 14 15 21 22 23 31 32 40 41",
    "INT15": "3 4 8 9 10 17 19 26 27 28 35 37 44 45 46",
    "VL7": "0 5 14 23 32 41 58",
    "VR7": "2 13 22 31 40 49 60",
    "VU7": "0 2 5 13 14 22 23",
    "VLw7": "32 40 41 49 50 58 60",
    "INT7": "9 17 19 27 35 37 45",
}
GOLDEN = np.load(Path(__file__).parent / "golden" / "emag_layouts.npz", allow_pickle=False)


def places(spec, names, **extra):
    return [names.index(name) for name in layout(spec, names, **extra)]


# ------------------------------------------------------------------------------ published lists


@pytest.mark.parametrize("spec", EEGMMIDB_PLACES)
def test_eegmmidb_lists(spec):
    assert places(spec, EEGMMIDB) == [int(i) for i in EEGMMIDB_PLACES[spec].split()]


def test_eegmmidb_counts():
    counts = {spec: len(layout(spec, EEGMMIDB)) for spec in layouts.EEGMMIDB}
    assert list(counts.values()) == [38, 16, 8, 26, 16, 8]
    assert set(counts) == set(EEGMMIDB_PLACES)


@pytest.mark.parametrize("spec", SEED_PLACES)
def test_seed_and_emag_lists(spec):
    assert places(spec, SEED) == [int(i) for i in SEED_PLACES[spec].split()]


def test_every_published_list_is_tested():
    hemispheres = {"HEMI_LEFT31", "HEMI_RIGHT31"}
    assert set(layouts.NAMED) == set(EEGMMIDB_PLACES) | set(SEED_PLACES) | hemispheres


@pytest.mark.parametrize("side", ["LEFT", "RIGHT"])
def test_a_hemisphere_is_its_lateral_channels_and_the_midline(side):
    odd = side == "LEFT"
    lateral = [n for n in SEED if n[-1].isdigit() and int(n[-1]) % 2 == odd]
    assert len(lateral) == 27
    assert set(layout(f"HEMI_{side}31", SEED)) == {*lateral, "FZ", "CZ", "PZ", "OZ"}


def test_a_layout_keeps_the_names_and_the_order_of_the_recording():
    raw = ["Oz..", "Fp1.", "Cz..", "T7..", "EEG O1-REF", "Fp2.", "Fz..", "T8..", "Pz..", "O2.."]
    found = layout("case2_8x", raw)
    assert found == ("Fp1.", "T7..", "EEG O1-REF", "Fp2.", "Fz..", "T8..", "Pz..", "O2..")


def test_explicit_names():
    assert layout("oz, Fpz ,T3,Cz..", EEGMMIDB) == ("Cz", "Fpz", "T7", "Oz")


# ------------------------------------------------------------------------------------------ EMAG


def test_emag_seeds():
    for subject, value in zip(GOLDEN["seed/subject"], GOLDEN["seed/value"], strict=True):
        assert emag_seed(str(subject)) == value
    assert emag_seed("1") == 896145707 and emag_seed("sub-07") == 282062811
    assert emag_seed("1", 2**32 - 1) == 896145706  # modulo 2**32


def test_emag_counts():
    for channels, factor, *counts in GOLDEN["n_ld/table"].tolist():
        assert [emag_count(channels, factor, r) for r in ("floor", "ceil", "round")] == counts


@pytest.mark.parametrize("key", [k for k in GOLDEN.files if k.startswith("ld_subset/")])
def test_emag_draws(key):
    _, size, subject, factor, *rest = key.split("/")
    options = {}
    for option in rest:
        seeded = option.startswith("channel_seed")
        options |= (
            {"channel_seed": int(option.removeprefix("channel_seed"))}
            if seeded
            else {"rounding": option}
        )
    channels, factor = int(size[1:]), int(factor.removeprefix("factor"))
    np.testing.assert_array_equal(emag_draw(subject, channels, factor, **options), GOLDEN[key])
    if not rest:
        names = [f"E{i}" for i in range(channels)]
        assert places(f"emag:{subject}:{factor}", names) == GOLDEN[key].tolist()


@pytest.mark.parametrize(
    ("spec", "indices"),
    [  # as printed in the specification
        ("emag:1:4", "2 8 10 15 27 29 33 35 37 38 39 43 51 54 59"),
        ("emag:1:8", "9 31 34 40 44 45 49"),
    ],
)
def test_emag_draws_as_printed(spec, indices):
    assert places(spec, SEED) == [int(i) for i in indices.split()]


@pytest.mark.parametrize(
    ("name", "size"), [("circumference", 16), ("fronto_temporal", 27), ("interior", 17)]
)
def test_constellations(name, size):
    wanted = layouts.CONSTELLATIONS[name].split()
    assert len(wanted) == len(set(wanted)) == size
    for count in (4, 7, 15, size):
        found = layout(f"{name}:{count}", SEED)
        assert set(found) == {w.upper() for w in wanted[:count]}
    with pytest.raises(ChannelError, match=f"{name}:31.*'31' is not a count between 1 and {size}"):
        layout(f"{name}:31", SEED)


# --------------------------------------------------------------------------------------- designs


def test_random_layouts_are_numpy_draws():
    for seed in range(5):
        draw = np.sort(np.random.default_rng(seed).choice(64, 16, replace=False))
        assert places(f"random:16:{seed}", EEGMMIDB) == draw.tolist()
    assert layout("random:16", EEGMMIDB) == layout("random:16:0", EEGMMIDB)
    assert layout("random:16:1", EEGMMIDB) != layout("random:16:2", EEGMMIDB)
    assert layout("random:64", EEGMMIDB) == tuple(EEGMMIDB)


def test_spread_is_the_farthest_point_design(rng):
    positions = rng.standard_normal((30, 3))
    chosen = [int(positions[:, 2].argmax())]
    while len(chosen) < 9:  # the definition, one candidate at a time
        gaps = [min(np.linalg.norm(p - positions[c]) for c in chosen) for p in positions]
        chosen.append(int(np.argmax(gaps)))
    np.testing.assert_array_equal(spread(positions, 9), np.sort(chosen))
    names = [f"E{i}" for i in range(30)]
    assert places("spread:9", names, positions=positions) == sorted(chosen)


def unexplained(covariance, chosen):
    """Trace of the covariance conditioned on `chosen`, by the textbook formula."""
    noise = 1e-6 * np.trace(covariance) / len(covariance)
    inner = covariance[np.ix_(chosen, chosen)] + noise * np.eye(len(chosen))
    across = covariance[:, chosen]
    return np.trace(covariance - across @ np.linalg.solve(inner, across.T))


@pytest.mark.parametrize("seed", range(4))
def test_best_takes_the_greatest_reduction_of_the_trace_at_each_step(seed):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((9, 5)) * generator.uniform(0.2, 2, 5)
    covariance = mixing @ mixing.T + 0.1 * np.diag(generator.uniform(0.5, 2, 9))
    chosen: list[int] = []
    for count in range(1, 7):
        left = {c: unexplained(covariance, [*chosen, c]) for c in range(9) if c not in chosen}
        chosen.append(min(left, key=left.__getitem__))
        np.testing.assert_array_equal(best(covariance, count), np.sort(chosen))
    # One electrode: greedy is optimal; three: never far above the best of all triples.
    triples = [unexplained(covariance, list(c)) for c in combinations(range(9), 3)]
    assert unexplained(covariance, best(covariance, 3).tolist()) < 1.3 * min(triples)


def test_best_ignores_a_duplicate_channel_and_the_unit(rng):
    mixing = rng.standard_normal((6, 6))
    covariance = mixing @ mixing.T
    first = best(covariance, 1)[0]
    doubled = np.pad(covariance, ((0, 1), (0, 1)))
    doubled[6, :6] = doubled[:6, 6] = covariance[first]
    doubled[6, 6] = covariance[first, first]
    assert not {first, 6} <= set(best(doubled, 4))
    np.testing.assert_array_equal(best(1e-12 * covariance, 4), best(covariance, 4))
    names = [f"E{i}" for i in range(6)]
    assert places("best:4", names, covariance=covariance) == best(covariance, 4).tolist()


def test_list_hash_identifies_a_list_by_standard_names():
    assert list_hash(["Fc5.", "T3"]) == list_hash(["FC5", "T7"])
    assert list_hash(["FC5", "T7"]) != list_hash(["T7", "FC5"])
    assert len(list_hash(EEGMMIDB)) == 8 and int(list_hash(EEGMMIDB), 16) >= 0


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("case2_5x", r"'case2_5x' is unknown \(close: .*case2_4x"),
        ("nonsense", r"'nonsense' is unknown; expected one of case1_2x, .*random:K"),
        ("random:65", r"'random:65': '65' is not a count between 1 and 64"),
        ("random:0", "'0' is not a count"),
        ("random:-3", "'-3' is not a count"),
        ("random:many", "'many' is not a count"),
        ("random:16:x", "random:16:x"),
        ("random:16:-1", "random:16:-1"),
        ("random:16:1:2", "random:16:1:2"),
        ("random", "'random' is unknown"),
        ("emag:1", "'emag:1' is unknown"),
        ("emag:1:x", "emag:1:x"),
        ("emag:1:0", "emag:1:0"),
        ("spread:8", "'spread:8' needs electrode positions"),
        ("best:8", "'best:8' needs the covariance of training data"),
        ("Cz,Foo,Oz", "'Cz,Foo,Oz': channel Foo not among the 64 channels"),
        ("Cz,Oz,CZ", "'Cz,Oz,CZ': channel CZ, Cz is named twice"),
        ("seed_case2_4x", "'seed_case2_4x': channels CB1, CB2 not among the 64 channels"),
        ("", "layout '' is unknown"),
        (",", "','"),
    ],
)
def test_a_bad_layout_is_refused_by_name(spec, message):
    with pytest.raises(ChannelError, match=message):
        layout(spec, EEGMMIDB)
