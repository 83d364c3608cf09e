"""What holds for every data set: loading by name, selection, errors in one line."""

import re
import subprocess
import sys

import numpy as np
import pytest

from eegsr_jax.data.datasets import NAMES, load
from eegsr_jax.data.datasets.base import Entry, montage_option
from eegsr_jax.data.datasets.selection import choose, select
from eegsr_jax.errors import DatasetError


def entries():
    return [
        Entry(subject=s, session=e, run=r, read=lambda: None)
        for s, e, r in [("1", "1", "4"), ("1", "1", "8"), ("2", "1", "4"), ("2", "2", "12")]
    ]


def test_unknown_name_lists_all_and_the_close_one():
    with pytest.raises(DatasetError, match="'eegbc'.*did you mean eegbci") as caught:
        load("eegbc")
    assert all(name in str(caught.value) for name in NAMES)


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(DatasetError, match="sample: unknown option subject; .*subjects"):
        load("sample", subject=1)


def test_names_may_be_written_with_hyphens():
    with pytest.raises(DatasetError, match="^seed_iv: no folder"):
        load("SEED-IV")


@pytest.mark.parametrize("name", ["eegbci", "seed", "seed_iv", "localize_mi", "files"])
def test_absent_or_empty_folder_says_the_layout_in_one_line(name, tmp_path):
    layout = {
        "eegbci": "S001R01.edf.*PhysioNet.*download=True",
        "seed": "Preprocessed_EEG/1_20131027.mat.*register",
        "seed_iv": r"eeg_raw_data/\{1,2,3\}.*register",
        "localize_mi": "derivatives/epochs/sub-01.*G-Node",
        "files": "a folder with some",
    }[name]
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match=f"(?s){re.escape(str(root))}.*{layout}") as caught:
            load(name, root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sample", "simulated"])
def test_generated_data_refuse_a_folder(name, tmp_path):
    with pytest.raises(DatasetError, match=f"{name}: takes no folder, found '{tmp_path}'"):
        load(name, tmp_path)


@pytest.mark.parametrize("wanted", [1, "1", "01", "sub-01", "S001", np.int64(1), [1], ("001",)])
def test_a_number_is_found_however_it_is_written(wanted):
    for present in (["1", "2"], ["01", "02"], ["S001", "S002"]):
        assert choose(present, wanted, "subject", "x") == (present[0],)


def test_an_exact_name_goes_before_an_equal_number():
    assert choose(["1", "01"], "01", "subject", "x") == ("01",)


def test_choose_keeps_the_canonical_order_and_everything_by_default():
    assert choose(["b", "a", "c", "a"], None, "run", "x") == ("b", "a", "c")
    assert choose(["b", "a", "c"], ["c", "b"], "run", "x") == ("b", "c")


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"subjects": [1, 7]}, "x: subject '7' does not exist; present: 1, 2"),
        ({"sessions": 3}, "x: session '3' does not exist; present: 1, 2"),
        ({"subjects": 1, "sessions": 2}, "x: session '2' does not exist; present: 1"),
        ({"subjects": 1, "runs": 12}, "x: run '12' does not exist; present: 4, 8"),
        ({"runs": []}, "x: no run is asked for; present: 4, 8, 12"),
    ],
)
def test_an_unknown_choice_says_which_exist(choice, message):
    with pytest.raises(DatasetError, match=message):
        select(entries(), "x", **choice)


def test_select_narrows_step_by_step():
    assert [e.key for e in select(entries(), "x", subjects=["2"], runs=[4])] == [
        "sub-2_ses-1_run-4"
    ]
    assert len(select(entries(), "x")) == 4


def test_long_lists_are_cut():
    with pytest.raises(DatasetError, match=r"1, 2, .* 20, … \(109 in all\)"):
        choose([str(i) for i in range(1, 110)], 200, "subject", "x")


def test_importing_is_light():
    code = "import sys, eegsr_jax.data.datasets as d; print('mne' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_importing_every_module_leaves_mne_scipy_and_backends_alone():
    code = (
        "import sys, importlib\n"
        "from eegsr_jax.data.datasets import NAMES\n"
        "for n in NAMES: importlib.import_module('eegsr_jax.data.datasets.' + n)\n"
        "from jax._src import xla_bridge\n"
        "print('mne' in sys.modules, 'scipy.io' in sys.modules)\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False"] * 3


def test_a_montage_is_kept_by_name_or_by_its_positions(tmp_path):
    """Of a file the positions count, not where it lies."""
    place = {"Fz": [0.0, 0.06, 0.08], "Cz": [0.0, 0.0, 0.1]}
    rows = ["name\tx\ty\tz", *("\t".join(map(str, [n, *xyz])) for n, xyz in place.items())]
    for file in (tmp_path / "a.tsv", tmp_path / "b.tsv"):
        file.write_text("\n".join(rows) + "\n")
        assert montage_option(file) == montage_option(str(file)) == place
    assert montage_option({name: np.array(xyz) for name, xyz in place.items()}) == place
    assert montage_option("biosemi64") == "biosemi64" and montage_option(None) is None
    (tmp_path / "a.edf").write_bytes(b"")
    assert load("files", tmp_path, montage=place).options["montage"] == place
    assert load("sample").options == {}
