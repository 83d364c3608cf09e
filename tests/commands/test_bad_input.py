"""Bad input, typed as a user would: one line that names the culprit, status 2, nothing left behind.

`eegsr prepare` has its own such table, with a full disk and Ctrl-C, in test_prepare.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax import geometry as geo
from eegsr_jax.commands.main import main, names
from eegsr_jax.data.store import open_store

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()


@pytest.fixture(scope="module")
def bad(tmp_path_factory, save_raw) -> Path:
    """A folder of files that are no use."""
    folder = tmp_path_factory.mktemp("bad")

    def dead(value, rows):
        def change(data):
            data[rows] = value

        return change

    save_raw(folder / "three_raw.fif", names=NAMES[:3])
    save_raw(folder / "fast_raw.fif", sfreq=128.0)
    save_raw(folder / "short_raw.fif", seconds=3.0)
    save_raw(folder / "flat_raw.fif", change=dead(0.0, slice(None)))
    save_raw(folder / "flat-cz_raw.fif", change=dead(0.0, NAMES.index("Cz")))
    save_raw(folder / "nan_raw.fif", change=dead(np.nan, slice(None)))
    save_raw(folder / "nan-cz_raw.fif", change=dead(np.nan, NAMES.index("Cz")))
    save_raw(folder / "volts_raw.fif", change=lambda data: data.__imul__(1e6))
    (folder / "empty.edf").write_bytes(b"")
    (folder / "empty_raw.fif").write_bytes(b"")
    (folder / "text.edf").write_text("hello")
    (folder / "half_raw.fif").write_bytes((folder / "three_raw.fif").read_bytes()[:3000])
    place = {n: geo.montage("standard_1005")[n] for n in NAMES}
    place["Cz"] = place["Fz"]
    rows = ["\t".join([n, *map(str, xyz)]) for n, xyz in place.items()]
    (folder / "twins.tsv").write_text("\n".join(["name\tx\ty\tz", *rows]))
    (folder / "table.tsv").write_text("a\tb\n1\t2\n")
    bids = folder / "sub-01" / "eeg"
    bids.mkdir(parents=True)
    (bids / "sub-01_task-x_eeg.vhdr").write_text("nonsense")
    (bids / "sub-01_task-x_channels.tsv").write_text("name\ttype\n")
    (folder / "number.py").write_text("def get_config():\n    return 3\n")
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "nothing.py").write_text("")
    (folder / "store").mkdir()
    (folder / "store/manifest.json").write_text("{}")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def refused(capsys, words: list[str]) -> str:
    """The line that `eegsr WORDS` ends with; only progress may stand before it."""
    assert main(words) == 2
    _, err = capsys.readouterr()
    assert "Traceback" not in err and err.endswith("\n")
    *before, line = err.splitlines()
    assert line.startswith(f"eegsr {words[0]}: ")
    assert all("missing NMSE" in progress for progress in before), err
    return line


RECONSTRUCT = {
    "a missing file": ("{bad}/no_raw.fif {out}", "{bad}/no_raw.fif: no such file"),
    "an empty file": ("{bad}/empty.edf {out}", "{bad}/empty.edf: the file is empty"),
    "an empty FIF": ("{bad}/empty_raw.fif {out}", "{bad}/empty_raw.fif: the file is empty"),
    "a text": ("{bad}/text.edf {out}", "{bad}/text.edf: cannot be read"),
    "half a file": ("{bad}/half_raw.fif {out}", "{bad}/half_raw.fif: cannot be read"),
    "a folder": ("{bad} {out}", "{bad}: cannot be read"),
    "unreadable BIDS": (
        "{bad}/sub-01/eeg/sub-01_task-x_eeg.vhdr {tmp}/derivatives",
        "sub-01_task-x_eeg.vhdr: cannot be read",
    ),
    "a name that is not BIDS": (
        "{good} {tmp}/derivatives",
        "good_raw.fif is not named like a BIDS",
    ),
    "three electrodes": (
        "{bad}/three_raw.fif {out}",
        "three_raw.fif: 3 good EEG channels with a position (Fp1, Fp2, F7); at least 4 needed",
    ),
    "all flat": ("{bad}/flat_raw.fif {out}", "flat_raw.fif: all 20 good channels are flat"),
    "all NaN": ("{bad}/nan_raw.fif {out}", "{bad}/nan_raw.fif: "),
    "microvolts": ("{bad}/volts_raw.fif {out}", "volts_raw.fif: median absolute amplitude"),
    "an unknown target": ("{good} {out} --target=biosemi65", "'biosemi65' is neither a file nor"),
    "an unknown channel": ("{good} {out} --target=Fz,XX9", "target XX9: neither in the recording"),
    "an unknown montage": ("{good} {out} --montage=cap", "good_raw.fif: montage 'cap' is neither"),
    "a table that is no montage": ("{good} {out} --montage={bad}/table.tsv", "table.tsv: columns"),
    "two in one place": (
        "{good} {out} --montage={bad}/twins.tsv",
        "channels Fz and Cz have the same position",
    ),
    "an unknown method": ("{good} {out} --method=splin", "method 'splin' is unknown"),
    "an untrained method": ("{good} {out} --method=ridge", "method ridge needs training"),
    "no run": ("{good} {out} --run={tmp}", "{tmp} is no run directory"),
    "another rate": (
        "{bad}/fast_raw.fif {out} --run={run}",
        "fast_raw.fif: sampling rate is 128 Hz, expected 100 Hz",
    ),
    "a flat input of a run": ("{bad}/flat-cz_raw.fif {out} --run={run}", "Cz missing or bad here"),
    "a NaN input of a run": ("{bad}/nan-cz_raw.fif {out} --run={run}", "Cz missing or bad here"),
    "channels of a run missing": ("{bad}/three_raw.fif {out} --run={run}", "three_raw.fif: "),
    "a target that a run does not know": (
        "{good} {out} --run={run} --target=FCz,Cz",
        "target FCz: run {run} (lagged_ridge) was trained to reconstruct 20 channels",
    ),
    "all out of reach": ("{good} {out} --target=FC1,FC2 --max_angle=1", "all 2 targets are more"),
    "an angle that is none": ("{good} {out} --max_angle=nan", "max_angle=nan: expected 0 to 180"),
    "an existing file": ("{good} {good}", "{good} exists; choose another name, or say --overwrite"),
    "an unknown format": ("{good} {tmp}/out.set", "out.set: extension '.set'; expected .fif"),
    "no folder can be made": ("{good} {good}/out_raw.fif", "{good}"),
    "one argument": ("{good}", "expected IN OUT, found {good}"),
    "a wrong flag": ("{good} {out} --targets=Cz", "'targets'. Did you mean: target"),
    "a number that is none": ("{good} {out} --max_angle=wide", "flag --max_angle=wide"),
    "a choice that is none": ("{good} {out} --bads=drop", "--bads=drop: value should be one of"),
}
EVALUATE = {
    "no folder": ("", "--out is missing"),
    "no data set": ("--out={out} {runs}", "--dataset is missing"),
    "an unknown data set": ("--dataset=simulate --out={out} {runs}", "did you mean simulated"),
    "no such root": (
        "--dataset=eegbci --root={tmp}/no --out={out} {runs}",
        "{tmp}/no is nothing; expected files S001R01.edf",
    ),
    "an unknown protocol": ("{sim} --protocol=within_run", "did you mean within_runs"),
    "no runs": ("{sim} --train_runs=", "--train_runs is missing: protocol within_runs needs"),
    "no sessions": ("{sim} --protocol=within_sessions", "--train_sessions is missing"),
    "an unknown run": ("{sim} --test_runs=7", "run '7' does not exist; present: 1, 2"),
    "an unknown subject": ("{sim} --subject=9", "subject '9' does not exist"),
    "overlap": ("{sim} --test_runs=1", "train and test share samples"),
    "an unknown method": ("{sim} --methods=nearest,rigde", "did you mean ridge"),
    "an unknown option": ("{sim} --methods=ridge(lag=2)", "method ridge has no option 'lag'"),
    "an open bracket": ("{sim} --methods=ridge(", "'ridge(' is no method"),
    "an unknown layout": ("{sim} --layout=spread:6,case9", "layout 'case9' is unknown"),
    "unknown names": ("{sim} --layout=Fz,Cz,Pz,XX9", "XX9 not among the 16 channels"),
    "a layout for another cap": ("{sim} --layout=case2_4x", "layout 'case2_4x': channels Fpz, AF3"),
    "three electrodes": ("{sim} --layout=random:3", "3 observed channels"),
    "a seed that is none": ("{sim} --layout=random:6:x", "'random:6:x': seed 'x' is not a whole"),
    "a factor that is none": ("{sim} --layout=emag:SUBJECT:0", "'0' is not a count between 1 and"),
    "nothing missing": ("{sim} --layout=random:16", "'random:16' observes every channel"),
    "an unknown reference": ("{sim} --reference=average", "--reference=average: expected one of"),
    "seconds that are none": ("{sim} --calibration_seconds=ten", "--calibration_seconds=ten"),
    "an unknown preset": ("{sim} --preprocessing=strong", "--preprocessing=strong"),
    "no store": ("--store={tmp}/no --out={out} {runs}", "{tmp}/no is not a store"),
    "a broken store": ("--store={bad}/store --out={out} {runs}", "{bad}/store"),
    "two subjects": (
        "{sim} --option=num_subjects=2 --protocol=leave_subjects_out",
        "needs at least 3 subjects; the data have 2",
    ),
    "too long a calibration": (
        "{sim} --protocol=leave_subjects_out --calibration_seconds=60",
        "fewer than 60 usable seconds",
    ),
    "a peer that needs more": (
        "{sim} --protocol=srgdiff --subject=1 --option=seconds=4",
        "windows leave the",
    ),
    "a flag that is no truth": ("{sim} --overwrite=maybe", "--overwrite=maybe"),
    "an argument": ("{sim} extra", "expected no argument without a flag, found extra"),
}
DEMO = {
    "a missing file": (
        "--recording={bad}/no_raw.fif --out={out}",
        "{bad}/no_raw.fif does not exist",
    ),
    "an empty file": (
        "--recording={bad}/empty.edf --out={out}",
        "{bad}/empty.edf: the file is empty",
    ),
    "three electrodes": ("--recording={bad}/three_raw.fif --out={out}", "3 good EEG channels"),
    "three seconds": ("--recording={bad}/short_raw.fif --out={out}", "300 samples (3.00 s"),
    "an unknown bad channel": (
        "--recording={good} --bads=XX9 --out={out}",
        "channel XX9 not among",
    ),
    "an unknown montage": ("--recording={good} --montage=cap --out={out}", "montage 'cap'"),
    "an unknown layout": ("--layout=case9 --out={out}", "layout 'case9' is unknown"),
    "an existing folder": ("--out={tmp}", "{tmp} exists; choose another --out"),
    "a wrong flag": ("--outs={out}", "'outs'. Did you mean: out"),
}
TRAIN = {
    "no folder": ("", "--workdir is missing"),
    "no such file": ("{run_} --config={bad}/no.py", "{bad}/no.py: no such configuration file"),
    "no configuration": ("{run_} --config={bad}/number.py", "number.py: get_config() gave 3"),
    "no Python": ("{run_} --config={bad}/broken.py", "broken.py: SyntaxError"),
    "no function": ("{run_} --config={bad}/nothing.py", "nothing.py"),
    "an unknown field": ("{run_} --set lags=3", "unknown field lags (Experiment has dataset"),
    "no assignment": ("{run_} --set layout", "--set layout: expected field=value"),
    "a wrong type": ("{run_} --set batch_size=many", "batch_size: found 'many', expected int"),
    "an existing run": ("--workdir={run}", "{run} exists; choose another --workdir"),
    "an unknown data set": ("{run_} --set dataset=eegbc", "did you mean eegbci"),
    "no such root": ("{run_} --set dataset=eegbci --set root={tmp}/no", "{tmp}/no is nothing"),
    "an unknown method": ("{run_} --set method=rigde", "did you mean ridge"),
    "two methods": ("{run_} --set method=ridge,nearest", "expected one method, found 2"),
    "unknown names": ("{run_} --set layout=Fz,Cz,Pz,Oz", "layout 'Fz,Cz,Pz,Oz': channels Fz"),
    "no validation": ("{run_} --set validate=0", "validate=0.0: expected a share"),
    "too long a window": ("{run_} --set window_seconds=100", "no window of 15015 usable samples"),
}
TABLE = [
    pytest.param(command, *row, id=f"{command}: {name}")
    for command, rows in (
        ("reconstruct", RECONSTRUCT), ("evaluate", EVALUATE), ("demo", DEMO), ("train", TRAIN)
    )
    for name, row in rows.items()
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "message"), TABLE)
def test_one_line_and_nothing_left(bad, good, run, tmp_path, capsys, command, words, message):
    simulated = (
        "--dataset=simulated --option=montage=biosemi16 --option=num_runs=2 --option=seconds=8 "
        "--option=sfreq=80 --option=num_sources=20 --preprocessing=none --out={out} {runs} "
        "--layout=spread:6 --methods=nearest"
    )
    fields = {"bad": bad, "good": good, "run": run, "tmp": tmp_path}
    fields["runs"] = "--train_runs=1 --test_runs=2"
    fields["out"] = tmp_path / ("out_raw.fif" if command == "reconstruct" else "out")
    fields["run_"] = f"--workdir={fields['out']}"
    fields["sim"] = simulated.format(**fields)
    before = tree(bad), tree(good.parent), tree(run.parent)
    line = refused(capsys, [command, *words.format(**fields).split()])
    assert message.format(**fields) in line
    assert before == (tree(bad), tree(good.parent), tree(run.parent))
    for left in tmp_path.iterdir():  # at most a store, which the next call uses
        store = left / "store" if command == "evaluate" else left
        assert command in ("evaluate", "train") and open_store(store, verify=True)
        if command == "evaluate":
            assert [p.name for p in left.iterdir()] == ["store"]


def test_debug_shows_where(good, tmp_path):
    with pytest.raises(ValueError, match="'splin' is unknown"):
        main(["reconstruct", str(good), str(tmp_path / "o_raw.fif"), "--method=splin", "--debug"])


def test_every_command_refuses_a_flag_that_it_does_not_have(capsys):
    for command in names():
        assert "Unknown command line flag 'nonsense'" in refused(capsys, [command, "--nonsense=1"])


def test_a_store_of_an_interrupted_evaluation_is_finished(tmp_path, capsys):
    """What a failed call left behind is not in the way of the next."""
    words = ["evaluate", "--dataset=simulated", "--option=montage=biosemi16", "--option=seconds=8",
             "--option=num_sources=20", "--preprocessing=none", "--protocol=chronological",
             f"--out={tmp_path / 'out'}"]  # fmt: skip
    refused(capsys, [*words, "--layout=case9"])
    file = next((tmp_path / "out/store/recordings").iterdir())
    file.unlink()
    assert "case9" in refused(capsys, [*words, "--layout=case9"])  # prepared again, then the same
    open_store(tmp_path / "out/store", verify=True)
    shutil.rmtree(tmp_path / "out")
